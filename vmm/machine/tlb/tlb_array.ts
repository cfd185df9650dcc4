// SPDX-License-Identifier: GPL-2.0-only
/**
 * The modelled TLB: records of entry.ts in one buffer, found by a hash over page and group, listed by space so that a
 * flush costs what it drops. Replacement is set-associative FIFO, without state that changes on hits, or none at all
 * (a table that grows). Constants are local because the optimiser folds only those.
 * DEVIATION: one array for all page sizes, no first level, no paging-structure caches.
 */
import { FAST_TLB_ENTRIES } from '../layout.ts';
import { ENTRY, ENTRY_F64, ENTRY_WORDS, pageOffsetMask } from './entry.ts';

/** How the array replaces: sets and ways, or `sets: 0` to grow for ever, or `ways: 0` to keep nothing. */
export interface TlbShape {
  readonly sets: number;
  readonly ways: number;
}

/** Memory for an array whose size is known: a part of a buffer, zeroed. */
export interface TlbStorage {
  readonly buffer: ArrayBuffer;
  readonly offset: number;
  readonly size: number;
}

/** Words at the front of the index. */
// prettier-ignore
export const INDEX = {
  USED: 0,       // valid records
  USED_LARGE: 1, // ... of large pages
  EVICTIONS: 2,  // records evicted by replacement
  MOVED: 3,      // the index lies elsewhere now
  BUCKETS: 4,
} as const;

const { USED, USED_LARGE, EVICTIONS, MOVED, BUCKETS } = INDEX;
const { KEY_HI, SPACE, NEXT, BEFORE, AFTER, HASH, RAM } = ENTRY;
const STRIDE = ENTRY_WORDS * 1;
const FAST_MASK = FAST_TLB_ENTRIES - 1;
const FIRST_CAPACITY = 1024;
const FIRST_SPACES = 64;
/** In a TlbStorage. */
const STORED_SPACES = 1024;
/** The hash of a page: its number, its high word and its group by these factors. */
export const HASH_FACTOR = { HI: 0x2545f491, GROUP: 0x61c88647 } as const;
const HI_FACTOR = HASH_FACTOR.HI;
const GROUP_FACTOR = HASH_FACTOR.GROUP;

export class TlbArray {
  /** Records as words, and the same bytes as doubles. Replaced when the array grows: read the field each time. */
  i: Int32Array;
  f: Float64Array;
  /** By slot of the fast TLB: the record that it stands for, or -1. */
  readonly fastRecord: Int32Array;
  /** Called when a record goes that the fast TLB's slot stands for. */
  onDropFast: (slot: number) => void = () => {};
  readonly shape: TlbShape;
  /**
   * The index, in one array because each array costs: INDEX, hash buckets (first record or -1), then two words for each set
   * (next way, ways in use), then two for each space (first record or -1, number of records).
   */
  #x: Int32Array;
  #mask: number;
  #setBase: number;
  #spaceBase: number;
  readonly #sets: number;
  readonly #ways: number;
  #capacity: number;
  #top = 0;
  #free = -1;

  /** `storage` is used for sets and ways only. */
  constructor(shape: TlbShape, storage?: TlbStorage) {
    this.shape = shape;
    this.#sets = shape.sets;
    this.#ways = shape.ways;
    this.#capacity = shape.sets === 0 ? FIRST_CAPACITY : shape.sets * shape.ways;
    const bytes = this.#capacity * STRIDE * 4;
    const stored = shape.sets > 0 && shape.ways > 0 ? storage : undefined;
    const buffer = stored?.buffer ?? new ArrayBuffer(bytes);
    const offset = stored?.offset ?? 0;
    this.i = new Int32Array(buffer, offset, bytes / 4);
    this.f = new Float64Array(buffer, offset, bytes / 8);
    this.fastRecord =
      stored === undefined
        ? new Int32Array(FAST_TLB_ENTRIES)
        : new Int32Array(buffer, offset + bytes, FAST_TLB_ENTRIES);
    this.fastRecord.fill(-1);
    for (let b = 0; b < this.i.length; b += STRIDE) this.i[b + SPACE] = -1;
    this.#x = new Int32Array(0);
    this.#mask = this.#setBase = this.#spaceBase = 0;
    if (stored === undefined) this.#layOutIndex(FIRST_SPACES);
    else this.#layOutIndex(STORED_SPACES, { ...stored, offset: offset + bytes + FAST_TLB_ENTRIES * 4 });
  }

  /** Number of valid records, and of those of large pages. */
  get used(): number {
    return this.#x[USED]!;
  }
  get usedLarge(): number {
    return this.#x[USED_LARGE]!;
  }
  /** Records evicted by replacement. */
  get evictions(): number {
    return this.#x[EVICTIONS]!;
  }
  /** The index and where its parts begin: for quick_walk.ts, which does insert() by itself. */
  get layout(): {
    readonly index: Int32Array;
    readonly mask: number;
    readonly sets: number;
    readonly spaces: number;
  } {
    return { index: this.#x, mask: this.#mask, sets: this.#setBase, spaces: this.#spaceBase };
  }

  /** Whether insert() keeps anything. */
  get keeps(): boolean {
    return this.#capacity > 0;
  }

  /** The record (its first word) that translates the address in `space` or `global`, or -1. Changes nothing. */
  lookup(lo: number, hi: number, group: number, space: number, global: number): number {
    const i = this.i;
    const key = lo & ~0xfff;
    const hash = (lo >>> 12) + Math.imul(hi, HI_FACTOR) + Math.imul(group, GROUP_FACTOR);
    let b = this.#x[BUCKETS + (hash & this.#mask)]!;
    while (b >= 0) {
      if (i[b] === key && i[b + KEY_HI] === hi) {
        const tag = i[b + SPACE]!;
        if (tag === space || tag === global) return b;
      }
      b = i[b + NEXT]!;
    }
    return this.usedLarge === 0 ? -1 : this.#lookupLarge(lo, hi, group, space, global);
  }

  #lookupLarge(lo: number, hi: number, group: number, space: number, global: number): number {
    const i = this.i;
    for (let code = 1; code <= 2; code++) {
      const shift = 12 + 9 * code;
      const key = (lo & (-1 << shift)) | code;
      const hash = (lo >>> shift) + Math.imul(hi, HI_FACTOR) + Math.imul(group, GROUP_FACTOR);
      for (let b = this.#x[BUCKETS + (hash & this.#mask)]!; b >= 0; b = i[b + NEXT]!) {
        const tag = i[b + SPACE]!;
        if (i[b] === key && i[b + KEY_HI] === hi && (tag === space || tag === global)) return b;
      }
    }
    return -1;
  }

  /** A record for a page that has none; the caller fills PERM, SEQ and what follows. May evict another. */
  insert(lo: number, hi: number, code: number, group: number, space: number): number {
    const shift = 12 + 9 * code;
    const page = lo >>> shift;
    const b = this.#sets === 0 ? this.#allot() : this.#replace(page | (hi << (32 - shift)));
    if (this.#spaceBase + 2 * space >= this.#x.length) this.#layOutIndex(2 * space);
    const i = this.i;
    const x = this.#x;
    const hash = (page + Math.imul(hi, HI_FACTOR) + Math.imul(group, GROUP_FACTOR)) | 0;
    const bucket = BUCKETS + (hash & this.#mask);
    const before = i[b + SPACE]!;
    // An evicted record keeps its place in the list if the new one is of the same space.
    if (before !== space) {
      if (before >= 0) this.#leaveSpace(b, before);
      this.#joinSpace(b, space);
    }
    i[b] = (lo & (-1 << shift)) | code;
    i[b + KEY_HI] = hi;
    i[b + SPACE] = space;
    i[b + HASH] = hash;
    i[b + NEXT] = x[bucket]!;
    x[bucket] = b;
    x[USED]!++;
    if (code !== 0) x[USED_LARGE]!++;
    return b;
  }

  /** Drop one record. */
  remove(b: number): void {
    this.#unlink(b);
    this.#leaveSpace(b, this.i[b + SPACE]!);
    this.i[b + SPACE] = -1;
    if (this.#sets === 0) {
      this.i[b + NEXT] = this.#free;
      this.#free = b;
    } else {
      this.#x[this.#setBase + 2 * ((b / STRIDE) & (this.#sets - 1)) + 1]!--;
    }
  }

  /** Records of a space. */
  countOf(space: number): number {
    return this.#x[this.#spaceBase + 2 * space + 1] ?? 0;
  }

  /** The first record of a space, or -1; follow ENTRY.AFTER. */
  firstOf(space: number): number {
    return this.#x[this.#spaceBase + 2 * space] ?? -1;
  }

  /** Drop all records of a space; how many there were. */
  dropSpace(space: number): number {
    const dropped = this.countOf(space);
    for (let n = 0; n < dropped; n++) this.remove(this.firstOf(space));
    return dropped;
  }

  /** Drop every record of `space` that translates the address, whatever its size; how many there were. */
  dropAddress(lo: number, hi: number, group: number, space: number): number {
    if (this.countOf(space) === 0) return 0;
    let dropped = 0;
    for (let b = this.lookup(lo, hi, group, space, space); b >= 0; dropped++) {
      this.remove(b);
      b = this.lookup(lo, hi, group, space, space);
    }
    return dropped;
  }

  #joinSpace(b: number, space: number): void {
    const i = this.i;
    const x = this.#x;
    const list = this.#spaceBase + 2 * space;
    const head = x[list]!;
    i[b + BEFORE] = -1;
    i[b + AFTER] = head;
    if (head >= 0) i[head + BEFORE] = b;
    x[list] = b;
    x[list + 1]!++;
  }

  #leaveSpace(b: number, space: number): void {
    const i = this.i;
    const x = this.#x;
    const list = this.#spaceBase + 2 * space;
    const before = i[b + BEFORE]!;
    const after = i[b + AFTER]!;
    if (before >= 0) i[before + AFTER] = after;
    else x[list] = after;
    if (after >= 0) i[after + BEFORE] = before;
    x[list + 1]!--;
  }

  /** Take a record out of its hash chain and the fast TLB; it stays in the list of its space. */
  #unlink(b: number): void {
    const i = this.i;
    const x = this.#x;
    const key = i[b]!;
    if ((key & 3) !== 0) this.#dropFastLarge(b);
    else if (this.fastRecord[(key >>> 12) & FAST_MASK] === b) this.onDropFast((key >>> 12) & FAST_MASK);
    const bucket = BUCKETS + (i[b + HASH]! & this.#mask);
    let at = x[bucket]!;
    if (at === b) x[bucket] = i[b + NEXT]!;
    else {
      while (i[at + NEXT] !== b) at = i[at + NEXT]!;
      i[at + NEXT] = i[b + NEXT]!;
    }
    x[USED]!--;
  }

  #dropFastLarge(b: number): void {
    this.#x[USED_LARGE]!--;
    for (let slot = 0; slot < FAST_TLB_ENTRIES; slot++) {
      if (this.fastRecord[slot] === b) this.onDropFast(slot);
    }
  }

  /** A free way of the page's set, or the one that was filled first. */
  #replace(page: number): number {
    const x = this.#x;
    const set = page & (this.#sets - 1);
    const at = this.#setBase + 2 * set;
    let way = x[at]!;
    let b = (way * this.#sets + set) * STRIDE;
    if (x[at + 1] === this.#ways) {
      x[EVICTIONS]!++;
      this.#unlink(b);
    } else {
      x[at + 1]!++;
      while (this.i[b + SPACE]! >= 0) {
        way = way + 1 === this.#ways ? 0 : way + 1;
        b = (way * this.#sets + set) * STRIDE;
      }
    }
    x[at] = way + 1 === this.#ways ? 0 : way + 1;
    return b;
  }

  /** A record of the growing table. */
  #allot(): number {
    if (this.#free >= 0) {
      const b = this.#free;
      this.#free = this.i[b + NEXT]!;
      return b;
    }
    if (this.#top === this.#capacity) this.#grow();
    return this.#top++ * STRIDE;
  }

  /** Double the capacity; all records are in use. */
  #grow(): void {
    this.#capacity *= 2;
    const buffer = new ArrayBuffer(this.#capacity * STRIDE * 4);
    const i = new Int32Array(buffer);
    i.fill(-1, this.i.length);
    i.set(this.i);
    this.i = i;
    this.f = new Float64Array(buffer);
    this.#layOutIndex((this.#x.length - this.#spaceBase) / 2);
    for (let b = 0; b < this.#top * STRIDE; b += STRIDE) {
      const bucket = BUCKETS + (i[b + HASH]! & this.#mask);
      i[b + NEXT] = this.#x[bucket]!;
      this.#x[bucket] = b;
    }
  }

  /** (Re)build the index for the present capacity and so many spaces; chains survive if the capacity does. */
  #layOutIndex(spaces: number, storage?: TlbStorage): void {
    let buckets = 1;
    while (buckets < this.#capacity * 2) buckets *= 2;
    const old = this.#x;
    const oldSpaces = old.subarray(this.#spaceBase);
    const setBase = BUCKETS + buckets;
    const sameChains = setBase === this.#setBase;
    const spaceBase = setBase + 2 * this.#sets;
    const length = spaceBase + 2 * spaces;
    const x =
      storage === undefined ? new Int32Array(length) : new Int32Array(storage.buffer, storage.offset, length);
    x.set(old.subarray(0, BUCKETS));
    x.fill(-1, BUCKETS, setBase);
    if (old.length > 0) old[MOVED] = 1;
    if (sameChains) x.set(old.subarray(0, this.#spaceBase));
    for (let n = 0; n < 2 * spaces; n += 2) {
      x[spaceBase + n] = oldSpaces[n] ?? -1;
      x[spaceBase + n + 1] = oldSpaces[n + 1] ?? 0;
    }
    this.#x = x;
    this.#mask = buckets - 1;
    this.#setBase = setBase;
    this.#spaceBase = spaceBase;
  }
}

/** Note where a record's page lies; `ram` is the end of RAM. */
export function setRecordHpa(tlb: TlbArray, b: number, hpa: number, ram: number): void {
  tlb.i[b + RAM] = hpa < ram ? hpa : -1;
  if (hpa >= ram) tlb.f[(b >> 1) + ENTRY_F64.HPA] = hpa;
}

/** Host physical address of a record's page. */
export function recordBase(tlb: TlbArray, b: number): number {
  const ram = tlb.i[b + RAM]!;
  return ram >= 0 ? ram : tlb.f[(b >> 1) + ENTRY_F64.HPA]!;
}

/** Guest physical address of a record's page; without EPT the same. */
export function recordGpa(tlb: TlbArray, b: number): number {
  return tlb.i[b + ENTRY.EPTE_HPA]! < 0 ? recordBase(tlb, b) : tlb.f[(b >> 1) + ENTRY_F64.GPA]!;
}

/** Host physical address of `lo` by a record that translates it. */
export function recordHpa(tlb: TlbArray, b: number, lo: number): number {
  const { i } = tlb;
  const ram = i[b + RAM]!;
  const offset = lo & pageOffsetMask(i[b]! & 3);
  return ram >= 0 ? (ram + offset) | 0 : tlb.f[(b >> 1) + ENTRY_F64.HPA]! + offset;
}
