// SPDX-License-Identifier: GPL-2.0-only
/**
 * The types of expressions by ISO/IEC 9899, "Integer promotions" and "Usual arithmetic conversions", the types of literals
 * ("Integer constants", hexadecimal), and the conversions that are refused.
 */
import { describe, expect, it } from 'vitest';
import { type Expr, imm, lit, select, str } from './expr.ts';
import { convert, rvalue } from './rvalue.ts';
import { struct } from './struct.ts';
import { array, type AnyType, bool, ptr, s16, s32, s64, s8, u16, u32, u64, u8 } from './types.ts';

const typeOf = (e: Expr): string => rvalue(e).type.name;
const zero = <T extends AnyType>(type: T): Expr<T> => imm(type, 0);

describe('types of expressions', () => {
  it('promote what is narrower than int', () => {
    for (const type of [u8, s8, u16, s16, bool]) {
      expect(typeOf(zero(type).add(zero(type)))).toBe('s32');
      expect(typeOf(zero(type).bnot())).toBe('s32');
      expect(typeOf(zero(type).shl(1))).toBe('s32');
    }
  });

  it('follow the usual arithmetic conversions', () => {
    const table = [
      [s32, u32, 'u32'],
      [s32, s64, 's64'],
      [u32, s64, 's64'],
      [s64, u64, 'u64'],
      [u8, u64, 'u64'],
      [s16, u16, 's32'],
    ] as const;
    for (const [a, b, expected] of table) {
      expect(typeOf(zero(a).add(zero(b)))).toBe(expected);
      expect(typeOf(zero(b).mul(zero(a)))).toBe(expected);
    }
  });

  it('give a shift the type of its promoted left side', () => {
    expect(typeOf(zero(u32).shl(zero(u64)))).toBe('u32');
    expect(typeOf(zero(u8).shr(zero(u64)))).toBe('s32');
  });

  it('make comparisons and logic int', () => {
    expect(typeOf(zero(u64).lt(zero(u64)))).toBe('s32');
    expect(typeOf(zero(u64).land(zero(u64)).lnot())).toBe('s32');
  });

  it('give literals the first type that holds them', () => {
    const table = [
      [0x7fff_ffff, 's32'],
      [0x8000_0000, 'u32'],
      [0x1_0000_0000, 's64'],
      [1n << 63n, 'u64'],
      [-1, 's32'],
      [-0x8000_0001, 's64'],
    ] as const;
    for (const [value, expected] of table) expect(typeOf(lit(value))).toBe(expected);
  });

  it('keep a pointer in sums and choices', () => {
    const p = zero(ptr(u32));
    expect(typeOf(p.add(1))).toBe('u32 *');
    expect(typeOf(lit(1).add(p))).toBe('u32 *');
    expect(typeOf(select(1, p, 0))).toBe('u32 *');
    expect(typeOf(select(1, 0, p))).toBe('u32 *');
    expect(typeOf(str('x'))).toBe('u8 *');
  });
});

describe('constant folding', () => {
  const value = (e: Expr): bigint => {
    const { node } = rvalue(e);
    return node.k === 'const' ? node.value : -1n;
  };

  it('computes in the width of the type', () => {
    expect(value(imm(u32, 0xffff_ffff).add(1))).toBe(0n);
    expect(value(imm(s64, -7).div(2))).toBe(0xffff_ffff_ffff_fffdn);
    expect(value(imm(s64, -7).mod(2))).toBe(0xffff_ffff_ffff_ffffn);
    expect(value(imm(u64, 7).mod(4))).toBe(3n);
    expect(value(imm(s32, -16).shr(2))).toBe(0xffff_fffcn);
    expect(value(imm(u32, 0xffff_fff0).shr(4))).toBe(0x0fff_ffffn);
    expect(value(imm(u8, 5).xor(3).or(8).and(0xe).sub(1).mul(2).shl(1))).toBe(52n);
    expect(value(imm(u8, 5).neg().bnot())).toBe(4n);
    expect(value(imm(u64, 0x1ff).cast(s8))).toBe(0xffff_ffffn);
    expect(value(imm(u64, 0x100).cast(bool))).toBe(1n);
  });

  it('compares in the signedness of the common type', () => {
    expect(value(imm(s32, -1).lt(imm(u32, 1)))).toBe(0n);
    expect(value(imm(s32, -1).lt(imm(s64, 1)))).toBe(1n);
    expect([lit(3).eq(3), lit(3).ne(3), lit(3).le(3), lit(3).gt(3), lit(3).ge(3)].map(value)).toEqual([
      1n,
      0n,
      1n,
      0n,
      1n,
    ]);
    expect([imm(u64, 3).le(3), imm(u64, 3).gt(3), imm(u64, 3).ge(4), imm(u64, 3).lt(4)].map(value)).toEqual([
      1n,
      0n,
      0n,
      1n,
    ]);
  });

  it('leaves a division by zero to the hardware', () => {
    expect(rvalue(imm(u64, 1).div(0)).node.k).toBe('bin');
  });
});

describe('refused conversions', () => {
  const s = struct('struct s', { a: u8 });
  const t = struct('struct t', { a: u8 });

  it('of literals that do not fit', () => {
    expect(() => convert(256, u8, 'assignment')).toThrow('assignment: 256 does not fit u8');
    expect(() => convert(-129, s8, 'assignment')).toThrow('does not fit s8');
    expect(() => lit(2 ** 60)).toThrow('not an exact integer');
    expect(() => lit(1n << 64n)).toThrow('does not fit 64 bits');
    expect(() => lit(0.5)).toThrow('not an exact integer');
  });

  it('between pointers to different types, but for void', () => {
    const p = zero(ptr(s));
    expect(() => convert(p, ptr(t), 'argument 1')).toThrow(
      'argument 1: struct s * where struct t * is wanted',
    );
    expect(convert(p, ptr(), 'argument 1').k).toBe('const');
    expect(convert(zero(ptr(ptr(s))), ptr(ptr(s)), 'argument 1').width).toBe(8);
    expect(convert(zero(ptr(array(u8, 3))), ptr(array(u8, 3)), 'x').width).toBe(8);
  });

  it('of an integer to a pointer without a cast', () => {
    const integer = select(1, zero(u64), zero(u64));
    expect(() => convert(integer, ptr(s), 'assignment')).toThrow(
      'u64 where struct s * is wanted; use .cast()',
    );
    expect(convert(0, ptr(s), 'NULL').width).toBe(8);
  });

  it('of a pointer to a narrow integer', () => {
    expect(() => convert(str('x'), u32, 'assignment')).toThrow('u8 * does not fit u32');
    expect(convert(str('x'), u64, 'assignment').k).toBe('sym');
    expect(convert(str('x'), bool, 'assignment').k).toBe('cmp');
  });

  it('to something that is no scalar', () => {
    expect(() => convert(1, s, 'assignment')).toThrow('no value of type struct s');
    expect(() => lit(1).cast(s)).toThrow('cast to struct s');
  });
});
