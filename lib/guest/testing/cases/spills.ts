// SPDX-License-Identifier: GPL-2.0-only
/** Expressions that need more values at a time than there are registers. */
import type { Expr } from '../../dsl/expr.ts';
import { at, lit, u64 } from '../../index.ts';
import { type Cases, U64 } from './case_list.ts';

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

/** Cases of deep expressions. */
export function spills(t: Cases): void {
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
