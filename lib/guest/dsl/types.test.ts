// SPDX-License-Identifier: GPL-2.0-only
/** Types of guest code: sizes of the System V ABI for x86-64, and what cannot be declared. */
import { describe, expect, it } from 'vitest';
import { struct } from './struct.ts';
import { array, fnPtr, fnType, isFn, isPtr, ptr, s32, u16, u64, u8, voidType } from './types.ts';

describe('types', () => {
  it('have the sizes and names of C', () => {
    expect([u8.size, u16.size, s32.size, u64.size, ptr(u8).size, array(u16, 5).size]).toEqual([
      1, 2, 4, 8, 8, 10,
    ]);
    expect(ptr(array(u16, 5)).name).toBe('u16[5] *');
    expect(fnPtr([u64, ptr()], u8).name).toBe('u8 (u64, void *) *');
  });

  it('make void the default target and the default result', () => {
    expect(ptr().to).toBe(voidType);
    const f = fnPtr([u64]);
    expect(isPtr(f) && isFn(f.to) && f.to.ret).toBe(voidType);
  });

  it('refuse arrays of nothing and of a fraction of elements', () => {
    expect(() => array(voidType, 2)).toThrow('no array of void');
    expect(() => array(u8, 1.5)).toThrow('array length 1.5');
    expect(() => array(u8, -1)).toThrow('array length -1');
  });

  it('refuse aggregates as parameters and results', () => {
    const s = struct('struct s', { a: u8 });
    expect(() => fnType([s], voidType)).toThrow('parameter of type struct s');
    expect(() => fnType([], s)).toThrow('return type struct s');
  });
});
