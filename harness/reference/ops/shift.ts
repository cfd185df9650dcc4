// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shifts and rotates of the reference interpreter, one bit at a time as the SDM's Operation sections have them.
 * SDM, "SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", "SHLD", "SHRD".
 */
import { GPR } from '../../../lib/x86/registers.ts';
import { bit, signOf, type Size, truncate } from '../bits.ts';
import type { Exec, OpRow } from '../exec.ts';
import { UNDEFINED } from '../undefined_flags.ts';

/** The count is masked to 5 bits, to 6 with a 64-bit operand. */
function maskCount(count: bigint, size: Size): number {
  return Number(count & (size === 8 ? 63n : 31n));
}

/** RCL and RCR rotate through CF: SIZE + 1 bits. 8- and 16-bit counts are taken modulo that. */
function throughCarry(x: Exec, value: bigint, masked: number, size: Size, left: boolean): bigint {
  const bits = 8 * size;
  const count = size <= 2 ? masked % (bits + 1) : masked;
  let result = value;
  for (let n = 0; n < count; n++) {
    const carry = x.flag('CF') ? 1n : 0n;
    if (left) {
      x.setFlag('CF', signOf(result, size));
      result = truncate((result << 1n) | carry, size);
    } else {
      x.setFlag('CF', bit(result, 0));
      result = (result >> 1n) | (carry << BigInt(bits - 1));
    }
  }
  return result;
}

function rotate(x: Exec, value: bigint, masked: number, size: Size, left: boolean): bigint {
  const bits = 8 * size;
  let result = value;
  for (let n = 0; n < masked % bits; n++) {
    result = left
      ? truncate(result << 1n, size) | BigInt(signOf(result, size))
      : (result >> 1n) | ((result & 1n) << BigInt(bits - 1));
  }
  x.setFlag('CF', left ? bit(result, 0) : signOf(result, size));
  return result;
}

function rotateOp(x: Exec, digit: number, value: bigint, masked: number, size: Size): bigint {
  const left = (digit & 1) === 0;
  const result =
    digit < 2 ? rotate(x, value, masked, size, left) : throughCarry(x, value, masked, size, left);
  // The manual's rules for one bit, in terms of the result: RCR's MSB(DEST) XOR CF is of the value before.
  if (masked !== 1) x.undefinedFlags |= UNDEFINED.ROTATE_MANY;
  else if (left) x.setFlag('OF', signOf(result, size) !== (x.flag('CF') ? 1 : 0));
  else x.setFlag('OF', signOf(result, size) !== bit(result, 8 * size - 2));
  return result;
}

function shiftOp(x: Exec, digit: number, value: bigint, masked: number, size: Size): bigint {
  let result = value;
  for (let n = 0; n < masked; n++) {
    x.setFlag('CF', digit === 5 || digit === 7 ? bit(result, 0) : signOf(result, size));
    if (digit === 5) result >>= 1n;
    else if (digit === 7) result = truncate(BigInt.asIntN(8 * size, result) >> 1n, size);
    else result = truncate(result << 1n, size);
  }
  x.setResultFlags(result, size);
  x.undefinedFlags |= UNDEFINED.SHIFT;
  if (masked !== 1) x.undefinedFlags |= UNDEFINED.SHIFT_MANY;
  else if (digit === 7) x.setFlag('OF', false);
  else if (digit === 5) x.setFlag('OF', signOf(value, size));
  else x.setFlag('OF', signOf(result, size) !== (x.flag('CF') ? 1 : 0));
  if (digit !== 7 && masked >= 8 * size) x.undefinedFlags |= UNDEFINED.SHIFT_ALL_OUT;
  return result;
}

/** Group 2. Digit 6 is SHL as well, on every processor. */
const group2 =
  (size: (x: Exec) => Size, count: 'one' | 'cl' | 'imm8') =>
  (x: Exec): (() => void) => {
    const { digit } = x;
    const immediate = count === 'imm8' ? x.immediate(1) : 1n;
    return () => {
      const by = maskCount(count === 'cl' ? x.getReg(GPR.RCX, 8) : immediate, size(x));
      const op = digit < 4 ? rotateOp : shiftOp;
      x.modifyRm(size(x), (old) => (by === 0 ? old : op(x, digit, old, by, size(x))));
    };
  };

function doubleShift(x: Exec, a: bigint, b: bigint, count: number, size: Size, left: boolean): bigint {
  const bits = 8 * size;
  if (count > bits) {
    x.undefinedFlags |= UNDEFINED.DOUBLE_SHIFT_OVER;
    if (x.isMemory) x.undefinedPlace = x.modified;
    else x.undefinedReg = x.modrm.rm;
    return a;
  }
  const wide = left ? (a << BigInt(bits)) | b : (b << BigInt(bits)) | a;
  const result = truncate(left ? wide >> BigInt(bits - count) : wide >> BigInt(count), size);
  x.setFlag('CF', left ? bit(a, bits - count) : bit(a, count - 1));
  x.setResultFlags(result, size);
  x.undefinedFlags |= UNDEFINED.DOUBLE_SHIFT;
  if (count === 1) x.setFlag('OF', signOf(a, size) !== signOf(result, size));
  else x.undefinedFlags |= UNDEFINED.DOUBLE_SHIFT_MANY;
  return result;
}

const shd =
  (left: boolean, count: 'cl' | 'imm8') =>
  (x: Exec): (() => void) => {
    x.needModRm();
    const immediate = count === 'imm8' ? x.immediate(1) : 0n;
    return () => {
      const size = x.operandSize;
      const by = maskCount(count === 'cl' ? x.getReg(GPR.RCX, 8) : immediate, size);
      const source = x.getReg(x.modrm.reg, size);
      x.modifyRm(size, (old) => (by === 0 ? old : doubleShift(x, old, source, by, size, left)));
    };
  };

/** Rows of shifts and rotates. */
export const SHIFT_OPS: readonly OpRow[] = [
  [0xc0, group2(() => 1, 'imm8')],
  [0xc1, group2((x) => x.operandSize, 'imm8')],
  [0xd0, group2(() => 1, 'one')],
  [0xd1, group2((x) => x.operandSize, 'one')],
  [0xd2, group2(() => 1, 'cl')],
  [0xd3, group2((x) => x.operandSize, 'cl')],
  [0x0fa4, shd(true, 'imm8')],
  [0x0fa5, shd(true, 'cl')],
  [0x0fac, shd(false, 'imm8')],
  [0x0fad, shd(false, 'cl')],
];
