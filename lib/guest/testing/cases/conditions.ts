// SPDX-License-Identifier: GPL-2.0-only
/** Comparisons, logic and selection: values of 0 and 1, and what is not evaluated. */
import { at, guestFn, lit, s64, select, u32, u64 } from '../../index.ts';
import type { Cases } from './case_list.ts';

const below = guestFn('below', [u64, u64], u32, (g, a, b) => g.return(a.lt(b).cast(u32)));

/** Cases of conditions. */
export function conditions(t: Cases): void {
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
