// SPDX-License-Identifier: GPL-2.0-only
/** Registers by the numbers of the SDM's "Register Encodings", and addresses that the SIB byte cannot express. */
import { describe, expect, it } from 'vitest';
import { gpr, m32, m64, mem, R, withSize } from './operands.ts';
import { instructionText, operandText } from './text.ts';
import { asmMessage } from './testing/asm_message.ts';

describe('registers', () => {
  it('have the manual’s numbers', () => {
    expect([R.rax.num, R.rsp.num, R.r8.num, R.r15b.num]).toEqual([0, 4, 8, 15]);
    expect([R.ah, R.ch, R.dh, R.bh].map(({ num }) => num)).toEqual([4, 5, 6, 7]);
    expect([R.es, R.cs, R.ss, R.ds, R.fs, R.gs].map(({ num }) => num)).toEqual([0, 1, 2, 3, 4, 5]);
    expect([R.cr0, R.cr2, R.cr3, R.cr4, R.cr8].map(({ num }) => num)).toEqual([0, 2, 3, 4, 8]);
  });

  it('are reached by number and width', () => {
    expect([gpr(0), gpr(4, 8), gpr(9, 16), withSize(R.rcx, 32)]).toEqual([R.rax, R.spl, R.r9w, R.ecx]);
    expect(asmMessage(() => gpr(16))).toBe('gpr(16, 64): no such register');
    expect(asmMessage(() => withSize(R.ah, 64))).toBe('ah: only a general-purpose register has other widths');
  });
});

describe('addresses', () => {
  it.each([
    ['mem base ax: an address register is a 32- or 64-bit general-purpose one', { base: R.ax }],
    ['mem index cr3: an address register is a 32- or 64-bit general-purpose one', { index: R.cr3 }],
    ['mem index rsp: the stack pointer cannot be an index', { base: R.rax, index: R.rsp }],
    ['mem rax+ecx: base and index differ in width', { base: R.rax, index: R.ecx }],
    ['mem segment rax: not a segment register', { seg: R.rax }],
    ['mem scale 3: the scale is 1, 2, 4 or 8', { index: R.rax, scale: 3 }],
    ['mem displacement 0x80000000: does not fit a sign-extended disp32', { disp: 0x8000_0000 }],
    ['mem displacement 0xfee00000: does not fit a sign-extended disp32', { disp: 0xfee0_0000n }],
    ['mem displacement 0x0.8: does not fit a sign-extended disp32', { disp: 0.5 }],
  ])('are refused: %s', (text, address) => {
    expect(asmMessage(() => mem(64, address))).toBe(text);
  });

  it('take r12 as an index and the high half as a displacement', () => {
    expect(m64({ index: R.r12, disp: 0xffff_ffff_fee0_0000n }).disp).toBe(-0x0120_0000);
  });
});

describe('text', () => {
  it.each([
    ['dword ptr [rax]', m32({ base: R.rax })],
    ['qword ptr gs:[rbp+r9*8-0x10]', m64({ seg: R.gs, base: R.rbp, index: R.r9, scale: 8, disp: -16 })],
    ['[rip+data+0x4]', mem(0, { label: 'data', disp: 4 })],
    ['qword ptr [table+rax*8]', m64({ label: 'table', index: R.rax, scale: 8 })],
    ['m128 ptr [rax+rcx]', mem(128, { base: R.rax, index: R.rcx })],
    ['dword ptr [-0x1000]', m32({ disp: -0x1000 })],
    ['-0x10', -16n],
    ['9', 9],
  ])('is %s', (text, op) => {
    expect(operandText(op)).toBe(text);
  });

  it('of an instruction without operands is its mnemonic', () => {
    expect(instructionText('rep stosq', [])).toBe('rep stosq');
  });
});
