// SPDX-License-Identifier: GPL-2.0-only
/**
 * Linear and guest-physical addresses to host physical ones: the modelled TLB, else a walk, whose result is cached. What
 * the interpreter calls when its fast TLB misses. SDM, "Use of Translation Lookaside Buffers".
 */
import { PFERR } from '../../../lib/x86/exceptions.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { RAM_BASE } from '../layout.ts';
import { ENTRY, PERM } from '../tlb/entry.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { recordBase, recordGpa, recordHpa } from '../tlb/tlb_array.ts';
import { ACCESS } from './access.ts';
import { chargeWalk, walkAndCache } from './cache_fill.ts';
import { eptTranslate, finalAccessBits, physicalAccessBits } from './ept_walk.ts';
import { fillFast } from './fast.ts';
import { canonicalFault, eptViolation, pageFault } from './fault.ts';
import { MODE, WALK, type Mmu } from './mmu.ts';
import { eptNeeds, guestRights, modeOf } from './rights.ts';
import { checkLeafFrame, staleFrame } from './sanitize.ts';
import { checkHit } from './stale_hit.ts';

/** Answer of useRecord(): the record does not do and is gone, walk again. */
const REWALK = -2;

/** HPA (>= 0) of a linear address, or -1 with cpu.fault filled. `access`: ACCESS kind and flags. */
export function translate(cpu: Cpu, lo: number, hi: number, access: number): number {
  const { mmu } = cpu;
  const mode = (access & ACCESS.SYSTEM) === 0 ? mmu.mode : modeOf(cpu, mmu, ACCESS.SYSTEM);
  const sign = hi >> ((mode & MODE.LA57) !== 0 ? 24 : 15);
  let hpa: number;
  if (sign !== 0 && sign !== -1) hpa = canonicalFault(cpu, access);
  else {
    const kind = access & ACCESS.KIND;
    const b = mmu.tlb.lookup(lo, hi, mmu.group, mmu.space, mmu.globalSpace);
    hpa = b < 0 ? REWALK : useRecord(cpu, mmu, b, lo, hi, mode, kind);
    if (hpa === REWALK) hpa = walkAndCache(cpu, mmu, lo, hi, mode, kind);
  }
  if (hpa === -1) {
    cpu.fault.linLo = lo;
    cpu.fault.linHi = hi;
  }
  return hpa;
}

/** As translate(), as an implicit supervisor access. */
export function translateSystem(cpu: Cpu, lo: number, hi: number, access: number): number {
  return translate(cpu, lo, hi, access | ACCESS.SYSTEM);
}

/**
 * HPA of a guest-physical address that no linear address stands behind (VMX structures, PDPTEs), or -1 with cpu.fault
 * filled; the address itself without EPT.
 */
export function guestPhysToHost(cpu: Cpu, gpa: number, access: number): number {
  const { mmu } = cpu;
  if ((mmu.mode & MODE.EPT) === 0) return gpa;
  const kind = access & ACCESS.KIND;
  const gHi = Math.floor(gpa / 0x1_0000_0000);
  mmu.walk[WALK.REFS] = 0;
  const hpa = eptTranslate(cpu, mmu, gpa | 0, gHi, kind, physicalAccessBits(kind), 0);
  chargeWalk(cpu, mmu);
  return hpa;
}

/** Translate by a cached mapping. */
function useRecord(
  cpu: Cpu,
  mmu: Mmu,
  b: number,
  lo: number,
  hi: number,
  mode: number,
  kind: number,
): number {
  const { tlb } = mmu;
  const perm = tlb.i[b + ENTRY.PERM]!;
  if (mmu.check !== 'off') checkHit(cpu, mmu, b, lo, hi, mode, kind);
  const allowed = (guestRights(mode, perm, cpu.s[S.PKRU]!) & (1 << kind)) !== 0;
  if (!allowed || (perm & eptNeeds(mode, perm, kind)) === 0) {
    return deniedByRecord(cpu, mmu, b, lo, hi, mode, kind, allowed);
  }
  if (kind === ACCESS.WRITE && (perm & PERM.D) === 0) {
    tlb.remove(b);
    return REWALK;
  }
  const hpa = recordHpa(tlb, b, lo);
  if (hpa < cpu.mem.size) {
    if (hpa < RAM_BASE) checkLeafFrame(cpu, hpa);
    const pfn = hpa >>> 12;
    if (!cpu.frames.isCurrentSince(pfn, tlb.i[b + ENTRY.SEQ]!)) staleFrame(cpu, tlb, b, pfn);
    if (mode === mmu.mode) fillFast(cpu, mmu, lo, hi, b, hpa & ~0xfff);
  }
  return hpa;
}

/** A cached mapping forbids the access: fault from it and drop it, or (AMD) drop it and look at the tables. */
function deniedByRecord(
  cpu: Cpu,
  mmu: Mmu,
  b: number,
  lo: number,
  hi: number,
  mode: number,
  kind: number,
  guestAllows: boolean,
): number {
  const { tlb, gp, ledger } = mmu;
  const perm = tlb.i[b + ENTRY.PERM]!;
  const gpa = recordGpa(tlb, b) + (recordHpa(tlb, b, lo) - recordBase(tlb, b));
  tlb.remove(b);
  const dropped =
    1 + tlb.dropAddress(lo, hi, mmu.group, mmu.space) + tlb.dropAddress(lo, hi, mmu.group, mmu.globalSpace);
  if (mmu.profile.permissionFault === 'rewalk') return REWALK;
  if (!guestAllows) {
    ledger.record(FLUSH.PAGE_FAULT, -1, dropped, cpu.clock[0]!);
    return pageFault(cpu, mode, kind, PFERR.PRESENT, perm);
  }
  const gLo = gpa | 0;
  const gHi = Math.floor(gpa / 0x1_0000_0000);
  const more = gp.dropAddress(gLo, gHi, mmu.gpGroup, mmu.gpSpace);
  ledger.record(FLUSH.EPT_VIOLATION, -1, dropped + more, cpu.clock[0]!);
  return eptViolation(cpu, mode, gLo, gHi, finalAccessBits(kind), perm);
}
