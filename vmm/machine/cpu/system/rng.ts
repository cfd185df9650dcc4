// SPDX-License-Identifier: GPL-2.0-only
/** The machine's only source of randomness: xorshift128 from a seed. RDRAND, RDSEED and random replacement draw from it. */

export class Rng {
  #a: number;
  #b = 0x9e37_79b9;
  #c = 0x7f4a_7c15;
  #d = 0x1bd1_1bda;

  constructor(seed: number) {
    this.#a = seed | 0;
    for (let n = 0; n < 16; n++) this.next();
  }

  /** 32 random bits as int32. */
  next(): number {
    const t = this.#d ^ (this.#d << 11);
    this.#d = this.#c;
    this.#c = this.#b;
    this.#b = this.#a;
    this.#a = (this.#a ^ (this.#a >>> 19) ^ t ^ (t >>> 8)) | 0;
    return this.#a;
  }
}
