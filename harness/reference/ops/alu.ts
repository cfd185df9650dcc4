// SPDX-License-Identifier: GPL-2.0-only
/**
 * Integer arithmetic and logic of the reference interpreter: the ALU block, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG,
 * sign extension of the accumulator. SDM, the Operation and Flags Affected sections of each.
 */
import { GPR } from '../../../lib/x86/registers.ts';
import { maskOf, type Size, signExtend, signOf, truncate } from '../bits.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { UNDEFINED } from '../undefined_flags.ts';

const NAMES = ['add', 'or', 'adc', 'sbb', 'and', 'sub', 'xor', 'cmp'] as const;
type AluOp = (typeof NAMES)[number];

/** a + b + carry with all six flags. */
export function add(x: Exec, a: bigint, b: bigint, size: number, carry = 0n): bigint {
  const sum = a + b + carry;
  const result = truncate(sum, size);
  x.setFlag('CF', sum > maskOf(size));
  x.setFlag('AF', (a & 15n) + (b & 15n) + carry > 15n);
  x.setFlag('OF', signOf(a, size) === signOf(b, size) && signOf(result, size) !== signOf(a, size));
  x.setResultFlags(result, size);
  return result;
}

/** a - b - borrow with all six flags. */
export function subtract(x: Exec, a: bigint, b: bigint, size: number, borrow = 0n): bigint {
  const result = truncate(a - b - borrow, size);
  x.setFlag('CF', a < b + borrow);
  x.setFlag('AF', (a & 15n) < (b & 15n) + borrow);
  x.setFlag('OF', signOf(a, size) !== signOf(b, size) && signOf(result, size) !== signOf(a, size));
  x.setResultFlags(result, size);
  return result;
}

function logic(x: Exec, result: bigint, size: number): bigint {
  x.setFlag('CF', false);
  x.setFlag('OF', false);
  x.setResultFlags(result, size);
  x.undefinedFlags |= UNDEFINED.AND_OR_XOR_TEST;
  return result;
}

function compute(x: Exec, op: AluOp, a: bigint, b: bigint, size: number): bigint {
  const carry = x.flag('CF') ? 1n : 0n;
  switch (op) {
    case 'add':
      return add(x, a, b, size);
    case 'adc':
      return add(x, a, b, size, carry);
    case 'sub':
    case 'cmp':
      return subtract(x, a, b, size);
    case 'sbb':
      return subtract(x, a, b, size, carry);
    case 'and':
      return logic(x, a & b, size);
    case 'or':
      return logic(x, a | b, size);
    case 'xor':
      return logic(x, a ^ b, size);
  }
}

/** `op r/m, source`; CMP only reads. */
function intoRm(x: Exec, op: AluOp, size: Size, source: () => bigint): () => void {
  x.lockable = x.isMemory && op !== 'cmp';
  if (op === 'cmp') return () => void compute(x, op, x.getRm(size), source(), size);
  return () => x.modifyRm(size, (old) => compute(x, op, old, source(), size));
}

function intoReg(x: Exec, op: AluOp, size: Size): () => void {
  const { reg } = x.modrm;
  return () => {
    const source = x.getRm(size);
    const result = compute(x, op, x.getReg(reg, size), source, size);
    if (op !== 'cmp') x.setReg(reg, size, result);
  };
}

function intoAccumulator(x: Exec, op: AluOp, size: Size): () => void {
  const value = size === 1 ? x.immediate(1) : x.immediateZ(size);
  return () => {
    const result = compute(x, op, x.getReg(GPR.RAX, size), value, size);
    if (op !== 'cmp') x.setReg(GPR.RAX, size, result);
  };
}

const block = (op: AluOp, first: number): readonly OpRow[] => [
  [first, (x) => intoRm(x, op, 1, () => x.getReg(x.modrm.reg, 1))],
  [first + 1, (x) => intoRm(x, op, x.operandSize, () => x.getReg(x.modrm.reg, x.operandSize))],
  [first + 2, (x) => intoReg(x, op, 1)],
  [first + 3, (x) => intoReg(x, op, x.operandSize)],
  [first + 4, (x) => intoAccumulator(x, op, 1)],
  [first + 5, (x) => intoAccumulator(x, op, x.operandSize)],
];

const immediateGroup =
  (size: (x: Exec) => Size, read: (x: Exec, size: Size) => bigint): Decode =>
  (x) => {
    const op = NAMES[x.digit]!;
    const value = read(x, size(x));
    return intoRm(x, op, size(x), () => value);
  };

function testRm(x: Exec, size: Size, other: () => bigint): () => void {
  x.needModRm();
  return () => void logic(x, x.getRm(size) & other(), size);
}

const increment = (x: Exec, size: Size): (() => void) => {
  if (x.digit > 1) x.invalid();
  x.lockable = x.isMemory;
  const change = x.digit === 0 ? add : subtract;
  return () => {
    const carry = x.flag('CF');
    x.modifyRm(size, (old) => change(x, old, 1n, size));
    x.setFlag('CF', carry);
  };
};

/** Digits 0 to 3 of F6 and F7; the rest multiply and divide. */
export function unary(x: Exec, size: Size): () => void {
  const { digit } = x;
  if (digit < 2) {
    const value = size === 1 ? x.immediate(1) : x.immediateZ(size);
    return testRm(x, size, () => value);
  }
  x.lockable = x.isMemory;
  if (digit === 2) return () => x.modifyRm(size, (old) => truncate(~old, size));
  return () => x.modifyRm(size, (old) => subtract(x, 0n, old, size));
}

const xadd = (x: Exec, size: Size): (() => void) => {
  x.lockable = x.isMemory;
  const { reg } = x.modrm;
  return () => {
    const source = x.getReg(reg, size);
    let before = 0n;
    if (x.isMemory) {
      x.modifyRm(size, (old) => add(x, (before = old), source, size));
      x.setReg(reg, size, before);
      return;
    }
    // TEMP := SRC + DEST; SRC := DEST; DEST := TEMP: with one register for both the sum stays.
    before = x.getRm(size);
    const sum = add(x, before, source, size);
    x.setReg(reg, size, before);
    x.setRm(size, sum);
  };
};

const cmpxchg = (x: Exec, size: Size): (() => void) => {
  x.lockable = x.isMemory;
  return () => {
    const source = x.getReg(x.modrm.reg, size);
    const expected = x.getReg(GPR.RAX, size);
    if (!x.isMemory) {
      const old = x.getRm(size);
      subtract(x, expected, old, size);
      if (old === expected) x.setRm(size, source);
      else x.setReg(GPR.RAX, size, old);
      return;
    }
    let seen = 0n;
    x.modifyRm(size, (old) => ((seen = old) === expected ? source : old));
    subtract(x, expected, seen, size);
    if (seen !== expected) x.setReg(GPR.RAX, size, seen);
  };
};

/** CBW, CWDE, CDQE. */
const convert: Decode = (x) => () => {
  const size = x.operandSize;
  x.setReg(GPR.RAX, size, signExtend(x.getReg(GPR.RAX, size / 2), size / 2, size));
};

/** CWD, CDQ, CQO. */
const convertIntoRdx: Decode = (x) => () => {
  const size = x.operandSize;
  x.setReg(GPR.RDX, size, signOf(x.getReg(GPR.RAX, size), size) === 1 ? maskOf(size) : 0n);
};

/** Rows of arithmetic and logic, F6 and F7 excepted. */
export const ALU_OPS: readonly OpRow[] = [
  ...NAMES.flatMap((op, n) => block(op, 8 * n)),
  [
    0x80,
    immediateGroup(
      () => 1,
      (x) => x.immediate(1),
    ),
  ],
  [
    0x81,
    immediateGroup(
      (x) => x.operandSize,
      (x, size) => x.immediateZ(size),
    ),
  ],
  [
    0x83,
    immediateGroup(
      (x) => x.operandSize,
      (x, size) => x.signedImmediate(1, size),
    ),
  ],
  [0x84, (x) => testRm(x, 1, () => x.getReg(x.modrm.reg, 1))],
  [0x85, (x) => testRm(x, x.operandSize, () => x.getReg(x.modrm.reg, x.operandSize))],
  [0x98, convert],
  [0x99, convertIntoRdx],
  [0xa8, (x) => testAccumulator(x, 1)],
  [0xa9, (x) => testAccumulator(x, x.operandSize)],
  [0xfe, (x) => increment(x, 1)],
  [0x0fb0, (x) => cmpxchg(x, 1)],
  [0x0fb1, (x) => cmpxchg(x, x.operandSize)],
  [0x0fc0, (x) => xadd(x, 1)],
  [0x0fc1, (x) => xadd(x, x.operandSize)],
];

function testAccumulator(x: Exec, size: Size): () => void {
  const value = size === 1 ? x.immediate(1) : x.immediateZ(size);
  return () => void logic(x, x.getReg(GPR.RAX, size) & value, size);
}

/** INC and DEC of FF. */
export const incDecWide: Decode = (x) => increment(x, x.operandSize);
