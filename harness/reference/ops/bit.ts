// SPDX-License-Identifier: GPL-2.0-only
/**
 * Bit instructions of the reference interpreter. SDM, "BT", "BTS", "BTR", "BTC", "BSF", "BSR", "POPCNT", "LZCNT",
 * "TZCNT", "BSWAP". A bit offset in a register reaches memory on both sides of the operand's address.
 */
import { bit, signed, type Size, truncate } from '../bits.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { UNDEFINED } from '../undefined_flags.ts';

const BIT_OPS = ['bt', 'bts', 'btr', 'btc'] as const;
type BitOp = (typeof BIT_OPS)[number];

function changed(op: BitOp, value: bigint, n: number): bigint {
  const mask = 1n << BigInt(n);
  if (op === 'bts') return value | mask;
  if (op === 'btr') return value & ~mask;
  return op === 'btc' ? value ^ mask : value;
}

function applyBit(x: Exec, op: BitOp, value: bigint, n: number): bigint {
  x.setFlag('CF', bit(value, n));
  x.undefinedFlags |= UNDEFINED.BIT_TEST;
  return changed(op, value, n);
}

/** Memory operand at `address`. */
function bitInMemory(x: Exec, op: BitOp, address: bigint, n: number, size: Size): void {
  const place = x.linear.place(address, size, op === 'bt' ? 'read' : 'write', x.operandSegment);
  const result = applyBit(x, op, x.linear.get(place), n);
  if (op !== 'bt') x.linear.set(place, result);
}

function bitInRegister(x: Exec, op: BitOp, n: number, size: Size): void {
  const result = applyBit(x, op, x.getRm(size), n);
  if (op !== 'bt') x.setRm(size, result);
}

const byRegister =
  (op: BitOp): Decode =>
  (x) => {
    x.lockable = x.isMemory && op !== 'bt';
    return () => {
      const size = x.operandSize;
      const bits = BigInt(8 * size);
      const offset = signed(x.getReg(x.modrm.reg, size), size);
      const n = Number(offset & (bits - 1n));
      if (!x.isMemory) {
        bitInRegister(x, op, n, size);
        return;
      }
      // The unit of memory that holds the bit: the offset divided by the operand size, rounded down.
      const unit = (offset - BigInt(n)) / bits;
      const effective = truncate(x.effectiveAddress() + unit * BigInt(size), x.addressSize);
      bitInMemory(x, op, x.withSegment(effective), n, size);
    };
  };

const byImmediate: Decode = (x) => {
  const { digit } = x;
  const immediate = x.immediate(1);
  if (digit < 4) x.invalid();
  const op = BIT_OPS[digit - 4]!;
  x.lockable = x.isMemory && op !== 'bt';
  return () => {
    const size = x.operandSize;
    const n = Number(immediate) % (8 * size);
    if (x.isMemory) bitInMemory(x, op, x.operandAddress(), n, size);
    else bitInRegister(x, op, n, size);
  };
};

function lowestBit(value: bigint): number {
  let n = 0;
  while (bit(value, n) === 0) n++;
  return n;
}

function highestBit(value: bigint): number {
  return value.toString(2).length - 1;
}

/** BSF and BSR. A source of zero leaves the destination undefined. */
function bitScan(x: Exec, find: (value: bigint) => number): void {
  const size = x.operandSize;
  const value = x.getRm(size);
  x.setFlag('ZF', value === 0n);
  x.undefinedFlags |= UNDEFINED.BIT_SCAN;
  if (value === 0n) x.undefinedReg = x.modrm.reg;
  else x.setReg(x.modrm.reg, size, BigInt(find(value)));
}

/** LZCNT and TZCNT: the number of zeroes, the operand's size if there is no one. */
function countZeroes(x: Exec, count: (value: bigint, bits: number) => number): void {
  const size = x.operandSize;
  const value = x.getRm(size);
  const result = value === 0n ? 8 * size : count(value, 8 * size);
  x.setReg(x.modrm.reg, size, BigInt(result));
  x.setFlag('CF', value === 0n);
  x.setFlag('ZF', result === 0);
  x.undefinedFlags |= UNDEFINED.LZCNT_TZCNT;
}

const bsfOrTzcnt: Decode = (x) => {
  x.needModRm();
  return x.repeat === 0xf3 ? () => countZeroes(x, lowestBit) : () => bitScan(x, lowestBit);
};

const bsrOrLzcnt: Decode = (x) => {
  x.needModRm();
  const leading = (value: bigint, bits: number): number => bits - 1 - highestBit(value);
  return x.repeat === 0xf3 ? () => countZeroes(x, leading) : () => bitScan(x, highestBit);
};

const popcnt: Decode = (x) => {
  if (x.repeat !== 0xf3) x.beyond('JMPE or 0F B8 without F3');
  x.needModRm();
  return () => {
    const value = x.getRm(x.operandSize);
    let ones = 0n;
    for (let n = 0; n < 64; n++) ones += (value >> BigInt(n)) & 1n;
    x.setReg(x.modrm.reg, x.operandSize, ones);
    for (const name of ['CF', 'PF', 'AF', 'SF', 'OF'] as const) x.setFlag(name, false);
    x.setFlag('ZF', value === 0n);
  };
};

const bswap =
  (n: number): Decode =>
  (x) =>
  () => {
    const reg = n | (x.rexBit('b') << 3);
    const size = x.operandSize;
    if (size === 2) {
      x.undefinedReg = reg;
      return;
    }
    let value = x.getReg(reg, size);
    let result = 0n;
    for (let k = 0; k < size; k++, value >>= 8n) result = (result << 8n) | (value & 0xffn);
    x.setReg(reg, size, result);
  };

/** Rows of bit instructions. */
export const BIT_ROWS: readonly OpRow[] = [
  [0x0fa3, byRegister('bt')],
  [0x0fab, byRegister('bts')],
  [0x0fb3, byRegister('btr')],
  [0x0fbb, byRegister('btc')],
  [0x0fba, byImmediate],
  [0x0fbc, bsfOrTzcnt],
  [0x0fbd, bsrOrLzcnt],
  [0x0fb8, popcnt],
  ...[0, 1, 2, 3, 4, 5, 6, 7].map((n): OpRow => [0x0fc8 + n, bswap(n)]),
];
