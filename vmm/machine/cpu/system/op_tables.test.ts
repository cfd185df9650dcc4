// SPDX-License-Identifier: GPL-2.0-only
/** Descriptor tables and segment registers. Expectations: SDM, instruction reference, 64-bit mode. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR, SYS_TYPE } from '../../../../lib/x86/segments.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags } from '../flags.ts';
import { getReg, setReg } from '../regs.ts';
import { S, SEGF, SEGN } from '../state.ts';
import { segAt } from './descriptors.ts';
import { FLAT_SELECTOR, type LongModeEntry } from './reset.ts';
import { AT, type Outcome, Rig } from './testing/rig.ts';

const HLT = 0xf4;
const UD2 = [0x0f, 0x0b];

/** Execute one instruction with RAX = `rax`; ends in HLT at level 0, in UD at level 3. */
function run(
  code: readonly number[],
  rax: number | bigint,
  options: Partial<LongModeEntry> = {},
  rig = new Rig(),
): Outcome {
  const end = options.cpl === 3 ? UD2 : [HLT];
  return rig.exec([...code, ...end], options, (cpu) => setReg(cpu, 0, BigInt(rax)));
}

function seg(cpu: Cpu, n: number): { sel: number; base: number; limit: number; ar: number } {
  const at = segAt(n);
  return {
    sel: cpu.s[at + SEGF.SEL]!,
    base: cpu.s[at]!,
    limit: cpu.s[at + SEGF.LIMIT]! >>> 0,
    ar: cpu.s[at + SEGF.AR]!,
  };
}

describe('LGDT, LIDT, SGDT, SIDT', () => {
  it.each([
    ['GDT', [0x0f, 0x01, 0x10], [0x0f, 0x01, 0x00], S.GDTR_BASE, S.GDTR_LIMIT],
    ['IDT', [0x0f, 0x01, 0x18], [0x0f, 0x01, 0x08], S.IDTR_BASE, S.IDTR_LIMIT],
  ])('load and store the %s register', (_name, load, store, base, limit) => {
    const rig = new Rig();
    rig.poke(AT.DATA, [0x8f, 0x00, 0x00, 0x40, 0x00, 0x01, 0xff, 0xff, 0xff, 0xff]);
    expect(run([...load, 0x48, 0x83, 0xc0, 0x20, ...store], AT.DATA, {}, rig).vector).toBe(-1);
    expect([rig.cpu.s[limit], rig.cpu.s[base], rig.cpu.s[base + 1]]).toEqual([0x8f, 0x0100_4000, -1]);
    expect(rig.machine.mem.u8.slice(AT.DATA + 0x20, AT.DATA + 0x2a)).toEqual(
      rig.machine.mem.u8.slice(AT.DATA, AT.DATA + 10),
    );
  });

  it('are refused: at level 3, for a base that is not canonical, with the fault of the operand', () => {
    expect(run([0x0f, 0x01, 0x10], AT.USER_DATA, { cpl: 3 }).vector).toBe(VECTOR.GP);
    const rig = new Rig();
    rig.poke64(AT.DATA + 2, 1n << 47n);
    expect(run([0x0f, 0x01, 0x10], AT.DATA, {}, rig).vector).toBe(VECTOR.GP);
    expect(run([0x0f, 0x01, 0x10], AT.HOLE).vector).toBe(VECTOR.PF);
    expect(run([0x0f, 0x01, 0x10], AT.HOLE - 4).vector).toBe(VECTOR.PF);
    expect(run([0x0f, 0x01, 0x00], AT.HOLE).vector).toBe(VECTOR.PF);
    expect(run([0x0f, 0x01, 0x00], AT.HOLE - 2).vector).toBe(VECTOR.PF);
    expect(run([0x0f, 0x01, 0x00], AT.USER_DATA, { cpl: 3 }).vector).toBe(VECTOR.UD);
  });

  it('a non-canonical operand address by SS is an SS fault', () => {
    // sgdt [rsp]
    const rig = new Rig();
    rig.gate(VECTOR.SS, { ist: 1 });
    expect(run([0x0f, 0x01, 0x04, 0x24], 0, { rsp: 1n << 60n }, rig).vector).toBe(VECTOR.SS);
  });
});

describe('LTR, STR, LLDT, SLDT', () => {
  const LTR = [0x0f, 0x00, 0xd8];
  const LLDT = [0x0f, 0x00, 0xd0];
  function withSystem(offset: number, type: number, flags: number = AR.P, upper = 0): Rig {
    const rig = new Rig();
    rig.descriptor(offset, AT.LDT, 0xff, flags | type);
    rig.poke64(AT.GDT + offset + 8, BigInt(upper >>> 0));
    return rig;
  }

  it('LTR loads a 64-bit base and makes the descriptor busy', () => {
    const rig = withSystem(0x40, SYS_TYPE.TSS64_AVAILABLE, AR.P, -1);
    expect(run(LTR, 0x40, {}, rig).vector).toBe(-1);
    expect(seg(rig.cpu, SEGN.TR)).toEqual({
      sel: 0x40,
      base: AT.LDT,
      limit: 0xff,
      ar: AR.P | SYS_TYPE.TSS64_BUSY,
    });
    expect(rig.cpu.s[segAt(SEGN.TR) + 1]).toBe(-1);
    expect(run(LTR, 0x40, {}, rig)).toMatchObject({ vector: VECTOR.GP, errorCode: 0x40 });
  });

  it.each<[string, number[], number, Rig, number, number]>([
    ['LTR of a null selector', LTR, 0, new Rig(), VECTOR.GP, 0],
    ['LTR from the LDT', LTR, 0x44, new Rig(), VECTOR.GP, 0x44],
    ['LTR beyond the GDT', LTR, 0x88, new Rig(), VECTOR.GP, 0x88],
    ['LTR of a data segment', LTR, 0x10, new Rig(), VECTOR.GP, 0x10],
    ['LTR of a TSS that is not present', LTR, 0x40, withSystem(0x40, 9, 0), VECTOR.NP, 0x40],
    ['LTR with a base that is not canonical', LTR, 0x40, withSystem(0x40, 9, AR.P, 0x8000), VECTOR.GP, 0x40],
    [
      'LTR with a type in the upper half',
      LTR,
      0x40,
      (() => {
        const rig = withSystem(0x40, 9);
        rig.poke64(AT.GDT + 0x48, 0x1f00_0000_0000n);
        return rig;
      })(),
      VECTOR.GP,
      0x40,
    ],
    ['LLDT of a TSS', LLDT, 0x40, withSystem(0x40, 9), VECTOR.GP, 0x40],
    ['LLDT of an LDT that is not present', LLDT, 0x40, withSystem(0x40, 2, 0), VECTOR.NP, 0x40],
  ])('are refused: %s', (_name, code, selector, rig, vector, errorCode) => {
    expect(run(code, selector, {}, rig)).toMatchObject({ vector, errorCode });
  });

  it('LLDT makes selectors with TI work, and null makes the LDT unusable', () => {
    const rig = withSystem(0x40, SYS_TYPE.LDT);
    rig.poke64(AT.LDT + 8, rig.peek64(AT.GDT + 0x10));
    // lldt ax; mov eax, 0xc; mov ds, ax
    const loadDs = [0xb8, 0x0c, 0, 0, 0, 0x8e, 0xd8];
    expect(run([...LLDT, ...loadDs], 0x40, {}, rig).vector).toBe(-1);
    expect([seg(rig.cpu, SEGN.DS).sel, seg(rig.cpu, SEGN.LDTR).base]).toEqual([0xc, AT.LDT]);
    expect(run([...LLDT, ...loadDs], 0, {}, rig)).toMatchObject({ vector: VECTOR.GP, errorCode: 0xc });
    expect(seg(rig.cpu, SEGN.LDTR).ar).toBe(AR.UNUSABLE);
  });

  it('need level 0; their memory operand can fault', () => {
    for (const code of [LTR, LLDT]) expect(run(code, 0x40, { cpl: 3 }).vector).toBe(VECTOR.GP);
    expect(run([0x0f, 0x00, 0x18], AT.HOLE).vector).toBe(VECTOR.PF);
    expect(run([0x0f, 0x00, 0x10], AT.HOLE).vector).toBe(VECTOR.PF);
  });

  it('STR and SLDT read selectors at any level, zero-extended to the operand', () => {
    const rig = new Rig();
    run([0x0f, 0x00, 0xc8], -1n, { cpl: 3 }, rig);
    expect(getReg(rig.cpu, 0)).toBe(BigInt(FLAT_SELECTOR.TSS));
    run([0x0f, 0x00, 0xc0], -1n, {}, rig);
    expect(getReg(rig.cpu, 0)).toBe(0n);
    expect(run([0x0f, 0x00, 0x08], AT.HOLE).vector).toBe(VECTOR.PF);
  });
});

describe('Loads of data segments', () => {
  const MOV = { ds: [0x8e, 0xd8], es: [0x8e, 0xc0], ss: [0x8e, 0xd0], fs: [0x8e, 0xe0] };

  it('take base, limit and rights from the descriptor and mark it accessed', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0x1234_5678, 0xf_ffff, AR.P | AR.S | 0x2);
    expect(run(MOV.fs, 0x40, {}, rig).vector).toBe(-1);
    expect(seg(rig.cpu, SEGN.FS)).toEqual({
      sel: 0x40,
      base: 0x1234_5678,
      limit: 0xf_ffff,
      ar: AR.P | AR.S | 0x3,
    });
    expect(rig.machine.mem.u8[AT.GDT + 0x45]).toBe(0x93);
  });

  it('accept null for all but SS at level 3 or with another RPL', () => {
    const rig = new Rig();
    run(MOV.ds, 3, {}, rig);
    expect(seg(rig.cpu, SEGN.DS)).toMatchObject({ sel: 3, ar: AR.UNUSABLE });
    expect(run(MOV.ss, 0).vector).toBe(-1);
    expect(run(MOV.ss, 1)).toMatchObject({ vector: VECTOR.GP, errorCode: 0 });
    expect(run(MOV.ss, 3, { cpl: 3 })).toMatchObject({ vector: VECTOR.GP, errorCode: 0 });
  });

  it.each<[string, number[], number, number, number, number]>([
    ['DS: beyond the table', MOV.ds, 0x90, 0, VECTOR.GP, 0x90],
    ['DS: execute-only code', MOV.ds, 0x40, AR.P | AR.S | 0x9, VECTOR.GP, 0x40],
    ['DS: a system segment', MOV.ds, 0x40, AR.P | 0x2, VECTOR.GP, 0x40],
    ['DS: RPL above DPL', MOV.ds, 0x43, AR.P | AR.S | 0x3, VECTOR.GP, 0x40],
    ['DS: not present', MOV.ds, 0x40, AR.S | 0x3, VECTOR.NP, 0x40],
    ['SS: not present', MOV.ss, 0x40, AR.S | 0x3, VECTOR.SS, 0x40],
    ['SS: read-only data', MOV.ss, 0x40, AR.P | AR.S | 0x1, VECTOR.GP, 0x40],
    ['SS: code', MOV.ss, 0x40, AR.P | AR.S | 0xb, VECTOR.GP, 0x40],
    ['SS: RPL is not CPL', MOV.ss, 0x43, AR.P | AR.S | 0x63, VECTOR.GP, 0x40],
    ['SS: DPL is not CPL', MOV.ss, 0x40, AR.P | AR.S | 0x63, VECTOR.GP, 0x40],
  ])('refuse %s', (_name, code, selector, ar, vector, errorCode) => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xfff, ar);
    expect(run(code, selector, {}, rig)).toMatchObject({ vector, errorCode });
  });

  it('accept readable code, and conforming code whatever its level', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xfff, AR.P | AR.S | 0xa);
    expect(run(MOV.es, 0x40, {}, rig).vector).toBe(-1);
    rig.descriptor(0x40, 0, 0xfff, AR.P | AR.S | 0xe);
    expect(run(MOV.es, 0x43, {}, rig).vector).toBe(-1);
    expect(run(MOV.ds, 0x10, { cpl: 3 }).vector).toBe(VECTOR.GP);
  });

  it('CS cannot be loaded by MOV, and there are six registers', () => {
    expect(run([0x8e, 0xc8], 8).vector).toBe(VECTOR.UD);
    expect(run([0x8e, 0xf0], 8).vector).toBe(VECTOR.UD);
    expect(run([0x8c, 0xf0], 8).vector).toBe(VECTOR.UD);
  });

  it('MOV from a segment register zero-extends; from memory it can fault', () => {
    const rig = new Rig();
    run([0x8c, 0xd8], -1n, {}, rig);
    expect(getReg(rig.cpu, 0)).toBe(0x10n);
    expect(run([0x8e, 0x18], AT.HOLE).vector).toBe(VECTOR.PF);
  });

  it('PUSH and POP of FS and GS move eight bytes, two with the prefix', () => {
    const rig = new Rig();
    expect(run([0x0f, 0xa0, 0x0f, 0xa9], 0, {}, rig).vector).toBe(-1);
    expect([seg(rig.cpu, SEGN.GS).sel, getReg(rig.cpu, 4)]).toEqual([0x10, BigInt(AT.STACK)]);
    run([0x66, 0x0f, 0xa0], 0, {}, rig);
    expect(getReg(rig.cpu, 4)).toBe(BigInt(AT.STACK - 2));
    rig.poke64(AT.STACK, 0x90n);
    expect(run([0x0f, 0xa1], 0, {}, rig)).toMatchObject({
      vector: VECTOR.GP,
      frame: { rsp: BigInt(AT.STACK) },
    });
    rig.gate(VECTOR.PF, { ist: 1 });
    expect(run([0x0f, 0xa8], 0, { rsp: BigInt(AT.HOLE + 4) }, rig).frame.rsp).toBe(BigInt(AT.HOLE + 4));
    expect(run([0x0f, 0xa1], 0, { rsp: BigInt(AT.HOLE) }, rig).vector).toBe(VECTOR.PF);
  });
});

describe('LAR, LSL, VERR, VERW', () => {
  const [LAR, LSL, VERR, VERW] = [
    [0x0f, 0x02, 0xc8],
    [0x0f, 0x03, 0xc8],
    [0x0f, 0x00, 0xe0],
    [0x0f, 0x00, 0xe8],
  ];
  function look(code: number[], ar: number, selector = 0x40, cpl = 0): { zf: boolean; rcx: bigint } {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0x123_4fff, ar);
    rig.exec([...code, ...(cpl === 3 ? UD2 : [HLT])], { cpl }, (cpu) => {
      setReg(cpu, 0, BigInt(selector));
      setReg(cpu, 1, 7n);
    });
    const flags = cpl === 3 ? Number(rig.peek64(Number(getReg(rig.cpu, 4)) + 16)) : getRflags(rig.cpu);
    return { zf: (flags & RFLAGS.ZF) !== 0, rcx: getReg(rig.cpu, 1) };
  }
  const data = AR.P | AR.S | 0x3;

  it('LAR gives the rights, LSL the limit in bytes', () => {
    expect(look(LAR, data | AR.DB)).toEqual({ zf: true, rcx: 0x00c0_9300n });
    expect(look(LSL, data)).toEqual({ zf: true, rcx: 0x123_4fffn });
  });

  it.each<[string, number[], number, number, number, boolean]>([
    ['LAR of a null selector', LAR, data, 0, 0, false],
    ['LAR beyond the table', LAR, data, 0x90, 0, false],
    ['LAR of an inner segment', LAR, data, 0x40, 3, false],
    ['LAR with an RPL above the DPL', LAR, data, 0x43, 0, false],
    ['LAR of conforming code from level 3', LAR, AR.P | AR.S | 0xf, 0x40, 3, true],
    ['LAR of a TSS', LAR, AR.P | 0x9, 0x40, 0, true],
    ['LAR of a call gate', LAR, AR.P | 0xc, 0x40, 0, true],
    ['LSL of a call gate', LSL, AR.P | 0xc, 0x40, 0, false],
    ['LAR of an interrupt gate', LAR, AR.P | 0xe, 0x40, 0, false],
    ['LSL of an LDT', LSL, AR.P | 0x2, 0x40, 0, true],
    ['VERR of data', VERR, data, 0x40, 0, true],
    ['VERR of execute-only code', VERR, AR.P | AR.S | 0x9, 0x40, 0, false],
    ['VERR of a system segment', VERR, AR.P | 0x9, 0x40, 0, false],
    ['VERW of data', VERW, data, 0x40, 0, true],
    ['VERW of read-only data', VERW, AR.P | AR.S | 0x1, 0x40, 0, false],
    ['VERW of code', VERW, AR.P | AR.S | 0xb, 0x40, 0, false],
    ['VERW of a null selector', VERW, data, 0, 0, false],
  ])('%s', (_name, code, ar, selector, cpl, zf) => {
    const result = look(code, ar, selector, cpl);
    expect(result.zf).toBe(zf);
    if (!zf) expect(result.rcx).toBe(7n);
  });

  it('take faults of the operand and of the table', () => {
    for (const code of [
      [0x0f, 0x02, 0x08],
      [0x0f, 0x03, 0x08],
      [0x0f, 0x00, 0x20],
    ]) {
      expect(run(code, AT.HOLE).vector).toBe(VECTOR.PF);
    }
    const gdt = { base: BigInt(AT.HOLE), limit: 0xff };
    for (const code of [LAR, LSL, VERR]) {
      // The handler's own code segment is in the same table: the page fault becomes a double fault, then a shutdown.
      expect(run(code, 0x40, { gdt }).result).toBe(5);
    }
  });
});
