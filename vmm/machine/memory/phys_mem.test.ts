// SPDX-License-Identifier: GPL-2.0-only
/** Sizes of the machine's memory, and that its views show the same bytes. */
import { describe, expect, it } from 'vitest';
import { BugError } from '../errors.ts';
import { RAM_BASE, RAM_LIMIT } from '../layout.ts';
import { PhysMem } from './phys_mem.ts';

describe('physical memory', () => {
  it('is RAM above the reserved area, rounded up to 64 KiB', () => {
    expect(new PhysMem(1).size).toBe(RAM_BASE + 0x1_0000);
    expect(new PhysMem(0x1_0001).size).toBe(RAM_BASE + 0x2_0000);
  });

  it('refuses sizes that it cannot have', () => {
    for (const bytes of [0, -1, NaN, RAM_LIMIT]) expect(() => new PhysMem(bytes)).toThrow(BugError);
  });

  it('shows the same little-endian bytes in every view', () => {
    const mem = new PhysMem(0x1000);
    mem.view.setBigUint64(RAM_BASE, 0x1122_3344_5566_7788n, true);
    expect([
      mem.u8[RAM_BASE],
      mem.u16[RAM_BASE / 2],
      mem.i32[RAM_BASE / 4 + 1],
      mem.u64[RAM_BASE / 8],
    ]).toEqual([0x88, 0x7788, 0x1122_3344, 0x1122_3344_5566_7788n]);
    expect(mem.memory.buffer.byteLength).toBe(mem.size);
  });
});
