// SPDX-License-Identifier: GPL-2.0-only
/** A seeded stream of random numbers for the nested fuzzer: xorshift over 32 bits, the same on every machine. */

export class Rng {
  #state: number;

  constructor(seed: number) {
    // No two small seeds begin alike, and none begins with zero.
    this.#state = (Math.imul(seed + 1, 0x9e37_79b1) ^ 0x5bd1_e995) | 1;
    for (let i = 0; i < 4; i++) this.u32();
  }

  /** 32 bits, unsigned. */
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }

  /** 0 to n - 1. */
  below(n: number): number {
    return this.u32() % n;
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.u32() & 0xff);
  }
}
