// SPDX-License-Identifier: GPL-2.0-only
/** Slots and records run out and are given back; what is found is always what the bytes say. */
import { describe, expect, it } from 'vitest';
import { CodeCache, invalidateCodeFrame } from './code_cache.ts';
import { OP } from './decode/ops.ts';
import { HOT, REC } from './hot.ts';
import { RAM_BASE } from '../layout.ts';
import { PhysMem } from '../memory/phys_mem.ts';

const FIRST = RAM_BASE >>> 12;

function cache(pages: number): { code: CodeCache; mem: PhysMem; dropped: number[] } {
  const mem = new PhysMem(pages * 4096);
  const dropped: number[] = [];
  return { code: new CodeCache(mem, (pfn) => dropped.push(pfn)), mem, dropped };
}

describe('the code cache', () => {
  it('asks for write tags to be dropped when a frame gets its first code, and only then', () => {
    const { code, mem, dropped } = cache(16);
    mem.u8.set([0x90, 0xc3, 0x90, 0xc3], RAM_BASE);
    const p = code.find(FIRST, 0);
    expect(code.find(FIRST, 0)).toBe(p);
    code.find(FIRST, 2);
    expect(dropped).toEqual([FIRST]);
    expect([mem.i32[p + REC.K], code.insnOf(p).op]).toEqual([HOT.NOP, OP.NOP]);
  });

  it('notices stores by the byte', () => {
    const { code, mem } = cache(16);
    mem.u8.set([0x90, 0xc3], RAM_BASE + 100);
    code.find(FIRST, 100);
    for (const [at, length] of [
      [0, 100],
      [102, 500],
      [4096, 4096],
      [50, 50],
    ] as const)
      code.noteStore(RAM_BASE + at, length);
    expect([code.hasCode(FIRST), code.generation]).toEqual([true, 0]);
    code.noteStore(RAM_BASE - 4096, 2 * 4096);
    expect([code.hasCode(FIRST), code.generation]).toEqual([false, 1]);
    code.find(FIRST, 100);
    code.noteStore(RAM_BASE + 101, 1);
    expect(code.hasCode(FIRST)).toBe(false);
    code.find(FIRST, 100);
    invalidateCodeFrame(code, FIRST);
    invalidateCodeFrame(code, FIRST);
    expect(code.generation).toBe(3);
    expect(code.hasCode(2 ** 30)).toBe(false);
  });

  it('more code pages than slots: old ones are forgotten, all are found again', () => {
    const pages = 600;
    const { code, mem } = cache(pages);
    for (let n = 0; n < pages; n++) mem.u8.set([0xb0, n & 255, 0xc3], RAM_BASE + n * 4096);
    for (let round = 0; round < 2; round++) {
      for (let n = 0; n < pages; n++) expect(code.insnOf(code.find(FIRST + n, 0)).immLo & 255).toBe(n & 255);
    }
    expect(code.generation).toBeGreaterThan(255);
  });

  it('more records than there is room for', () => {
    const pages = 80;
    const { code, mem } = cache(pages);
    mem.u8.fill(0x90, RAM_BASE, RAM_BASE + pages * 4096);
    let flushed = -1;
    for (let n = 0; n < pages; n++) {
      for (let off = 0; off < 4096; off += 64) code.find(FIRST + n, off);
      if (code.generation > 0 && flushed < 0) flushed = n;
    }
    expect(flushed).toBeGreaterThan(50);
    expect(code.hasCode(FIRST)).toBe(false);
    expect(mem.i32[code.find(FIRST, 4095) + REC.OFF]).toBe(4095);
  });
});
