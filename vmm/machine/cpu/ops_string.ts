// SPDX-License-Identifier: GPL-2.0-only
/**
 * String instructions. SDM, "MOVS", "STOS", "LODS", "CMPS", "SCAS", "REP". An iteration costs one COST.INSN; between
 * iterations the instruction can be interrupted, at the deadline or when something is pending, with RIP still at it.
 * Runs of MOVS and STOS inside a page that the fast TLB knows go in bulk.
 */
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { OP } from './decode/ops.ts';
import { refetch } from './fetch.ts';
import { arithFlags, FLAG_OP } from './flags.ts';
import { FAST_TLB_ENTRIES } from '../layout.ts';
import { ACCESS } from '../mmu/access.ts';
import { setLazy, subtract } from './ops_alu.ts';
import {
  addSegmentBase,
  addTo,
  prepare,
  readPrepared,
  readReg,
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

/** Host physical address if the fast TLB allows the access at the byte s[ADDR], else -1. */
function fastAddress(cpu: Cpu, tags: Int32Array): number {
  const lo = cpu.s[ADDR]!;
  const i = (lo >>> 12) & (FAST_TLB_ENTRIES - 1);
  if (tags[i] !== (lo & -4096) || cpu.fast.hiTag[i] !== (cpu.s[ADDR + 1]! ^ cpu.s[S.CTX]!)) return -1;
  return (lo + cpu.fast.addend[i]!) | 0;
}

const roomInPage = (hpa: number, size: number): number => Math.floor((4096 - (hpa & 0xfff)) / size);

function fill(cpu: Cpu, x: DecodedInsn, hpa: number, n: number): void {
  const { s, mem } = cpu;
  const lo = s[S.GPR]!;
  if (x.size === 1) {
    mem.u8.fill(lo & 0xff, hpa, hpa + n);
    return;
  }
  const hi = x.size === 8 ? s[S.GPR + 1]! : lo;
  for (let k = 0; k < n * x.size; k += x.size) {
    if (x.size === 2) {
      mem.view.setUint16(hpa + k, lo & 0xffff, true);
    } else {
      mem.view.setInt32(hpa + k, lo, true);
      if (x.size === 8) mem.view.setInt32(hpa + k + 4, hi, true);
    }
  }
}

/**
 * Do up to `limit` iterations of a forward MOVS or STOS whose pages the fast TLB knows; how many. Nothing in the bulk
 * touches the modelled TLB, so it is the same as one iteration after the other, fetches included.
 */
function bulk(cpu: Cpu, x: DecodedInsn, limit: number): number {
  const { s, mem } = cpu;
  if (x.addressSize !== 8 || (s[S.RFLAGS_SYS]! & RFLAGS.DF) !== 0) return 0;
  pointer(cpu, x, RDI);
  const to = fastAddress(cpu, cpu.fast.writeTag);
  if (to < 0) return 0;
  let n = Math.min(limit, roomInPage(to, x.size));
  if (x.op === OP.STOS) {
    fill(cpu, x, to, n);
  } else {
    pointer(cpu, x, RSI);
    const from = fastAddress(cpu, cpu.fast.readTag);
    if (from < 0) return 0;
    n = Math.min(n, roomInPage(from, x.size));
    if (to > from && to < from + n * x.size) return 0; // the source changes under way
    mem.u8.copyWithin(to, from, from + n * x.size);
    advance(s, x, RSI, n);
  }
  advance(s, x, RDI, n);
  return n;
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
  const canBulk = x.op === OP.MOVS || x.op === OP.STOS;
  const { generation } = cpu.code;
  const crosses = (s[S.RIP]! & 0xfff) + x.length > 4096;
  for (;;) {
    const limit = Math.min(remaining(s, x), Math.max(1, Math.ceil(deadline - clock[0]!)));
    let n = canBulk && limit > 1 ? bulk(cpu, x, limit) : 0;
    if (n === 0) {
      if (!iterate(cpu, x)) return DONE.FAULT;
      n = 1;
    }
    countDown(s, x, n);
    spend(cpu, COST.INSN, n);
    if (remaining(s, x) === 0 || endsEarly(s, x)) return DONE.REP;
    if (clock[0]! >= deadline || s[S.PENDING] !== 0) return DONE.AGAIN;
    // It may have overwritten itself: the next iteration is decoded anew, as it would be after an interruption.
    if (crosses || cpu.code.generation !== generation) return DONE.AGAIN;
    if (!refetch(cpu)) return DONE.FAULT;
  }
}
