// SPDX-License-Identifier: GPL-2.0-only
/**
 * Everything between two stretches of the interpreter's loop: finding the record at RIP, TLB misses, instructions
 * without a case, the end of the time slice. The loop has written back RIP, flags and the clock.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { OP } from './decode/ops.ts';
import { endsRun } from './code_cache.ts';
import { execute, GO_ON, unimplemented } from './execute.ts';
import { fetchAddress, isFetchFast } from './fetch.ts';
import { REC, REC_WORDS, WHY } from './hot.ts';
import { FAST_TLB_ENTRIES, RAM_BASE } from '../layout.ts';
import { ACCESS } from '../mmu/access.ts';
import { makeQuickWalk, QUICK } from '../mmu/quick_walk.ts';
import { translate } from '../mmu/translate.ts';
import { SCRATCH } from './regs.ts';
import { FAULT, RUN, S, SEGN } from './state.ts';

/** So many misses of the fast TLB make the quick walk worth its compilation. */
const QUICK_AFTER = 8192;

/**
 * Continue after the loop stopped for `why` at record `p`: a record to go on with (RIP is at its instruction, which must
 * be executed even if the clock has passed the deadline meanwhile), or ~RUN code.
 */
export function slowStep(cpu: Cpu, why: number, p: number, deadline: number): number {
  switch (why) {
    case WHY.ENTER:
      return enter(cpu, deadline);
    case WHY.CHAIN:
      return chain(cpu, p, deadline);
    case WHY.TIME:
      return isOver(cpu, deadline) ? ~RUN.DEADLINE : p;
    case WHY.FAULT:
      return ~RUN.FAULT;
    default:
      return generic(cpu, p, deadline);
  }
}

function isOver(cpu: Cpu, deadline: number): boolean {
  return cpu.clock[0]! >= deadline || cpu.s[S.PENDING] !== 0;
}

/** The record at RIP. While the fast TLB has no entry for the page, instructions are executed one by one here. */
function enter(cpu: Cpu, deadline: number): number {
  const { s, code } = cpu;
  for (;;) {
    if (isOver(cpu, deadline)) return ~RUN.DEADLINE;
    const lo = s[S.RIP]!;
    const hi = s[S.RIP + 1]!;
    const hpa = fetchAddress(cpu, lo, hi);
    if (hpa < 0) return ~RUN.FAULT;
    if (hpa < RAM_BASE || hpa >= cpu.mem.size) throw unimplemented(cpu, 'code outside of RAM');
    const p = code.find(hpa >>> 12, hpa & 0xfff);
    if (isFetchFast(cpu, lo, hi)) {
      s[SCRATCH.GENERATION] = code.generation;
      s[SCRATCH.EVICTIONS] = cpu.mmu.tlb.evictions;
      s[SCRATCH.DELTA] = (hpa - lo) | 0;
      s[SCRATCH.TABLE] = code.tableOf(hpa >>> 12);
      return p;
    }
    const result = execute(cpu, code.insnOf(p), deadline, hpa);
    if (result !== GO_ON) return ~result;
  }
}

/** A branch inside of its page: remember the record of the target. */
function chain(cpu: Cpu, from: number, deadline: number): number {
  const { s } = cpu;
  const lo = s[S.RIP]!;
  const generation = s[SCRATCH.GENERATION]!;
  const p = enter(cpu, deadline);
  if (p > 0 && s[S.RIP] === lo && s[SCRATCH.GENERATION] === generation) cpu.mem.i32[from + REC.X] = p;
  return p;
}

/**
 * Whether the page that the loop is in is still what it was, and fetching from it still free: nothing decoded was thrown
 * away, and the modelled TLB has its mapping. Only an eviction can take that away between two instructions, since
 * everything else that drops mappings leaves the loop. The fast entry alone may have been displaced by a data page.
 */
function isPageCurrent(cpu: Cpu, lo: number, hi: number): boolean {
  const { s, code, mmu, fast } = cpu;
  if (s[SCRATCH.GENERATION] !== (code.generation | 0)) return false;
  const evictions = mmu.tlb.evictions | 0;
  if (isFetchFast(cpu, lo, hi)) {
    s[SCRATCH.EVICTIONS] = evictions;
    return fast.addend[(lo >>> 12) & (FAST_TLB_ENTRIES - 1)] === s[SCRATCH.DELTA];
  }
  return s[SCRATCH.EVICTIONS] === evictions;
}

function isDataFast(cpu: Cpu, lo: number, hi: number, kind: number): boolean {
  const { fast, s } = cpu;
  const i = (lo >>> 12) & (FAST_TLB_ENTRIES - 1);
  const tags = kind === ACCESS.READ ? fast.readTag : fast.writeTag;
  return tags[i] === (lo & -4096) && fast.hiTag[i] === (hi ^ s[S.CTX]!);
}

/** PUSH and CALL write the stack and may read elsewhere, POP and RET the other way round. */
function usesStack(x: DecodedInsn, kind: number): boolean {
  if (x.seg === SEGN.SS) return true;
  if (kind === ACCESS.WRITE) return x.op === OP.PUSH || x.op === OP.CALL || x.op === OP.CALL_IND;
  return x.op === OP.POP || x.op === OP.RET;
}

/** The access faults; GP becomes SS if it was by way of the stack segment. */
function refuse(cpu: Cpu, p: number, lo: number, hi: number, kind: number): number {
  const { kind: what, vector } = cpu.fault;
  if (what === FAULT.EXCEPTION && vector === VECTOR.GP && usesStack(cpu.code.insnOf(p), kind)) {
    translate(cpu, lo, hi, kind | ACCESS.STACK);
  }
  return -1;
}

/** Walk in WebAssembly, once the CPU has missed often enough for that to be worth its compilation. */
function quickWalk(cpu: Cpu, p: number, lo: number, hi: number, access: number): number {
  const { mmu, frames } = cpu;
  const { quick } = mmu;
  if (quick === undefined) {
    if (++mmu.misses === QUICK_AFTER) mmu.quick = makeQuickWalk(cpu, mmu);
    return QUICK.NO;
  }
  if (mmu.check !== 'off') return QUICK.NO;
  return quick(p, lo, hi, access, frames.managed ? frames.retirements : -1);
}

/**
 * The fast TLB has no entry for an access of record `p` at (lo, hi); `kind` is ACCESS | (size - 1) << 8. Ask the MMU.
 * The first record of the instruction if it can be done again; the next record if it has been done (but not counted); 0 if it must be executed out of line; -1: cpu.fault is
 * set. RIP and the clock have been written back; the clock may have moved.
 */
export function refill(cpu: Cpu, p: number, lo: number, hi: number, kind: number): number {
  if ((lo & (kind >> 8)) !== 0) return 0;
  const access = kind & ACCESS.KIND;
  const done = quickWalk(cpu, p, lo, hi, access);
  if (done === QUICK.EXECUTED) return p + REC_WORDS;
  if (done === QUICK.DONE) return p - (cpu.mem.i32[p + REC.POS]! >> 16) * REC_WORDS;
  if (done === QUICK.NO && translate(cpu, lo, hi, access) < 0) return refuse(cpu, p, lo, hi, access);
  const { s } = cpu;
  if (!isDataFast(cpu, lo, hi, access) || !isPageCurrent(cpu, s[S.RIP]!, s[S.RIP + 1]!)) return 0;
  return p - (cpu.mem.i32[p + REC.POS]! >> 16) * REC_WORDS;
}

/** Execute out of line. */
function generic(cpu: Cpu, p: number, deadline: number): number {
  const { s, code } = cpu;
  const lo = s[S.RIP]!;
  const hi = s[S.RIP + 1]!;
  const x = code.insnOf(p);
  const next = p + (cpu.mem.i32[p + REC.POS]! & 0xff) * REC_WORDS;
  const result = execute(cpu, x, deadline, (lo + s[SCRATCH.DELTA]!) | 0);
  if (result !== GO_ON) return ~result;
  const isNext = !endsRun(x) && s[S.RIP] === ((lo + x.length) | 0) && (s[S.RIP]! & 0xfff) !== 0;
  if (!isNext || !isPageCurrent(cpu, lo, hi)) return enter(cpu, deadline);
  return isOver(cpu, deadline) ? ~RUN.DEADLINE : next;
}
