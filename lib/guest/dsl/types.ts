// SPDX-License-Identifier: GPL-2.0-only
/**
 * Types of guest code: integers, pointers, arrays, functions. Sizes and alignments are those of the System V ABI for
 * x86-64. Left out: floating point, bit-fields and complex or vector types.
 */
import { GuestCodeError } from './error.ts';

/** What every type has. */
export interface AnyType {
  readonly kind: 'int' | 'void' | 'ptr' | 'array' | 'fn' | 'struct';
  /** As C would spell it. */
  readonly name: string;
  readonly size: number;
  readonly align: number;
}

/** Sizes of integers in bytes. */
export type IntSize = 1 | 2 | 4 | 8;

/** An integer type. */
export interface IntType extends AnyType {
  readonly kind: 'int';
  readonly size: IntSize;
  readonly signed: boolean;
}

/** No value; as a pointer's target its size is 1, as in GNU C. */
export interface VoidType extends AnyType {
  readonly kind: 'void';
}

/** A pointer to `to`. */
export interface PtrType<T extends AnyType = AnyType> extends AnyType {
  readonly kind: 'ptr';
  readonly size: 8;
  readonly to: T;
}

/** An array of `length` elements. */
export interface ArrayType<T extends AnyType = AnyType> extends AnyType {
  readonly kind: 'array';
  readonly of: T;
  readonly length: number;
}

/** A function; used behind a pointer. */
export interface FnType<
  P extends readonly AnyType[] = readonly AnyType[],
  R extends AnyType = AnyType,
> extends AnyType {
  readonly kind: 'fn';
  readonly params: P;
  readonly ret: R;
}

const int = (name: string, size: IntSize, signed: 'signed' | 'unsigned'): IntType => ({
  kind: 'int',
  name,
  size,
  align: size,
  signed: signed === 'signed',
});

export const u8 = int('u8', 1, 'unsigned');
export const u16 = int('u16', 2, 'unsigned');
export const u32 = int('u32', 4, 'unsigned');
export const u64 = int('u64', 8, 'unsigned');
export const s8 = int('s8', 1, 'signed');
export const s16 = int('s16', 2, 'signed');
export const s32 = int('s32', 4, 'signed');
export const s64 = int('s64', 8, 'signed');
/** C's bool: a conversion to it gives 0 or 1. */
export const bool = int('bool', 1, 'unsigned');
/** No value. */
export const voidType: VoidType = { kind: 'void', name: 'void', size: 1, align: 1 };

/** Whether `type` is an integer. */
export const isInt = (type: AnyType): type is IntType => type.kind === 'int';
/** Whether `type` is a pointer. */
export const isPtr = (type: AnyType): type is PtrType => type.kind === 'ptr';
/** Whether `type` is an array. */
export const isArray = (type: AnyType): type is ArrayType => type.kind === 'array';
/** Whether `type` is a function. */
export const isFn = (type: AnyType): type is FnType => type.kind === 'fn';
/** Whether a value of the type fits a register. */
export const isScalar = (type: AnyType): type is IntType | PtrType => isInt(type) || isPtr(type);

/** `T *`; without argument `void *`. */
export function ptr(): PtrType<VoidType>;
export function ptr<T extends AnyType>(to: T): PtrType<T>;
export function ptr(to: AnyType = voidType): PtrType {
  return { kind: 'ptr', name: `${to.name} *`, size: 8, align: 8, to };
}

/** `T[length]`. */
export function array<T extends AnyType>(of: T, length: number): ArrayType<T> {
  if (of.kind === 'void' || of.kind === 'fn') throw new GuestCodeError(`no array of ${of.name}`);
  if (!Number.isInteger(length) || length < 0) throw new GuestCodeError(`array length ${length}`);
  return {
    kind: 'array',
    name: `${of.name}[${length}]`,
    size: of.size * length,
    align: of.align,
    of,
    length,
  };
}

/** A pointer to a function; `ret` is void if left out. */
export function fnPtr<const P extends readonly AnyType[]>(params: P): PtrType<FnType<P, VoidType>>;
export function fnPtr<const P extends readonly AnyType[], R extends AnyType>(
  params: P,
  ret: R,
): PtrType<FnType<P, R>>;
export function fnPtr(params: readonly AnyType[], ret: AnyType = voidType): PtrType<FnType> {
  return ptr(fnType(params, ret));
}

/** The type of a function with these parameters. */
export function fnType<P extends readonly AnyType[], R extends AnyType>(params: P, ret: R): FnType<P, R> {
  for (const type of params) {
    if (!isScalar(type))
      throw new GuestCodeError(`parameter of type ${type.name}: only integers and pointers`);
  }
  if (!isScalar(ret) && ret.kind !== 'void')
    throw new GuestCodeError(`return type ${ret.name}: only scalars`);
  const name = `${ret.name} (${params.map((p) => p.name).join(', ')})`;
  return { kind: 'fn', name, size: 1, align: 1, params, ret };
}
