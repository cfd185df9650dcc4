// SPDX-License-Identifier: GPL-2.0-only
/**
 * Handling a fault of the guest-physical tables. Mirrors kvm_mmu_page_fault(), kvm_tdp_mmu_page_fault() and
 * fast_page_fault() of arch/x86/kvm/mmu/mmu.c, 6.12. The common case is plain code; steps are made only if somebody has
 * to be waited for, or a schedule explorer is at work.
 */
import type { Gpa } from '../../../lib/x86/addr.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { BugError } from '../../machine/errors.ts';
import type { Steps } from '../../host/steps.ts';
import { markPageDirtyInSlot } from '../dirty_bitmap.ts';
import { kvmVcpuGfnToMemslot } from '../guest_memory.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { MaybeSteps } from '../kvm_host_x86.ts';
import { kvmSlotDirtyTrackEnabled } from '../memslots.ts';
import { kvmFlushRemoteTlbs } from '../requests.ts';
import { TP } from '../trace_events.ts';
import { isGuestMode, kvmRipRead } from '../x86/cache_regs.ts';
import { isMmuWritable } from './dirty_log.ts';
import {
  FAULTIN_MUST_WAIT,
  kvmFaultinPfn,
  kvmFaultinPfnNowait,
  kvmReleaseFaultPage,
  mmuInvalidateRetryGfn,
} from './faultin.ts';
import { handleMmioPageFault } from './mmio.ts';
import { pageFaultHandlePageTrack } from './page_track.ts';
import { eptPageFault } from './shadow_fault.ts';
import { RET_PF, type KvmPageFault } from './page_fault.ts';
import {
  isAccessTrackSpte,
  isLastSpte,
  isShadowPresentPte,
  restoreAccessTrackLo,
  SPTE_HI,
  SPTE_LO,
  spteU64,
} from './spte.ts';
import { tdpLastSpte } from './tdp_iter.ts';
import { kvmTdpMmuMap } from './tdp_map.ts';
import { handleRemovedPt, tdpMmuFreePages } from './tdp_pages.ts';

/**
 * kvm_mmu_page_fault(): RET_PF.EMULATE means that the caller emulates the instruction, other RET_PF.* that the guest
 * goes on; below zero is an errno for userspace. `errorCode` is PFERR.*: RSVD for a misconfiguration.
 */
export function kvmMmuPageFault(vcpu: Vcpu, gpa: Gpa, errorCode: number): MaybeSteps<number> {
  if (vcpu.arch.mmu.root.hpa < 0) throw new BugError(`${vcpu.name} faults without a root`);
  if (errorCode & PFERR.RSVD) {
    const r = handleMmioPageFault(vcpu, gpa);
    if (r !== RET_PF.INVALID) return r;
  }
  vcpu.stat.pf_taken++;
  const r = kvmMmuDoPageFault(vcpu, gpa, errorCode);
  return typeof r === 'number' ? account(vcpu, r) : accountLater(vcpu, r);
}

function* accountLater(vcpu: Vcpu, steps: Steps<number>): Steps<number> {
  return account(vcpu, yield* steps);
}

function account(vcpu: Vcpu, r: number): number {
  if (r === RET_PF.FIXED) vcpu.stat.pf_fixed++;
  else if (r === RET_PF.EMULATE) vcpu.stat.pf_emulate++;
  else if (r === RET_PF.SPURIOUS) vcpu.stat.pf_spurious++;
  return r === RET_PF.WRITE_PROTECTED ? writeProtectFault(vcpu) : r;
}

/**
 * kvm_mmu_write_protect_fault(): the instruction writes a table that L0 shadows. If it cannot be emulated, the gfn may be
 * unprotected and the instruction retried, unless that has just been done.
 */
function writeProtectFault(vcpu: Vcpu): number {
  const { pageFault, lastRetry } = vcpu.arch;
  const again = lastRetry.rip === kvmRipRead(vcpu) && lastRetry.addr === pageFault.addr;
  lastRetry.addr = -1;
  const mayRetry = !again && !isGuestMode(vcpu) && !pageFault.writeFaultToShadowPgtable;
  vcpu.arch.retryGfn = mayRetry ? pageFault.gfn : -1;
  return RET_PF.EMULATE;
}

/** kvm_mmu_do_page_fault() and kvm_tdp_mmu_page_fault(); EPT12 has a handler of its own. */
function kvmMmuDoPageFault(vcpu: Vcpu, gpa: Gpa, errorCode: number): MaybeSteps<number> {
  const fault = vcpu.arch.pageFault;
  fault.begin(gpa, errorCode, vcpu.kvm.module.caps.maxTdpLevel);
  if (!vcpu.arch.mmu.rootRole.direct) return eptPageFault(vcpu, fault);
  fault.slot = kvmVcpuGfnToMemslot(vcpu, fault.gfn);
  if (pageFaultHandlePageTrack(vcpu, fault)) return RET_PF.WRITE_PROTECTED;
  const fast = fastPageFault(vcpu, fault);
  if (fast !== RET_PF.INVALID) return fast;
  const { kvm } = vcpu;
  if (kvm.host.sched.exploring) return tdpPageFaultSteps(vcpu, fault);
  const r = kvmFaultinPfnNowait(vcpu, fault);
  if (r === FAULTIN_MUST_WAIT) return tdpPageFaultSteps(vcpu, fault);
  if (r !== RET_PF.CONTINUE) return r;
  if (!kvm.mmuLock.readFastLock()) return tdpMapWithLockSteps(vcpu, fault);
  return tdpMapLocked(vcpu, fault);
}

function* tdpPageFaultSteps(vcpu: Vcpu, fault: KvmPageFault): Steps<number> {
  const r = yield* kvmFaultinPfn(vcpu, fault);
  if (r !== RET_PF.CONTINUE) return r;
  return yield* tdpMapWithLockSteps(vcpu, fault);
}

function* tdpMapWithLockSteps(vcpu: Vcpu, fault: KvmPageFault): Steps<number> {
  const { kvm } = vcpu;
  if (kvm.host.sched.shouldYield()) yield;
  if (!kvm.mmuLock.readFastLock()) yield* kvm.mmuLock.readLock();
  const r = tdpMapLocked(vcpu, fault);
  return typeof r === 'number' ? r : yield* r;
}

/** What mmu_lock is held for: install the translation unless it went stale, then let go of lock and page. */
function tdpMapLocked(vcpu: Vcpu, fault: KvmPageFault): MaybeSteps<number> {
  const { kvm } = vcpu;
  const r = isPageFaultStale(vcpu, fault) ? RET_PF.RETRY : kvmTdpMmuMap(vcpu, fault);
  if (fault.replacedTable !== 0) return flushReplacedTable(vcpu, fault, r);
  kvm.mmuLock.readUnlock();
  kvmReleaseFaultPage(kvm, fault);
  return r;
}

/** A huge page took the place of a table: nobody may walk the table when it is freed. */
function* flushReplacedTable(vcpu: Vcpu, fault: KvmPageFault, r: number): Steps<number> {
  const { kvm } = vcpu;
  const freed: number[] = [];
  const span = 2 ** (9 * (fault.goalLevel - 1));
  const gfn = Math.floor(fault.gfn / span) * span;
  handleRemovedPt(kvm, vcpu.arch.mmu.rootRole.smm, fault.replacedTable, fault.goalLevel - 1, gfn, freed);
  fault.replacedTable = 0;
  yield* kvmFlushRemoteTlbs(kvm);
  tdpMmuFreePages(kvm, freed);
  kvm.mmuLock.readUnlock();
  kvmReleaseFaultPage(kvm, fault);
  return r;
}

/** is_page_fault_stale(): the root, or what the lookup found, is out of date. */
function isPageFaultStale(vcpu: Vcpu, fault: KvmPageFault): boolean {
  if (vcpu.arch.mmu.root.sp?.role.invalid !== false) return true;
  return fault.slot !== null && mmuInvalidateRetryGfn(vcpu.kvm, fault.mmuSeq, fault.gfn);
}

/** fast_page_fault(): repair without mmu_lock an entry that lost write access to dirty logging, or was access-tracked. */
function fastPageFault(vcpu: Vcpu, fault: KvmPageFault): number {
  const { kvm } = vcpu;
  const { masks, trace } = kvm.module;
  if (fault.rsvd || fault.slot === null) return RET_PF.INVALID;
  if (fault.present ? !fault.write : masks.accessed !== 0) return RET_PF.INVALID;
  const { i32 } = kvm.host.machine.mem;
  tdpLastSpte(i32, vcpu.arch.mmu.root.hpa, vcpu.arch.mmu.rootRole.level, fault.gfn, fault.last);
  const { sptep, level } = fault.last;
  const lo = i32[sptep]!;
  const hi = i32[sptep + 1]!;
  if (!isShadowPresentPte(lo) || !isLastSpte(lo, level)) return RET_PF.INVALID;
  const r = isAccessAllowed(vcpu, fault, lo) ? RET_PF.SPURIOUS : fixSpte(vcpu, fault, sptep, level, lo, hi);
  if (trace.on[TP.FAST_PAGE_FAULT]) {
    const [before, after] = [spteU64(lo, hi), spteU64(i32[sptep]!, i32[sptep + 1]!)];
    const [spurious, fixed] = [Number(r === RET_PF.SPURIOUS), Number(r === RET_PF.FIXED)];
    trace.record(
      TP.FAST_PAGE_FAULT,
      vcpu.vcpuId,
      fault.addr,
      fault.errorCode,
      sptep * 4,
      before,
      after,
      spurious,
      fixed,
    );
  }
  if (r !== RET_PF.INVALID) vcpu.stat.pf_fast++;
  return r;
}

function isAccessAllowed(vcpu: Vcpu, fault: KvmPageFault, lo: number): boolean {
  const { masks } = vcpu.kvm.module;
  if (fault.exec) return (lo & masks.x) !== 0;
  return fault.write ? (lo & SPTE_LO.WRITABLE) !== 0 : (lo & masks.present) !== 0;
}

function fixSpte(
  vcpu: Vcpu,
  fault: KvmPageFault,
  sptep: number,
  level: number,
  lo: number,
  hi: number,
): number {
  const { i32 } = vcpu.kvm.host.machine.mem;
  const { masks } = vcpu.kvm.module;
  const slot = fault.slot!;
  const tracked = isAccessTrackSpte(masks, lo);
  let newLo = tracked ? restoreAccessTrackLo(lo, hi) : lo;
  if (fault.write && isMmuWritable(hi)) {
    // Only the first page of a huge page would be logged: let the slow path split it.
    if (level > 1 && kvmSlotDirtyTrackEnabled(slot)) return RET_PF.INVALID;
    newLo |= SPTE_LO.WRITABLE;
  }
  if (newLo === lo || !isAccessAllowed(vcpu, fault, newLo)) return RET_PF.INVALID;
  i32[sptep] = newLo;
  if (tracked) i32[sptep + 1] = hi & ~SPTE_HI.ACC_TRACK_MASK;
  if ((newLo & ~lo & SPTE_LO.WRITABLE) !== 0) markPageDirtyInSlot(slot, fault.gfn);
  return RET_PF.FIXED;
}
