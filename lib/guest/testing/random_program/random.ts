// SPDX-License-Identifier: GPL-2.0-only
/** Where random programs take their numbers from. */

/** A seeded source of small numbers (xorshift). */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = (seed * 0x9e3779b1 + 1) >>> 0 || 1;
    for (let i = 0; i < 8; i++) this.next();
  }

  next(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return this.state;
  }

  below(n: number): number {
    return this.next() % n;
  }

  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bits(): bigint {
    const value = (BigInt(this.next()) << 32n) | BigInt(this.next());
    // Small, large and special values in turns.
    return [value, value & 0xffn, BigInt.asUintN(64, -(value & 0xffn)), 1n << (value & 63n)][this.below(4)]!;
  }
}
