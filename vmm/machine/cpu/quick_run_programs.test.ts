// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random loops over more pages than the TLB has, with and without the quick run: instructions that it knows, some that it
 * leaves to tier 0, every condition, code that crosses a page and lies beside data, faults, any deadline. tier 0 alone is
 * checked against a second interpreter elsewhere.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { invlpg } from '../mmu/invalidate.ts';
import { makeQuickRun } from './quick_run.ts';
import { setReg } from './regs.ts';
import { RUN, S } from './state.ts';
import { CODE, DATA_PHYS, expectSame, GOOD, leafOf, PAGES, pair, type Side } from './testing/quick_sides.ts';
import { tier0 } from './tier0.ts';

type Bytes = readonly number[];
const BASE = 0x1_0000_0000n;
/** The code's first page is mapped here, too, and its second at BASE. */
const BELOW_4G = 0xffff_f000;
const imm32 = (n: number): Bytes => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, (n >> 24) & 0xff];
const imm64 = (n: bigint): Bytes => [...imm32(Number(n & 0xffff_ffffn)), ...imm32(Number(n >> 32n))];
const modrm = (reg: number, rm: number): number => 0xc0 | (reg << 3) | rm;

/** RAX, RCX, RDX and RSI are operands, RDI walks through the pages, RBX is its end. */
const reg = fc.constantFrom(0, 1, 2, 6);
const imm8 = fc.constantFrom(0, 1, 0x7f, 0x80, 0xff);
/** ModRM and displacement of [rdi + disp] and, with a SIB byte, of [rdi + rbp + disp]: a page, its end, the one before. */
const disp = fc.constantFrom(0, 0, 0, 8, 0x40, 0x1000, 3, 0xffc, 0x1ffc, -8).map(imm32);
const memory = (op: number) => fc.tuple(reg, disp).map(([r, d]) => [0x48, op, 0x87 | (r << 3), ...d]);
const indexed = (op: number) => fc.tuple(reg, disp).map(([r, d]) => [0x48, op, 0x84 | (r << 3), 0x2f, ...d]);
const twoRegs = (op: number) => fc.tuple(reg, reg).map(([a, b]) => [0x48, op, modrm(a, b)]);
const withImm = (op: number) => fc.tuple(reg, imm8).map(([r, n]) => [0x48, 0x83, modrm(op, r), n]);

// prettier-ignore
const OPS = { ADD: 0x01, SUB: 0x29, CMP: 0x39, MOV: 0x89, LOAD: 0x8b, ADD_M: 0x03, CMP_M: 0x3b, AND: 0x21, XOR: 0x31, TEST: 0x85 } as const;

/** Instructions that a quick run knows; those that set flags apart. */
const flags = fc.oneof(
  twoRegs(OPS.ADD),
  twoRegs(OPS.SUB),
  twoRegs(OPS.CMP),
  withImm(0),
  withImm(5),
  withImm(7),
);
const moves: fc.Arbitrary<Bytes> = fc.oneof(
  memory(OPS.MOV),
  memory(OPS.LOAD),
  twoRegs(OPS.MOV),
  fc.tuple(reg, fc.bigInt(0n, 0xffff_ffff_ffff_ffffn)).map(([r, n]) => [0x48, 0xb8 | r, ...imm64(n)]),
  disp.map((d) => [0x48, 0xc7, 0x87, ...d, 0x55, 0xaa, 0x12, 0x80]), // mov qword [rdi + d], imm
);
const known = fc.oneof(flags, moves, moves, memory(OPS.ADD_M), memory(OPS.CMP_M));

const inc: Bytes = [0x48, 0xff, 0xc1];
const stc: Bytes = [0xf9];
const sahf: Bytes = [0x9e];
const cmpBytes: Bytes = [0x3a, 0xc1];
const imul: Bytes = [0x48, 0x0f, 0xaf, 0xd1];

/** Instructions that end a run, and set the flags in all ways. */
const other: fc.Arbitrary<Bytes> = fc.oneof(
  fc.oneof(twoRegs(OPS.AND), twoRegs(OPS.XOR), twoRegs(OPS.TEST)),
  fc.tuple(fc.constantFrom(OPS.ADD, OPS.CMP), reg, reg).map(([op, a, b]) => [op, modrm(a, b)]), // 32 bits
  fc.constantFrom(inc, stc, sahf, cmpBytes, imul),
  fc.oneof(memory(OPS.ADD), indexed(OPS.MOV), indexed(OPS.ADD_M)),
);
const plain = fc.oneof({ arbitrary: known, weight: 15 }, { arbitrary: other, weight: 1 });

/** Flags from anywhere, perhaps a store that may begin a run, and Jcc or JMP over an instruction. */
const skip = fc
  .tuple(
    fc.oneof(flags, other),
    fc.oneof(moves, fc.constant([])),
    fc.integer({ min: 0x70, max: 0x80 }),
    plain,
  )
  .map(([set, store, op, over]) => [...set, ...store, op === 0x80 ? 0xeb : op, over.length, ...over]);

/** Where the loop ends up after one page; the fault handler of the test goes there, too. */
interface Program {
  readonly code: Bytes;
  /** Linear address of the code's page, and offset in it. */
  readonly page: number;
  readonly offset: number;
  readonly nextAt: number;
}

function makeProgram(
  body: Bytes,
  stride: number,
  at: Pick<Program, 'page' | 'offset'>,
  back: number,
): Program {
  const start = [0x48, 0xbf, ...imm64(BASE + 4096n)]; // mov rdi, imm
  const step = [0x48, 0x81, 0xc7, ...imm32(stride), 0x48, 0x39, 0xdf]; // add rdi, stride; cmp rdi, rbx
  const again = [0x0f, back, ...imm32(-(body.length + step.length + 6))];
  const code = [...start, ...body, ...step, ...again];
  return {
    ...at,
    code: [...code, 0xe9, ...imm32(-(code.length + 5))],
    nextAt: at.page + at.offset + start.length + body.length,
  };
}

const program: fc.Arbitrary<Program> = fc
  .tuple(
    fc.array(fc.oneof({ arbitrary: plain, weight: 3 }, skip), { minLength: 1, maxLength: 9 }),
    fc.constantFrom(8, 0x1000, 0x1000, 0x3000, 0x205_000),
    fc.oneof(fc.constant(0x800), fc.constant(0x800), fc.integer({ min: 0xfa0, max: 0xff8 })),
    fc.constantFrom(0x82, 0x8c), // jb, jl
    fc.constantFrom(CODE, BELOW_4G),
  )
  .map(([body, stride, offset, back, page]) => makeProgram(body.flat(), stride, { page, offset }, back));

function setRip(side: Side, rip: number): void {
  side.cpu.s[S.RIP] = rip | 0;
  side.cpu.s[S.RIP + 1] = Math.floor(rip / 2 ** 32);
}

function load(side: Side, { code, page, offset, nextAt }: Program): void {
  const { mem, code: decoded } = side.cpu;
  mem.u8.set(code, CODE + offset);
  decoded.noteStore(CODE + offset, code.length);
  setReg(side.cpu, 3, BASE + BigInt(PAGES) * 4096n);
  // The end is decoded first, so that the rest links to it.
  setRip(side, nextAt);
  tier0(side.cpu, side.cpu.clock[0]! + 1);
  setRip(side, page + offset);
}

/** Run for about so many cycles in slices; what happened, as text. A program may break its own code: then it faults on. */
function run(side: Side, at: Program, slices: readonly number[], cycles: number): string[] {
  const { cpu } = side;
  const { clock, fault, s } = cpu;
  const end = clock[0]! + cycles;
  const found: string[] = [];
  for (let n = 0; clock[0]! < end && n < 1000; n++) {
    const result = tier0(cpu, clock[0]! + slices[n % slices.length]!);
    found.push(`${result} at ${s[S.RIP + 1]}:${s[S.RIP]} ${clock[0]}`);
    if (result === RUN.DEADLINE) continue;
    if (result === RUN.FAULT) found.push(`${fault.vector}/${fault.errorCode}/${fault.linHi}:${fault.linLo}`);
    setRip(side, at.nextAt);
  }
  return found;
}

/** What happens on each side. */
function compare(
  programs: readonly Program[],
  leaf: (page: number) => readonly [number, number],
  slices: readonly number[],
): void {
  const both = pair(leaf);
  for (const side of both) {
    side.touch(Array.from({ length: PAGES }, (_, n) => n)); // now every set of the TLB is full
    for (const at of [0x1f7, 0x9c3]) side.map(BASE + BigInt(at) * 4096n, CODE, GOOD); // code among the data
    side.map(BigInt(BELOW_4G), CODE, GOOD);
    side.map(BASE, CODE + 4096, GOOD);
    side.map(BASE + 0x333n * 4096n, DATA_PHYS, GOOD);
    for (const page of [0, 0x1f7, 0x333, 0x9c3]) invlpg(side.cpu, page * 4096, 1);
  }
  both[0].cpu.quick = makeQuickRun(both[0].cpu);
  for (const at of programs) {
    for (const side of both) load(side, at);
    for (const [pieces, cycles] of [
      [[1e6], 120_000],
      [slices, 20_000],
    ] as const) {
      const [quick, slow] = both.map((side) => run(side, at, pieces, cycles));
      expect(quick).toEqual(slow);
      expectSame(both);
    }
  }
}

const CORNERS = [0n, 1n, 0x4001n, 0x8000_0000n, -1n, -0x8000_0000_0000_0000n];
const twoRegsOf = (op: number): Bytes => [0x48, op, modrm(1, 0)];

/** Flags set before a store to a page, which begins a run, then after one, and Jcc; at last a store that faults. */
function branchProgram(set: Bytes, cc: number): Bytes {
  const store = [0x48, 0x89, 0x0f]; // mov [rdi], rcx
  const jcc = [0x70 | cc, 4, 0x48, 0x83, 0xc2, 1]; // over: add rdx, 1
  const step = [0x48, 0x81, 0xc7, ...imm32(0x1000)]; // add rdi, 4096
  return [...set, ...store, ...jcc, ...step, ...store, ...set, ...jcc, 0x48, 0x89, 0x0e]; // mov [rsi], rcx
}

/** RDX and the clock after it, with RAX and RCX. */
function branchOnce(side: Side, a: bigint, b: bigint, to: bigint): string {
  const { cpu } = side;
  [a, b, 0n].forEach((value, n) => setReg(cpu, n, value));
  setReg(cpu, 6, 0x7fff_ffff_f000n);
  setReg(cpu, 7, to);
  setRip(side, CODE + 0x800);
  expect(tier0(cpu, Infinity)).toBe(RUN.FAULT);
  return `${cpu.s[S.GPR + 4]} ${cpu.clock[0]} ${cpu.s[S.RIP]}`;
}

const RUNS = 2;
const programs = fc.array(program, { minLength: 2, maxLength: 4 });
const slices = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 5 });

describe('programs with the quick run', () => {
  it('do the same as without it, where no page refuses', () => {
    fc.assert(
      fc.property(programs, slices, (list, pieces) => compare(list, () => [GOOD, 0], pieces)),
      { numRuns: RUNS, seed: 5 },
    );
  });

  it('do the same as without it, where some pages fault or are not for it', () => {
    fc.assert(
      fc.property(programs, slices, fc.nat(1000), (list, pieces, salt) =>
        compare(list, (page) => leafOf(page + salt), pieces),
      ),
      { numRuns: RUNS, seed: 6 },
    );
  });

  it('do the same at the end of a page, and of the first 4 GiB', () => {
    const store = [0x48, 0x89, 0x07]; // mov [rdi], rax
    const offset = 0x1000 - 10 - store.length;
    const list = [CODE, BELOW_4G].map((page) => makeProgram([...store, 0x90], 4096, { page, offset }, 0x82));
    compare(list, () => [GOOD, 0], [1, 2, 3, 29, 30, 31]);
  });

  it('do the same where a store crosses two pages that both need a walk', () => {
    const stores = [0x48, 0x89, 0x07, 0x48, 0x89, 0x8f, ...imm32(0x1ffc)]; // mov [rdi], rax; mov [rdi + 0x1ffc], rcx
    const crossing = makeProgram(stores, 0x3000, { page: CODE, offset: 0x800 }, 0x82);
    compare([crossing, crossing], () => [GOOD, 0], [1, 7, 100]);
  });

  it('take the same branches for all operands, whatever set the flags', () => {
    const both = pair(() => [GOOD, 0]);
    for (const side of both) side.touch(Array.from({ length: PAGES }, (_, n) => n));
    both[0].cpu.quick = makeQuickRun(both[0].cpu);
    let page = 0;
    for (const set of [twoRegsOf(OPS.CMP), twoRegsOf(OPS.ADD), twoRegsOf(OPS.TEST), imul, [], stc, sahf]) {
      for (let cc = 0; cc < 16; cc++) {
        for (const side of both) side.cpu.mem.u8.set(branchProgram(set, cc), CODE + 0x800);
        for (const side of both) side.cpu.code.invalidateFrame(CODE / 4096);
        for (const a of CORNERS) {
          for (const b of CORNERS) {
            page = (page + 2) % PAGES;
            const [quick, slow] = both.map((side) => branchOnce(side, a, b, BASE + BigInt(page) * 4096n));
            expect([cc, set, quick]).toEqual([cc, set, slow]);
          }
        }
      }
    }
    expectSame(both);
  });
});
