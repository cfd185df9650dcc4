// SPDX-License-Identifier: GPL-2.0-only
/** The encoder's functions do what TypeScript's operators say; corner values by LEB128's boundaries. */
import { describe, expect, it } from 'vitest';
import { RAM_BASE } from './layout.ts';
import { PhysMem } from './memory/phys_mem.ts';
import { type Code, compileModule, f64, i32, i64, type Local, Locals, wasm } from './wasm_code.ts';

const mem = new PhysMem(0x1000);
const CORNERS = [0, 1, -1, 63, 64, -64, -65, 127, 128, 8191, 8192, -8193, 0x7fff_ffff, -0x8000_0000];

/** A function of two parameters and one more local. */
function compile(body: (a: Local, b: Local, c: Local) => Code): (a: number, b: number) => number {
  const locals = new Locals(2);
  const code = body(locals.next(), locals.next(), locals.next());
  return compileModule(mem.memory, [{ locals, body: code }]) as (a: number, b: number) => number;
}

describe('the WebAssembly encoder', () => {
  it('encodes constants of every length', () => {
    for (const n of CORNERS) expect(compile(() => i32.const(n))(0, 0)).toBe(n);
  });

  it.each<[keyof typeof i32, (a: number, b: number) => number]>([
    ['eq', (a, b) => Number(a === b)],
    ['ne', (a, b) => Number(a !== b)],
    ['ltS', (a, b) => Number(a < b)],
    ['ltU', (a, b) => Number(a >>> 0 < b >>> 0)],
    ['gtS', (a, b) => Number(a > b)],
    ['gtU', (a, b) => Number(a >>> 0 > b >>> 0)],
    ['geS', (a, b) => Number(a >= b)],
    ['geU', (a, b) => Number(a >>> 0 >= b >>> 0)],
    ['add', (a, b) => (a + b) | 0],
    ['sub', (a, b) => (a - b) | 0],
    ['mul', (a, b) => Math.imul(a, b)],
    ['and', (a, b) => a & b],
    ['or', (a, b) => a | b],
    ['xor', (a, b) => a ^ b],
    ['shl', (a, b) => a << b],
    ['shrS', (a, b) => a >> b],
    ['shrU', (a, b) => (a >>> b) | 0],
  ])('computes %s', (name, expected) => {
    const operation = i32[name] as (a: Code, b: Code) => Code;
    const made = compile((a, b) => operation(a.get, b.get));
    for (const a of CORNERS) for (const b of CORNERS) expect(made(a, b)).toBe(expected(a, b));
  });

  it('branches, selects, loops and returns early', () => {
    const collatz = compile((a, b, c) =>
      [
        wasm.when(i32.eqz(a.get), wasm.ret(i32.const(-1))),
        wasm.loopWhile(
          i32.ne(a.get, i32.const(1)),
          wasm.either(
            i32.and(a.get, i32.const(1)),
            a.set(i32.add(i32.mul(a.get, i32.const(3)), i32.const(1))),
            a.set(i32.shrU(a.get, i32.const(1))),
          ),
          c.set(i32.add(c.get, i32.const(1))),
        ),
        wasm.select(b.get, c.get, i32.const(7)),
      ].flat(),
    );
    expect([collatz(27, 1), collatz(27, 0), collatz(1, 1), collatz(0, 1)]).toEqual([111, 7, 0, -1]);
  });

  it('loads and stores the machine memory', () => {
    const at = RAM_BASE + 0x100;
    const touch = compile((a, b) =>
      [
        i32.store(a.get, at, b.get),
        i32.store16(a.get, at + 4, b.get),
        f64.store(a.get, at + 8, f64.add(f64.const(-2), f64.const(0.5))),
        f64.store(a.get, at + 16, f64.load(a.get, at + 8)),
        i32.add(i32.load(a.get, at), i32.add(i32.load8(a.get, at), i32.load16(a.get, at))),
      ].flat(),
    );
    expect(touch(0x40, -2)).toBe(-2 + 0xfe + 0xfffe);
    expect([mem.view.getInt32(at + 0x40, true), mem.view.getInt32(at + 0x44, true)]).toEqual([-2, 0xfffe]);
    expect(mem.view.getFloat64(at + 0x50, true)).toBe(-1.5);
  });

  it.each<[keyof typeof i64, (a: bigint, b: bigint) => bigint | boolean]>([
    ['eq', (a, b) => a === b],
    ['ltS', (a, b) => a < b],
    ['ltU', (a, b) => BigInt.asUintN(64, a) < BigInt.asUintN(64, b)],
    ['leS', (a, b) => a <= b],
    ['leU', (a, b) => BigInt.asUintN(64, a) <= BigInt.asUintN(64, b)],
    ['add', (a, b) => a + b],
    ['sub', (a, b) => a - b],
  ])('computes %s of 64 bits', (name, expected) => {
    const operation = i64[name] as (a: Code, b: Code) => Code;
    const isComparison = typeof expected(0n, 0n) === 'boolean';
    const made = compile(() => {
      const result = operation(i64.load(i32.const(RAM_BASE)), i64.load(i32.const(RAM_BASE), 8));
      return isComparison ? result : [...i64.store(i32.const(RAM_BASE), 20, result), ...i32.const(0)];
    });
    const corners = [0n, 1n, -1n, 0xffff_ffffn, 0x1_0000_0000n, -0x8000_0000_0000_0000n];
    for (const a of corners) {
      for (const b of corners) {
        mem.view.setBigInt64(RAM_BASE, a, true);
        mem.view.setBigInt64(RAM_BASE + 8, b, true);
        const answer = made(0, 0);
        const wanted = expected(a, b);
        if (typeof wanted === 'boolean') expect(answer).toBe(Number(wanted));
        else expect(mem.view.getBigInt64(RAM_BASE + 20, true)).toBe(BigInt.asIntN(64, wanted));
      }
    }
  });

  it('converts between widths', () => {
    const locals = new Locals(2);
    const [a, b, wide] = [locals.next(), locals.next(), locals.nextLong()];
    const at = i32.const(RAM_BASE);
    const body = [
      wide.set(i64.fromSigned(a.get)),
      i64.store(at, 0, wide.get),
      f64.store(at, 8, f64.fromSigned(b.get)),
      i32.add(i64.low(wide.get), i32.add(i64.high(wide.get), i64.eqz(wide.get))),
    ].flat();
    const made = compileModule(mem.memory, [{ locals, body }]) as (a: number, b: number) => number;
    expect([made(-5, -7), made(0, 7), made(0x7fff_ffff, 0)]).toEqual([-6, 1, 0x7fff_ffff]);
    made(-5, -7);
    expect([mem.view.getBigInt64(RAM_BASE, true), mem.view.getFloat64(RAM_BASE + 8, true)]).toEqual([
      -5n,
      -7,
    ]);
  });

  it('chooses by number, and otherwise', () => {
    const made = compile((a, b) =>
      [
        wasm.choose(
          a.get,
          [
            [[2, 5], b.set(i32.add(b.get, i32.const(100)))],
            [[0], b.set(i32.const(-1))],
          ],
          b.set(i32.const(7)),
        ),
        b.get,
      ].flat(),
    );
    expect([0, 1, 2, 3, 4, 5, 6, -1].map((n) => made(n, 3))).toEqual([-1, 7, 103, 7, 7, 103, 7, 7]);
  });

  it('calls an earlier function of the module', () => {
    const [inner, outer] = [new Locals(2), new Locals(1)];
    const [x, y, z] = [inner.next(), inner.next(), outer.next()];
    const difference = { locals: inner, body: i32.sub(x.get, y.get) };
    const twice = wasm.call(0, wasm.call(0, z.get, i32.const(3)), i32.const(4));
    const made = compileModule(mem.memory, [difference, { locals: outer, body: twice }]) as (
      z: number,
    ) => number;
    expect(made(10)).toBe(3);
  });
});
