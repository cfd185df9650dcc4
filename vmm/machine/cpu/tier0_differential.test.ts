// SPDX-License-Identifier: GPL-2.0-only
/**
 * The loop against the out-of-line operations over random programs: same registers, flags, memory, clock and faults,
 * whole or cut into pieces by random deadlines. The operations themselves are judged by the tests beside them.
 */
import { describe, expect, it } from 'vitest';
import { setReg } from './regs.ts';
import { RUN } from './state.ts';
import {
  type Bare,
  bare,
  CODE,
  DATA,
  HLT,
  load,
  type Outcome,
  run,
  runOutOfLine,
  STACK_TOP,
} from './testing/bare.ts';

class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0;
  }
  below(n: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) | 0;
    return (this.#state >>> 8) % n;
  }
  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }
}

const REX = [0, 0, 0x48, 0x48, 0x48, 0x41, 0x44, 0x4c, 0x49, 0x40];
const RBP = 5;
/** Cycles after which a program that has lost its loop counter is cut off. */
const LIMIT = 5000;

/** ModRM with a register, or memory near RBP (base and displacement, or base, index RCX and displacement). */
function modrm(r: Random, reg: number): readonly number[] {
  const disp = r.below(8) === 0 ? r.below(64) : r.below(8) * 8;
  switch (r.below(4)) {
    case 0:
      return [0x45 | (reg << 3), disp];
    case 1:
      return [0x44 | (reg << 3), RBP | (1 << 3) | (r.below(4) << 6), disp];
    default:
      return [0xc0 | (reg << 3) | r.pick([0, 2, 3, 6])];
  }
}

const ALU = [0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38];
const TWO_BYTE = [
  0xaf, 0xb6, 0xb7, 0xbe, 0xbf, 0xa3, 0xab, 0xb3, 0xbb, 0xbc, 0xbd, 0xc0, 0xc1, 0xb0, 0xb1, 0xa5, 0xad,
];

/** One random instruction that does not branch. RCX, RBP, RSP, R13 and R15 are never destinations. */
function insn(r: Random): readonly number[] {
  const rex = r.pick(REX);
  const prefix = [...(r.below(10) === 0 ? [0x66] : []), ...(rex === 0 ? [] : [rex])];
  const reg = r.pick([0, 2, 3, 6]);
  const byte = (): number => r.below(256);
  const imm32 = (size: boolean): readonly number[] =>
    size ? [byte(), byte()] : [byte(), byte(), byte(), byte()];
  const word = prefix.includes(0x66) && (rex & 8) === 0;
  switch (r.below(14)) {
    case 0:
    case 1:
      return [...prefix, r.pick(ALU) + r.below(4), ...modrm(r, reg)];
    case 2:
      return [...prefix, 0x83, ...modrm(r, r.below(8)), byte()];
    case 3:
      return [...prefix, 0x81, ...modrm(r, r.below(8)), ...imm32(word)];
    case 4:
      return [...prefix, 0x88 + r.below(4), ...modrm(r, reg)];
    case 5:
      return [...prefix, r.pick([0xc0, 0xc1]), ...modrm(r, r.below(8)), byte()];
    case 6:
      return [...prefix, r.pick([0xd0, 0xd1, 0xd2, 0xd3]), ...modrm(r, r.below(8))];
    case 7:
      return [...prefix, 0x0f, 0x40 + r.below(16), ...modrm(r, reg)];
    case 8:
      return [...prefix, 0x0f, 0x90 + r.below(16), ...modrm(r, 0)];
    case 9:
      return [...prefix, r.pick([0xf6, 0xf7]), ...modrm(r, 2 + r.below(4))];
    case 10:
      return [...prefix, r.pick([0xfe, 0xff]), ...modrm(r, r.below(2))];
    case 11:
      return [...prefix, 0x0f, r.pick(TWO_BYTE), ...modrm(r, reg)];
    case 12:
      return [...prefix, 0x8d, ...[0x45 | (reg << 3), byte()]];
    default:
      return r.pick([
        [0x50],
        [0x5b],
        [0x98],
        [0x99],
        [0xf8],
        [0xf9],
        [0xf5],
        [0x9f],
        [0x9e],
        [0xa8, 0x7f],
        [0x84, 0xc0],
        [0x85, 0xc0],
        [0x6b, 0xc3, 0x11],
        [0x69, 0xd3, 1, 2, 3, 4],
      ]);
  }
}

/** Straight code with forward branches over one instruction, and a count-down loop around all of it. */
function program(r: Random): readonly number[] {
  const body: number[] = [];
  for (let n = 0; n < 24; n++) {
    const one = insn(r);
    if (r.below(4) === 0) body.push(0x70 + r.below(16), one.length);
    body.push(...one);
  }
  // dec r15; jnz body: the loop counter is R15.
  const back = -(body.length + 3 + 6);
  return [
    ...body,
    0x49,
    0xff,
    0xcf,
    0x0f,
    0x85,
    back & 255,
    (back >> 8) & 255,
    (back >> 16) & 255,
    (back >> 24) & 255,
    HLT,
  ];
}

function prepare(code: readonly number[], seed: number): Bare {
  const b = bare(code);
  const r = new Random(seed ^ 0x5555);
  const value = (): bigint => {
    const wide =
      (BigInt(r.below(0x1000000)) << 40n) | (BigInt(r.below(0x1000000)) << 20n) | BigInt(r.below(0x1000000));
    return r.pick([
      wide,
      wide & 0xffffffffn,
      BigInt(r.below(256)),
      0xffff_ffff_ffff_ffffn,
      0x8000_0000n,
      0x7fff_ffff_ffff_ffffn,
    ]);
  };
  load(b, { rflags: r.below(0x1000) & 0x8d5, data: Array.from({ length: 64 }, value) });
  for (let n = 0; n < 16; n++) setReg(b.cpu, n, value());
  setReg(b.cpu, 1, BigInt(r.below(16)));
  setReg(b.cpu, 4, STACK_TOP - 256n);
  setReg(b.cpu, RBP, DATA + 0xf80n);
  setReg(b.cpu, 13, DATA + 0x1f80n);
  setReg(b.cpu, 15, BigInt(1 + r.below(6)));
  return b;
}

const digest = (b: Bare): string => {
  let sum = 0;
  for (const base of [DATA, DATA + 0x1000n, STACK_TOP - 0x1000n, CODE]) {
    const at = b.phys(base);
    for (let n = 0; n < 0x1000; n++) sum = (Math.imul(sum, 31) + b.machine.mem.u8[at + n]!) | 0;
  }
  return `${sum} ${JSON.stringify(b.cpu.fault)}`;
};

const text = (o: Outcome, b: Bare): string =>
  `${o.result} ${o.regs.join()} ${o.rflags} ${o.rip} ${o.clock} ${digest(b)}`;

function inPieces(b: Bare, r: Random): Outcome {
  for (;;) {
    const o = run(b.cpu, Math.min(LIMIT, b.cpu.clock[0]! + 1 + r.below(r.pick([2, 5, 40]))));
    if (o.result !== RUN.DEADLINE || o.clock >= LIMIT) return o;
  }
}

describe('the loop and the out-of-line operations', () => {
  it('agree on random programs in everything, the clock included', () => {
    let finished = 0;
    for (let seed = 1; seed <= 70; seed++) {
      const code = program(new Random(seed));
      const [one, two] = [prepare(code, seed), prepare(code, seed)];
      const slow = runOutOfLine(one.cpu, LIMIT);
      const fast = run(two.cpu, LIMIT);
      expect(
        text(fast, two),
        `seed ${seed}: ${code.map((c) => c.toString(16).padStart(2, '0')).join(' ')}`,
      ).toBe(text(slow, one));
      if (fast.result === RUN.SYS) finished++;
    }
    expect(finished).toBeGreaterThan(60);
  });

  it('give the same whole and in pieces cut by random deadlines', () => {
    for (let seed = 1; seed <= 25; seed++) {
      const code = program(new Random(seed));
      const [one, two] = [prepare(code, seed), prepare(code, seed)];
      const whole = run(one.cpu, LIMIT);
      const pieces = inPieces(two, new Random(seed * 7));
      expect(text(pieces, two), `seed ${seed}`).toBe(text(whole, one));
    }
  });
});
