// SPDX-License-Identifier: GPL-2.0-only
/**
 * The address space in which random programs run: code, data, stack and awkward places, each page with rights of its own,
 * and the page tables that map them, as an image of the first bytes of RAM. SDM, "4-Level Paging and 5-Level Paging".
 * Everything is below USED_LOW or in the large page: those two ranges are compared after a program.
 */
import { PTE } from '../../lib/x86/paging.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import type { Random } from './random.ts';

/** Bytes of RAM; the used part below, and the start and length of the used part of the large page. */
export const RAM_BYTES = 0x40_0000;
export const USED_LOW = 0x3_0000;
export const LARGE_OFFSET = 0x20_0000;
export const LARGE_USED = 0x2000;

/** Linear addresses. */
export const CODE = 0x40_0000n;
export const CODE_PAGES = 2;
export const DATA = 0x60_0000n;
export const STACK = 0x80_0000n;
export const STACK_TOP = STACK + 0x2800n;
export const LARGE = 0x4000_0000n;
export const LOW_TOP = 0x7fff_ffff_f000n;
export const HIGH_BOTTOM = 0xffff_8000_0000_0000n;
export const HIGH_TOP = 0xffff_ffff_ffff_f000n;

/** What is random about a program's surroundings. */
export interface WorldOptions {
  readonly user: boolean;
  readonly la57: boolean;
}

const NX = 1n << 63n;
const key = (n: number): bigint => BigInt(n) << 59n;

interface PageRow {
  readonly linear: bigint;
  /** Bits besides P and the address; U/S is added for ordinary pages of a user program. */
  readonly flags: bigint;
  readonly mine: 'ordinary' | 'other';
}

const RW = BigInt(PTE.RW);

/** 4 KiB pages; what is not here is not mapped. `other`: a supervisor page for a user program, and the reverse. */
// prettier-ignore
const PAGES: readonly PageRow[] = [
  { linear: CODE,             flags: RW,          mine: 'ordinary' },
  { linear: CODE + 0x1000n,   flags: RW,          mine: 'ordinary' },
  { linear: DATA,             flags: RW,          mine: 'ordinary' },
  { linear: DATA + 0x1000n,   flags: RW,          mine: 'ordinary' },
  { linear: DATA + 0x2000n,   flags: 0n,          mine: 'ordinary' }, // read-only
  // DATA + 3 pages: nothing
  { linear: DATA + 0x4000n,   flags: RW | NX,     mine: 'ordinary' },
  { linear: DATA + 0x5000n,   flags: RW,          mine: 'other' },
  { linear: DATA + 0x6000n,   flags: RW | key(1), mine: 'ordinary' },
  { linear: DATA + 0x7000n,   flags: RW | key(2), mine: 'ordinary' },
  { linear: DATA + 0x8000n,   flags: RW | (1n << 51n), mine: 'ordinary' }, // a reserved bit
  { linear: STACK + 0x1000n,  flags: RW,          mine: 'ordinary' },
  { linear: STACK + 0x2000n,  flags: RW,          mine: 'ordinary' },
  { linear: 0n,               flags: RW,          mine: 'ordinary' },
  { linear: LOW_TOP,          flags: RW,          mine: 'ordinary' },
  { linear: HIGH_BOTTOM,      flags: RW,          mine: 'ordinary' },
  { linear: HIGH_TOP,         flags: RW,          mine: 'ordinary' },
];

/** Pages whose neighbourhood pointers are drawn from, the common ones repeated. */
// prettier-ignore
export const POINTER_PAGES: readonly bigint[] = [
  DATA, DATA, DATA, DATA, DATA + 0x1000n, DATA + 0x1000n, DATA + 0x2000n, DATA + 0x3000n, DATA + 0x4000n,
  DATA + 0x5000n, DATA + 0x6000n, DATA + 0x7000n, DATA + 0x8000n, STACK + 0x1000n, STACK + 0x2000n, LARGE, LARGE, CODE,
  CODE + 0x1000n, LOW_TOP, HIGH_BOTTOM, HIGH_TOP, 0n,
];

/** Builds page tables in an image that begins at RAM_BASE; tables first, then one frame for each page. */
class TableBuilder {
  readonly #view: DataView;
  readonly #levels: number;
  #next = 0x1000;

  constructor(image: Uint8Array, levels: number) {
    this.#view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    this.#levels = levels;
  }

  map(linear: bigint, physical: bigint, flags: bigint, leaf: number): void {
    let table = 0;
    for (let level = this.#levels; level > leaf; level--) {
      const at = table + this.#index(linear, level);
      const entry = this.#view.getBigUint64(at, true);
      if (entry === 0n) {
        // Upper levels allow everything; rights are the leaf's.
        this.#view.setBigUint64(at, BigInt(RAM_BASE + this.#next) | 7n, true);
        table = this.#next;
        this.#next += 0x1000;
      } else table = Number(entry & 0xf_ffff_ffff_f000n) - RAM_BASE;
    }
    this.#view.setBigUint64(table + this.#index(linear, leaf), physical | flags | 1n, true);
  }

  #index(linear: bigint, level: number): number {
    return Number((linear >> BigInt(3 + 9 * level)) & 511n) * 8;
  }
}

/** First frame behind the tables. */
const FRAMES_OFFSET = 0x1_8000;

/** Fill the start of `image` with page tables and random contents. The root is at RAM_BASE. */
export function buildWorld(image: Uint8Array, options: WorldOptions, random: Random): void {
  image.fill(0, 0, USED_LOW);
  const tables = new TableBuilder(image, options.la57 ? 5 : 4);
  const us = (mine: PageRow['mine']): bigint =>
    (mine === 'ordinary') === options.user ? BigInt(PTE.US) : 0n;
  PAGES.forEach(({ linear, flags, mine }, n) => {
    const frame = FRAMES_OFFSET + n * 0x1000;
    tables.map(linear, BigInt(RAM_BASE + frame), flags | us(mine), 1);
    const fill = linear >= CODE && linear < DATA ? () => 0xcccc_cccc : () => random.next();
    fillPage(image, frame, fill);
  });
  tables.map(LARGE, BigInt(RAM_BASE + LARGE_OFFSET), RW | us('ordinary') | BigInt(PTE.PS), 2);
  for (let k = 0; k < LARGE_USED; k += 0x1000) fillPage(image, LARGE_OFFSET + k, () => random.next());
}

/** 32 bits at a time. */
function fillPage(image: Uint8Array, offset: number, fill: () => number): void {
  const words = new Uint32Array(image.buffer, image.byteOffset + offset, 1024);
  for (let n = 0; n < words.length; n++) words[n] = fill();
}

/** Offset in the image of a byte of the code pages. */
export function codeOffset(linear: bigint): number {
  return FRAMES_OFFSET + Number(linear - CODE);
}
