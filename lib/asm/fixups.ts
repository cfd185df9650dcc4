// SPDX-License-Identifier: GPL-2.0-only
/**
 * Fixups: fields whose value depends on where a symbol ends up. Models the x86-64 psABI's relocation arithmetic
 * (S + A, S + A - P); the kinds are its R_X86_64_64, _32, _32S, _PC32 and _PC8.
 */
import { AsmError } from './errors.ts';

/** `abs64` S+A, `abs32` the same zero-extended, `abs32s` sign-extended, `rel32` and `rel8` S+A-P. */
export type FixupKind = 'abs64' | 'abs32' | 'abs32s' | 'rel32' | 'rel8';

/** A field to fill in. For the relative kinds the addend includes the distance from the field to the next instruction. */
export interface Fixup {
  readonly offset: number;
  readonly kind: FixupKind;
  readonly symbol: string;
  readonly addend: number;
}

const FIELD: Readonly<Record<FixupKind, { bytes: number; min: bigint; max: bigint }>> = {
  abs64: { bytes: 8, min: -(1n << 63n), max: (1n << 64n) - 1n },
  abs32: { bytes: 4, min: 0n, max: (1n << 32n) - 1n },
  abs32s: { bytes: 4, min: -(1n << 31n), max: (1n << 31n) - 1n },
  rel32: { bytes: 4, min: -(1n << 31n), max: (1n << 31n) - 1n },
  rel8: { bytes: 1, min: -128n, max: 127n },
};

const valueOf = ({ kind, addend, offset }: Fixup, base: bigint, target: bigint): bigint => {
  const sum = target + BigInt(addend);
  if (kind === 'rel32' || kind === 'rel8') return BigInt.asIntN(64, sum - (base + BigInt(offset)));
  return kind === 'abs32s' ? BigInt.asIntN(64, sum) : BigInt.asUintN(64, sum);
};

/** Writes the field of an image that lies at `base`, now that its symbol is known to be at `target`. */
export const applyFixup = (bytes: Uint8Array, fixup: Fixup, base: bigint, target: bigint): void => {
  const field = FIELD[fixup.kind];
  const value = valueOf(fixup, base, target);
  if (value < field.min || value > field.max) {
    const text = value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
    throw new AsmError(
      fixup.symbol,
      `${fixup.kind} field at offset 0x${fixup.offset.toString(16)} cannot hold ${text}`,
    );
  }
  let rest = BigInt.asUintN(64, value);
  for (let i = 0; i < field.bytes; i++, rest >>= 8n) bytes[fixup.offset + i] = Number(rest & 0xffn);
};
