// SPDX-License-Identifier: GPL-2.0-only
/**
 * The three 256-bit vector registers of a local APIC: IRR, ISR, TMR. Finds the highest bit without a scan when there is
 * none. SDM, "Interrupt Acceptance for Fixed Interrupts".
 */
import { APIC_REG } from '../../../lib/x86/apic.ts';

export class ApicVectors {
  readonly #page: Int32Array;
  #pending = 0;
  #inService = 0;

  /** `page`: the APIC's register page, 1024 words. */
  constructor(page: Int32Array) {
    this.#page = page;
  }

  /** Count the bits again after the page was loaded from outside. */
  recount(): void {
    this.#pending = this.#count(APIC_REG.IRR);
    this.#inService = this.#count(APIC_REG.ISR);
  }

  /** The highest vector in IRR, or -1. */
  highestPending(): number {
    return this.#pending === 0 ? -1 : this.#highest(APIC_REG.IRR);
  }

  /** The highest vector in ISR, or 0: the value that the PPR is made from. */
  highestInService(): number {
    return this.#inService === 0 ? 0 : Math.max(this.#highest(APIC_REG.ISR), 0);
  }

  requestEdge(vector: number): void {
    this.#change(APIC_REG.TMR, vector, 0);
    this.#pending += this.#change(APIC_REG.IRR, vector, 1);
  }

  requestLevel(vector: number): void {
    this.#change(APIC_REG.TMR, vector, 1);
    this.#pending += this.#change(APIC_REG.IRR, vector, 1);
  }

  /** Move a vector from IRR to ISR. */
  accept(vector: number): void {
    this.#pending -= this.#change(APIC_REG.IRR, vector, 0);
    this.#inService += this.#change(APIC_REG.ISR, vector, 1);
  }

  /** A request that is not to be served: clear it in IRR. */
  cancel(vector: number): void {
    this.#pending -= this.#change(APIC_REG.IRR, vector, 0);
  }

  /** Clear the highest vector of ISR and return it, or -1. */
  endOfInterrupt(): number {
    if (this.#inService === 0) return -1;
    const vector = this.#highest(APIC_REG.ISR);
    this.#inService -= this.#change(APIC_REG.ISR, vector, 0);
    return vector;
  }

  isLevel(vector: number): boolean {
    return (this.#page[wordOf(APIC_REG.TMR, vector)]! & (1 << (vector & 31))) !== 0;
  }

  /** Set or clear one bit; 1 if it changed. */
  #change(base: number, vector: number, value: 0 | 1): number {
    const word = wordOf(base, vector);
    const bit = 1 << (vector & 31);
    const old = this.#page[word]!;
    const now = value === 1 ? old | bit : old & ~bit;
    this.#page[word] = now;
    return old === now ? 0 : 1;
  }

  #highest(base: number): number {
    return highestVector(this.#page, base >> 2);
  }

  #count(base: number): number {
    let count = 0;
    for (let vector = 0; vector < 256; vector++) {
      if ((this.#page[wordOf(base, vector)]! & (1 << (vector & 31))) !== 0) count++;
    }
    return count;
  }
}

/** The highest vector of the 256-bit register at a word of a register page, or -1; ones where there is no memory. */
export function highestVector(words: Int32Array, first: number): number {
  for (let n = 7; n >= 0; n--) {
    const bits = words[first + n * 4] ?? -1;
    if (bits !== 0) return n * 32 + 31 - Math.clz32(bits);
  }
  return -1;
}

function wordOf(base: number, vector: number): number {
  return (base >> 2) + (vector >> 5) * 4;
}
