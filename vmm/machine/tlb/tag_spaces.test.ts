// SPDX-License-Identifier: GPL-2.0-only
/** Tags as numbers: equal tags share one, different ones do not, and swept ones are given out again. */
import { describe, expect, it } from 'vitest';
import { ep4taOf, NO_TAG, PCID_GLOBAL, TagSpaces } from './tag_spaces.ts';

describe('tags', () => {
  it('are numbers that differ in VPID, PCID or EP4TA', () => {
    const spaces = new TagSpaces();
    const ids = [
      [1, 0, NO_TAG],
      [2, 0, NO_TAG],
      [1, 5, NO_TAG],
      [1, 0, 9],
    ].map(([v, p, e]) => spaces.intern(v!, p!, e!));
    expect(new Set(ids).size).toBe(4);
    expect(spaces.intern(1, 5, NO_TAG)).toBe(ids[2]);
    expect([spaces.length, spaces.live]).toEqual([4, 4]);
  });

  it('share a group with their global twin only', () => {
    const spaces = new TagSpaces();
    const [a, b, global, other] = [
      spaces.intern(1, 0, 9),
      spaces.intern(1, 7, 9),
      spaces.intern(1, PCID_GLOBAL, 9),
      spaces.intern(2, 0, 9),
    ];
    expect([spaces.group[b], spaces.group[global]]).toEqual([spaces.group[a], spaces.group[a]]);
    expect(spaces.group[other]).not.toBe(spaces.group[a]);
  });

  it('are swept when unused, and their numbers come back', () => {
    const spaces = new TagSpaces();
    const kept = spaces.intern(1, 0, 9);
    const gone = spaces.intern(2, 0, 9);
    spaces.sweep((space) => space === kept);
    expect([spaces.live, spaces.vpid[gone]]).toEqual([1, -2]);
    expect(spaces.intern(3, 0, 9)).toBe(gone);
    expect(spaces.intern(1, 0, 9)).toBe(kept);
  });
});

describe('the EP4TA of an EPTP', () => {
  it('is its bits 51:12', () => {
    expect(ep4taOf(0x1234_501e)).toBe(0x1_2345);
    expect(ep4taOf(2 ** 45 + 0x5e)).toBe(2 ** 33);
  });
});
