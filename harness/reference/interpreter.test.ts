// SPDX-License-Identifier: GPL-2.0-only
/**
 * The reference interpreter against the manual itself: values worked out by hand from the SDM's instruction pages, so that
 * the reference and the machine cannot be wrong together unnoticed. Bytes are written out; no assembler.
 */
import { describe, expect, it } from 'vitest';
import { PFERR, VECTOR } from '../../lib/x86/exceptions.ts';
import { CR0, CR4, EFER, RFLAGS } from '../../lib/x86/registers.ts';
import { ReferenceCpu } from './interpreter.ts';
import { RefMemory } from './memory.ts';
import type { ReferenceRules } from './paging.ts';

const BASE = 0x10_0000;
const { CF, PF, AF, ZF, SF, OF, DF } = RFLAGS;
const ARITHMETIC = CF | PF | AF | ZF | SF | OF;
const RULES: ReferenceRules = {
  maxPhysBits: 46,
  missCycles: 10,
  referenceCycles: 1,
  denied: 'fault',
  keep: 'forever',
  extra: { lock: 0, div: 0, fence: 0 },
};

const PML4E = 0;
const PDPTE = 0x1000;
const PDE = 0x2000;
const PTE = (page: number): number => 0x3000 + page * 8;
/** Frame of linear page n. */
const frame = (page: number): number => BASE + 0x4000 + page * 0x1000;

/** Code at linear 0, eight pages of identity-like mapping; CPL 0, WP, NXE. */
function cpuWith(
  bytes: readonly number[],
  gpr: Readonly<Record<number, bigint>> = {},
  rules = RULES,
): ReferenceCpu {
  const cpu = new ReferenceCpu(new RefMemory(BASE, 0x1_0000), rules);
  const view = new DataView(cpu.memory.bytes.buffer);
  view.setBigUint64(PML4E, BigInt(BASE + PDPTE) | 7n, true);
  view.setBigUint64(PDPTE, BigInt(BASE + PDE) | 7n, true);
  view.setBigUint64(PDE, BigInt(BASE + 0x3000) | 7n, true);
  for (let page = 0; page < 8; page++) view.setBigUint64(PTE(page), BigInt(frame(page)) | 7n, true);
  cpu.memory.bytes.set(bytes, frame(0) - BASE);
  const { state } = cpu;
  state.cr0 = CR0.PE | CR0.PG | CR0.WP;
  state.cr3 = BigInt(BASE);
  state.cr4 = CR4.PAE;
  state.efer = EFER.NXE;
  for (const [n, value] of Object.entries(gpr)) state.gpr[Number(n)] = value;
  return cpu;
}

const setEntry = (cpu: ReferenceCpu, at: number, value: bigint): void =>
  new DataView(cpu.memory.bytes.buffer).setBigUint64(at, value, true);
const entry = (cpu: ReferenceCpu, at: number): bigint => cpu.memory.entry(BASE + at);

/** The arithmetic flags after an instruction, without those left undefined. */
function flagsAfter(cpu: ReferenceCpu): number {
  expect(cpu.step().kind).toBe('done');
  return cpu.state.rflags & ARITHMETIC & ~cpu.undefined.flags;
}

describe('arithmetic', () => {
  // Carry out of bit 7, of bit 3, signed overflow: from the definitions in "EFLAGS Register".
  it.each([
    { name: 'add al, bl: 7F + 01', bytes: [0x00, 0xd8], a: 0x7fn, b: 1n, result: 0x80n, flags: OF | SF | AF },
    {
      name: 'add al, bl: FF + 01',
      bytes: [0x00, 0xd8],
      a: 0xffn,
      b: 1n,
      result: 0n,
      flags: CF | ZF | AF | PF,
    },
    {
      name: 'add al, bl: 80 + 80',
      bytes: [0x00, 0xd8],
      a: 0x80n,
      b: 0x80n,
      result: 0n,
      flags: CF | ZF | OF | PF,
    },
    {
      name: 'sub al, bl: 00 - 01',
      bytes: [0x28, 0xd8],
      a: 0n,
      b: 1n,
      result: 0xffn,
      flags: CF | SF | AF | PF,
    },
    { name: 'sub al, bl: 80 - 01', bytes: [0x28, 0xd8], a: 0x80n, b: 1n, result: 0x7fn, flags: OF | AF },
    { name: 'and al, bl: F0 & 81', bytes: [0x20, 0xd8], a: 0xf0n, b: 0x81n, result: 0x80n, flags: SF },
    { name: 'neg al: 80', bytes: [0xf6, 0xd8], a: 0x80n, b: 0n, result: 0x80n, flags: CF | OF | SF },
    {
      name: 'inc al: 7F, CF stays',
      bytes: [0xfe, 0xc0],
      a: 0x7fn,
      b: 0n,
      result: 0x80n,
      flags: OF | SF | AF,
    },
    { name: 'shl al, 1: C0', bytes: [0xd0, 0xe0], a: 0xc0n, b: 0n, result: 0x80n, flags: CF | SF },
    { name: 'sar al, 1: 81', bytes: [0xd0, 0xf8], a: 0x81n, b: 0n, result: 0xc0n, flags: CF | SF | PF },
    { name: 'ror al, 1: 01', bytes: [0xd0, 0xc8], a: 1n, b: 0n, result: 0x80n, flags: CF | OF },
    { name: 'rcr al, 1: 01 with CF clear', bytes: [0xd0, 0xd8], a: 1n, b: 0n, result: 0n, flags: CF },
  ])('$name', ({ bytes, a, b, result, flags }) => {
    const cpu = cpuWith(bytes, { 0: 0xaaaa_0000n | a, 3: b });
    expect(flagsAfter(cpu).toString(16)).toBe(flags.toString(16));
    expect(cpu.state.gpr[0]).toBe(0xaaaa_0000n | result);
  });

  it('zero-extends 32-bit results and keeps the rest of a register for 8 and 16 bits', () => {
    const all = 0xffff_ffff_ffff_ffffn;
    expect(runOne([0x89, 0xd8], { 0: all, 3: 5n }).state.gpr[0]).toBe(5n);
    expect(runOne([0x66, 0x89, 0xd8], { 0: all, 3: 5n }).state.gpr[0]).toBe(0xffff_ffff_ffff_0005n);
    expect(runOne([0x88, 0xdc], { 0: all, 3: 5n }).state.gpr[0]).toBe(0xffff_ffff_ffff_05ffn);
    expect(runOne([0x40, 0x88, 0xdc], { 4: all, 3: 5n }).state.gpr[4]).toBe(0xffff_ffff_ffff_ff05n);
  });

  it('divides, and faults on a quotient that does not fit', () => {
    const cpu = runOne([0x48, 0xf7, 0xf3], { 0: 7n, 2: 1n, 3: 16n });
    expect(cpu.state.gpr.slice(0, 3)).toEqual([1n << 60n, 0n, 7n]);
    expect(cpuWith([0x48, 0xf7, 0xf3], { 0: 0n, 2: 16n, 3: 16n }).step()).toMatchObject({
      vector: VECTOR.DE,
    });
    expect(cpuWith([0xf6, 0xf3], { 0: 1n }).step()).toMatchObject({ kind: 'fault', vector: VECTOR.DE });
    // -128 / -1 in bytes
    expect(cpuWith([0xf6, 0xfb], { 0: 0xff80n, 3: 0xffn }).step()).toMatchObject({ vector: VECTOR.DE });
  });

  it('changes no flag when a shift count is zero after masking', () => {
    const cpu = cpuWith([0xd3, 0xe0], { 0: 1n, 1: 32n });
    cpu.state.rflags = ARITHMETIC | 2;
    expect(flagsAfter(cpu)).toBe(ARITHMETIC);
    expect(cpu.state.gpr[0]).toBe(1n);
  });

  it('says which flags the manual leaves undefined', () => {
    const cpu = cpuWith([0xf7, 0xe3]);
    cpu.step();
    expect(cpu.undefined.flags).toBe(PF | AF | ZF | SF);
  });
});

function runOne(bytes: readonly number[], gpr: Readonly<Record<number, bigint>>): ReferenceCpu {
  const cpu = cpuWith(bytes, gpr);
  expect(cpu.step()).toEqual({ kind: 'done', length: bytes.length });
  return cpu;
}

describe('instruction format', () => {
  it('refuses LOCK where the destination is a register or the instruction does not take it', () => {
    expect(cpuWith([0xf0, 0x01, 0xd8]).step()).toMatchObject({ kind: 'fault', vector: VECTOR.UD });
    expect(cpuWith([0xf0, 0x8b, 0x00]).step()).toMatchObject({ kind: 'fault', vector: VECTOR.UD });
    expect(cpuWith([0xf0, 0x01, 0x18], { 0: 0x1000n }).step()).toMatchObject({ kind: 'done' });
  });

  it('allows 15 bytes and not 16', () => {
    const prefixes = (n: number): number[] => new Array<number>(n).fill(0x2e);
    expect(cpuWith([...prefixes(14), 0x90]).step()).toEqual({ kind: 'done', length: 15 });
    expect(cpuWith([...prefixes(15), 0x90]).step()).toMatchObject({ vector: VECTOR.GP, errorCode: 0 });
  });

  it('forgets REX before another prefix', () => {
    expect(runOne([0x48, 0x66, 0xb8, 0x34, 0x12], { 0: 0n }).state.gpr[0]).toBe(0x1234n);
  });

  it('counts RIP-relative addresses from the end of the instruction, immediates included', () => {
    // mov dword ptr [rip + 0xFF6], 0x11223344: 10 bytes, so address 0x1000
    const cpu = runOne([0xc7, 0x05, 0xf6, 0x0f, 0, 0, 0x44, 0x33, 0x22, 0x11], {});
    expect(cpu.memory.byte(frame(1))).toBe(0x44);
  });

  it('stops at system instructions and says what they are', () => {
    expect(cpuWith([0x0f, 0xa2]).step()).toEqual({ kind: 'system', length: 2, operands: { op: 'CPUID' } });
    expect(cpuWith([0x0f, 0x01, 0x10], { 0: 0x1230n }).step()).toMatchObject({
      operands: { op: 'LGDT', rm: -1, linear: 0x1230n },
    });
  });

  it('leaves alone what it does not know', () => {
    expect(cpuWith([0x0f, 0x58, 0xc0]).step()).toMatchObject({ kind: 'unsupported' }); // ADDPS
  });
});

describe('strings', () => {
  it('do one iteration a step, downwards with DF, and leave RIP until the last', () => {
    const cpu = cpuWith([0xf3, 0xaa], { 0: 0x5an, 1: 2n, 7: 0x1001n });
    cpu.state.rflags |= DF;
    cpu.step();
    expect([cpu.state.rip, cpu.state.gpr[1], cpu.state.gpr[7]]).toEqual([0n, 1n, 0x1000n]);
    cpu.step();
    expect([cpu.state.rip, cpu.state.gpr[1], cpu.state.gpr[7]]).toEqual([2n, 0n, 0xfffn]);
    expect([cpu.memory.byte(frame(1)), cpu.memory.byte(frame(1) + 1)]).toEqual([0x5a, 0x5a]);
  });

  it('end a REPNE SCAS at the match', () => {
    const cpu = cpuWith([0xf2, 0xae], { 0: 0x77n, 1: 9n, 7: 0x1000n });
    cpu.memory.setByte(frame(1) + 1, 0x77);
    cpu.step();
    cpu.step();
    expect([cpu.state.rip, cpu.state.gpr[1], cpu.state.gpr[7]]).toEqual([2n, 7n, 0x1002n]);
    expect(cpu.state.rflags & ZF).toBe(ZF);
  });

  it('do nothing with a count of zero', () => {
    const cpu = runOne([0xf3, 0xa4], { 6: 1n << 63n, 7: 1n << 62n });
    expect(cpu.state.rip).toBe(2n);
  });
});

describe('paging', () => {
  const LOAD = [0x8a, 0x03]; // mov al, [rbx]
  const STORE = [0x88, 0x03]; // mov [rbx], al

  it('sets A in every entry used and D in the last one of a store', () => {
    const cpu = runOne(STORE, { 3: 0x2000n });
    expect(entry(cpu, PML4E) & 0x60n).toBe(0x20n);
    expect(entry(cpu, PDE) & 0x60n).toBe(0x20n);
    expect(entry(cpu, PTE(2)) & 0x60n).toBe(0x60n);
    expect(entry(cpu, PTE(0)) & 0x60n).toBe(0x20n);
    expect(entry(cpu, PTE(1)) & 0x60n).toBe(0n);
  });

  it.each([
    { name: 'nothing there', pte: 0n, bytes: LOAD, cpl: 0, code: 0 },
    {
      name: 'nothing there, a store by a user',
      pte: 0n,
      bytes: STORE,
      cpl: 3,
      code: PFERR.WRITE | PFERR.USER,
    },
    { name: 'a read-only page', pte: 5n, bytes: STORE, cpl: 0, code: PFERR.PRESENT | PFERR.WRITE },
    { name: 'a supervisor page', pte: 3n, bytes: LOAD, cpl: 3, code: PFERR.PRESENT | PFERR.USER },
    { name: 'a reserved bit', pte: 7n | (1n << 50n), bytes: LOAD, cpl: 0, code: PFERR.PRESENT | PFERR.RSVD },
  ])('faults on $name', ({ pte, bytes, cpl, code }) => {
    const cpu = cpuWith(bytes, { 3: 0x2abcn, 0: 1n });
    setEntry(cpu, PTE(2), pte === 0n ? 0n : pte | BigInt(frame(2)));
    cpu.state.cpl = cpl;
    expect(cpu.step()).toEqual({
      kind: 'fault',
      vector: VECTOR.PF,
      errorCode: code,
      cr2: 0x2abcn,
      length: 2,
    });
    expect(cpu.state.rip).toBe(0n);
    expect(entry(cpu, PTE(2)) & 0x20n).toBe(0n);
  });

  it('faults on fetching from an execute-disabled page, and on SMAP unless AC is set', () => {
    const cpu = cpuWith([0x90]);
    setEntry(cpu, PTE(0), entry(cpu, PTE(0)) | (1n << 63n));
    expect(cpu.step()).toMatchObject({
      vector: VECTOR.PF,
      errorCode: PFERR.PRESENT | PFERR.FETCH,
      length: 0,
    });
    const smap = cpuWith(LOAD, { 3: 0x2000n });
    smap.state.cr4 |= CR4.SMAP;
    expect(smap.step()).toMatchObject({ vector: VECTOR.PF, errorCode: PFERR.PRESENT });
    smap.state.rflags |= RFLAGS.AC;
    expect(smap.step()).toMatchObject({ kind: 'done' });
  });

  it('charges a walk for each page, and another for the first store to a page that was read', () => {
    // Two walks of four references at 10 + 4, two instructions; then a walk and an instruction.
    const cpu = cpuWith([...LOAD, ...LOAD, ...STORE], { 3: 0x2000n });
    cpu.step();
    expect(cpu.state.cycles).toBe(2 * 14 + 1);
    cpu.step();
    expect(cpu.state.cycles).toBe(2 * 14 + 2);
    cpu.step();
    expect(cpu.state.cycles).toBe(3 * 14 + 3);
  });

  it('charges every access if the TLB keeps nothing', () => {
    const cpu = cpuWith([...LOAD, ...LOAD], { 3: 0x2000n }, { ...RULES, keep: 'nothing' });
    cpu.step();
    cpu.step();
    expect(cpu.state.cycles).toBe(4 * 14 + 2);
  });

  it('uses a translation until it is told to forget it', () => {
    const cpu = cpuWith([...LOAD, ...LOAD, 0x0f, 0x01, 0x3b, ...LOAD], { 3: 0x2000n });
    cpu.step();
    setEntry(cpu, PTE(2), 0n);
    expect(cpu.step()).toMatchObject({ kind: 'done' });
    expect(cpu.step()).toMatchObject({ kind: 'done', length: 3 }); // invlpg [rbx]
    expect(cpu.step()).toMatchObject({ vector: VECTOR.PF });
  });

  it('raises GP for data and SS for the stack on addresses that are not canonical', () => {
    const bad = 1n << 47n;
    expect(cpuWith(LOAD, { 3: bad }).step()).toMatchObject({ vector: VECTOR.GP, errorCode: 0 });
    expect(cpuWith([0x8a, 0x45, 0x00], { 5: bad }).step()).toMatchObject({ vector: VECTOR.SS, errorCode: 0 });
    expect(cpuWith([0x64, 0x8a, 0x45, 0x00], { 5: bad }).step()).toMatchObject({ vector: VECTOR.GP });
    expect(cpuWith([0x50], { 4: bad + 8n }).step()).toMatchObject({ vector: VECTOR.SS });
  });

  it('undoes the first half of an operand that faults in its second page', () => {
    const cpu = cpuWith([0x48, 0x01, 0x03], { 0: -1n & 0xffff_ffff_ffff_ffffn, 3: 0x7ffcn });
    expect(cpu.step()).toMatchObject({ vector: VECTOR.PF, cr2: 0x8000n });
    expect(cpu.memory.byte(frame(7) + 0xffc)).toBe(0);
  });
});

describe('control', () => {
  it('keeps IF and IOPL from a user, and has no STAC there', () => {
    const cpu = cpuWith([0x9d], { 4: 0x2000n });
    cpu.memory.setByte(frame(2) + 1, 0x36); // IF, DF, IOPL 3
    cpu.state.cpl = 3;
    expect(cpu.step()).toMatchObject({ kind: 'done' });
    expect(cpu.state.rflags).toBe(RFLAGS.FIXED | DF);
    const stac = cpuWith([0x0f, 0x01, 0xcb]);
    stac.state.cpl = 3;
    expect(stac.step()).toMatchObject({ vector: VECTOR.UD });
  });

  it('refuses to leave paging, to leave PAE, and reserved bits of CR3', () => {
    const load = (reg: number, value: bigint): ReferenceCpu =>
      cpuWith([0x0f, 0x22, 0xc0 | (reg << 3)], { 0: value });
    expect(load(0, 0x1n).step()).toMatchObject({ vector: VECTOR.GP });
    expect(load(4, 0n).step()).toMatchObject({ vector: VECTOR.GP });
    expect(load(3, 1n << 46n).step()).toMatchObject({ vector: VECTOR.GP });
    expect(load(3, BigInt(BASE)).step()).toMatchObject({ kind: 'done' });
    expect(load(1, 0n).step()).toMatchObject({ vector: VECTOR.UD });
  });
});
