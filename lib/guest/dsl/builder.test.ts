// SPDX-License-Identifier: GPL-2.0-only
/** Misuse of the DSL: one GuestCodeError with the TypeScript line, whatever went wrong. */
import { describe, expect, it } from 'vitest';
import type { GuestCode } from './builder.ts';
import { fixed } from './asm_spec.ts';
import { GuestCodeError } from './error.ts';
import { at, type Expr, lit, type Place, str } from './expr.ts';
import { type GuestFn, guestFn } from './function.ts';
import { guestGlobal } from './global.ts';
import { struct } from './struct.ts';
import { array, fnPtr, ptr, s32, u16, u32, u64, u8, voidType } from './types.ts';

const Pair = struct('struct pair', { a: u32, b: u64 });
const target = guestFn('target', [u64, ptr(Pair)], u32, (g, a) => g.return(a.cast(u32)));

/** Builds a body; gives the error's text. */
function errorOf(body: (g: GuestCode) => void): string {
  const fn = guestFn('f', [], body);
  try {
    fn.body();
  } catch (error) {
    expect(error).toBeInstanceOf(GuestCodeError);
    return (error as Error).message;
  }
  return 'no error';
}

/** A call that TypeScript would refuse. */
const untyped = (callee: unknown): ((...args: unknown[]) => Expr) => callee as (...args: unknown[]) => Expr;

describe('misuse of guest code', () => {
  it('tells the file and the line of the statement', () => {
    const text = errorOf((g) => {
      g.break();
    });
    expect(text).toMatch(/^lib\/guest\/dsl\/builder\.test\.ts:\d+: break outside of a loop$/);
  });

  it('refuses continue outside of a loop, also in its step', () => {
    expect(errorOf((g) => g.continue())).toContain('continue outside of a loop');
    expect(
      errorOf((g) =>
        g.for(
          1,
          () => g.break(),
          () => undefined,
        ),
      ),
    ).toContain('break outside of a loop');
  });

  it('names an unknown field and the known ones', () => {
    const text = errorOf((g) => {
      const pair: unknown = g.local(Pair).f;
      g.set((pair as Record<string, Place>)['c']!, 1);
    });
    expect(text).toContain("struct pair has no field 'c' (fields: a, b)");
  });

  it('refuses fields of what is no struct', () => {
    expect(errorOf((g) => g.local(u64).f)).toContain('u64 has no fields');
    expect(errorOf((g) => g.local(ptr(u64)).f)).toContain('u64 * has no fields');
  });

  it('counts arguments', () => {
    expect(errorOf((g) => untyped(target)(g, 1))).toContain('target takes 2 arguments, not 1');
    expect(errorOf((g) => g.call(target, 1, 0, 3))).toContain('target takes 2 arguments, not 3');
  });

  it('checks the type of each argument', () => {
    expect(errorOf((g) => untyped(target)(g, 1, str('x')))).toContain(
      'argument 2 of target: u8 * where struct pair * is wanted',
    );
    expect(errorOf((g) => untyped(target)(g, g.local(Pair), 0))).toContain('struct pair is used as a value');
  });

  it('refuses a call of what is no function', () => {
    expect(errorOf((g) => g.call(g.local(u64)))).toContain('call of u64');
    expect(errorOf((g) => g.call(str('x')))).toContain('call of u8 *');
  });

  it('refuses assignment to what is no place', () => {
    expect(errorOf((g) => untyped(g.set.bind(g))(lit(1), 2))).toContain(
      'assignment to something that is not a place',
    );
    expect(errorOf((g) => untyped(g.set.bind(g))(lit(1), '+=', 2))).toContain('not a place');
    expect(errorOf((g) => g.set(g.local(Pair), 1))).toContain('assignment to struct pair: copy it by memcpy');
    expect(errorOf((g) => g.set(g.local(array(u8, 2)), 1))).toContain('assignment to u8[2]');
  });

  it('refuses values that the place cannot hold', () => {
    expect(errorOf((g) => g.set(g.local(u8), 256))).toContain('assignment to u8: 256 does not fit u8');
    expect(errorOf((g) => g.set(g.local(ptr(Pair)), g.local(u64)))).toContain('use .cast()');
  });

  it('checks what a function returns', () => {
    expect(errorOf((g) => g.return(1))).toContain('f returns nothing');
    const fn = guestFn('h', [], u32, (g) => g.return());
    expect(() => fn.body()).toThrow('h must return u32');
    const narrow = guestFn('n', [], u8, (g) => g.return(0x100));
    expect(() => narrow.body()).toThrow('return of n: 256 does not fit u8');
  });

  it('refuses variables without size or with more alignment than the stack has', () => {
    expect(errorOf((g) => g.local(voidType))).toContain('local variable of type void');
    expect(errorOf((g) => g.local(struct('struct page', { a: u8 }, { align: 4096 })))).toContain(
      'aligned to 4096',
    );
    expect(() => guestGlobal('g', voidType)).toThrow('global g of type void');
  });

  it('refuses operators on pointers that C does not have', () => {
    const p = (g: GuestCode): Place => g.local(ptr(u32));
    expect(errorOf((g) => p(g).mul(2))).toContain('operator mul on u32 *');
    expect(errorOf((g) => p(g).add(p(g)))).toContain('u32 * + u32 *');
    expect(errorOf((g) => p(g).sub(p(g)))).toContain('use .diff()');
    expect(errorOf((g) => p(g).diff(g.local(ptr(u64))))).toContain('distance of u32 * and u64 *');
    expect(errorOf((g) => p(g).diff(1))).toContain('distance of u32 * and s32');
    expect(errorOf((g) => p(g).neg())).toContain('operator ~ on u32 *'.replace('~', '-'));
    expect(errorOf((g) => p(g).eq(g.local(ptr(u16))))).toContain('comparison of u32 * and u16 *');
  });

  it('refuses access through what is no pointer to data', () => {
    expect(errorOf((g) => untyped(g.local(u64).at.bind(g.local(u64)))(0))).toContain(
      'u64 is neither pointer nor array',
    );
    expect(errorOf((g) => g.local(ptr()).at(0))).toContain('access through void *');
    expect(errorOf((g) => g.local(fnPtr([])).deref())).toContain('access through void () *');
    expect(errorOf((g) => g.local(array(u8, 4)).at(5))).toContain('index 5 of u8[4]');
    expect(errorOf((g) => g.local(array(u8, 4)).at(-1))).toContain('index -1 of u8[4]');
    expect(errorOf((g) => g.local(array(u8, 4)).at(str('x')))).toContain('operator [] on u8 *');
  });

  it('refuses symbol names that an assembler would not take', () => {
    expect(() => guestFn('no name', [], () => undefined)).toThrow("'no name' is not a symbol name");
    expect(() => guestGlobal('1', u64)).toThrow("'1' is not a symbol name");
  });

  it('refuses contradictions in inline assembly', () => {
    const nop = (): void => undefined;
    expect(errorOf((g) => g.asm({ in: { a: fixed('rax', 1), b: fixed('rax', 2) }, emit: nop }))).toContain(
      'two inputs in rax',
    );
    expect(
      errorOf((g) => g.asm({ out: { a: fixed('rax', u64), b: fixed('rax', u64) }, emit: nop })),
    ).toContain('two outputs in rax');
    expect(
      errorOf((g) => g.asm({ in: { a: fixed('rax', 1) }, out: { a: fixed('rdx', u64) }, emit: nop })),
    ).toContain('asm operand a is both in rax and rdx');
    expect(errorOf((g) => untyped(g.asm.bind(g))({ out: { a: Pair }, emit: nop }))).toContain(
      'asm output a of type struct pair',
    );
  });

  it('refuses a case without a value', () => {
    expect(errorOf((g) => g.switch(g.local(u64), [[[], () => undefined]]))).toContain('case without a value');
  });
});

describe('bodies', () => {
  it('are built once, when they are first needed', () => {
    let built = 0;
    const fn = guestFn('once', [], () => {
      built += 1;
    });
    expect(built).toBe(0);
    expect(fn.body()).toBe(fn.body());
    expect(built).toBe(1);
  });

  it('note the line of each statement', () => {
    const fn: GuestFn = guestFn('lines', [s32], (g, i) => {
      g.inc(i);
      g.set(at(u64, 0x1000), 1);
    }) as unknown as GuestFn;
    const [first, second] = fn.body().stmts.map((stmt) => stmt.site.loc());
    expect(first!.file).toBe('lib/guest/dsl/builder.test.ts');
    expect(second!.line).toBe(first!.line + 1);
  });
});
