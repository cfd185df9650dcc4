// SPDX-License-Identifier: GPL-2.0-only
/** Loops with their ways out, switch, and variables that outlive a turn of a loop. */
import { u64 } from '../../index.ts';
import type { Cases } from './case_list.ts';

function loopExits(t: Cases): void {
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
}

function loopKinds(t: Cases): void {
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
}

function switches(t: Cases): void {
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
}

function loopVariables(t: Cases): void {
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

/** Cases of statements. */
export function controlFlow(t: Cases): void {
  for (const group of [loopExits, loopKinds, switches, loopVariables]) group(t);
}
