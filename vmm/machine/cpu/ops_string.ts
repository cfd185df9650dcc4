// SPDX-License-Identifier: GPL-2.0-only
/**
 * String instructions. SDM, "MOVS", "STOS", "LODS", "CMPS", "SCAS", "REP". An iteration costs one COST.INSN; between
 * iterations the instruction can be interrupted, at the deadline or when something is pending, with RIP still at it.
 * Runs of MOVS and STOS inside a page go in bulk.
 */
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { OP } from './decode/ops.ts';
import { refetch } from './fetch.ts';
import { arithFlags, FLAG_OP } from './flags.ts';
import { RAM_BASE } from '../layout.ts';
import { ACCESS } from '../mmu/access.ts';
import { translate } from '../mmu/translate.ts';
import { isApicAccessPage } from '../vmx/apic_access.ts';
import { setLazy, subtract } from './ops_alu.ts';
import {
  addSegmentBase,
  addTo,
  isRam,
  prepare,
  readPrepared,
  readReg,
  setPrepared,
  signExtend,
  writePrepared,
  writeReg,
} from './operand.ts';
import { DONE } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { S } from './state.ts';

const { A, B, ADDR } = SCRATCH;
const RCX = S.GPR + 2;
const RSI = S.GPR + 12;
const RDI = S.GPR + 14;
const RAX = 0;
const TWO_32 = 0x1_0000_0000;

/** Linear address of the element at RSI or RDI to s[ADDR]. */
function pointer(cpu: Cpu, x: DecodedInsn, at: number): void {
  const { s } = cpu;
  s[ADDR] = s[at]!;
  s[ADDR + 1] = x.addressSize === 4 ? 0 : s[at + 1]!;
  if (at === RSI) addSegmentBase(cpu, ADDR, x.seg);
}

function advance(s: Int32Array, x: DecodedInsn, at: number, iterations: number): void {
  const backward = (s[S.RFLAGS_SYS]! & RFLAGS.DF) !== 0;
  const bytes = x.size * iterations;
  if (backward) addTo(s, at, -bytes, -1);
  else addTo(s, at, bytes, 0);
  if (x.addressSize === 4) s[at + 1] = 0;
}

function loadElement(cpu: Cpu, x: DecodedInsn, at: number, out: number): boolean {
  pointer(cpu, x, at);
  if (!prepare(cpu, cpu.s[ADDR]!, cpu.s[ADDR + 1]!, x.size, ACCESS.READ)) return false;
  readPrepared(cpu, x.size, out);
  signExtend(cpu.s, out, x.size);
  return true;
}

function storeElement(cpu: Cpu, x: DecodedInsn, from: number): boolean {
  pointer(cpu, x, RDI);
  if (!prepare(cpu, cpu.s[ADDR]!, cpu.s[ADDR + 1]!, x.size, ACCESS.WRITE)) return false;
  writePrepared(cpu, x.size, cpu.s[from]!, cpu.s[from + 1]!);
  return true;
}

/** One iteration, without counting; nothing has changed if it faults. */
function iterate(cpu: Cpu, x: DecodedInsn): boolean {
  const { s } = cpu;
  const usesSource = x.op === OP.MOVS || x.op === OP.LODS || x.op === OP.CMPS;
  if (usesSource ? !loadElement(cpu, x, RSI, A) : false) return false;
  if (!usesSource) readReg(s, RAX, x.size, A);
  if (x.op === OP.CMPS || x.op === OP.SCAS) {
    if (!loadElement(cpu, x, RDI, B)) return false;
    subtract(s, x.size, 0);
    setLazy(s, FLAG_OP.SUB);
  } else if (x.op === OP.LODS) {
    writeReg(s, RAX, x.size, s[A]!, s[A + 1]!);
  } else if (!storeElement(cpu, x, A)) {
    return false;
  }
  if (usesSource) advance(s, x, RSI, 1);
  if (x.op !== OP.LODS) advance(s, x, RDI, 1);
  return true;
}

const roomInPage = (lo: number, size: number): number => Math.floor((4096 - (lo & 0xfff)) / size);

function fill(cpu: Cpu, x: DecodedInsn, hpa: number, n: number): void {
  const { s, mem } = cpu;
  const lo = s[S.GPR]!;
  if (x.size === 1) {
    mem.u8.fill(lo & 0xff, hpa, hpa + n);
    return;
  }
  for (let k = 0; k < n * x.size; k += x.size) {
    if (x.size === 2) {
      mem.view.setUint16(hpa + k, lo & 0xffff, true);
    } else {
      mem.view.setInt32(hpa + k, lo, true);
      if (x.size === 8) mem.view.setInt32(hpa + k + 4, s[S.GPR + 1]!, true);
    }
  }
}

/** Copy element by element upwards: a destination inside of the source repeats it. */
function copy(cpu: Cpu, x: DecodedInsn, from: number, to: number, n: number): void {
  const { u8 } = cpu.mem;
  const bytes = n * x.size;
  if (to <= from || to >= from + bytes) {
    u8.copyWithin(to, from, from + bytes);
    return;
  }
  for (let k = 0; k < bytes; k += x.size) u8.copyWithin(to + k, from + k, from + k + x.size);
}

/** Linear address of the next element, translated; -1: cpu.fault is set. */
function elementAddress(cpu: Cpu, x: DecodedInsn, at: number, kind: number): number {
  pointer(cpu, x, at);
  return translate(cpu, cpu.s[ADDR]!, cpu.s[ADDR + 1]!, kind);
}

/** Whether the next iterations of a MOVS or STOS may be done together. */
function canRun(cpu: Cpu, x: DecodedInsn): boolean {
  const { s, mmu } = cpu;
  if (x.op !== OP.MOVS && x.op !== OP.STOS) return false;
  if (x.addressSize !== 8 || (s[S.RFLAGS_SYS]! & RFLAGS.DF) !== 0) return false;
  if (mmu.policy === 'keep-nothing' || mmu.check !== 'off') return false;
  return roomInPage(s[RDI]!, x.size) > 0 && (x.op === OP.STOS || roomInPage(sourceLow(cpu, x), x.size) > 0);
}

function sourceLow(cpu: Cpu, x: DecodedInsn): number {
  pointer(cpu, x, RSI);
  return cpu.s[ADDR]!;
}

/**
 * Do iterations of a forward MOVS or STOS up to the deadline; how many, or -1: cpu.fault is set. Translates as the first
 * iteration would. If that evicted nothing from the modelled TLB, the following iterations in these pages, and their
 * fetches, would find all that they need there, so they are done at once; else only the first one is.
 */
function runOf(cpu: Cpu, x: DecodedInsn, deadline: number): number {
  const { s, mmu } = cpu;
  const { evictions } = mmu.tlb;
  const moves = x.op === OP.MOVS;
  const from = moves ? elementAddress(cpu, x, RSI, ACCESS.READ) : RAM_BASE;
  if (from < 0) return -1;
  const to = elementAddress(cpu, x, RDI, ACCESS.WRITE);
  if (to < 0) return -1;
  if (isApicAccessPage(cpu, from) || isApicAccessPage(cpu, to)) return iterate(cpu, x) ? 1 : -1;
  const isPlain = isRam(cpu, from, x.size) && isRam(cpu, to, x.size) && !cpu.code.hasCode(to >>> 12);
  const room = Math.min(moves ? roomInPage(from, x.size) : Infinity, roomInPage(to, x.size));
  const limit = Math.min(remaining(s, x), Math.max(1, Math.ceil(deadline - cpu.clock[0]!)), room);
  const n = isPlain && evictions === mmu.tlb.evictions ? limit : 1;
  if (isPlain && moves) copy(cpu, x, from, to, n);
  else if (isPlain) fill(cpu, x, to, n);
  else moveOne(cpu, x, from, to);
  if (moves) advance(s, x, RSI, n);
  advance(s, x, RDI, n);
  return n;
}

/** One element between translated addresses, of which one is a device or holds code. */
function moveOne(cpu: Cpu, x: DecodedInsn, from: number, to: number): void {
  const { s } = cpu;
  if (x.op === OP.STOS) readReg(s, RAX, x.size, A);
  else {
    setPrepared(s, from, x.size);
    readPrepared(cpu, x.size, A);
  }
  setPrepared(s, to, x.size);
  writePrepared(cpu, x.size, s[A]!, s[A + 1]!);
}

function remaining(s: Int32Array, x: DecodedInsn): number {
  const hi = x.addressSize === 4 ? 0 : s[RCX + 1]! >>> 0;
  return (s[RCX]! >>> 0) + hi * TWO_32;
}

function countDown(s: Int32Array, x: DecodedInsn, n: number): void {
  addTo(s, RCX, -n, -1);
  if (x.addressSize === 4) s[RCX + 1] = 0;
}

/** REPE ends at the first difference, REPNE at the first match. */
function endsEarly(s: Int32Array, x: DecodedInsn): boolean {
  if (x.op !== OP.CMPS && x.op !== OP.SCAS) return false;
  const isEqual = (arithFlags(s) & RFLAGS.ZF) !== 0;
  return isEqual === (x.rep === 0xf2);
}

/** MOVS STOS LODS CMPS SCAS, with and without a repeat prefix. */
export function stringOp(cpu: Cpu, x: DecodedInsn, deadline: number): number {
  const { s, clock } = cpu;
  if (x.rep === 0) return iterate(cpu, x) ? DONE.NEXT : DONE.FAULT;
  if (remaining(s, x) === 0) return DONE.NEXT;
  const { generation } = cpu.code;
  const crosses = (s[S.RIP]! & 0xfff) + x.length > 4096;
  for (;;) {
    const n = canRun(cpu, x) ? runOf(cpu, x, deadline) : iterate(cpu, x) ? 1 : -1;
    if (n < 0) return DONE.FAULT;
    countDown(s, x, n);
    spend(cpu, COST.INSN, n);
    if (remaining(s, x) === 0 || endsEarly(s, x)) return DONE.REP;
    if (clock[0]! >= deadline || s[S.PENDING] !== 0) return DONE.AGAIN;
    // It may have overwritten itself: the next iteration is decoded anew, as it would be after an interruption.
    if (crosses || cpu.code.generation !== generation) return DONE.AGAIN;
    if (!refetch(cpu)) return DONE.FAULT;
  }
}
