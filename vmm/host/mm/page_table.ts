// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page tables of a host process: entries by 2 MiB of address space. Not in machine memory: the host's own userspace runs
 * as TypeScript, so no CPU ever walks them. Entries are int32: flags below, frame number above.
 * DEVIATION: only the leaf levels exist (a table of 4 KiB entries, or one 2 MiB entry), and tables cost no frames.
 */
import { PAGE_SIZE_2M } from '../../../lib/x86/addr.ts';

/** Flags of an entry. A zero entry is empty. */
// prettier-ignore
export const PTE = {
  PRESENT:   0x01,
  WRITE:     0x02,
  ACCESSED:  0x04,
  DIRTY:     0x08,
  PROTNONE:  0x10, // keeps its frame, but the area allows no access
  SPECIAL:   0x20, // no struct page behind it
  MIGRATION: 0x40, // the frame is being moved: wait
  HUGE:      0x80, // 2 MiB
} as const;

const PFN_SHIFT = 8;
export const PTRS_PER_TABLE = 512;

export const ptePfn = (pte: number): number => pte >>> PFN_SHIFT;
export const makePte = (pfn: number, flags: number): number => (pfn << PFN_SHIFT) | flags;
/** Index of an address in its table. */
export const pteIndex = (address: number): number => Math.floor(address / 4096) & (PTRS_PER_TABLE - 1);

/** The entries of 2 MiB of address space. */
export class PteTable {
  readonly entries = new Int32Array(PTRS_PER_TABLE);
  /** One entry for all of it, or 0. */
  huge = 0;
  /** Entries in use. */
  used = 0;

  /** The entry that maps `address`, in 4 KiB terms. */
  get(address: number): number {
    return this.huge === 0 ? this.entries[pteIndex(address)]! : this.huge + (pteIndex(address) << PFN_SHIFT);
  }

  set(index: number, pte: number): void {
    const old = this.entries[index]!;
    this.used += (pte === 0 ? 0 : 1) - (old === 0 ? 0 : 1);
    this.entries[index] = pte;
  }

  /** Replace the 2 MiB entry by 512 of 4 KiB. */
  splitHuge(): void {
    const pte = this.huge & ~PTE.HUGE;
    for (let i = 0; i < PTRS_PER_TABLE; i++) this.entries[i] = pte + (i << PFN_SHIFT);
    this.huge = 0;
    this.used = PTRS_PER_TABLE;
  }
}

export class PageTable {
  readonly #tables = new Map<number, PteTable>();
  #lastKey = -1;
  #last: PteTable | undefined;

  /** The table of an address, if there is one. */
  table(address: number): PteTable | undefined {
    const key = Math.floor(address / PAGE_SIZE_2M);
    if (key !== this.#lastKey) {
      this.#last = this.#tables.get(key);
      this.#lastKey = key;
    }
    return this.#last;
  }

  tableAlloc(address: number): PteTable {
    const known = this.table(address);
    if (known !== undefined) return known;
    const table = new PteTable();
    this.#tables.set(this.#lastKey, table);
    this.#last = table;
    return table;
  }

  /** The entry of an address, or 0. */
  get(address: number): number {
    return this.table(address)?.get(address) ?? 0;
  }

  /** Drop a table that became empty. */
  free(address: number): void {
    this.#tables.delete(Math.floor(address / PAGE_SIZE_2M));
    this.#lastKey = -1;
  }

  get nrTables(): number {
    return this.#tables.size;
  }
}
