// SPDX-License-Identifier: GPL-2.0-only
/**
 * Virtual memory areas of a process, after mm/vma.c: sorted, not overlapping. Anonymous neighbours of equal flags merge.
 * Leaves out the maple tree, anon_vma and accounting.
 */
import { PAGE_SIZE } from '../../../lib/x86/addr.ts';

/** PROT_* of mmap(). */
// prettier-ignore
export const PROT = { NONE: 0x0, READ: 0x1, WRITE: 0x2, EXEC: 0x4 } as const;

/** vm_flags, with the kernel's values. */
// prettier-ignore
export const VM = {
  READ: 0x1, WRITE: 0x2, EXEC: 0x4, SHARED: 0x8,
  PFNMAP:     0x400,       // frames without a struct page
  HUGEPAGE:   0x2000_0000, // madvise(MADV_HUGEPAGE)
  NOHUGEPAGE: 0x4000_0000,
} as const;

/** The vm_flags that PROT_* bits decide. */
export const VM_ACCESS_FLAGS = VM.READ | VM.WRITE | VM.EXEC;

/** What a shared area maps: see BackingFile. */
export interface MappedFile {
  readonly name: string;
  /** Its frames have a struct page. */
  readonly managed: boolean;
  readonly nrPages: number;
  /** How many address spaces ever mapped it. */
  readonly nrMappers: number;
  peek(index: number): number;
  frame(index: number): number;
  replace(index: number, frame: number): void;
}

export class Vma {
  /** Byte addresses, page aligned; end exclusive. */
  start: number;
  end: number;
  flags: number;
  /** Null for anonymous memory. */
  readonly file: MappedFile | null;
  /** Page index in the file of `start`. */
  pgoff: number;

  constructor(start: number, end: number, flags: number, file: MappedFile | null, pgoff: number) {
    this.start = start;
    this.end = end;
    this.flags = flags;
    this.file = file;
    this.pgoff = pgoff;
  }

  /** Page index in the file of an address of the area. */
  fileIndex(address: number): number {
    return this.pgoff + Math.floor((address - this.start) / PAGE_SIZE);
  }
}

export class VmaList {
  readonly #list: Vma[] = [];
  #hint: Vma | null = null;

  get size(): number {
    return this.#list.length;
  }

  /** All areas in order of address. */
  all(): readonly Vma[] {
    return this.#list;
  }

  /** vma_lookup(): the area that contains `address`, or null. */
  find(address: number): Vma | null {
    const hint = this.#hint;
    if (hint !== null && address >= hint.start && address < hint.end) return hint;
    const vma = this.#list[this.#indexAfter(address) - 1];
    if (vma === undefined || address >= vma.end) return null;
    this.#hint = vma;
    return vma;
  }

  /** The areas that overlap [start, end), in order. */
  overlapping(start: number, end: number): Vma[] {
    let first = this.#indexAfter(start);
    if (first > 0 && this.#list[first - 1]!.end > start) first--;
    let last = first;
    while (last < this.#list.length && this.#list[last]!.start < end) last++;
    return this.#list.slice(first, last);
  }

  /** Add an area where there is none; it may become part of its anonymous neighbour. */
  insert(vma: Vma): Vma {
    const at = this.#indexAfter(vma.start);
    const before = this.#list[at - 1];
    if (before !== undefined && canMerge(before, vma)) {
      before.end = vma.end;
      return before;
    }
    this.#list.splice(at, 0, vma);
    return vma;
  }

  remove(vma: Vma): void {
    const at = this.#indexAfter(vma.start) - 1;
    if (this.#list[at] === vma) this.#list.splice(at, 1);
    if (this.#hint === vma) this.#hint = null;
  }

  /** Split areas so that `address` is a border; no effect where it is one already. */
  splitAt(address: number): void {
    const vma = this.find(address);
    if (vma === null || vma.start === address) return;
    const upper = new Vma(address, vma.end, vma.flags, vma.file, vma.fileIndex(address));
    vma.end = address;
    this.#list.splice(this.#indexAfter(vma.start), 0, upper);
  }

  /** Index of the first area that starts above `address`. */
  #indexAfter(address: number): number {
    const list = this.#list;
    let low = 0;
    let high = list.length;
    if (high !== 0 && list[high - 1]!.start <= address) return high;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if (list[mid]!.start <= address) low = mid + 1;
      else high = mid;
    }
    return low;
  }
}

function canMerge(before: Vma, after: Vma): boolean {
  return (
    before.file === null && after.file === null && before.end === after.start && before.flags === after.flags
  );
}
