// SPDX-License-Identifier: GPL-2.0-only
/** Seeded random numbers for the differential test: SplitMix32. The same seed gives the same program for ever. */

/** Corner values of operands. */
// prettier-ignore
const CORNERS: readonly bigint[] = [
  0n, 1n, 2n, 7n, 8n, 15n, 16n, 31n, 32n, 33n, 63n, 64n, 0x7fn, 0x80n, 0xffn, 0x100n, 0x7fffn, 0x8000n, 0xffffn,
  0x1_0000n, 0x7fff_ffffn, 0x8000_0000n, 0xffff_ffffn, 0x1_0000_0000n, 0x7fff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n,
  0xffff_ffff_ffff_ffffn, 0xffff_ffff_ffff_fff8n, 0xffff_ffff_ffff_ff80n, 0xffff_ffff_8000_0000n,
];

export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** 32 random bits, unsigned. */
  next(): number {
    this.#state = (this.#state + 0x9e37_79b9) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0_aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a_2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  /** 0 .. n - 1. */
  below(n: number): number {
    return this.next() % n;
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** 64 random bits. */
  bits64(): bigint {
    return (BigInt(this.next()) << 32n) | BigInt(this.next());
  }

  /** A 64-bit value that is likely to be interesting. */
  value(): bigint {
    const kind = this.below(4);
    if (kind === 0) return this.pick(CORNERS);
    if (kind === 1) return BigInt(this.below(256));
    if (kind === 2) return BigInt.asUintN(64, this.pick(CORNERS) + BigInt(this.below(5) - 2));
    return this.bits64() >> BigInt(this.below(64));
  }
}
