// SPDX-License-Identifier: GPL-2.0-only
/**
 * Loads and stores of the reference interpreter at linear addresses: canonical check, one translation for each page
 * touched, all of them before the first byte is written. SDM, "Canonical Addressing", "Page Translation".
 */
import { CR4 } from '../../lib/x86/registers.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import type { RefMemory } from './memory.ts';
import { GuestException } from './outcome.ts';
import type { Access, RefPaging } from './paging.ts';
import type { RefState } from './state.ts';

/** Whether a non-canonical address is a stack fault or a general-protection fault. */
export type Segment = 'data' | 'stack';

/** Physical addresses of an operand's bytes, first byte first. */
export type Place = readonly number[];

export class Linear {
  readonly #state: RefState;
  readonly #memory: RefMemory;
  readonly #paging: RefPaging;

  constructor(state: RefState, memory: RefMemory, paging: RefPaging) {
    this.#state = state;
    this.#memory = memory;
    this.#paging = paging;
  }

  /** Whether bits 63:47 (63:56 with 5-level paging) of the address are equal. */
  isCanonical(linear: bigint): boolean {
    const bits = (this.#state.cr4 & CR4.LA57) !== 0 ? 57 : 48;
    return BigInt.asUintN(64, BigInt.asIntN(bits, linear)) === BigInt.asUintN(64, linear);
  }

  /** Translate an operand of `size` bytes; throws the first fault. */
  place(linear: bigint, size: number, access: Access, segment: Segment): Place {
    const out: number[] = [];
    let page = -1n;
    let physical = 0;
    for (let n = 0; n < size; n++) {
      const at = BigInt.asUintN(64, linear + BigInt(n));
      if (at >> 12n !== page) {
        this.#checkCanonical(at, segment);
        physical = this.#paging.translate(at, access);
        page = at >> 12n;
      } else physical++;
      out.push(physical);
    }
    return out;
  }

  /** Little-endian value of a translated operand. */
  get(place: Place): bigint {
    let value = 0n;
    for (let n = place.length - 1; n >= 0; n--) value = (value << 8n) | BigInt(this.#memory.byte(place[n]!));
    return value;
  }

  /** Store a value into a translated operand. */
  set(place: Place, value: bigint): void {
    place.forEach((at, n) => {
      this.#memory.setByte(at, Number((value >> BigInt(8 * n)) & 0xffn));
    });
  }

  /** Load `size` bytes. */
  load(linear: bigint, size: number, segment: Segment): bigint {
    return this.get(this.place(linear, size, 'read', segment));
  }

  /** Store `size` bytes. */
  store(linear: bigint, size: number, value: bigint, segment: Segment): void {
    this.set(this.place(linear, size, 'write', segment), value);
  }

  #checkCanonical(linear: bigint, segment: Segment): void {
    if (!this.isCanonical(linear)) throw new GuestException(segment === 'stack' ? VECTOR.SS : VECTOR.GP);
  }
}
