// SPDX-License-Identifier: GPL-2.0-only
/**
 * C's rules for values: integer promotion, usual arithmetic conversions, implicit conversion on assignment, the type of a
 * literal (that of a hexadecimal constant). Pointers mix with other pointer types and integers only by a cast,
 * except that any pointer converts to and from `void *` and to a 64-bit integer.
 */
import { GuestCodeError } from './error.ts';
import { cmp, constNode, ext, isBoolean } from './fold.ts';
import type { FnLinkable, Node } from './ir.ts';
import { isStruct } from './struct.ts';
import { bool, isFn, isInt, isPtr, ptr, s32, s64, u32, u64 } from './types.ts';
import type { AnyType, IntType, PtrType } from './types.ts';

/** A value with its type. */
export interface RValue {
  readonly type: IntType | PtrType;
  readonly node: Node;
}

/** Something that has a value: an expression or a place. */
export interface Valued {
  readonly type: AnyType;
  rvalue(): RValue;
}

/** What the DSL takes for a value: an expression, a literal, or a function (its address). */
export type Operand = Valued | FnLinkable | number | bigint;

const MIN_S64 = -(2n ** 63n);
const MAX_U64 = 2n ** 64n - 1n;

function literal(value: number | bigint): RValue {
  if (typeof value === 'number' && !Number.isSafeInteger(value)) {
    throw new GuestCodeError(`literal ${value} is not an exact integer: write a bigint`);
  }
  const big = BigInt(value);
  if (big < MIN_S64 || big > MAX_U64) throw new GuestCodeError(`literal ${big} does not fit 64 bits`);
  const type = [s32, u32, s64, u64].find((candidate) => fits(candidate, big)) ?? u64;
  return { type, node: constNode(type.size === 8 ? 8 : 4, big) };
}

function fits(type: IntType, value: bigint): boolean {
  return type.signed
    ? BigInt.asIntN(type.size * 8, value) === value
    : BigInt.asUintN(type.size * 8, value) === value;
}

/** The value of an operand, arrays decayed to pointers. */
export function rvalue(operand: Operand): RValue {
  if (typeof operand === 'number' || typeof operand === 'bigint') return literal(operand);
  if ('linkKind' in operand) {
    return { type: ptr(operand.type), node: { k: 'sym', width: 8, target: operand, addend: 0 } };
  }
  return operand.rvalue();
}

/** Integer promotion: what is narrower than int becomes int. */
export const promote = (type: IntType): IntType => (type.size < 4 ? s32 : type);

/** The common type of two integers. */
export function commonType(a: IntType, b: IntType): IntType {
  const pa = promote(a);
  const pb = promote(b);
  if (pa.size !== pb.size) return pa.size > pb.size ? pa : pb;
  return pa.signed ? pb : pa;
}

/** The value as another integer type; no question asked. */
export function convertInt(value: RValue, to: IntType): Node {
  const { node } = value;
  const from = isInt(value.type) ? value.type : u64;
  if (to.name === bool.name) return toBool(value);
  if (to.size === 8) return from.size === 8 ? node : ext(4, from.signed, 8, node);
  const wide = from.size === 8;
  if (to.size === 4) return wide ? ext(4, false, 4, node) : node;
  const keeps =
    !wide && (from.signed === to.signed ? from.size <= to.size : !from.signed && from.size < to.size);
  return keeps ? node : ext(to.size, to.signed, 4, node);
}

/** 0 or 1. */
export function toBool(value: RValue): Node {
  if (isBoolean(value.node)) return value.node;
  const width = value.node.width;
  return cmp('ne', width, value.node, constNode(width, 0n));
}

/** Whether two types are the same for the purposes of pointers. */
export function sameType(a: AnyType, b: AnyType): boolean {
  if (a === b) return true;
  if (isPtr(a) && isPtr(b)) return sameType(a.to, b.to);
  if (isFn(a) && isFn(b)) {
    const params = a.params.length === b.params.length && a.params.every((p, i) => sameType(p, b.params[i]!));
    return params && sameType(a.ret, b.ret);
  }
  if (isStruct(a) || isStruct(b)) return false;
  return a.kind === b.kind && a.name === b.name;
}

function checkPointer(value: RValue, to: PtrType, what: string): void {
  const from = value.type;
  if (isPtr(from)) {
    if (from.to.kind === 'void' || to.to.kind === 'void' || sameType(from.to, to.to)) return;
  } else if (value.node.k === 'const') {
    return; // NULL, or an address the test has chosen.
  }
  throw new GuestCodeError(`${what}: ${from.name} where ${to.name} is wanted; use .cast()`);
}

function checkLiteral(value: number | bigint, to: IntType, what: string): void {
  const big = BigInt(value);
  const width = to.size * 8;
  const min = -(2n ** BigInt(width - 1));
  if (big < min || big >= 2n ** BigInt(width))
    throw new GuestCodeError(`${what}: ${value} does not fit ${to.name}`);
}

/** The operand converted to `to` as by assignment. `what` names the place for the error text. */
export function convert(operand: Operand, to: AnyType, what: string): Node {
  const value = rvalue(operand);
  if (isPtr(to)) {
    checkPointer(value, to, what);
    return isInt(value.type) ? convertInt(value, u64) : value.node;
  }
  if (!isInt(to)) throw new GuestCodeError(`${what}: no value of type ${to.name}`);
  if (isPtr(value.type) && to.size !== 8 && to.name !== bool.name) {
    throw new GuestCodeError(`${what}: ${value.type.name} does not fit ${to.name}`);
  }
  if (typeof operand === 'number' || typeof operand === 'bigint') checkLiteral(operand, to, what);
  return convertInt(value, to);
}

/** The operand as a condition. */
export const condition = (operand: Operand): Node => {
  const value = rvalue(operand);
  return value.node.k === 'const' ? constNode(4, value.node.value === 0n ? 0n : 1n) : toBool(value);
};
