// SPDX-License-Identifier: GPL-2.0-only
/** String instructions: both directions, all sizes, repeat prefixes, faults and deadlines between iterations. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { getReg, setReg } from './regs.ts';
import { RUN } from './state.ts';
import { bare, CODE, DATA, peek, run, runOn } from './testing/bare.ts';

const { DF, ZF } = RFLAGS;
const ONES = 0xffff_ffff_ffff_ffffn;

describe('string instructions', () => {
  const b = bare([]);
  const words = [0x1111_1111_1111_1111n, 0x2222_2222_2222_2222n, 0x3333_3333_3333_3333n, 0n];

  it('move RSI and RDI by the operand size, up or down by DF', () => {
    for (const [code, size] of [
      [[0xa4], 1n],
      [[0x66, 0xa5], 2n],
      [[0xa5], 4n],
      [[0x48, 0xa5], 8n],
    ] as const) {
      for (const rflags of [0, DF]) {
        const o = runOn(b, code, { regs: { 6: DATA, 7: DATA + 24n }, rflags, data: words });
        const by = rflags === 0 ? size : -size;
        expect([o.regs[6], o.regs[7]]).toEqual([DATA + by, DATA + 24n + by]);
        expect(peek(b, DATA + 24n)).toBe(0x1111_1111_1111_1111n & ((1n << (8n * size)) - 1n));
      }
    }
  });

  it('REP MOVS and STOS cover large areas across pages in both directions', () => {
    const up = runOn(b, [0xf3, 0x48, 0xab], { regs: { 0: 0xabn, 1: 600n, 7: DATA } });
    expect([up.regs[1], up.regs[7]]).toEqual([0n, DATA + 4800n]);
    for (const n of [0n, 511n, 512n, 599n]) expect(peek(b, DATA + n * 8n)).toBe(0xabn);
    const bytes = runOn(b, [0xf3, 0xaa], { regs: { 0: 0x5an, 1: 4097n, 7: DATA + 1n } });
    expect(bytes.regs[7]).toBe(DATA + 4098n);
    expect(peek(b, DATA)).toBe(0x5a5a_5a5a_5a5a_5aabn);
    expect(peek(b, DATA + 4096n) & 0xffff_ffn).toBe(0x5a5an | (peek(b, DATA + 4096n) & 0xff0000n));
    runOn(b, [0xf3, 0x66, 0xab], { regs: { 0: 0x1234n, 1: 4n, 7: DATA } });
    expect(peek(b, DATA)).toBe(0x1234_1234_1234_1234n);
    const down = runOn(b, [0xf3, 0x48, 0xa5], {
      regs: { 1: 3n, 6: DATA + 16n, 7: DATA + 40n },
      rflags: DF,
      data: words,
    });
    expect([peek(b, DATA + 24n), peek(b, DATA + 40n), down.regs[6]]).toEqual([words[0], words[2], DATA - 8n]);
    const copy = runOn(b, [0xf3, 0xa4], { regs: { 1: 20n, 6: DATA, 7: DATA + 0x800n }, data: words });
    expect([peek(b, DATA + 0x808n), copy.regs[6]]).toEqual([words[1], DATA + 20n]);
  });

  it('an overlapping forward REP MOVSB repeats its pattern', () => {
    runOn(b, [0xf3, 0xa4], { regs: { 1: 14n, 6: DATA, 7: DATA + 2n }, data: [0xcdabn, 0n] });
    expect([peek(b, DATA), peek(b, DATA + 8n)]).toEqual([0xcdab_cdab_cdab_cdabn, 0xcdab_cdab_cdab_cdabn]);
  });

  it('REPE and REPNE end by ZF, LODS and SCAS read', () => {
    const data = [0x0504_0302_0101_0101n, 0x0504_0302_0101_0101n];
    const scan = runOn(b, [0xf2, 0xae], { regs: { 0: 3n, 1: 8n, 7: DATA }, data });
    expect([scan.regs[1], scan.regs[7], scan.rflags & ZF]).toEqual([2n, DATA + 6n, ZF]);
    const skip = runOn(b, [0xf3, 0xae], { regs: { 0: 1n, 1: 8n, 7: DATA }, data });
    expect([skip.regs[1], skip.rflags & ZF]).toEqual([3n, 0]);
    const equal = runOn(b, [0xf3, 0xa6], { regs: { 1: 8n, 6: DATA, 7: DATA + 8n }, data });
    expect([equal.regs[1], equal.rflags & ZF]).toEqual([0n, ZF]);
    const differ = runOn(b, [0xf2, 0xa6], { regs: { 1: 8n, 6: DATA, 7: DATA + 8n }, data });
    expect(differ.regs[1]).toBe(7n);
    expect(runOn(b, [0x48, 0xad], { regs: { 6: DATA }, data }).regs[0]).toBe(data[0]);
    expect(runOn(b, [0xf3, 0xac], { regs: { 1: 3n, 6: DATA + 2n }, data }).regs[0]).toBe(2n);
  });

  it('a count of zero does nothing and costs one instruction; 67 uses ECX, ESI and EDI', () => {
    const zero = runOn(b, [0xf3, 0xaa], { regs: { 7: 0x10n } });
    expect([zero.result, zero.regs[7]]).toEqual([RUN.SYS, 0x10n]);
    const high = runOn(b, [0x67, 0xf3, 0xaa], { regs: { 1: 1n << 40n, 7: ONES } });
    expect([high.result, high.regs[7]]).toEqual([RUN.SYS, ONES]);
  });

  it('a fault leaves RIP at the instruction and the registers at the iteration that faulted', () => {
    const o = runOn(b, [0xf3, 0x48, 0xab], { regs: { 1: 100n, 7: DATA + 0x4000n - 24n } });
    expect([o.result, o.rip, o.regs[1], o.regs[7]]).toEqual([RUN.FAULT, CODE, 97n, DATA + 0x4000n]);
    expect(b.cpu.fault.vector).toBe(VECTOR.PF);
    const src = runOn(b, [0xf3, 0xa4], { regs: { 1: 5n, 6: DATA + 0x4000n - 2n, 7: DATA } });
    expect([src.result, src.regs[1]]).toEqual([RUN.FAULT, 3n]);
  });

  it('stops between iterations at the exact cycle of the deadline and goes on later', () => {
    const one = bare([0xf3, 0x48, 0xab, 0xf4]);
    const { cpu } = one;
    setReg(cpu, 7, DATA);
    setReg(cpu, 1, 1000n);
    run(cpu, 1); // the walks; the first iteration
    const start = cpu.clock[0]!;
    const rest = getReg(cpu, 1);
    run(cpu, start + 10);
    expect(cpu.clock[0]).toBe(start + 10);
    expect(getReg(cpu, 1)).toBe(rest - 10n);
    expect(cpu.s[34]).toBe(Number(CODE));
    expect(run(cpu).result).toBe(RUN.SYS);
    expect(getReg(cpu, 1)).toBe(0n);
  });
});
