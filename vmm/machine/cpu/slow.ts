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
import { isDataFast } from '../mmu/fast.ts';
import { QUICK } from '../mmu/quick_walk.ts';
import { translate } from '../mmu/translate.ts';
import { makeQuickRun, RAN } from './quick_run.ts';
import { SCRATCH } from './regs.ts';
import { FAULT, RUN, S, SEGN } from './state.ts';

/** So many misses of the fast TLB make the quick walk worth its compilation. */
const QUICK_AFTER = 8192;
/** Cycles that a quick run is given at most. */
const MAX_RUN = 0x3fff_ffff;
const PAGE_LAST = 0xfff;

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
      return resume(cpu, p, deadline);
    case WHY.MISS:
      return miss(cpu, p, deadline);
    default:
      return generic(cpu, p, deadline);
  }
}

function isOver(cpu: Cpu, deadline: number): boolean {
  return cpu.clock[0]! >= deadline || cpu.s[S.PENDING] !== 0;
}

/** Go on at a record that RIP is at. A link to the next page is left by way of RIP, since records count from the page. */
function resume(cpu: Cpu, p: number, deadline: number): number {
  if (cpu.mem.i32[p + REC.OFF]! > PAGE_LAST) return enter(cpu, deadline);
  return isOver(cpu, deadline) ? ~RUN.DEADLINE : p;
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
  return ~RUN.FAULT;
}

/** Walk and go on in WebAssembly, once the CPU has missed often enough for that to be worth its compilation. */
function quickRun(cpu: Cpu, p: number, lo: number, hi: number, access: number, deadline: number): number {
  const { quick, clock, frames, mmu } = cpu;
  if (quick === undefined) {
    if (++cpu.misses === QUICK_AFTER) cpu.quick = makeQuickRun(cpu);
    return QUICK.NO;
  }
  if (mmu.check !== 'off' || mmu.apicAccessPage !== -1 || !Number.isInteger(clock[0])) return QUICK.NO;
  const left = Math.min(Math.max(Math.ceil(deadline - clock[0]!), 1), MAX_RUN);
  cpu.s[SCRATCH.AT] = p;
  return quick(p, lo, hi, access, frames.managed ? frames.retirements : -1, left);
}

/** The first record of the instruction that record `p` belongs to. */
function firstOf(cpu: Cpu, p: number): number {
  return p - (cpu.mem.i32[p + REC.POS]! >> 16) * REC_WORDS;
}

/**
 * The fast TLB does not allow the access of record `p`: ask the MMU. Afterwards the instruction is executed, from its
 * first record or out of line, even if the clock has passed the deadline meanwhile.
 */
function miss(cpu: Cpu, p: number, deadline: number): number {
  const { s } = cpu;
  const lo = s[SCRATCH.ADDR]!;
  const hi = s[SCRATCH.ADDR + 1]!;
  const kind = s[SCRATCH.KIND]!;
  if ((lo & (kind >> 8)) !== 0) return generic(cpu, p, deadline);
  const access = kind & ACCESS.KIND;
  switch (quickRun(cpu, p, lo, hi, access, deadline)) {
    case RAN:
      return resume(cpu, s[SCRATCH.AT]!, deadline);
    case QUICK.DONE:
      return firstOf(cpu, p);
    case QUICK.FILLED:
      return generic(cpu, s[SCRATCH.AT]!, deadline);
  }
  if (translate(cpu, lo, hi, access) < 0) return refuse(cpu, p, lo, hi, access);
  const isFast = isDataFast(cpu, lo, hi, access) && isPageCurrent(cpu, s[S.RIP]!, s[S.RIP + 1]!);
  return isFast ? firstOf(cpu, p) : generic(cpu, p, deadline);
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
