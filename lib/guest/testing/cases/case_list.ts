// SPDX-License-Identifier: GPL-2.0-only
/** What a case is, and how a group of them is written down. */
import type { GuestCode } from '../../dsl/builder.ts';
import type { Expr } from '../../dsl/expr.ts';
import { type FnLinkable, guestFn, s64, u64 } from '../../index.ts';

/** A function, arguments, the result. */
export interface GuestCase {
  readonly title: string;
  readonly fn: FnLinkable;
  readonly args: readonly bigint[];
  readonly expected: bigint;
}

type Body = (g: GuestCode, a: Expr, b: Expr, c: Expr) => void;

/** The bits of a number as a 64-bit value. */
export const U64 = (value: bigint): bigint => BigInt.asUintN(64, value);

/** Collects cases with a fresh symbol each. */
export class Cases {
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
