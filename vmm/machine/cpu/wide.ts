// SPDX-License-Identifier: GPL-2.0-only
/** 64-bit arithmetic on pairs of 32-bit words that JavaScript has no operator for. */

/** High word of the unsigned product of two words. */
export function mulHigh(a: number, b: number): number {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const t = ah * bl + (Math.imul(al, bl) >>> 16);
  const u = al * bh + (t & 0xffff);
  return (ah * bh + Math.floor(t / 0x10000) + Math.floor(u / 0x10000)) | 0;
}

/** Low and high words of a shifted pair; 0 < n < 64. `left` first, so that both shifts share a signature. */
export function shiftLeft(lo: number, hi: number, n: number): readonly [lo: number, hi: number] {
  if (n >= 32) return [0, lo << (n - 32)];
  return n === 0 ? [lo, hi] : [lo << n, (hi << n) | (lo >>> (32 - n))];
}

/** Shift right; `fill` is what comes in from above: 0, or hi >> 31. */
export function shiftRight(
  lo: number,
  hi: number,
  n: number,
  fill: number,
): readonly [lo: number, hi: number] {
  if (n === 0) return [lo, hi];
  if (n < 32) return [(lo >>> n) | (hi << (32 - n)), (hi >>> n) | (fill << (32 - n))];
  if (n === 32) return [hi, fill];
  return [(hi >>> (n - 32)) | (fill << (64 - n)), fill];
}

/** The 128-bit unsigned product of two pairs, as four words, low first. */
export function multiply(
  al: number,
  ah: number,
  bl: number,
  bh: number,
): readonly [w0: number, w1: number, w2: number, w3: number] {
  const low = (a: number, b: number): number => Math.imul(a, b) >>> 0;
  const high = (a: number, b: number): number => mulHigh(a, b) >>> 0;
  const t1 = high(al, bl) + low(al, bh) + low(ah, bl);
  const t2 = high(al, bh) + high(ah, bl) + low(ah, bh) + Math.floor(t1 / 0x1_0000_0000);
  const w3 = high(ah, bh) + Math.floor(t2 / 0x1_0000_0000);
  return [Math.imul(al, bl), t1 | 0, t2 | 0, w3 | 0];
}

/** Unsigned 64-bit value of a pair. */
export const toBig = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
export const lowWord = (v: bigint): number => Number(BigInt.asIntN(32, v));
export const highWord = (v: bigint): number => Number(BigInt.asIntN(32, v >> 32n));
