// SPDX-License-Identifier: GPL-2.0-only
/** Event delivery through 64-bit gates. Expectations: SDM, "Exception and Interrupt Handling in 64-bit Mode". */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR, SYS_TYPE, TSS64 } from '../../../../lib/x86/segments.ts';
import { getReg, setReg } from '../regs.ts';
import { RUN, S, SEGF, SEGN } from '../state.ts';
import { segAt } from './descriptors.ts';
import { FLAT_SELECTOR } from './reset.ts';
import { AT, Rig } from './testing/rig.ts';

const UD2 = [0x0f, 0x0b];
const INT = (n: number): number[] => [0xcd, n];

describe('Exception frame', () => {
  it('holds SS, RSP, RFLAGS with RF, CS and RIP of the faulting instruction, on an aligned stack', () => {
    const rig = new Rig();
    const out = rig.exec([0x90, ...UD2], { rsp: BigInt(AT.STACK - 5), rflags: RFLAGS.CF | RFLAGS.IF });
    expect(out).toEqual({
      result: RUN.HLT,
      vector: VECTOR.UD,
      errorCode: 0,
      frame: {
        rip: BigInt(AT.CODE + 1),
        cs: 8n,
        rflags: BigInt(RFLAGS.FIXED | RFLAGS.CF | RFLAGS.IF | RFLAGS.RF),
        rsp: BigInt(AT.STACK - 5),
        ss: 0x10n,
      },
    });
    expect(getReg(rig.cpu, 4)).toBe(BigInt(AT.STACK - 16 - 40));
  });

  it('clears IF through an interrupt gate, leaves it through a trap gate; TF, NT and RF go in both', () => {
    const rig = new Rig();
    rig.gate(VECTOR.UD, { type: SYS_TYPE.TRAP_GATE64 });
    rig.exec(UD2, { rflags: RFLAGS.IF | RFLAGS.NT });
    expect(rig.cpu.s[S.RFLAGS_SYS]! & (RFLAGS.IF | RFLAGS.NT | RFLAGS.RF)).toBe(RFLAGS.IF);
    const other = new Rig();
    other.exec(UD2, { rflags: RFLAGS.IF });
    expect(other.cpu.s[S.RFLAGS_SYS]! & RFLAGS.IF).toBe(0);
  });

  it('sets CR2 for a page fault, with the error code on the stack', () => {
    const rig = new Rig();
    // mov [rax], ecx
    const out = rig.exec([0x89, 0x08], {}, (cpu) => setReg(cpu, 0, BigInt(AT.HOLE + 8)));
    expect([out.vector, out.errorCode]).toEqual([VECTOR.PF, 2]);
    expect(rig.cpu.s[S.CR2]).toBe(AT.HOLE + 8);
  });
});

describe('Stack switch', () => {
  it('takes RSP0 when the level changes and loads a null SS with the new RPL', () => {
    const rig = new Rig();
    const out = rig.exec(UD2, { cpl: 3 });
    expect([out.vector, out.frame.cs, out.frame.ss]).toEqual([
      VECTOR.UD,
      BigInt(FLAT_SELECTOR.USER_CS),
      BigInt(FLAT_SELECTOR.USER_DS),
    ]);
    expect(getReg(rig.cpu, 4)).toBe(BigInt(AT.RSP0 - 40));
    const ss = segAt(SEGN.SS);
    expect([rig.cpu.s[S.CPL], rig.cpu.s[ss + SEGF.SEL], rig.cpu.s[ss + SEGF.AR]! & AR.UNUSABLE]).toEqual([
      0,
      0,
      AR.UNUSABLE,
    ]);
  });

  it('takes the IST entry of the gate at any level', () => {
    for (const cpl of [0, 3]) {
      const rig = new Rig();
      rig.gate(VECTOR.UD, { ist: 1 });
      rig.exec(UD2, { cpl });
      expect(getReg(rig.cpu, 4)).toBe(BigInt(AT.IST1 - 40));
    }
  });

  it('is a TS fault with the TR selector if the TSS is too short', () => {
    const rig = new Rig();
    rig.gate(VECTOR.UD, { ist: 7 });
    const out = rig.exec(UD2, { tss: { selector: FLAT_SELECTOR.TSS, base: AT.TSS, limit: TSS64.IST1 + 7 } });
    expect([out.vector, out.errorCode]).toEqual([VECTOR.TS, FLAT_SELECTOR.TSS | 1]);
  });

  it('is an SS fault if the new stack pointer is not canonical', () => {
    const rig = new Rig();
    rig.poke64(AT.TSS + TSS64.IST1, 1n << 60n);
    rig.gate(VECTOR.UD, { ist: 1 });
    const out = rig.exec(UD2);
    expect([out.vector, out.errorCode]).toEqual([VECTOR.SS, 1]);
  });

  it('is an SS fault if the current stack is not canonical, pushed on the handler stack of IST', () => {
    const rig = new Rig();
    rig.gate(VECTOR.SS, { ist: 1 });
    const out = rig.exec(UD2, { rsp: 1n << 60n });
    expect([out.vector, out.errorCode]).toEqual([VECTOR.SS, 1]);
  });

  it('a handler at level 3 by a conforming segment keeps the stack and the level', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.P | AR.S | 0xf | AR.L);
    rig.poke(AT.USER + 0x100, [0x0f, 0x0b]);
    rig.gate(0x80, { dpl: 3, selector: 0x40, target: BigInt(AT.USER + 0x100) });
    const out = rig.exec(INT(0x80), { cpl: 3 });
    expect([out.vector, out.frame.cs, out.frame.rip]).toEqual([VECTOR.UD, 0x43n, BigInt(AT.USER + 0x100)]);
    expect(out.frame.rsp).toBe(BigInt(AT.USER_STACK - 40));
  });
});

describe('Gate checks', () => {
  const IDT_ERROR = (vector: number, ext: number): number => (vector << 3) | 2 | ext;

  it('GP beyond the IDT limit; EXT tells an exception from INT n', () => {
    const table = { base: BigInt(AT.IDT), limit: 0xef };
    const soft = new Rig().exec(INT(0x20), { idt: table });
    expect([soft.vector, soft.errorCode]).toEqual([VECTOR.GP, IDT_ERROR(0x20, 0)]);
    const rig = new Rig();
    rig.gate(VECTOR.UD, { type: SYS_TYPE.CALL_GATE64 });
    const hard = rig.exec(UD2);
    expect([hard.vector, hard.errorCode]).toEqual([VECTOR.GP, IDT_ERROR(VECTOR.UD, 1)]);
  });

  it('NP if the gate is not present', () => {
    const rig = new Rig();
    rig.gate(0x30, {});
    rig.poke(AT.IDT + 0x30 * 16 + 5, [0x0e]);
    const out = rig.exec(INT(0x30));
    expect([out.vector, out.errorCode]).toEqual([VECTOR.NP, IDT_ERROR(0x30, 0)]);
  });

  it('INT n and INT3 need the gate DPL; exceptions and INT1 do not', () => {
    for (const [code, vector] of [
      [INT(0x30), 0x30],
      [[0xcc], VECTOR.BP],
    ] as const) {
      const out = new Rig().exec(code, { cpl: 3 });
      expect([out.vector, out.errorCode]).toEqual([VECTOR.GP, IDT_ERROR(vector, 0)]);
    }
    expect(new Rig().exec(UD2, { cpl: 3 }).vector).toBe(VECTOR.UD);
    expect(new Rig().exec([0xf1], { cpl: 3 }).vector).toBe(VECTOR.DB);
  });

  it('the fault that INT n takes on its way saves RF, as every fault does', () => {
    // SDM, "Resume Flag": set in the image for any fault-class exception; Bochs agrees.
    const out = new Rig().exec(INT(0x81), { cpl: 3, rflags: RFLAGS.CF });
    expect([out.vector, out.frame.rflags]).toEqual([VECTOR.GP, BigInt(RFLAGS.FIXED | RFLAGS.CF | RFLAGS.RF)]);
  });

  it('INT n, INT3 and INT1 push the RIP behind the instruction', () => {
    for (const [code, vector] of [
      [INT(0x30), 0x30],
      [[0xcc], VECTOR.BP],
      [[0xf1], VECTOR.DB],
    ] as const) {
      const out = new Rig().exec(code);
      expect([out.vector, out.frame.rip]).toEqual([vector, BigInt(AT.CODE + code.length)]);
      expect(out.frame.rflags & BigInt(RFLAGS.RF)).toBe(0n);
    }
  });

  it.each([
    ['null selector', 0, 0, 0, VECTOR.GP, 0],
    ['beyond the GDT', 0x90, 0, 0, VECTOR.GP, 0x90],
    ['in an LDT that is not loaded', 0xc, 0, 0, VECTOR.GP, 0xc],
    ['a data segment', 0x40, AR.P | AR.S | 3, 0, VECTOR.GP, 0x40],
    ['a segment of an outer level', 0x40, AR.P | AR.S | 0xb | AR.L | 0x60, 0, VECTOR.GP, 0x40],
    ['a segment that is not present', 0x40, AR.S | 0xb | AR.L, 0, VECTOR.NP, 0x40],
    ['not a 64-bit segment', 0x40, AR.P | AR.S | 0xb | AR.DB, 0, VECTOR.GP, 0x40],
  ])('checks the code segment: %s', (_name, selector, ar, _cpl, vector, error) => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xffff_ffff, ar);
    rig.gate(0x30, { selector });
    const out = rig.exec(INT(0x30));
    expect([out.vector, out.errorCode]).toEqual([vector, error]);
  });

  it('GP if the handler address is not canonical', () => {
    const rig = new Rig();
    rig.gate(0x30, { target: 1n << 50n });
    expect(rig.exec(INT(0x30)).vector).toBe(VECTOR.GP);
  });

  it('sets the accessed bit of the code segment', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.P | AR.S | 0xa | AR.L);
    rig.gate(0x30, { selector: 0x40 });
    expect(rig.exec(INT(0x30)).vector).toBe(0x30);
    expect(rig.machine.mem.u8[AT.GDT + 0x45]! & 1).toBe(1);
  });
});

describe('Faults during delivery', () => {
  it('a benign event with a fault on the way gives that fault', () => {
    const rig = new Rig();
    rig.gate(VECTOR.UD, { selector: 0 });
    const out = rig.exec(UD2);
    expect([out.vector, out.errorCode]).toEqual([VECTOR.GP, 1]);
  });

  it('two contributory faults give a double fault with error code 0', () => {
    const rig = new Rig();
    rig.gate(VECTOR.GP, { selector: 0x90 });
    const out = rig.exec([0xcd, 0x30], { idt: { base: BigInt(AT.IDT), limit: 0xff } });
    expect([out.vector, out.errorCode, out.frame.rip]).toEqual([VECTOR.DF, 0, BigInt(AT.CODE)]);
  });

  it('a page fault whose handler faults in any of the two classes gives a double fault', () => {
    for (const gate of [{ selector: 0 }, { ist: 1 }]) {
      const rig = new Rig();
      rig.poke64(AT.TSS + TSS64.IST1, BigInt(AT.HOLE));
      rig.pte(AT.HOLE - 0x1000, 0n);
      rig.gate(VECTOR.PF, gate);
      const out = rig.exec([0x89, 0x08], {}, (cpu) => setReg(cpu, 0, BigInt(AT.HOLE)));
      expect(out.vector).toBe(VECTOR.DF);
    }
  });

  it('a contributory fault followed by a page fault gives the page fault', () => {
    const rig = new Rig();
    rig.poke64(AT.TSS + TSS64.IST1, BigInt(AT.HOLE + 0x1000));
    rig.gate(VECTOR.GP, { ist: 1 });
    const out = rig.exec([0xcd, 0x30], { idt: { base: BigInt(AT.IDT), limit: 0xff } });
    expect(out.vector).toBe(VECTOR.PF);
    expect(rig.cpu.s[S.CR2]).toBe(AT.HOLE + 0x1000 - 8);
  });

  it('a fault of the double-fault handler shuts the processor down, for good', () => {
    const rig = new Rig();
    rig.gate(VECTOR.UD, { selector: 0 });
    rig.gate(VECTOR.GP, { selector: 0 });
    rig.gate(VECTOR.DF, { selector: 0 });
    expect(rig.exec(UD2).result).toBe(RUN.SHUTDOWN);
    expect(rig.go().result).toBe(RUN.SHUTDOWN);
  });
});
