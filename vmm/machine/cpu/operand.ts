// SPDX-License-Identifier: GPL-2.0-only
/**
 * Operands of out-of-line operations: registers, effective addresses, memory by way of the MMU. Values are lo/hi words
 * in scratch words of cpu.s, sign-extended to 64 bits. Memory is translated before anything is written. SDM, "Operand
 * Addressing" and "Segmentation in 64-Bit Mode".
 */
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { HIGH_BYTE } from './decode/ops.ts';
import { FAST_TLB_ENTRIES, RAM_BASE } from '../layout.ts';
import { ACCESS } from '../mmu/access.ts';
import { isDataFast } from '../mmu/fast.ts';
import { translateAccess } from '../mmu/linear.ts';
import { SCRATCH } from './regs.ts';
import { S, SEG_WORDS, SEGN } from './state.ts';

const TWO_32 = 0x1_0000_0000;

/** s[at] += (lo, hi), 64 bits. */
export function addTo(s: Int32Array, at: number, lo: number, hi: number): void {
  const old = s[at]!;
  const sum = (old + lo) | 0;
  s[at] = sum;
  s[at + 1] = s[at + 1]! + hi + (sum >>> 0 < old >>> 0 ? 1 : 0);
}

/** Offset part of the effective address to s[SCRATCH.ADDR]: what LEA gives. RIP is at the instruction. */
export function offsetAddress(cpu: Cpu, x: DecodedInsn): void {
  const s = cpu.s;
  const at = SCRATCH.ADDR;
  s[at] = x.disp;
  s[at + 1] = x.dispHi;
  if (x.ripRelative) {
    addTo(s, at, s[S.RIP]!, s[S.RIP + 1]!);
    addTo(s, at, x.length, 0);
  }
  if (x.base >= 0) addTo(s, at, s[S.GPR + 2 * x.base]!, s[S.GPR + 2 * x.base + 1]!);
  if (x.index >= 0) {
    const lo = s[S.GPR + 2 * x.index]!;
    const hi = s[S.GPR + 2 * x.index + 1]!;
    addTo(s, at, lo << x.scale, (hi << x.scale) | ((lo >>> 1) >>> (31 - x.scale)));
  }
  if (x.addressSize === 4) s[at + 1] = 0;
}

/** Add the base of FS or GS; other segments have base 0 in 64-bit mode. */
export function addSegmentBase(cpu: Cpu, at: number, seg: number): void {
  if (seg !== SEGN.FS && seg !== SEGN.GS) return;
  const base = S.SEG + seg * SEG_WORDS;
  addTo(cpu.s, at, cpu.s[base]!, cpu.s[base + 1]!);
}

/** Linear address of the memory operand to s[SCRATCH.ADDR]. */
export function effectiveAddress(cpu: Cpu, x: DecodedInsn): void {
  offsetAddress(cpu, x);
  addSegmentBase(cpu, SCRATCH.ADDR, x.seg);
}

/** Translate `size` bytes at (lo, hi) for a later readPrepared() or writePrepared(). False: cpu.fault is set. */
export function prepare(cpu: Cpu, lo: number, hi: number, size: number, access: number): boolean {
  const s = cpu.s;
  const head = Math.min(size, 4096 - (lo & 0xfff));
  const isUsers = (access & ACCESS.SYSTEM) === 0;
  if (head === size && isUsers && isDataFast(cpu, lo, hi, access & ACCESS.KIND)) {
    setPrepared(s, (lo + cpu.fast.addend[(lo >>> 12) & (FAST_TLB_ENTRIES - 1)]!) | 0, size);
    return true;
  }
  const hpa = translateAccess(cpu, lo, hi, size, access);
  if (hpa < 0) return false;
  let second = 0;
  if (head < size) {
    const next = (lo + head) | 0;
    second = translateAccess(cpu, next, (next === 0 ? hi + 1 : hi) | 0, size, access);
    if (second < 0) return false;
  }
  s[SCRATCH.HEAD] = head;
  s[SCRATCH.HPA] = hpa;
  s[SCRATCH.HPA + 1] = hpa / TWO_32;
  s[SCRATCH.HPA2] = second;
  s[SCRATCH.HPA2 + 1] = second / TWO_32;
  return true;
}

/** As prepare(), for an address that is translated already and does not cross a page. */
export function setPrepared(s: Int32Array, hpa: number, size: number): void {
  s[SCRATCH.HEAD] = size;
  s[SCRATCH.HPA] = hpa;
  s[SCRATCH.HPA + 1] = hpa / TWO_32;
}

/** prepare() for the memory operand of `x`. */
export function prepareOperand(cpu: Cpu, x: DecodedInsn, size: number, kind: number): boolean {
  effectiveAddress(cpu, x);
  const access = x.seg === SEGN.SS ? kind | ACCESS.STACK : kind;
  return prepare(cpu, cpu.s[SCRATCH.ADDR]!, cpu.s[SCRATCH.ADDR + 1]!, size, access);
}

const preparedHpa = (s: Int32Array): number => (s[SCRATCH.HPA]! >>> 0) + s[SCRATCH.HPA + 1]! * TWO_32;

function byteHpa(s: Int32Array, n: number): number {
  const head = s[SCRATCH.HEAD]!;
  if (n < head) return preparedHpa(s) + n;
  return (s[SCRATCH.HPA2]! >>> 0) + s[SCRATCH.HPA2 + 1]! * TWO_32 + n - head;
}

/** Whether `size` bytes at a host physical address are RAM. */
export const isRam = (cpu: Cpu, hpa: number, size: number): boolean =>
  hpa >= RAM_BASE && hpa + size <= cpu.mem.size;

/** Read `size` (1, 2, 4, 8) prepared bytes, zero-extended, to s[out]. */
export function readPrepared(cpu: Cpu, size: number, out: number): void {
  const { s, mem } = cpu;
  const hpa = preparedHpa(s);
  s[out + 1] = 0;
  if (s[SCRATCH.HEAD]! < size) {
    readBytes(cpu, size, out);
    return;
  }
  if (!isRam(cpu, hpa, size)) {
    readDevice(cpu, hpa, size, out);
    return;
  }
  switch (size) {
    case 1:
      s[out] = mem.u8[hpa]!;
      return;
    case 2:
      s[out] = mem.view.getUint16(hpa, true);
      return;
    case 4:
      s[out] = mem.view.getInt32(hpa, true);
      return;
    default:
      s[out] = mem.view.getInt32(hpa, true);
      s[out + 1] = mem.view.getInt32(hpa + 4, true);
  }
}

function readDevice(cpu: Cpu, hpa: number, size: number, out: number): void {
  const value = new Int32Array(2);
  cpu.sys.mmioRead(hpa, size, value);
  cpu.s[out] = value[0]!;
  cpu.s[out + 1] = size === 8 ? value[1]! : 0;
}

function readBytes(cpu: Cpu, size: number, out: number): void {
  const { s } = cpu;
  const words = [0, 0];
  for (let n = 0; n < size; n++) {
    const hpa = byteHpa(s, n);
    if (isRam(cpu, hpa, 1)) s[out] = cpu.mem.u8[hpa]!;
    else readDevice(cpu, hpa, 1, out);
    words[n >> 2]! |= (s[out]! & 0xff) << ((n & 3) * 8);
  }
  s[out] = words[0]!;
  s[out + 1] = words[1]!;
}

/** Write `size` bytes where prepare() was asked for ACCESS.WRITE. */
export function writePrepared(cpu: Cpu, size: number, lo: number, hi: number): void {
  const { s, mem } = cpu;
  const hpa = preparedHpa(s);
  if (s[SCRATCH.HEAD]! < size) {
    writeBytes(cpu, size, lo, hi);
    return;
  }
  if (!isRam(cpu, hpa, size)) {
    cpu.sys.mmioWrite(hpa, size, lo, hi);
    return;
  }
  if (size === 1) mem.u8[hpa] = lo;
  else if (size === 2) mem.view.setUint16(hpa, lo & 0xffff, true);
  else mem.view.setInt32(hpa, lo, true);
  if (size === 8) mem.view.setInt32(hpa + 4, hi, true);
  if (cpu.code.hasCode(hpa >>> 12)) cpu.code.noteStore(hpa, size);
}

function writeBytes(cpu: Cpu, size: number, lo: number, hi: number): void {
  for (let n = 0; n < size; n++) {
    const hpa = byteHpa(cpu.s, n);
    const byte = ((n < 4 ? lo : hi) >>> ((n & 3) * 8)) & 0xff;
    if (!isRam(cpu, hpa, 1)) {
      cpu.sys.mmioWrite(hpa, 1, byte, 0);
      continue;
    }
    cpu.mem.u8[hpa] = byte;
    if (cpu.code.hasCode(hpa >>> 12)) cpu.code.noteStore(hpa, 1);
  }
}

/** Sign-extend the `size` low bytes of s[at] to 64 bits. */
export function signExtend(s: Int32Array, at: number, size: number): void {
  if (size === 8) return;
  const shift = 32 - size * 8;
  const lo = (s[at]! << shift) >> shift;
  s[at] = lo;
  s[at + 1] = lo >> 31;
}

/** A general-purpose register, sign-extended, to s[out]. */
export function readReg(s: Int32Array, reg: number, size: number, out: number): void {
  if (reg >= HIGH_BYTE) {
    s[out] = s[S.GPR + 2 * (reg - HIGH_BYTE)]! >> 8;
  } else {
    s[out] = s[S.GPR + 2 * reg]!;
    s[out + 1] = s[S.GPR + 2 * reg + 1]!;
  }
  signExtend(s, out, size);
}

/** Write a general-purpose register: 32-bit results clear the upper half, smaller ones leave the rest alone. */
export function writeReg(s: Int32Array, reg: number, size: number, lo: number, hi: number): void {
  if (reg >= HIGH_BYTE) {
    const at = S.GPR + 2 * (reg - HIGH_BYTE);
    s[at] = (s[at]! & ~0xff00) | ((lo & 0xff) << 8);
    return;
  }
  const at = S.GPR + 2 * reg;
  switch (size) {
    case 1:
      s[at] = (s[at]! & ~0xff) | (lo & 0xff);
      return;
    case 2:
      s[at] = (s[at]! & ~0xffff) | (lo & 0xffff);
      return;
    default:
      s[at] = lo;
      s[at + 1] = size === 8 ? hi : 0;
  }
}

/** The r/m operand, sign-extended, to s[out]; with ACCESS.WRITE memory stays prepared for closeRm(). */
export function openRm(cpu: Cpu, x: DecodedInsn, size: number, out: number, kind: number): boolean {
  if (x.rm >= 0) {
    readReg(cpu.s, x.rm, size, out);
    return true;
  }
  if (!prepareOperand(cpu, x, size, kind)) return false;
  readPrepared(cpu, size, out);
  signExtend(cpu.s, out, size);
  return true;
}

/** Write the r/m operand that openRm() opened. */
export function closeRm(cpu: Cpu, x: DecodedInsn, size: number, lo: number, hi: number): void {
  if (x.rm >= 0) writeReg(cpu.s, x.rm, size, lo, hi);
  else writePrepared(cpu, size, lo, hi);
}

/** The second operand of RM_R, R_RM and RM_I forms to s[out]. False: cpu.fault is set. */
export function readImmediateOrReg(
  cpu: Cpu,
  x: DecodedInsn,
  size: number,
  out: number,
  immediate: number,
): void {
  if (immediate === 0) {
    readReg(cpu.s, x.reg, size, out);
    return;
  }
  cpu.s[out] = x.immLo;
  cpu.s[out + 1] = x.immHi;
}
