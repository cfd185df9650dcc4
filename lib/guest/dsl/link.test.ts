// SPDX-License-Identifier: GPL-2.0-only
/** The linker: what gets into an image and where, symbols, relocations in data, source lines, and what it refuses. */
import { describe, expect, it } from 'vitest';
import { str } from './expr.ts';
import { guestAsm, guestFn, guestUnit } from './function.ts';
import { guestGlobal } from './global.ts';
import { linkImage } from './link.ts';
import { struct } from './struct.ts';
import { array, fnPtr, ptr, u16, u32, u64, u8 } from './types.ts';

const BASE = 0x40_0000n;
const read64 = (bytes: Uint8Array, offset: bigint): bigint =>
  new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(Number(offset), true);

describe('an image', () => {
  const Node = struct('struct node', { tag: u8, next: ptr(u32), list: array(u16, 3) });
  const seven = guestGlobal('seven', u32, 7);
  const zero = guestGlobal('zero', array(u64, 1000));
  const node = guestGlobal('node', Node, { tag: 1, next: seven.data, list: [1, 2] });
  const helper = guestFn('helper', [], u32, (g) => g.return(seven));
  const unused = guestFn('unused', [], () => undefined);
  const table = guestGlobal('table', array(fnPtr([], u32), 2), [helper]);
  const main = guestFn('main', [], (g) => {
    g.call(table.at(0));
    g.set(zero.at(3), str('hello').cast(u64));
    g.set(zero.at(4), str('hello').cast(u64));
  });
  const image = linkImage({ base: BASE, entry: main, roots: [node] });

  it('begins with the entry and holds what it reaches, and no more', () => {
    expect(image.entry).toBe(BASE);
    expect([...image.symbols.keys()].sort()).toEqual(['helper', 'main', 'node', 'seven', 'table', 'zero']);
    expect(() => image.addressOf(unused)).toThrow("no symbol 'unused'");
    expect(image.addressOf(zero)).toBe(image.addressOf('zero'));
  });

  it('keeps its sections on pages of their own, bss outside of the bytes', () => {
    const [text, rodata, data, bss] = image.sections;
    expect(image.sections.map(({ name, flags }) => `${name} ${flags}`)).toEqual([
      'text r-x',
      'rodata r--',
      'data rw-',
      'bss rw-',
    ]);
    for (const section of image.sections) expect(section.start % 4096n).toBe(0n);
    expect(image.addressOf('helper')).toBeLessThan(text!.start + BigInt(text!.size));
    expect(image.addressOf('node')).toBeGreaterThanOrEqual(data!.start);
    expect(image.addressOf('zero')).toBeGreaterThanOrEqual(bss!.start);
    expect(bss!.size).toBe(8000);
    expect(image.bytes.length).toBe(Number(bss!.start - BASE));
    expect(image.size).toBe(image.bytes.length + 8000);
    expect(rodata!.size).toBeGreaterThan(0);
  });

  it('puts addresses into initialised data', () => {
    const at = image.addressOf('node') - BASE;
    expect(image.bytes[Number(at)]).toBe(1);
    expect(read64(image.bytes, at + BigInt(Node.offsetof('next')))).toBe(image.addressOf('seven'));
    expect(image.bytes[Number(at) + Node.offsetof('list') + 2]).toBe(2);
    expect(read64(image.bytes, image.addressOf('table') - BASE)).toBe(image.addressOf('helper'));
    expect(read64(image.bytes, image.addressOf('table') - BASE + 8n)).toBe(0n);
  });

  it('stores equal strings once and reads them back', () => {
    const { start } = image.sections[1]!;
    expect(image.cstring(start)).toBe('hello');
    expect(image.cstring(start + 1n)).toBe('ello');
    expect(image.cstring(BASE - 1n)).toBeUndefined();
    expect(image.cstring(BASE + BigInt(image.size))).toBeUndefined();
  });

  it('tells the source line of an address in text', () => {
    const location = image.locate(image.entry + 4n);
    expect(location?.file).toBe('lib/guest/dsl/link.test.ts');
    expect(location?.fn).toBe('main');
    expect(image.locate(image.addressOf('helper'))?.fn).toBe('helper');
    expect(image.locate(BASE - 1n)).toBeUndefined();
    expect(image.locate(image.sections[1]!.start)).toBeUndefined();
  });

  it('is the same bytes each time, elsewhere with other addresses', () => {
    const again = linkImage({ base: BASE, entry: main, roots: [node] });
    expect(again.bytes).toEqual(image.bytes);
    const moved = linkImage({ base: 0x10_0000, entry: main, roots: [node] });
    expect(moved.entry).toBe(0x10_0000n);
    expect(moved.listing()).toContain('main:');
  });
});

describe('raw assembly', () => {
  it('refers to functions and data, which thereby join the image', () => {
    const counter = guestGlobal('counter', u64, 3);
    const callee = guestFn('callee', [], () => undefined);
    const raw = guestAsm('raw', (a) => {
      a.u64({ label: a.ref(counter.data) });
      a.u64(5);
      a.align(16);
      a.label('raw_entry');
      a.emit('call', { kind: 'label', name: a.ref(callee), addend: 0 });
    });
    const main = guestFn('main', [], (g) => g.call(raw));
    const image = linkImage({ base: BASE, entry: main });
    const at = image.addressOf('raw') - BASE;
    expect(read64(image.bytes, at)).toBe(image.addressOf('counter'));
    expect(read64(image.bytes, at + 8n)).toBe(5n);
    expect(image.bytes[Number(image.addressOf('raw_entry') - BASE)]).toBe(0xe8);
    expect(image.symbols.has('callee')).toBe(true);
  });
});

describe('the linker refuses', () => {
  const nop = guestFn('nop', [], () => undefined);

  it('two definitions of a symbol', () => {
    const other = guestUnit('L2').fn('nop', [], () => undefined);
    const main = guestFn('main', [], (g) => {
      nop(g);
      other(g);
    });
    expect(() => linkImage({ base: BASE, entry: main })).toThrow("two definitions of 'nop'");
    expect(() => linkImage({ base: BASE, entry: nop, roots: [guestGlobal('nop', u64)] })).toThrow(
      'two definitions',
    );
  });

  it('a base within a page', () => {
    expect(() => linkImage({ base: 0x40_0010, entry: nop })).toThrow('0x400010 is not on a page boundary');
  });

  it('initialisers that do not fit', () => {
    const s = struct('struct s', { a: u8, b: array(u8, 2) });
    const link =
      (global: ReturnType<typeof guestGlobal>): (() => unknown) =>
      () =>
        linkImage({ base: BASE, entry: nop, roots: [global] });
    expect(link(guestGlobal('a', u8, 256))).toThrow('a: 256 does not fit u8');
    expect(link(guestGlobal('a', u8, -129))).toThrow('does not fit u8');
    expect(link(guestGlobal('a', array(u8, 2), [1, 2, 3]))).toThrow('a: too many elements for u8[2]');
    expect(link(guestGlobal('a', array(u8, 2), new Uint8Array(3)))).toThrow('a: too many bytes');
    expect(link(guestGlobal('a', u64, [1]))).toThrow('a: u64 is no array');
    expect(link(guestGlobal('a', u64, { x: 1 }))).toThrow('a: u64 has no fields');
    expect(link(guestGlobal('a', s, { x: 1 }))).toThrow("struct s has no field 'x'");
    expect(link(guestGlobal('a', s, 1))).toThrow('a: a number for struct s');
    expect(link(guestGlobal('a', u32, nop))).toThrow('a: an address for u32');
  });

  it('nothing of raw bytes that fit', () => {
    const bytes = guestGlobal('raw_bytes', array(u8, 4), new Uint8Array([1, 2, 3]));
    const image = linkImage({ base: BASE, entry: nop, roots: [bytes] });
    const at = Number(image.addressOf(bytes) - BASE);
    expect([...image.bytes.subarray(at, at + 4)]).toEqual([1, 2, 3, 0]);
  });
});
