// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which bits of a guest's table entries are reserved, by level and page-size bit. Mirrors struct rsvd_bits_validate,
 * __reset_rsvds_bits_mask() and __reset_rsvds_bits_mask_ept() of arch/x86/kvm/mmu/mmu.c, 6.12, for 64-bit entries.
 */
import { PG_LEVEL } from '../../../lib/x86/paging.ts';

const LEVELS = 5;

/** Masks as pairs of words, lo first: [page-size bit][level - 1]. */
export class RsvdBitsValidate {
  readonly masks = new Int32Array(2 * LEVELS * 2);
  /** Combinations of bits 5:0 of an EPT entry that do not exist: bit n stands for the combination n. */
  readonly badMtXwr = new Int32Array(2);

  /** __is_rsvd_bits_set() and __is_bad_mt_xwr(). */
  isSet(lo: number, hi: number, level: number): boolean {
    const at = 2 * (((lo >>> 7) & 1) * LEVELS + level - 1);
    if (((this.masks[at]! & lo) | (this.masks[at + 1]! & hi)) !== 0) return true;
    return ((this.badMtXwr[(lo >>> 5) & 1]! >>> (lo & 31)) & 1) !== 0;
  }
}

/** Bits first..last of a 64-bit entry, as words. */
function bits(first: number, last: number): readonly [number, number] {
  let lo = 0;
  let hi = 0;
  for (let bit = first; bit <= last; bit++) {
    if (bit < 32) lo |= 1 << bit;
    else hi |= 1 << (bit - 32);
  }
  return [lo, hi];
}

type Range = readonly [number, number];

/** Set both masks of a level: `table` for an entry with bit 7 clear, `leaf` with bit 7 set; both get `high`. */
function setLevel(check: RsvdBitsValidate, level: number, high: number, table: Range[], leaf: Range[]): void {
  for (const [ps, ranges] of [table, leaf].entries()) {
    let lo = 0;
    let hi = high;
    for (const [first, last] of ranges) {
      const [rangeLo, rangeHi] = bits(first, last);
      lo |= rangeLo;
      hi |= rangeHi;
    }
    const at = 2 * (ps * LEVELS + level - 1);
    check.masks[at] = lo;
    check.masks[at + 1] = hi;
  }
}

const PS: Range = [7, 7];

/** Combinations of write without read, memory types 2, 3 and 7, and execute-only where it is not offered. */
function setBadMtXwr(check: RsvdBitsValidate, execonly: boolean): void {
  check.badMtXwr.fill(0);
  for (let n = 0; n < 64; n++) {
    const memoryType = n >>> 3;
    const rights = n & 7;
    const bad = [2, 3, 7].includes(memoryType) || rights === 2 || rights === 6 || (rights === 4 && !execonly);
    if (bad) check.badMtXwr[n >>> 5]! |= 1 << (n & 31);
  }
}

/** High word: physical-address bits from `maxphyaddr` up to 51. */
const highReserved = (maxphyaddr: number): number => bits(maxphyaddr, 51)[1];

/** __reset_rsvds_bits_mask_ept(). */
export function resetRsvdsBitsMaskEpt(
  check: RsvdBitsValidate,
  maxphyaddr: number,
  eptCaps: { readonly execonly: boolean; readonly hugePageLevel: number },
): void {
  const high = highReserved(maxphyaddr);
  const no1g: Range[] = eptCaps.hugePageLevel < PG_LEVEL.L1G ? [PS] : [];
  const no2m: Range[] = eptCaps.hugePageLevel < PG_LEVEL.L2M ? [PS] : [];
  for (const level of [5, 4]) setLevel(check, level, high, [[3, 7]], [[3, 7]]);
  setLevel(check, 3, high, [[3, 6], ...no1g], [[12, 29], ...no1g]);
  setLevel(check, 2, high, [[3, 6], ...no2m], [[12, 20], ...no2m]);
  setLevel(check, 1, high, [], []);
  setBadMtXwr(check, eptCaps.execonly);
}

/** __reset_rsvds_bits_mask() for 64-bit paging. */
export function resetRsvdsBitsMask64(
  check: RsvdBitsValidate,
  maxphyaddr: number,
  has: { readonly nx: boolean; readonly gbpages: boolean },
): void {
  const high = highReserved(maxphyaddr) | (has.nx ? 0 : 0x8000_0000 | 0);
  const no1g: Range[] = has.gbpages ? [] : [PS];
  for (const level of [5, 4]) setLevel(check, level, high, [PS], [PS]);
  setLevel(check, 3, high, no1g, [...no1g, [13, 29]]);
  setLevel(check, 2, high, [], [[13, 20]]);
  setLevel(check, 1, high, [], []);
  check.badMtXwr.fill(0);
}
