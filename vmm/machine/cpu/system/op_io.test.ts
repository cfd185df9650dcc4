// SPDX-License-Identifier: GPL-2.0-only
/** IN, OUT, INS, OUTS. Expectations: SDM, "Input/Output" and the instruction reference. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { TSS64 } from '../../../../lib/x86/segments.ts';
import { BugError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { getReg, getRip, setReg } from '../regs.ts';
import { S } from '../state.ts';
import { FLAT_SELECTOR } from './reset.ts';
import { AT, Rig } from './testing/rig.ts';

const HLT = 0xf4;
const PORT = 0x3f8;

/** A port that counts up when read and remembers what was written. */
function withPort(): { rig: Rig; log: string[] } {
  const rig = new Rig();
  const log: string[] = [];
  let next = 0x1122_3340;
  rig.machine.io.ports.add({
    base: PORT,
    length: 4,
    read: (offset, size, out) => {
      log.push(`in ${offset}.${size}`);
      out[0] = next++;
    },
    write: (offset, size, lo) => log.push(`out ${offset}.${size} ${(lo >>> 0).toString(16)}`),
  });
  return { rig, log };
}

const dx = (cpu: Cpu): void => {
  setReg(cpu, 2, BigInt(PORT));
  setReg(cpu, 0, 0xdddd_cccc_bbbb_aaaan);
};

describe('IN and OUT', () => {
  it('move 1, 2 or 4 bytes between the port and rAX', () => {
    const { rig, log } = withPort();
    const reads: bigint[] = [];
    for (const code of [[0xec], [0x66, 0xed], [0xed]]) {
      rig.exec([...code, HLT], {}, dx);
      reads.push(getReg(rig.cpu, 0));
    }
    expect(reads).toEqual([0xdddd_cccc_bbbb_aa40n, 0xdddd_cccc_bbbb_3341n, 0x1122_3342n]);
    for (const code of [[0xee], [0x66, 0xef], [0xef]]) rig.exec([...code, HLT], {}, dx);
    expect(log).toEqual(['in 0.1', 'in 0.2', 'in 0.4', 'out 0.1 aa', 'out 0.2 aaaa', 'out 0.4 bbbbaaaa']);
  });

  it('take the port from an immediate too; ports without a device read ones', () => {
    const rig = new Rig();
    rig.exec([0xe4, 0x71, HLT], {}, dx);
    expect(getReg(rig.cpu, 0) & 0xffn).toBe(0xffn);
    rig.exec([0xe5, 0x71, HLT], {}, dx);
    expect(getReg(rig.cpu, 0)).toBe(0xffff_ffffn);
    expect(rig.exec([0xe6, 0x80, HLT], {}, dx).vector).toBe(-1);
  });

  it('devices may not overlap', () => {
    const { rig } = withPort();
    const device = { base: PORT + 3, length: 1, read: () => undefined, write: () => undefined };
    expect(() => rig.machine.io.ports.add(device)).toThrow(BugError);
  });
});

describe('I/O permission', () => {
  const UD2 = [0x0f, 0x0b];
  it('is given by IOPL', () => {
    const { rig, log } = withPort();
    expect(rig.exec([0xec, ...UD2], { cpl: 3, rflags: RFLAGS.IOPL }, dx).vector).toBe(VECTOR.UD);
    expect(log).toEqual(['in 0.1']);
  });

  it.each<[string, number, number[], number]>([
    ['all bits of the access clear', 0xf0, [0xed], VECTOR.UD],
    ['one bit set', 0xf8, [0xed], VECTOR.GP],
    ['the byte alone', 0xfe, [0xec], VECTOR.UD],
    ['another byte set', 0xf8, [0xec], VECTOR.UD],
  ])('is given by the bitmap: %s', (_name, bits, code, vector) => {
    const { rig, log } = withPort();
    rig.machine.mem.u8[AT.TSS + 0x68 + PORT / 8] = bits;
    const out = rig.exec([...code, ...UD2], { cpl: 3 }, dx);
    expect([out.vector, out.errorCode]).toEqual([vector, 0]);
    expect(log.length).toBe(vector === VECTOR.UD ? 1 : 0);
  });

  it('straddles bytes of the bitmap', () => {
    const rig = new Rig();
    const byte = AT.TSS + 0x68 + 0x400 / 8;
    const at = (cpu: Cpu): void => setReg(cpu, 2, 0x407n);
    rig.machine.mem.u8[byte] = 0x7f;
    expect(rig.exec([0x66, 0xed, ...UD2], { cpl: 3 }, at).vector).toBe(VECTOR.GP);
    rig.machine.mem.u8[byte + 1] = 0xfe;
    expect(rig.exec([0x66, 0xed, ...UD2], { cpl: 3 }, at).vector).toBe(VECTOR.UD);
  });

  it('is refused beyond the TSS limit, or if the TSS has no bitmap field', () => {
    const { rig } = withPort();
    rig.machine.mem.u8.fill(0, AT.TSS + 0x68, AT.TSS + 0x2068);
    for (const limit of [0x67 + PORT / 8 + 1, TSS64.LIMIT - 1]) {
      const tss = { selector: FLAT_SELECTOR.TSS, base: AT.TSS, limit };
      expect(rig.exec([0xec], { cpl: 3, tss }, dx).vector).toBe(VECTOR.GP);
    }
  });
});

describe('INS and OUTS', () => {
  const string =
    (rcx: bigint, at: number) =>
    (cpu: Cpu): void => {
      setReg(cpu, 1, rcx);
      setReg(cpu, 2, BigInt(PORT));
      setReg(cpu, 6, BigInt(at));
      setReg(cpu, 7, BigInt(at));
    };

  it('REP INSB fills memory upwards, RCX counts down', () => {
    const { rig } = withPort();
    rig.exec([0xf3, 0x6c, HLT], {}, string(4n, AT.DATA));
    expect(rig.machine.mem.u8.slice(AT.DATA, AT.DATA + 5)).toEqual(Uint8Array.of(0x40, 0x41, 0x42, 0x43, 0));
    expect([getReg(rig.cpu, 1), getReg(rig.cpu, 7)]).toEqual([0n, BigInt(AT.DATA + 4)]);
  });

  it('go downwards with DF, and by the element size', () => {
    const { rig, log } = withPort();
    rig.poke64(AT.DATA, 0x1111_2222_3333_4444n);
    rig.exec([0xf3, 0x66, 0x6f, HLT], { rflags: RFLAGS.DF }, string(2n, AT.DATA + 2));
    expect(log).toEqual(['out 0.2 3333', 'out 0.2 4444']);
    expect(getReg(rig.cpu, 6)).toBe(BigInt(AT.DATA - 2));
  });

  it('OUTSB takes a segment base', () => {
    const { rig, log } = withPort();
    rig.poke(AT.DATA + 0x10, [0x77]);
    rig.exec([0x64, 0x6e, HLT], {}, (cpu) => {
      string(1n, 0x10)(cpu);
      expect(cpu.sys.msrs.write(cpu, 0xc000_0100, AT.DATA, 0)).toBe(true);
    });
    expect(log).toEqual(['out 0.1 77']);
  });

  it('with 32-bit addresses use and clear the upper halves', () => {
    const { rig } = withPort();
    rig.exec([0x67, 0xf3, 0x6c, HLT], {}, (cpu) => {
      string(0x5_0000_0002n, AT.DATA)(cpu);
      setReg(cpu, 7, 0x9_0000_0000n + BigInt(AT.DATA));
    });
    expect([getReg(rig.cpu, 1), getReg(rig.cpu, 7)]).toEqual([0n, BigInt(AT.DATA + 2)]);
  });

  it('with RCX zero do nothing', () => {
    const { rig, log } = withPort();
    expect(rig.exec([0xf3, 0x6e, HLT], {}, string(0n, AT.HOLE)).vector).toBe(-1);
    expect(log).toEqual([]);
  });

  it('INS checks the destination before it reads the port', () => {
    const { rig, log } = withPort();
    const out = rig.exec([0xf3, 0x6c, HLT], {}, string(4n, AT.HOLE));
    expect([out.vector, out.errorCode, log.length]).toEqual([VECTOR.PF, 2, 0]);
    expect(getReg(rig.cpu, 1)).toBe(4n);
  });

  it('OUTS faults on its source before the port is written', () => {
    const { rig, log } = withPort();
    expect(rig.exec([0x6e, HLT], {}, string(1n, AT.HOLE)).vector).toBe(VECTOR.PF);
    expect(log).toEqual([]);
    expect(rig.exec([0x6e], { cpl: 3 }, string(1n, AT.USER_DATA)).vector).toBe(VECTOR.GP);
  });

  it('can be interrupted between elements with RIP at the instruction', () => {
    const { rig } = withPort();
    rig.load([0xf3, 0x6c, HLT]);
    string(3n, AT.DATA)(rig.cpu);
    rig.step();
    expect([getRip(rig.cpu), getReg(rig.cpu, 1), rig.cpu.s[S.PENDING]]).toEqual([BigInt(AT.CODE), 2n, 0]);
  });
});
