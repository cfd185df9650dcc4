// SPDX-License-Identifier: GPL-2.0-only
/**
 * What happens when no cached mapping translates a linear address: a walk, its price, and a new mapping. The common
 * case (4 levels, a 4 KiB page, no EPT, nothing to set or to refuse) is walked straight-line here, without changing
 * anything until it is known to be the common case; whatever it does not take goes to guest_walk.ts, which knows all the
 * rules. Constants are local because the optimiser folds only those.
 */
import { PTE } from '../../../lib/x86/paging.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import * as layout from '../layout.ts';
import { FRAME } from '../memory/frames.ts';
import { ENTRY, ENTRY_F64, pageOffsetMask, PERM } from '../tlb/entry.ts';
import { setRecordHpa } from '../tlb/tlb_array.ts';
import { ACCESS } from './access.ts';
import { fillFast } from './fast.ts';
import { walkGuest } from './guest_walk.ts';
import { MODE, WALK, WALK_ADDR, type Mmu } from './mmu.ts';
import { NOT_COMMON, quickNestedWalk } from './nested_walk.ts';
import { stampRecord } from './provenance.ts';
import * as rights from './rights.ts';

const { P, A, D, PS, G } = PTE;
const { CR3, RIP, CPL } = S;
const { FREE } = FRAME;
const { LA57, EPT, PGE, PKE } = MODE;
const { WRITE } = ACCESS;
const { PERM: E_PERM, SEQ, RIP_LO, RIP_HI, FILLER, PTE_HPA, EPTE_HPA, RAM } = ENTRY;
const { GPA, CYCLE, PTE_GPA } = ENTRY_F64;
const { X, D: PERM_D, G: PERM_G, EPT_ALL } = PERM;
const { TLB_MISS, WALK_REF } = COST;
const RIGHTS = rights.RIGHTS;
const RAM_BASE = layout.RAM_BASE;
/** R/W and U/S of an entry, shifted right by one, are PERM.W and PERM.U. */
const RW_US = 3;
const PA_HI = 0xf_ffff;

/** Walk the tables, pay for it, and cache the translation: HPA, or -1 with cpu.fault filled. */
export function walkAndCache(cpu: Cpu, mmu: Mmu, lo: number, hi: number, mode: number, kind: number): number {
  if ((mode & (LA57 | EPT | PKE)) !== 0) return fullWalk(cpu, mmu, lo, hi, mode, kind);
  const { s, mem, frames } = cpu;
  const { i32, size } = mem;
  const { state } = frames;
  const t4 = s[CR3]! & ~0xfff;
  if (t4 >>> 0 >= size || s[CR3 + 1] !== 0) return fullWalk(cpu, mmu, lo, hi, mode, kind);
  let at = (t4 >> 2) | ((hi >>> 6) & 0x3fe);
  const e4 = i32[at]!;
  let his = i32[at | 1]!;
  const t3 = e4 & ~0xfff;
  if (t3 >>> 0 >= size) return fullWalk(cpu, mmu, lo, hi, mode, kind);
  at = (t3 >> 2) | (((hi << 3) | (lo >>> 29)) & 0x3fe);
  const e3 = i32[at]!;
  his |= i32[at | 1]!;
  const t2 = e3 & ~0xfff;
  if (t2 >>> 0 >= size) return fullWalk(cpu, mmu, lo, hi, mode, kind);
  at = (t2 >> 2) | ((lo >>> 20) & 0x3fe);
  const e2 = i32[at]!;
  his |= i32[at | 1]!;
  const t1 = e2 & ~0xfff;
  if (t1 >>> 0 >= size) return fullWalk(cpu, mmu, lo, hi, mode, kind);
  at = (t1 >> 2) | ((lo >>> 11) & 0x3fe);
  const e1 = i32[at]!;
  his |= i32[at | 1]!;
  const hpa = e1 & ~0xfff;
  const and = e4 & e3 & e2 & e1;
  let perm = ((and >> 1) & RW_US) | (his < 0 ? 0 : X);
  const wanted = kind === WRITE ? D : 0;
  if (
    (and & (P | A)) !== (P | A) ||
    ((e4 | e3 | e2) & PS) !== 0 ||
    (his & PA_HI) !== 0 ||
    (e1 & wanted) !== wanted ||
    hpa < RAM_BASE ||
    hpa >= size ||
    (RIGHTS[((mode & 31) << 3) | perm]! & (1 << kind)) === 0 ||
    (his < 0 && (mode & 16) === 0) ||
    (frames.managed &&
      (state[t4 >>> 12] === FREE ||
        state[t3 >>> 12] === FREE ||
        state[t2 >>> 12] === FREE ||
        state[t1 >>> 12] === FREE ||
        state[hpa >>> 12] === FREE))
  ) {
    return fullWalk(cpu, mmu, lo, hi, mode, kind);
  }
  const { tlb } = mmu;
  const { counts, prices, clock } = cpu;
  counts[TLB_MISS]!++;
  counts[WALK_REF]! += 4;
  clock[0]! += prices[TLB_MISS]! + 4 * prices[WALK_REF]!;
  if (!tlb.keeps) return hpa | (lo & 0xfff);
  const global = (e1 & G) !== 0 && (mode & PGE) !== 0;
  perm |= (global ? PERM_G : 0) | ((e1 & D) !== 0 ? PERM_D : 0) | ((i32[at | 1]! >>> 19) & 0xf00) | EPT_ALL;
  const b = tlb.insert(lo, hi, 0, mmu.group, global ? mmu.globalSpace : mmu.space);
  const { i, f } = tlb;
  i[b + E_PERM] = perm;
  i[b + SEQ] = frames.retirements;
  i[b + RAM] = hpa;
  f[(b >> 1) + CYCLE] = clock[0]!;
  i[b + PTE_HPA] = at << 2;
  i[b + EPTE_HPA] = -1;
  i[b + RIP_LO] = s[RIP]!;
  i[b + RIP_HI] = s[RIP + 1]!;
  i[b + FILLER] = s[CPL]! | (kind << 2) | ((s[CR3]! & 0xfff) << 16);
  if (mode === mmu.mode) fillFast(cpu, mmu, lo, hi, b, hpa);
  return hpa | (lo & 0xfff);
}

/** walkAndCache() by the walker that knows all the rules. */
function fullWalk(cpu: Cpu, mmu: Mmu, lo: number, hi: number, mode: number, kind: number): number {
  const { walk, walkAddr, tlb } = mmu;
  const nested = (mode & (LA57 | EPT | PKE)) === EPT;
  let failed = nested ? quickNestedWalk(cpu, mmu, lo, hi, mode, kind) : NOT_COMMON;
  if (failed === NOT_COMMON) failed = walkGuest(cpu, mmu, lo, hi, mode, kind);
  chargeWalk(cpu, mmu);
  if (failed !== 0) return -1;
  const code = walk[WALK.CODE]!;
  const base = walkAddr[WALK_ADDR.HPA]!;
  const hpa = base + (lo & pageOffsetMask(code));
  if (!tlb.keeps) return hpa;
  const perm = walk[WALK.PERM]!;
  const b = tlb.insert(lo, hi, code, mmu.group, (perm & PERM_G) !== 0 ? mmu.globalSpace : mmu.space);
  const { i, f } = tlb;
  i[b + E_PERM] = perm;
  setRecordHpa(tlb, b, base, cpu.mem.size);
  f[(b >> 1) + GPA] = walkAddr[WALK_ADDR.GPA]!;
  f[(b >> 1) + PTE_GPA] = walkAddr[WALK_ADDR.PTE_GPA]!;
  i[b + PTE_HPA] = walkAddr[WALK_ADDR.PTE_HPA]!;
  i[b + EPTE_HPA] = walk[WALK.EPTE_HPA]!;
  stampRecord(cpu, tlb, b, kind);
  if (mode === mmu.mode && hpa < cpu.mem.size) fillFast(cpu, mmu, lo, hi, b, hpa & ~0xfff);
  return hpa;
}

/** Pay for the walk that just happened. */
export function chargeWalk(cpu: Cpu, mmu: Mmu): void {
  const refs = mmu.walk[WALK.REFS]!;
  if (refs === 0) return;
  spend(cpu, TLB_MISS);
  spend(cpu, WALK_REF, refs);
}
