// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest functions with known results, for whatever can run them: arithmetic by the rules of C, control flow, the calling
 * convention, the guest library. Each takes up to three 64-bit values and gives one. The expectations are C's, the ABI's and
 * printf's, written down by hand.
 */
import {
  array,
  at,
  atomic_add,
  clear_bit,
  cmpxchg,
  type FnLinkable,
  fnPtr,
  type GuestFn,
  guest_vsnprintf,
  guestFn,
  guestGlobal,
  lit,
  memcmp,
  memcpy,
  memset,
  packedStruct,
  ptr,
  s16,
  s32,
  s64,
  s8,
  select,
  set_bit,
  str,
  strlen,
  struct,
  test_and_clear_bit,
  test_and_set_bit,
  test_bit,
  u16,
  u32,
  u64,
  u8,
  xadd,
  xchg,
} from '../index.ts';
import type { GuestCode } from '../dsl/builder.ts';
import type { Expr } from '../dsl/expr.ts';

/** A function, arguments, the result. */
export interface GuestCase {
  readonly title: string;
  readonly fn: FnLinkable;
  readonly args: readonly bigint[];
  readonly expected: bigint;
}

type Body = (g: GuestCode, a: Expr, b: Expr, c: Expr) => void;

const U64 = (value: bigint): bigint => BigInt.asUintN(64, value);

/** Collects cases with a fresh symbol each. */
class Cases {
  readonly list: GuestCase[] = [];

  add(title: string, args: readonly bigint[], expected: bigint, body: Body): void {
    const fn = guestFn(`case_${this.list.length}`, [u64, u64, u64], u64, (g, a, b, c) => body(g, a, b, c));
    this.list.push({
      title,
      fn: fn,
      args: [0, 1, 2].map((i) => U64(args[i] ?? 0n)),
      expected: U64(expected),
    });
  }

  /** The value of one expression. */
  value(
    title: string,
    args: readonly bigint[],
    expected: bigint,
    make: (a: Expr, b: Expr, c: Expr) => Expr,
  ): void {
    this.add(title, args, expected, (g, a, b, c) => g.return(make(a, b, c).cast(s64).cast(u64)));
  }
}

function arithmetic(t: Cases): void {
  const big = 0xfedc_ba98_7654_3210n;
  t.value('u64 addition wraps', [-1n, 2n], 1n, (a, b) => a.add(b));
  t.value('u32 addition wraps at 32 bits', [0xffff_ffffn, 2n], 1n, (a, b) => a.cast(u32).add(b.cast(u32)));
  t.value('u8 promotes to int and does not wrap', [200n, 100n], 300n, (a, b) => a.cast(u8).add(b.cast(u8)));
  t.value('s8 promotes with its sign', [0x80n], -128n, (a) => a.cast(s8).add(0));
  t.value('u16 stays positive', [0x8000n], 0x8000n, (a) => a.cast(u16).add(0));
  t.value('s16 is sign-extended', [0x8000n], -0x8000n, (a) => a.cast(s16).cast(s64));
  t.value('u32 is zero-extended to u64', [big], 0x7654_3210n, (a) => a.cast(u32).cast(u64));
  t.value('s32 is sign-extended to u64', [0x8000_0000n], -0x8000_0000n, (a) => a.cast(s32).cast(u64));
  t.value('int and unsigned meet as unsigned', [-1n, 1n], 0n, (a, b) => a.cast(s32).lt(b.cast(u32)));
  t.value('int and long meet as long', [-1n, 1n], 1n, (a, b) => a.cast(s32).lt(b.cast(s64)));
  t.value('unsigned and long meet as long', [0xffff_ffffn, -1n], 0n, (a, b) => a.cast(u32).lt(b.cast(s64)));
  t.value('signed division truncates to zero', [-7n, 2n], -3n, (a, b) => a.cast(s64).div(b.cast(s64)));
  t.value('signed remainder has the sign of the dividend', [-7n, 2n], -1n, (a, b) =>
    a.cast(s64).mod(b.cast(s64)),
  );
  t.value('signed division by a power of two truncates too', [-7n], -1n, (a) => a.cast(s64).div(4));
  t.value('unsigned division', [-7n, 2n], 0x7fff_ffff_ffff_fffcn, (a, b) => a.div(b));
  t.value('unsigned remainder by a power of two', [0x1234n], 0x34n, (a) => a.mod(0x100));
  t.value('multiplication by a constant', [big], U64(big * 1000n), (a) => a.mul(1000));
  t.value('multiplication by a power of two', [3n], 3n << 20n, (a) => a.mul(1 << 20));
  t.value('arithmetic shift of a negative int', [-16n], -4n, (a) => a.cast(s32).shr(2));
  t.value('logical shift of unsigned', [0xffff_fff0n], 0x3fff_fffcn, (a) => a.cast(u32).shr(2));
  t.value('variable shifts of a sum', [1n, 40n], 3n << 40n, (a, b) => a.add(2).shl(b));
  t.value('a shift count from a complex tree', [256n, 2n], 4n, (a, b) => a.shr(b.mul(b).add(b)));
  t.value('complement and negation', [5n], 5n, (a) => a.bnot().neg().sub(1));
  t.value('a 64-bit constant', [1n], big, (a) => a.mul(big));
  t.value('a negative constant is extended', [10n], 5n, (a) => a.add(-5));
  t.value('a 32-bit mask does not reach the upper half', [-1n], 0xffff_ffffn, (a) => a.and(0xffff_ffff));
  t.value('lit gives literals their operators', [], 7n, () => lit(3).add(4));
}

function logic(t: Cases): void {
  t.value('select takes the first', [1n, 5n, 6n], 5n, (a, b, c) => select(a, b, c));
  t.value('select takes the second', [0n, 5n, 6n], 6n, (a, b, c) => select(a, b, c));
  t.value('a comparison is 0 or 1', [3n, 3n], 2n, (a, b) => a.eq(b).add(a.le(b)));
  t.value('lnot of a value', [4n], 0n, (a) => a.lnot());
  t.value('and, or, not', [1n, 0n, 1n], 1n, (a, b, c) => a.land(b).lor(b.lnot().land(c)));
  t.value('unsigned comparison', [-1n, 1n], 1n, (a, b) => a.gt(b));
  t.value('signed comparison', [-1n, 1n], 0n, (a, b) => a.cast(s64).gt(b.cast(s64)));
  t.value('a constant on the left', [3n], 1n, (a) => lit(2).lt(a));
  t.add('the right side of && is not evaluated in vain', [0n], 77n, (g, a) => {
    // Address 0 is not mapped: evaluating the right side would fault.
    g.if(a.ne(0).land(at(u64, a).eq(5)), () => g.return(1));
    g.if(a.eq(0).lor(at(u64, a).eq(5)), () => g.return(77));
    g.return(2);
  });
  t.add('a condition with calls is repeated', [5n], 5n, (g, a) => {
    const n = g.local(u64, 0);
    g.while(
      () => below(g, n, a),
      () => g.inc(n),
    );
    g.return(n);
  });
}

const below = guestFn('below', [u64, u64], u32, (g, a, b) => g.return(a.lt(b).cast(u32)));

function controlFlow(t: Cases): void {
  t.add('for with continue and break', [10n], 1n + 3n + 5n + 7n, (g, n) => {
    const sum = g.local(u64, 0);
    const i = g.local(u64);
    g.forRange(i, 0, n, 1, () => {
      g.if(i.mod(2).eq(0), () => g.continue());
      g.if(i.eq(9), () => g.break());
      g.set(sum, '+=', i);
    });
    g.return(sum);
  });
  t.add('break leaves the inner loop only', [4n], 6n, (g, n) => {
    const count = g.local(u64, 0);
    const i = g.local(u64);
    const j = g.local(u64);
    g.forRange(i, 0, n, 1, () =>
      g.forRange(j, 0, n, 1, () => {
        g.if(j.eq(i), () => g.break());
        g.inc(count);
      }),
    );
    g.return(count);
  });
  t.add('do-while runs at least once', [0n], 1n, (g, n) => {
    const count = g.local(u64, 0);
    g.doWhile(() => g.inc(count), count.lt(n));
    g.return(count);
  });
  t.add('continue in do-while tests the condition', [3n], 3n, (g, n) => {
    const count = g.local(u64, 0);
    g.doWhile(() => {
      g.inc(count);
      g.if(count.lt(n), () => g.continue());
    }, count.lt(n));
    g.return(count);
  });
  t.add('an endless loop ends by return', [7n], 14n, (g, n) => {
    const i = g.local(u64, 0);
    g.loop(() => {
      g.inc(i, 2);
      g.if(i.eq(n.mul(2)), () => g.return(i));
    });
  });
  t.add('a loop whose condition is 0 does not run', [1n], 1n, (g, n) => {
    g.while(0, () => g.return(5));
    g.return(n);
  });
  for (const [value, expected] of [
    [1n, 10n],
    [2n, 20n],
    [3n, 20n],
    [9n, 99n],
  ] as const) {
    t.add(`switch of ${value}`, [value], expected, (g, a) => {
      g.switch(
        a,
        [
          [1, () => g.return(10)],
          [[2, 3], () => g.return(20)],
        ],
        () => g.return(99),
      );
      g.return(0);
    });
  }
  t.add('a variable declared in front of a loop keeps its value', [3n], 30n, (g, n) => {
    const i = g.local(u64, 0);
    const carried = g.local(u64);
    g.while(i.lt(n), () => {
      g.if(i.eq(0), () => g.set(carried, 0));
      const other = g.local(u64, i.mul(100));
      g.set(carried, '+=', other.sub(other).add(10));
      g.inc(i);
    });
    g.return(carried);
  });
}

const manyArgs = guestFn(
  'many_args',
  [u8, s8, u16, s16, u32, s32, u64, s64, u8, s32],
  u64,
  (g, a, b, c, d, e, f, h, i, j, k) => {
    const sum = g.local(s64, 0);
    for (const part of [a, b, c, d, e, f, h, i, j, k]) g.set(sum, sum.mul(3).add(part.cast(s64)));
    g.return(sum.cast(u64));
  },
);
const factorial: GuestFn<readonly [typeof u64], typeof u64> = guestFn('factorial', [u64], u64, (g, n) => {
  g.if(n.le(1), () => g.return(1));
  g.return(n.mul(factorial(g, n.sub(1))));
});
const isEven: GuestFn<readonly [typeof u64], typeof u64> = guestFn('is_even', [u64], u64, (g, n) => {
  g.if(n.eq(0), () => g.return(1));
  g.return(isOdd(g, n.sub(1)));
});
const isOdd = guestFn('is_odd', [u64], u64, (g, n) => {
  g.if(n.eq(0), () => g.return(0));
  g.return(isEven(g, n.sub(1)));
});
const twice = guestFn('twice', [fnPtr([u64], u64), u64], u64, (g, f, x) => {
  g.return(g.call(f, g.call(f, x)));
});
const addThree = guestFn('add_three', [u64], u64, (g, x) => g.return(x.add(3)));
const truncated = guestFn('truncated', [u64], u8, (g, x) => g.return(x.cast(u8)));
const isAligned = guestFn('is_aligned', [], u64, (g) => {
  // A frame with a variable of 16 bytes' alignment: its address shows where the stack pointer was.
  const marker = g.local(struct('marker', { a: u64, b: u64 }, { align: 16 }));
  g.return(marker.addr().cast(u64).and(15));
});

function calls(t: Cases): void {
  const args = [250n, -5n, 65000n, -300n, 4_000_000_000n, -70000n, 1n << 60n, -(1n << 50n), 255n, -1n];
  const expected = args.reduce((sum, part) => U64(sum * 3n + part), 0n);
  t.add('ten arguments of all widths', args.slice(6, 8), expected, (g, a, b) =>
    g.return(manyArgs(g, 250, -5, 65000, -300, 4_000_000_000, -70000, a, b.cast(s64), 255, -1)),
  );
  t.add('arguments are evaluated before any is placed', [1n, 2n, 3n], 0n, (g, a, b, c) => {
    const x = g.local(u64, a.add(b));
    const first = g.let(manyArgs(g, 1, 2, 3, 4, 5, 6, x.mul(c), b.cast(s64), 1, 2));
    const second = g.let(manyArgs(g, 1, 2, 3, 4, 5, 6, 9, 2, 1, 2));
    g.return(first.sub(second));
  });
  t.add('recursion', [10n], 3628800n, (g, n) => g.return(factorial(g, n)));
  t.add('mutual recursion in any order of definition', [7n], 0n, (g, n) => g.return(isEven(g, n)));
  t.add('function pointers', [1n], 7n, (g, n) => g.return(twice(g, addThree, n)));
  t.add('a narrow result', [0x1ffn], 0xffn, (g, n) => g.return(truncated(g, n)));
  t.add('the stack is aligned at calls', [], 0n, (g) => {
    const pad = g.local(u64, 1);
    g.return(isAligned(g).add(pad).sub(1));
  });
  t.add('values live across calls', [1n, 2n, 3n], 1n + 2n + 3n + 4n + 5n + 6n + 7n + 8n, (g, a, b, c) => {
    const locals = [4, 5, 6, 7, 8].map((value) => g.local(u64, value));
    const result = g.local(u64, factorial(g, 5));
    g.set(result, 0);
    for (const place of [a, b, c, ...locals]) g.set(result, '+=', place);
    g.return(result);
  });
}

const Inner = struct('struct inner', { tag: u8, value: u64 });
const Outer = struct('struct outer', { first: u8, inner: array(Inner, 3), last: u16 });
const Packed = packedStruct('struct packed', { a: u8, b: u32, c: u16 });
const counter = guestGlobal('case_counter', u32, 5);
const table = guestGlobal('case_table', array(Outer, 4));
const pointers = guestGlobal('case_pointers', array(fnPtr([u64], u64), 2), [addThree, addThree]);
const record = guestGlobal('case_record', Outer, {
  first: 1,
  inner: [{ tag: 2, value: 3 }, {}, { value: -1 }],
  last: 9,
});

function memory(t: Cases): void {
  t.add('nested structs in arrays', [2n, 1n], 42n, (g, i, j) => {
    g.set(table.at(i).f.inner.at(j).f.value, 42);
    g.set(table.at(i).f.inner.at(j).f.tag, 255);
    g.set(table.at(i).f.last, 7);
    const raw = table
      .addr()
      .cast(u64)
      .add(i.mul(Outer.size))
      .add(Outer.offsetof('inner') + Inner.size + 8);
    g.return(at(u64, raw));
  });
  t.add('packed fields touch nothing else', [-1n], 0x11_2233_4455_ff66n, (g) => {
    const p = g.local(u64, 0xff);
    const packed = p.addr().cast(ptr(Packed));
    g.set(packed.f.c, 0x1122);
    g.set(packed.f.b, 0x3344_55ff);
    g.set(packed.f.a, 0x66);
    g.return(p);
  });
  t.add('initialised globals', [], 1n + 2n + 3n - 1n + 9n + 5n, (g) => {
    const { first, inner, last } = record.f;
    const sum = first.add(inner.at(0).f.tag).add(inner.at(0).f.value).add(inner.at(1).f.value);
    g.return(sum.add(inner.at(2).f.value).add(last).add(counter));
  });
  t.add('function pointers in data', [1n], 4n, (g, i) => g.return(g.call(pointers.at(i), i)));
  t.add('narrow stores keep their neighbours', [0x1234n], 0xffff_ffff_ff34_ff12n, (g, a) => {
    const word = g.local(u64, -1);
    const bytes = word.addr().cast(ptr(u8));
    g.set(bytes.at(0), a.shr(8).cast(u8));
    g.set(bytes.at(2), a.cast(u8));
    g.return(word);
  });
  t.add('compound assignment in memory', [100n], 1n, (g, a) => {
    const cell = g.local(array(u8, 4));
    g.set(cell.at(1), 250);
    g.inc(cell.at(1), 5);
    g.inc(cell.at(1));
    g.set(cell.at(1), '^=', a.cast(u8));
    g.set(cell.at(1), '-=', 99);
    g.return(cell.at(1));
  });
  t.add('pointer arithmetic counts elements', [3n], 3n, (g, n) => {
    const cells = g.local(array(u32, 8));
    const p = g.local(ptr(u32), cells.add(n));
    g.return(p.diff(cells).cast(u64));
  });
  t.add('the distance of pointers to odd sizes', [3n], 2n, (g, n) =>
    g.return(table.at(n).addr().diff(table.at(1).addr()).cast(u64)),
  );
  t.add('a string constant', [], 5n, (g) => g.return(strlen(g, str('hello'))));
  t.add('a page loop stores in each page', [0x100n], 4n, (g, step) => {
    const cells = g.local(array(u8, 1024));
    memset(g, cells, 0, 1024);
    const p = g.local(u64);
    const end = g.local(u64, cells.addr().cast(u64).add(1024));
    g.forRange(p, cells.addr().cast(u64), end, step, () => g.set(at(u8, p), 1));
    const sum = g.local(u64, 0);
    const i = g.local(u64);
    g.forRange(i, 0, 1024, 1, () => g.set(sum, '+=', cells.at(i)));
    g.return(sum);
  });
}

/** A full binary tree of loads through pointers: more values at a time than there are registers. */
function deepTree(depth: number, cell: Expr): Expr {
  if (depth === 0) return at(u64, at(u64, cell).add(cell.sub(cell)));
  const [l, r] = [deepTree(depth - 1, cell), deepTree(depth - 1, cell)];
  const op = (['add', 'xor', 'sub', 'mul'] as const)[depth % 4]!;
  return op === 'sub' ? l.mul(3).sub(r) : l[op](r.add(depth));
}

function deepValue(depth: number, leaf: bigint): bigint {
  if (depth === 0) return leaf;
  const [l, r] = [deepValue(depth - 1, leaf), deepValue(depth - 1, leaf)];
  const d = BigInt(depth);
  return U64([l + r + d, l ^ (r + d), l * 3n - r, l * (r + d)][depth % 4]!);
}

function spills(t: Cases): void {
  for (const depth of [6, 9, 11]) {
    t.add(`a tree of depth ${depth} spills`, [7n], deepValue(depth, 7n), (g, a) => {
      const value = g.local(u64, a);
      const cell = g.local(u64, value.addr().cast(u64));
      g.return(deepTree(depth, cell.addr().cast(u64)));
    });
  }
  const chain = (x: Expr, n: number): Expr => (n === 0 ? x : lit(1000).div(chain(x, n - 1).or(1)));
  t.value('nested divisions', [3n], 3n, (a) => chain(a, 12));
  const shifts = (x: Expr, n: number): Expr =>
    n === 0
      ? x
      : lit(1)
          .cast(u64)
          .shl(shifts(x, n - 1).and(7));
  t.value('nested shifts', [3n], 4n, (a) => shifts(a, 12));
  t.value('a division inside a shift count inside a division', [100n, 3n], 25n, (a, b) =>
    a.div(
      lit(1)
        .cast(u64)
        .shl(a.div(b.mul(16))),
    ),
  );
  const conditions = (x: Expr, n: number): Expr =>
    n === 0
      ? x
      : conditions(x, n - 1)
          .add(n)
          .gt(conditions(x, n - 1).mul(conditions(x, n - 1).add(2)));
  t.value('comparisons of deep trees', [5n], 1n, (a) =>
    conditions(a, 7).add(conditions(a, 6)).sub(conditions(a, 6)),
  );
}

function atomics(t: Cases): void {
  t.add('xchg, xadd and cmpxchg', [10n, 20n], 10n + 20n * 2n + 25n * 4n + 99n * 8n + 99n * 16n, (g, a, b) => {
    const cell = g.local(u64, a);
    const old = xchg(g, cell, b);
    const before = xadd(g, cell, 5);
    const hit = cmpxchg(g, cell, 25, 99);
    const miss = cmpxchg(g, cell, 25, 1);
    g.return(old.add(before.mul(2)).add(hit.mul(4)).add(miss.mul(8)).add(cell.mul(16)));
  });
  t.add('narrow atomics', [0xffn], 0x1_0100_00ffn, (g, a) => {
    const cells = g.local(array(u8, 8));
    memset(g, cells, 0, 8);
    g.set(cells.at(1), a.cast(u8));
    const old = xadd(g, cells.at(1), 1);
    atomic_add(g, cells.at(3), 1);
    atomic_add(g, cells.at(4), 1);
    g.return(at(u64, cells.addr()).add(old));
  });
  t.add('bitmaps of several words', [70n], 0b1_0011n, (g, nr) => {
    const map = g.local(array(u64, 2));
    memset(g, map, 0, 16);
    const first = test_and_set_bit(g, nr, map);
    const second = test_and_set_bit(g, nr, map);
    const cleared = test_and_clear_bit(g, nr, map);
    set_bit(g, 68, map);
    clear_bit(g, nr, map);
    const bits = second.or(cleared.shl(1)).or(first.shl(2)).or(test_bit(nr, map).shl(3));
    g.return(bits.or(test_bit(68, map).shl(4)));
  });
}

function strings(t: Cases): void {
  t.add('memset, memcpy and memcmp', [16n], 0xabab_abab_abab_abacn, (g, n) => {
    const [a, b] = [g.local(array(u8, 16)), g.local(array(u8, 16))];
    memset(g, a, 0xab, n);
    memcpy(g, b, a, n);
    const same = g.let(memcmp(g, a, b, n));
    g.set(b.at(15), 0xaa);
    const more = g.let(memcmp(g, a, b, n));
    g.return(at(u64, b.addr()).add(same.cast(s64)).add(more.cast(s64)));
  });
}

/** Formats of guest_vsnprintf with values and the text that C's printf gives. */
export const FORMATS: readonly (readonly [string, readonly (bigint | string)[], string])[] = [
  ['plain', [], 'plain'],
  ['%d %d', [5n, -5n], '5 -5'],
  ['%u', [-1n], '4294967295'],
  ['%ld', [-(2n ** 63n)], '-9223372036854775808'],
  ['%lu %llu', [-1n, 10n], '18446744073709551615 10'],
  ['%x %X %#x', [0xbeefn, 0xbeefn, 0xbeefn], 'beef BEEF 0xbeef'],
  ['%#lx|%#lX', [0xfedc_ba98_7654_3210n, 0xabn], '0xfedcba9876543210|0xAB'],
  ['%08x|%8x|%-8x|', [0x1fn, 0x1fn, 0x1fn], '0000001f|      1f|1f      |'],
  ['%#010x', [0x1fn], '0x0000001f'],
  ['%+d % d %+d', [7n, 7n, -7n], '+7  7 -7'],
  ['%05d|%-5d|%5d', [-42n, -42n, -42n], '-0042|-42  |  -42'],
  ['%.4d %8.4d %.0s', [42n, 42n, 'gone'], '0042     0042 '],
  ['%o %#o', [8n, 8n], '10 010'],
  ['%hd %hu', [0x1_ffffn, 0x1_ffffn], '-1 65535'],
  ['%c%c', [0x48n, 0x69n], 'Hi'],
  ['%3c|%-3c|', [0x48n, 0x69n], '  H|i  |'],
  ['%s, %s!', ['hello', 'world'], 'hello, world!'],
  ['%8s|%-8s|%.2s', ['abc', 'abc', 'abc'], '     abc|abc     |ab'],
  ['%*d|%-*d|', [5n, 42n, 5n, 42n], '   42|42   |'],
  ['%.*s', [3n, 'abcdef'], 'abc'],
  ['%p', [0x1234n], '0x00000000001234'],
  ['100%%', [], '100%'],
  ['%d%%', [50n], '50%'],
  ['%i', [-1n], '-1'],
  ['%y', [], '%y'],
  ['end %', [], 'end %'],
];

function formats(t: Cases): void {
  for (const [fmt, values, text] of FORMATS) {
    t.add(`guest_vsnprintf formats '${fmt}'`, [], BigInt(text.length), (g) => {
      const va = g.local(array(u64, 6));
      values.forEach((value, i) =>
        g.set(va.at(i), typeof value === 'string' ? str(value).cast(u64) : U64(value)),
      );
      const buffer = g.local(array(u8, 128));
      const length = g.let(guest_vsnprintf(g, buffer, 128, str(fmt), va));
      g.if(memcmp(g, buffer, str(text), text.length + 1).ne(0), () => g.return(-1));
      g.return(length.cast(s64).cast(u64));
    });
  }
  t.add('guest_vsnprintf cuts off what does not fit', [], 7n, (g) => {
    const buffer = g.local(array(u8, 16));
    memset(g, buffer, 0xee, 16);
    guest_vsnprintf(g, buffer, 8, str('0123456789'), 0);
    g.if(memcmp(g, buffer, str('0123456'), 8).lor(buffer.at(8).ne(0xee)), () => g.return(-1));
    g.return(strlen(g, buffer));
  });
}

/** All cases. */
export function guestCases(): readonly GuestCase[] {
  const cases = new Cases();
  for (const group of [arithmetic, logic, controlFlow, calls, memory, spills, atomics, strings, formats])
    group(cases);
  return cases.list;
}
