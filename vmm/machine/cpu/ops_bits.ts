// SPDX-License-Identifier: GPL-2.0-only
/**
 * Bit tests, bit scans, counts and byte swap. SDM, "BT", "BSF", "BSR", "LZCNT", "TZCNT", "POPCNT", "BSWAP". Undefined:
 * BT and relatives change CF only; BSF and BSR of zero leave the destination, their other flags are clear; BSWAP of a
 * 16-bit register gives zero.
 */
import { RFLAGS } from '../../../lib/x86/registers.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { FORM, OP } from './decode/ops.ts';
import { arithFlags, setArithFlags } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { payForLock } from './ops_alu.ts';
import {
  addSegmentBase,
  addTo,
  closeRm,
  offsetAddress,
  openRm,
  prepare,
  readPrepared,
  readReg,
  writePrepared,
  writeReg,
} from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S, SEGN } from './state.ts';

const { A, B, ADDR } = SCRATCH;

/** Memory bit string: the register's whole signed value selects the bit; open the operand-size unit that holds it. */
function openBitString(cpu: Cpu, x: DecodedInsn, kind: number): boolean {
  const { s } = cpu;
  readReg(s, x.reg, x.size, B);
  offsetAddress(cpu, x);
  const log2Bits = x.size === 2 ? 4 : x.size === 4 ? 5 : 6;
  const low = s[B]! & ~((1 << log2Bits) - 1);
  const high = s[B + 1]!;
  addTo(s, ADDR, (low >>> 3) | (high << 29), high >> 3);
  if (x.addressSize === 4) s[ADDR + 1] = 0;
  addSegmentBase(cpu, ADDR, x.seg);
  const access = x.seg === SEGN.SS ? kind | ACCESS.STACK : kind;
  if (!prepare(cpu, s[ADDR]!, s[ADDR + 1]!, x.size, access)) return false;
  readPrepared(cpu, x.size, A);
  return true;
}

/** BT BTS BTR BTC. */
export function bitTestOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const kind = x.op === OP.BT ? ACCESS.READ : ACCESS.WRITE;
  const isString = x.rm < 0 && x.form === FORM.RM_R;
  if (!(isString ? openBitString(cpu, x, kind) : openRm(cpu, x, x.size, A, kind))) return DONE.FAULT;
  if (x.form === FORM.RM_R) readReg(s, x.reg, x.size, B);
  else s[B] = x.immLo;
  const n = s[B]! & (x.size * 8 - 1);
  const at = A + (n >> 5);
  const mask = 1 << (n & 31);
  const bit = (s[at]! & mask) === 0 ? 0 : 1;
  if (x.op === OP.BTS) s[at] = s[at]! | mask;
  else if (x.op === OP.BTR) s[at] = s[at]! & ~mask;
  else if (x.op === OP.BTC) s[at] = s[at]! ^ mask;
  if (x.op !== OP.BT) {
    if (isString) writePrepared(cpu, x.size, s[A]!, s[A + 1]!);
    else closeRm(cpu, x, x.size, s[A]!, s[A + 1]!);
  }
  setArithFlags(s, (arithFlags(s) & ~RFLAGS.CF) | bit);
  payForLock(cpu, x);
  return DONE.NEXT;
}

function maskOperand(s: Int32Array, at: number, size: number): void {
  if (size < 8) s[at + 1] = 0;
  if (size < 4) s[at] = s[at]! & ((1 << (size * 8)) - 1);
}

/** Leading zeros of the 64-bit pair. */
const leadingZeros = (lo: number, hi: number): number => (hi !== 0 ? Math.clz32(hi) : 32 + Math.clz32(lo));

function trailingZeros(lo: number, hi: number): number {
  if (lo !== 0) return 31 - Math.clz32(lo & -lo);
  return hi === 0 ? 64 : 63 - Math.clz32(hi & -hi);
}

function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x5555_5555);
  v = (v & 0x3333_3333) + ((v >>> 2) & 0x3333_3333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}

function count(x: DecodedInsn, lo: number, hi: number): number {
  const bits = x.size * 8;
  switch (x.op) {
    case OP.BSF:
      return trailingZeros(lo, hi);
    case OP.BSR:
      return 63 - leadingZeros(lo, hi);
    case OP.TZCNT:
      return Math.min(trailingZeros(lo, hi), bits);
    case OP.LZCNT:
      return leadingZeros(lo, hi) - (64 - bits);
    default:
      return popcount(lo) + popcount(hi);
  }
}

/** BSF BSR TZCNT LZCNT POPCNT. */
export function bitScanOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  if (!openRm(cpu, x, x.size, A, ACCESS.READ)) return DONE.FAULT;
  maskOperand(s, A, x.size);
  const isZero = (s[A]! | s[A + 1]!) === 0;
  const scan = x.op === OP.BSF || x.op === OP.BSR;
  if (scan && isZero) {
    setArithFlags(s, RFLAGS.ZF);
    return DONE.NEXT;
  }
  const result = count(x, s[A]!, s[A + 1]!);
  writeReg(s, x.reg, x.size, result, 0);
  const zf = !scan && result === 0 ? RFLAGS.ZF : 0;
  const cf = (x.op === OP.TZCNT || x.op === OP.LZCNT) && isZero ? RFLAGS.CF : 0;
  setArithFlags(s, zf | cf);
  return DONE.NEXT;
}

const swapWord = (w: number): number => (w << 24) | ((w & 0xff00) << 8) | ((w >>> 8) & 0xff00) | (w >>> 24);

/** BSWAP; no flags. */
export function bswapOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const lo = s[S.GPR + 2 * x.rm]!;
  const hi = s[S.GPR + 2 * x.rm + 1]!;
  if (x.size === 8) writeReg(s, x.rm, 8, swapWord(hi), swapWord(lo));
  else writeReg(s, x.rm, x.size, x.size === 4 ? swapWord(lo) : 0, 0);
  return DONE.NEXT;
}
