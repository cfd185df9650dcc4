// SPDX-License-Identifier: GPL-2.0-only
/** The calling convention: arguments of all widths, recursion, function pointers, what lives across a call. */
import { fnPtr, type GuestFn, guestFn, s16, s32, s64, s8, struct, u16, u32, u64, u8 } from '../../index.ts';
import { type Cases, U64 } from './case_list.ts';

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
/** x + 3, as something to point at. */
export const addThree = guestFn('add_three', [u64], u64, (g, x) => g.return(x.add(3)));
const truncated = guestFn('truncated', [u64], u8, (g, x) => g.return(x.cast(u8)));
const isAligned = guestFn('is_aligned', [], u64, (g) => {
  // A frame with a variable of 16 bytes' alignment: its address shows where the stack pointer was.
  const marker = g.local(struct('marker', { a: u64, b: u64 }, { align: 16 }));
  g.return(marker.addr().cast(u64).and(15));
});

/** Cases of calls. */
export function calls(t: Cases): void {
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
