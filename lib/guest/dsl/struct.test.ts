// SPDX-License-Identifier: GPL-2.0-only
/**
 * Struct layout against the System V ABI for x86-64, "Data Representation" and "Aggregates and Unions": each member at the
 * lowest offset that suits its alignment, the size a multiple of the strictest alignment.
 */
import { describe, expect, it } from 'vitest';
import { GuestCodeError } from './error.ts';
import { packedStruct, struct, union } from './struct.ts';
import { array, fnPtr, ptr, s16, u16, u32, u64, u8, voidType } from './types.ts';

const offsets = (type: ReturnType<typeof struct>): number[] => type.layout.map((field) => field.offset);

describe('struct layout', () => {
  it('pads members to their alignment and the end to the strictest one', () => {
    const s = struct('struct s', { a: u8, b: u32, c: u8, d: u64, e: u16 });
    expect(offsets(s)).toEqual([0, 4, 8, 16, 24]);
    expect([s.size, s.align]).toEqual([32, 8]);
  });

  it('aligns an array as its element and a nested struct as its strictest member', () => {
    const inner = struct('struct inner', { a: u8, b: u16 });
    const s = struct('struct s', { x: u8, inner, list: array(inner, 3), last: u8 });
    expect([inner.size, inner.align]).toEqual([4, 2]);
    expect(offsets(s)).toEqual([0, 2, 6, 18]);
    expect([s.size, s.align]).toEqual([20, 2]);
  });

  it('gives pointers eight bytes', () => {
    const s = struct('struct s', { p: ptr(u8), f: fnPtr([u64]), v: ptr() });
    expect(offsets(s)).toEqual([0, 8, 16]);
    expect(s.size).toBe(24);
  });

  it('leaves no hole in a packed struct', () => {
    const s = packedStruct('struct desc_ptr', { size: u16, address: u64 });
    expect(offsets(s)).toEqual([0, 2]);
    expect([s.size, s.align]).toEqual([10, 1]);
  });

  it('obeys an alignment that is asked for', () => {
    const s = struct('struct s', { a: u8 }, { align: 4096 });
    expect([s.size, s.align]).toEqual([4096, 4096]);
    expect(packedStruct('struct p', { a: u8, b: u32 }, { align: 2 }).size).toBe(6);
  });

  it('lays the members of a union over each other', () => {
    const u = union('union u', { byte: u8, word: s16, list: array(u32, 3) });
    expect(offsets(u)).toEqual([0, 0, 0]);
    expect([u.size, u.align]).toEqual([12, 4]);
  });

  it('finds nested members by path', () => {
    const inner = struct('struct inner', { a: u8, b: u64 });
    const s = struct('struct s', { x: u32, inner });
    expect(s.offsetof('inner.b')).toBe(16);
    expect(s.offsetof('x')).toBe(0);
    expect(s.field('inner').type).toBe(inner);
  });
});

describe('misuse of structs', () => {
  const s = struct('struct s', { a: u8, b: u64 });

  it('names the struct, the unknown field and the known ones', () => {
    expect(() => s.offsetof('nothing')).toThrow(
      /struct_?\.?test.*struct s has no field 'nothing' \(fields: a, b\)/,
    );
    expect(() => s.offsetof('nothing')).toThrow(GuestCodeError);
  });

  it('refuses a path through a scalar', () => {
    expect(() => s.offsetof('a.b')).toThrow('u8 is no struct');
  });

  it('refuses members without size and names that JavaScript would reorder', () => {
    expect(() => struct('struct t', { v: voidType })).toThrow('struct t.v has type void');
    expect(() => struct('struct t', { 7: u8 })).toThrow('cannot be named by a number');
    expect(() => union('union t', { v: voidType })).toThrow('has type void');
  });
});
