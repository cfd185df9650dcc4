// SPDX-License-Identifier: GPL-2.0-only
/** The guest library's atomic operations and bitmaps. */
import {
  array,
  at,
  atomic_add,
  clear_bit,
  cmpxchg,
  memset,
  set_bit,
  test_and_clear_bit,
  test_and_set_bit,
  test_bit,
  u64,
  u8,
  xadd,
  xchg,
} from '../../index.ts';
import type { Cases } from './case_list.ts';

/** Cases of atomic operations. */
export function atomics(t: Cases): void {
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
