// SPDX-License-Identifier: GPL-2.0-only
/** The trees against a plain list, with seeded operations. */
import { describe, expect, it } from 'vitest';
import { SlotTree, type SlotKeys } from './slot_tree.ts';

/** A small linear congruential generator: the test is the same in every run. */
function lcg(seed: number): () => number {
  let state = seed;
  return () => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) / 2 ** 32;
}

function setUp(length: number): { tree: SlotTree; keys: SlotKeys; present: Set<number> } {
  const keys = { first: new Float64Array(length), last: new Float64Array(length) };
  return { tree: new SlotTree(keys), keys, present: new Set() };
}

describe('SlotTree', () => {
  it('finds nothing in an empty tree', () => {
    const { tree } = setUp(4);
    const out: number[] = [];
    tree.overlaps(0, 100, out);
    expect(tree.isEmpty).toBe(true);
    expect(tree.floor(5)).toBe(0);
    expect(out).toEqual([]);
  });

  it('answers as a list does, through random insertions and removals', () => {
    const random = lcg(7);
    const { tree, keys, present } = setUp(200);
    for (let step = 0; step < 4000; step++) {
      const handle = 1 + Math.floor(random() * 199);
      if (present.has(handle)) {
        tree.erase(handle);
        present.delete(handle);
      } else {
        keys.first[handle] = Math.floor(random() * 500);
        keys.last[handle] = keys.first[handle] + Math.floor(random() * 40);
        tree.insert(handle);
        present.add(handle);
      }
      const start = Math.floor(random() * 500);
      const last = start + Math.floor(random() * 30);
      const out: number[] = [];
      tree.overlaps(start, last, out);
      const expected = [...present].filter((h) => keys.first[h]! <= last && keys.last[h]! >= start);
      expect([...out].sort((a, b) => a - b)).toEqual(expected.sort((a, b) => a - b));
      const below = [...present].filter((h) => keys.first[h]! <= start);
      const floor = tree.floor(start);
      if (below.length === 0) expect(floor).toBe(0);
      else expect(keys.first[floor]).toBe(Math.max(...below.map((h) => keys.first[h]!)));
    }
  });

  it('lists overlaps in order of their first address', () => {
    const { tree, keys } = setUp(10);
    [50, 10, 30, 20, 40].forEach((first, i) => {
      keys.first[i + 1] = first;
      keys.last[i + 1] = first + 9;
      tree.insert(i + 1);
    });
    const out: number[] = [];
    tree.overlaps(15, 45, out);
    expect(out.map((h) => keys.first[h])).toEqual([10, 20, 30, 40]);
  });

  it('keeps two members with one address apart', () => {
    const { tree, keys } = setUp(4);
    keys.first.fill(100);
    keys.last.fill(199);
    for (const handle of [1, 2, 3]) tree.insert(handle);
    tree.erase(2);
    const out: number[] = [];
    tree.overlaps(150, 150, out);
    expect(out).toEqual([1, 3]);
  });
});
