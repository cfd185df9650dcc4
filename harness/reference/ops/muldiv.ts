// SPDX-License-Identifier: GPL-2.0-only
/** Multiplication and division of the reference interpreter. SDM, "MUL", "IMUL", "DIV", "IDIV". */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { GPR } from '../../../lib/x86/registers.ts';
import { signed, type Size, truncate } from '../bits.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { GuestException } from '../outcome.ts';
import { UNDEFINED } from '../undefined_flags.ts';
import { unary } from './alu.ts';

/** The register pair of a double-width operand: AX for bytes, else rDX:rAX. */
function setPair(x: Exec, value: bigint, size: Size): void {
  if (size === 1) x.setReg(GPR.RAX, 2, truncate(value, 2));
  else {
    x.setReg(GPR.RAX, size, truncate(value, size));
    x.setReg(GPR.RDX, size, truncate(value >> BigInt(8 * size), size));
  }
}

function getPair(x: Exec, size: Size): bigint {
  if (size === 1) return x.getReg(GPR.RAX, 2);
  return (x.getReg(GPR.RDX, size) << BigInt(8 * size)) | x.getReg(GPR.RAX, size);
}

function overflowFlags(x: Exec, overflow: boolean): void {
  x.setFlag('CF', overflow);
  x.setFlag('OF', overflow);
  x.undefinedFlags |= UNDEFINED.MUL_IMUL;
}

function multiply(x: Exec, size: Size): void {
  const product = x.getRm(size) * x.getReg(GPR.RAX, size);
  setPair(x, product, size);
  overflowFlags(x, product >> BigInt(8 * size) !== 0n);
}

function signedMultiply(x: Exec, size: Size): void {
  const product = signed(x.getRm(size), size) * signed(x.getReg(GPR.RAX, size), size);
  setPair(x, truncate(product, 2 * size), size);
  overflowFlags(x, product !== signed(truncate(product, size), size));
}

/** AL, AH for bytes; rAX, rDX else. */
function setQuotient(x: Exec, quotient: bigint, remainder: bigint, size: Size): void {
  const q = truncate(quotient, size);
  const r = truncate(remainder, size);
  if (size === 1) x.setReg(GPR.RAX, 2, (r << 8n) | q);
  else {
    x.setReg(GPR.RAX, size, q);
    x.setReg(GPR.RDX, size, r);
  }
  x.undefinedFlags |= UNDEFINED.DIV_IDIV;
  x.extra = 'div';
}

function divide(x: Exec, size: Size): void {
  const divisor = x.getRm(size);
  if (divisor === 0n) throw new GuestException(VECTOR.DE);
  const dividend = getPair(x, size);
  if (dividend / divisor !== truncate(dividend / divisor, size)) throw new GuestException(VECTOR.DE);
  setQuotient(x, dividend / divisor, dividend % divisor, size);
}

function signedDivide(x: Exec, size: Size): void {
  const divisor = signed(x.getRm(size), size);
  if (divisor === 0n) throw new GuestException(VECTOR.DE);
  const dividend = signed(getPair(x, size), 2 * size);
  const quotient = dividend / divisor;
  if (quotient !== signed(truncate(quotient, size), size)) throw new GuestException(VECTOR.DE);
  setQuotient(x, quotient, dividend % divisor, size);
}

const BY_DIGIT = [multiply, signedMultiply, divide, signedDivide];

/** F6 and F7. */
const group3 =
  (size: (x: Exec) => Size): Decode =>
  (x) => {
    if (x.digit < 4) return unary(x, size(x));
    const op = BY_DIGIT[x.digit - 4]!;
    return () => op(x, size(x));
  };

function truncatingMultiply(x: Exec, size: Size, a: bigint, b: bigint): void {
  const product = signed(a, size) * signed(b, size);
  x.setReg(x.modrm.reg, size, truncate(product, size));
  overflowFlags(x, product !== signed(truncate(product, size), size));
}

const imulRegRm: Decode = (x) => {
  x.needModRm();
  return () => {
    const source = x.getRm(x.operandSize);
    truncatingMultiply(x, x.operandSize, x.getReg(x.modrm.reg, x.operandSize), source);
  };
};

const imulRegRmImmediate =
  (read: (x: Exec) => bigint): Decode =>
  (x) => {
    x.needModRm();
    const value = read(x);
    return () => truncatingMultiply(x, x.operandSize, x.getRm(x.operandSize), value);
  };

/** Rows of multiplication and division; F6 and F7 as a whole. */
export const MULDIV_OPS: readonly OpRow[] = [
  [0xf6, group3(() => 1)],
  [0xf7, group3((x) => x.operandSize)],
  [0x69, imulRegRmImmediate((x) => x.immediateZ(x.operandSize))],
  [0x6b, imulRegRmImmediate((x) => x.signedImmediate(1, x.operandSize))],
  [0x0faf, imulRegRm],
];
