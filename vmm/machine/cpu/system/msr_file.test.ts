// SPDX-License-Identifier: GPL-2.0-only
/** MsrFile: stored registers and who may reach their values. Rules after the SDM, "RDMSR" and "WRMSR". */
import { describe, expect, it } from 'vitest';
import { BugError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { MsrFile } from './msr_file.ts';

const NOBODY = undefined as unknown as Cpu;
const STORED = 0x1d9;
const CONSTANT = 0x17;

function file(): MsrFile {
  const msrs = new MsrFile();
  msrs.store(STORED, { name: 'STORED', resetLo: 1, resetHi: 2, maskLo: 0x3, maskHi: 0 });
  msrs.constant(CONSTANT, 'CONSTANT', 7, 8);
  return msrs;
}

describe('MsrFile', () => {
  it('reads through RDMSR what was put into the cell of a stored register', () => {
    const msrs = file();
    msrs.cell(STORED)[0] = 3;
    expect(msrs.get(NOBODY, STORED)).toBe(0x2_0000_0003n);
  });

  it('shows in the cell what WRMSR has written, and the reset value after RESET', () => {
    const msrs = file();
    const cell = msrs.cell(STORED);
    expect(msrs.write(NOBODY, STORED, 2, 2)).toBe(true);
    expect([...cell]).toEqual([2, 2]);
    msrs.reset();
    expect([...cell]).toEqual([1, 2]);
  });

  it('refuses a write to reserved bits and leaves the cell as it was', () => {
    const msrs = file();
    expect(msrs.write(NOBODY, STORED, 4, 2)).toBe(false);
    expect([...msrs.cell(STORED)]).toEqual([1, 2]);
  });

  it('has no cell for a constant or an absent register', () => {
    const msrs = file();
    expect(() => msrs.cell(CONSTANT)).toThrow(BugError);
    expect(() => msrs.cell(0x999)).toThrow('is not a stored register');
  });
});
