// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which frames of a range are free, as a three-level bitmap: the lowest free frame is found in three steps, so that
 * memory is handed out low-first and the real host memory behind high frames stays untouched. Stands for the buddy
 * allocator's free lists; only orders 0 and 9.
 */
import { pfn, type Pfn } from '../../../lib/x86/addr.ts';
import { BugError } from '../../machine/errors.ts';
import { FRAME, type FrameTable } from '../../machine/memory/frames.ts';

/** Frames of a 2 MiB page, and their order. */
export const HUGE_FRAMES = 512;
export const HUGE_ORDER = 9;
const WORDS_PER_CHUNK = HUGE_FRAMES / 32;

/** Index of the lowest set bit; the word must not be 0. */
const lowestBit = (word: number): number => 31 - Math.clz32(word & -word);

export class FramePool {
  readonly first: Pfn;
  /** Exclusive. */
  readonly end: Pfn;
  /** First frame of the bitmap: a multiple of HUGE_FRAMES. */
  readonly #base: number;
  readonly #bits: Int32Array;
  readonly #summary: Int32Array;
  readonly #top: Int32Array;
  /** Free frames of each 2 MiB chunk. */
  readonly #chunkFree: Uint16Array;
  #free = 0;

  /** The free frames of `frames` between `first` and `end` (exclusive). */
  constructor(frames: FrameTable, first: number, end: number) {
    this.first = pfn(first);
    this.end = pfn(Math.max(first, end));
    this.#base = first - (first % HUGE_FRAMES);
    const chunks = Math.max(1, Math.ceil((end - this.#base) / HUGE_FRAMES));
    const words = chunks * WORDS_PER_CHUNK;
    this.#bits = new Int32Array(words);
    this.#summary = new Int32Array(Math.ceil(words / 32));
    this.#top = new Int32Array(Math.ceil(this.#summary.length / 32));
    this.#chunkFree = new Uint16Array(chunks);
    for (let frame = first; frame < end; frame++)
      if (frames.state[frame] === FRAME.FREE) this.free(pfn(frame));
  }

  get nrFree(): number {
    return this.#free;
  }

  /** The lowest free frame, or -1. */
  alloc(): number {
    for (let t = 0; t < this.#top.length; t++) {
      const top = this.#top[t]!;
      if (top === 0) continue;
      const s = t * 32 + lowestBit(top);
      const w = s * 32 + lowestBit(this.#summary[s]!);
      const index = w * 32 + lowestBit(this.#bits[w]!);
      this.#clear(index);
      return this.#base + index;
    }
    return -1;
  }

  /** The lowest free, aligned run of 512 frames: its first frame, or -1. */
  allocHuge(): number {
    const chunk = this.#chunkFree.indexOf(HUGE_FRAMES);
    if (chunk < 0) return -1;
    const index = chunk * HUGE_FRAMES;
    for (let i = 0; i < HUGE_FRAMES; i++) this.#clear(index + i);
    return this.#base + index;
  }

  free(frame: Pfn): void {
    const index = frame - this.#base;
    if (frame < this.first || frame >= this.end) throw new BugError(`pfn ${frame} is not of this pool`);
    const w = index >>> 5;
    const s = w >>> 5;
    this.#bits[w] = this.#bits[w]! | (1 << (index & 31));
    this.#summary[s] = this.#summary[s]! | (1 << (w & 31));
    this.#top[s >>> 5] = this.#top[s >>> 5]! | (1 << (s & 31));
    const chunk = index >>> HUGE_ORDER;
    this.#chunkFree[chunk] = this.#chunkFree[chunk]! + 1;
    this.#free++;
  }

  #clear(index: number): void {
    const w = index >>> 5;
    const rest = this.#bits[w]! & ~(1 << (index & 31));
    this.#bits[w] = rest;
    const chunk = index >>> HUGE_ORDER;
    this.#chunkFree[chunk] = this.#chunkFree[chunk]! - 1;
    this.#free--;
    if (rest !== 0) return;
    const s = w >>> 5;
    const summary = this.#summary[s]! & ~(1 << (w & 31));
    this.#summary[s] = summary;
    if (summary === 0) this.#top[s >>> 5] = this.#top[s >>> 5]! & ~(1 << (s & 31));
  }
}
