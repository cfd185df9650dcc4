// SPDX-License-Identifier: GPL-2.0-only
/** The encoder's functions do what TypeScript's operators say; corner values by LEB128's boundaries. */
import { describe, expect, it } from 'vitest';
import { RAM_BASE } from '../layout.ts';
import { PhysMem } from '../memory/phys_mem.ts';
import { type Code, compileFunction, f64, i32, type Local, Locals, wasm } from './wasm_code.ts';

const mem = new PhysMem(0x1000);
const CORNERS = [0, 1, -1, 63, 64, -64, -65, 127, 128, 8191, 8192, -8193, 0x7fff_ffff, -0x8000_0000];

/** A function of two parameters and one more local. */
function compile(body: (a: Local, b: Local, c: Local) => Code): (a: number, b: number) => number {
  const locals = new Locals(2);
  const code = body(locals.next(), locals.next(), locals.next());
  return compileFunction(mem.memory, locals, code) as (a: number, b: number) => number;
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
});
