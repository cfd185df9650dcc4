// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the emulated instructions compute, on bigints: the integer operations that compiled code and device drivers do on
 * memory. After arch/x86/kvm/emulate.c, 6.12. SDM, "Instruction Set Reference".
 */
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { OP } from '../../machine/cpu/decode/ops.ts';

/** A result to be written back (undefined: none) and RFLAGS after it. */
export interface OpResult {
  readonly value: bigint | undefined;
  readonly rflags: number;
}

const ARITH = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

function parity(value: bigint): number {
  let byte = Number(value & 0xffn);
  byte ^= byte >> 4;
  byte ^= byte >> 2;
  byte ^= byte >> 1;
  return (byte & 1) === 0 ? RFLAGS.PF : 0;
}

const signed = (bits: number, v: bigint): bigint => BigInt.asIntN(bits, v);

function logicFlags(bits: number, value: bigint): number {
  return parity(value) | (value === 0n ? RFLAGS.ZF : 0) | (signed(bits, value) < 0n ? RFLAGS.SF : 0);
}

function addFlags(bits: number, a: bigint, b: bigint, carry: bigint): { value: bigint; flags: number } {
  const value = BigInt.asUintN(bits, a + b + carry);
  const overflow = signed(bits, a) + signed(bits, b) + carry !== signed(bits, value);
  const flags =
    logicFlags(bits, value) |
    ((a + b + carry) >> BigInt(bits) !== 0n ? RFLAGS.CF : 0) |
    (((a ^ b ^ value) & 0x10n) !== 0n ? RFLAGS.AF : 0) |
    (overflow ? RFLAGS.OF : 0);
  return { value, flags };
}

function subFlags(bits: number, a: bigint, b: bigint, borrow: bigint): { value: bigint; flags: number } {
  const value = BigInt.asUintN(bits, a - b - borrow);
  const overflow = signed(bits, a) - signed(bits, b) - borrow !== signed(bits, value);
  const flags =
    logicFlags(bits, value) |
    (a < b + borrow ? RFLAGS.CF : 0) |
    (((a ^ b ^ value) & 0x10n) !== 0n ? RFLAGS.AF : 0) |
    (overflow ? RFLAGS.OF : 0);
  return { value, flags };
}

/** Operations with two operands, `a` the destination; undefined if the emulator does not know the operation. */
export function emulateBinary(
  op: number,
  bytes: number,
  a: bigint,
  b: bigint,
  rflags: number,
): OpResult | undefined {
  const bits = bytes * 8;
  const carry = (rflags & RFLAGS.CF) !== 0 ? 1n : 0n;
  const keep = rflags & ~ARITH;
  const logic = (value: bigint): OpResult => ({ value, rflags: keep | logicFlags(bits, value) });
  switch (op) {
    case OP.ADD:
    case OP.ADC: {
      const { value, flags } = addFlags(bits, a, b, op === OP.ADC ? carry : 0n);
      return { value, rflags: keep | flags };
    }
    case OP.SUB:
    case OP.SBB:
    case OP.CMP: {
      const { value, flags } = subFlags(bits, a, b, op === OP.SBB ? carry : 0n);
      return { value: op === OP.CMP ? undefined : value, rflags: keep | flags };
    }
    case OP.AND:
      return logic(a & b);
    case OP.OR:
      return logic(a | b);
    case OP.XOR:
      return logic(a ^ b);
    case OP.TEST:
      return { value: undefined, rflags: logic(a & b).rflags };
    default:
      return undefined;
  }
}

/** Operations with one operand. */
export function emulateUnary(op: number, bytes: number, a: bigint, rflags: number): OpResult | undefined {
  const bits = bytes * 8;
  const keepCf = rflags & (~ARITH | RFLAGS.CF);
  switch (op) {
    case OP.NOT:
      return { value: BigInt.asUintN(bits, ~a), rflags };
    case OP.NEG: {
      const { value, flags } = subFlags(bits, 0n, a, 0n);
      return { value, rflags: (rflags & ~ARITH) | flags };
    }
    case OP.INC: {
      const { value, flags } = addFlags(bits, a, 1n, 0n);
      return { value, rflags: keepCf | (flags & ~RFLAGS.CF) };
    }
    case OP.DEC: {
      const { value, flags } = subFlags(bits, a, 1n, 0n);
      return { value, rflags: keepCf | (flags & ~RFLAGS.CF) };
    }
    default:
      return undefined;
  }
}
