// SPDX-License-Identifier: GPL-2.0-only
/**
 * Arithmetic of operands for the reference interpreter: unsigned bigints of 1, 2, 4, 8 or 16 bytes. Plain on purpose:
 * nothing here is shared with the machine's own helpers, so that an error shows up as a difference.
 */

/** Size of an operand in bytes. */
export type Size = 1 | 2 | 4 | 8;

/** All bits of an operand of `size` bytes. */
export function maskOf(size: number): bigint {
  return (1n << BigInt(8 * size)) - 1n;
}

/** The most significant bit of an operand of `size` bytes: 0 or 1. */
export function signOf(value: bigint, size: number): number {
  return Number((value >> BigInt(8 * size - 1)) & 1n);
}

/** `value` cut to `size` bytes, unsigned. */
export function truncate(value: bigint, size: number): bigint {
  return BigInt.asUintN(8 * size, value);
}

/** `value` of `from` bytes, sign-extended to `to` bytes, unsigned. */
export function signExtend(value: bigint, from: number, to: number): bigint {
  return BigInt.asUintN(8 * to, BigInt.asIntN(8 * from, value));
}

/** `value` of `size` bytes as a signed number. */
export function signed(value: bigint, size: number): bigint {
  return BigInt.asIntN(8 * size, value);
}

/** Bit `n` of `value`: 0 or 1. */
export function bit(value: bigint, n: number): number {
  return Number((value >> BigInt(n)) & 1n);
}

/** Whether the least significant byte has an even number of ones: 1 or 0. SDM, "EFLAGS Register", PF. */
export function parity(value: bigint): number {
  let ones = 0;
  for (let n = 0; n < 8; n++) ones += bit(value, n);
  return ones % 2 === 0 ? 1 : 0;
}
