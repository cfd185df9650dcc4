// SPDX-License-Identifier: GPL-2.0-only
/**
 * Constructors of expression trees that fold constants and gather address offsets, so that `array.at(3).f.x` becomes one
 * base and one displacement. What C leaves undefined (shift by the width, division by zero) is left to the hardware.
 */
import type { BinOp, CmpNode, CondCode, ConstNode, ExtNode, Node, Width } from './ir.ts';
import type { IntSize } from './types.ts';

const bits = (width: number): number => width * 8;

/** A constant, reduced to the width. */
export function constNode(width: Width, value: bigint): ConstNode {
  return { k: 'const', width, value: BigInt.asUintN(bits(width), value) };
}

/** The constant as a signed number. */
export const signedValue = (node: ConstNode): bigint => BigInt.asIntN(bits(node.width), node.value);

const shiftCount = (width: Width, count: bigint): bigint => count & BigInt(bits(width) - 1);

function divide(op: BinOp, width: Width, a: bigint, b: bigint): bigint | undefined {
  if (b === 0n) return undefined;
  if (op === 'udiv') return a / b;
  if (op === 'umod') return a % b;
  const sa = BigInt.asIntN(bits(width), a);
  const sb = BigInt.asIntN(bits(width), b);
  return op === 'sdiv' ? sa / sb : sa % sb;
}

function foldConst(op: BinOp, width: Width, a: bigint, b: bigint): bigint | undefined {
  switch (op) {
    case 'add':
      return a + b;
    case 'sub':
      return a - b;
    case 'mul':
      return a * b;
    case 'and':
      return a & b;
    case 'or':
      return a | b;
    case 'xor':
      return a ^ b;
    case 'shl':
      return a << shiftCount(width, b);
    case 'shr':
      return a >> shiftCount(width, b);
    case 'sar':
      return BigInt.asIntN(bits(width), a) >> shiftCount(width, b);
    default:
      return divide(op, width, a, b);
  }
}

const log2 = (value: bigint): number => value.toString(2).length - 1;
const isPowerOfTwo = (value: bigint): boolean => value > 0n && (value & (value - 1n)) === 0n;

/** `x * 2^n` and friends in the cheap form; undefined if there is none. */
function reduceStrength(op: BinOp, width: Width, l: Node, value: bigint): Node | undefined {
  if (op === 'mul' && value === 0n) return constNode(width, 0n);
  if ((op === 'mul' || op === 'udiv' || op === 'sdiv') && value === 1n) return l;
  if (!isPowerOfTwo(value)) return undefined;
  const count = constNode(width, BigInt(log2(value)));
  if (op === 'mul') return bin('shl', width, l, count);
  if (op === 'udiv') return bin('shr', width, l, count);
  if (op === 'umod') return bin('and', width, l, constNode(width, value - 1n));
  return undefined;
}

const NEUTRAL_ZERO: ReadonlySet<BinOp> = new Set(['add', 'sub', 'or', 'xor', 'shl', 'shr', 'sar']);
const DISP_MAX = 0x4000_0000n;

/** Adds a constant to an address or to an earlier sum. */
function addConst(width: Width, l: Node, value: ConstNode): Node | undefined {
  const delta = signedValue(value);
  const fits = delta < DISP_MAX && delta > -DISP_MAX;
  if (l.k === 'sym' && fits) return { ...l, addend: l.addend + Number(delta) };
  if (l.k === 'localAddr' && fits) return { ...l, offset: l.offset + Number(delta) };
  if (l.k === 'bin' && l.op === 'add' && l.r.k === 'const') {
    return bin('add', width, l.l, constNode(width, l.r.value + value.value));
  }
  return undefined;
}

function binWithConst(op: BinOp, width: Width, l: Node, r: ConstNode): Node | undefined {
  if (l.k === 'const') {
    const value = foldConst(op, width, l.value, r.value);
    return value === undefined ? undefined : constNode(width, value);
  }
  if (r.value === 0n && NEUTRAL_ZERO.has(op)) return l;
  if (op === 'sub') return bin('add', width, l, constNode(width, -r.value));
  if (op === 'add') return addConst(width, l, r);
  return reduceStrength(op, width, l, r.value);
}

const COMMUTATIVE: ReadonlySet<BinOp> = new Set(['add', 'mul', 'and', 'or', 'xor']);

/** An arithmetic node; a constant ends up on the right. */
export function bin(op: BinOp, width: Width, l: Node, r: Node): Node {
  if (l.k === 'const' && r.k !== 'const' && COMMUTATIVE.has(op)) return bin(op, width, r, l);
  if (r.k === 'const') {
    const folded = binWithConst(op, width, l, r);
    if (folded) return folded;
  }
  // Pull a constant out of a sum, so that it can become the displacement of an address.
  if (op === 'add' && l.k === 'bin' && l.op === 'add' && l.r.k === 'const' && r.k !== 'const') {
    return bin('add', width, bin('add', width, l.l, r), l.r);
  }
  return { k: 'bin', op, width, l, r };
}

/** Negation or complement. */
export function un(op: 'neg' | 'not', width: Width, x: Node): Node {
  if (x.k === 'const') return constNode(width, op === 'neg' ? -x.value : ~x.value);
  return { k: 'un', op, width, x };
}

/** The low `from` bytes of `x`, extended to `width`. */
export function ext(from: 1 | 2 | 4, sign: ExtNode['signed'], width: Width, x: Node): Node {
  if (x.k === 'const') {
    const value = sign ? BigInt.asIntN(bits(from), x.value) : BigInt.asUintN(bits(from), x.value);
    return constNode(width, value);
  }
  // A narrow load can extend to any width by itself.
  if (x.k === 'load' && from === 4 && x.size < 4 && (x.signed === sign || !x.signed)) return { ...x, width };
  if (x.k === 'load' && x.size === from && (from < 4 || width === 8)) return { ...x, signed: sign, width };
  if (from === 4 && width === 4 && x.width === 4) return x;
  return { k: 'ext', from, signed: sign, width, x };
}

const SIGNED_CC: ReadonlySet<CondCode> = new Set(['l', 'le', 'g', 'ge']);

function compareConst(cc: CondCode, a: bigint, b: bigint): boolean {
  switch (cc) {
    case 'e':
      return a === b;
    case 'ne':
      return a !== b;
    case 'b':
    case 'l':
      return a < b;
    case 'be':
    case 'le':
      return a <= b;
    case 'a':
    case 'g':
      return a > b;
    case 'ae':
    case 'ge':
      return a >= b;
  }
}

// prettier-ignore
const SWAPPED: Readonly<Record<CondCode, CondCode>> = {
  e: 'e', ne: 'ne', b: 'a', be: 'ae', a: 'b', ae: 'be', l: 'g', le: 'ge', g: 'l', ge: 'le',
};
// prettier-ignore
const INVERTED: Readonly<Record<CondCode, CondCode>> = {
  e: 'ne', ne: 'e', b: 'ae', be: 'a', a: 'be', ae: 'b', l: 'ge', le: 'g', g: 'le', ge: 'l',
};

/** The opposite condition. */
export const invertCc = (cc: CondCode): CondCode => INVERTED[cc];

// prettier-ignore
const UNSIGNED: Readonly<Record<CondCode, CondCode>> = {
  e: 'e', ne: 'ne', b: 'b', be: 'be', a: 'a', ae: 'ae', l: 'b', le: 'be', g: 'a', ge: 'ae',
};

/** A comparison of a narrow load with a constant of its range needs no widening: `cmp byte ptr [rdi], 1`. */
function narrowCompare(cc: CondCode, l: Node, r: ConstNode): CmpNode | undefined {
  if (l.k !== 'load' || l.size > 2 || l.width !== r.width) return undefined;
  const value = signedValue(r);
  const size = bits(l.size);
  const kept = l.signed ? BigInt.asIntN(size, value) : BigInt.asUintN(size, value);
  if (kept !== value || (l.signed && !SIGNED_CC.has(cc) && cc !== 'e' && cc !== 'ne')) return undefined;
  // Both sides are non-negative as int: the order is the unsigned one.
  return { k: 'cmp', width: 4, cc: l.signed ? cc : UNSIGNED[cc], opSize: l.size, l, r };
}

/** A comparison; a constant ends up on the right. */
export function cmp(cc: CondCode, opSize: Width, l: Node, r: Node): Node {
  if (l.k === 'const' && r.k === 'const') {
    const signed = SIGNED_CC.has(cc);
    const result = compareConst(cc, signed ? signedValue(l) : l.value, signed ? signedValue(r) : r.value);
    return constNode(4, result ? 1n : 0n);
  }
  if (l.k === 'const') return cmp(SWAPPED[cc], opSize, r, l);
  const narrow = r.k === 'const' ? narrowCompare(cc, l, r) : undefined;
  return narrow ?? { k: 'cmp', width: 4, cc, opSize: opSize as IntSize, l, r };
}

/** Whether the node is 0 or 1 by construction. */
export const isBoolean = (node: Node): boolean =>
  node.k === 'cmp' || node.k === 'land' || node.k === 'lor' || node.k === 'lnot';
