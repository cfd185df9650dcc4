// SPDX-License-Identifier: GPL-2.0-only
/**
 * A fault of L2 on tables that shadow EPT12: ept_page_fault(), that is FNAME(page_fault) of
 * arch/x86/kvm/mmu/paging_tmpl.h, 6.12. Ends in a translation, in a fault for L1 (mmu.injectPageFault), or in an
 * instruction that has to be emulated.
 */
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { userHpaWait } from '../../host/mm/user_access.ts';
import type { Steps } from '../../host/steps.ts';
import { kvmVcpuGfnToMemslot } from '../guest_memory.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmTestRequest } from '../requests.ts';
import {
  FAULTIN_MUST_WAIT,
  kvmFaultinPfn,
  kvmFaultinPfnNowait,
  kvmReleaseFaultPage,
  mmuInvalidateRetryGfn,
} from './faultin.ts';
import { WALK, type GuestWalker } from './guest_walker.ts';
import { kvmInjectEmulatedPageFault } from './invalidate_addr.ts';
import { KvmMmuPage } from './mmu_page.ts';
import { RET_PF, type KvmPageFault } from './page_fault.ts';
import { pageFaultHandlePageTrack } from './page_track.ts';
import { shadowFetch } from './shadow_fetch.ts';
import { makeMmuPagesAvailable } from './shadow_limit.ts';
import { kvmMmuCommitZapPages } from './shadow_zap.ts';
import { isObsoleteSp } from './unsync.ts';
import { walkAddrGeneric } from './walk_addr.ts';

/** RET_PF.*, or a negated errno. `fault` was begun with L2's address. */
export function* eptPageFault(vcpu: Vcpu, fault: KvmPageFault): Steps<number> {
  const w = vcpu.arch.faultWalker;
  if ((yield* walkEpt(vcpu, fault, w)) === WALK.FAULT) {
    w.fault.fromHardware = true;
    kvmInjectEmulatedPageFault(vcpu, w.fault);
    return RET_PF.RETRY;
  }
  fault.gfn = w.gfn;
  fault.maxLevel = Math.min(w.level, vcpu.kvm.module.caps.maxTdpLevel);
  fault.slot = kvmVcpuGfnToMemslot(vcpu, fault.gfn);
  if (pageFaultHandlePageTrack(vcpu, fault)) return RET_PF.WRITE_PROTECTED;
  const r = yield* faultin(vcpu, fault);
  if (r !== RET_PF.CONTINUE) return r;
  return yield* fetchLocked(vcpu, fault, w);
}

/** FNAME(walk_addr), as often as the host has to be waited for. */
function* walkEpt(vcpu: Vcpu, fault: KvmPageFault, w: GuestWalker): Steps<number> {
  const lo = fault.addr | 0;
  const hi = Math.floor(fault.addr / 2 ** 32);
  for (;;) {
    const r = walkAddrGeneric(
      w,
      vcpu,
      vcpu.arch.mmu,
      lo,
      hi,
      fault.errorCode & ~(PFERR.RSVD | PFERR.PRESENT),
    );
    if (r !== WALK.BUSY) return r;
    yield* userHpaWait(vcpu.kvm.mm, w.busyHva, w.busyFoll);
  }
}

function* faultin(vcpu: Vcpu, fault: KvmPageFault): Steps<number> {
  if (!vcpu.kvm.host.sched.exploring) {
    const r = kvmFaultinPfnNowait(vcpu, fault);
    if (r !== FAULTIN_MUST_WAIT) return r;
  }
  return yield* kvmFaultinPfn(vcpu, fault);
}

/** What mmu_lock is held for. */
function* fetchLocked(vcpu: Vcpu, fault: KvmPageFault, w: GuestWalker): Steps<number> {
  const { kvm } = vcpu;
  if (kvm.host.sched.shouldYield()) yield;
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  let r = makeMmuPagesAvailable(kvm);
  // Only now: making room may have taken the root.
  if (r === 0) r = isPageFaultStale(vcpu, fault) ? RET_PF.RETRY : yield* shadowFetch(vcpu, fault, w);
  yield* kvmMmuCommitZapPages(kvm);
  kvm.mmuLock.writeUnlock();
  kvmReleaseFaultPage(kvm, fault);
  return r;
}

/** is_page_fault_stale(). */
function isPageFaultStale(vcpu: Vcpu, fault: KvmPageFault): boolean {
  const { sp } = vcpu.arch.mmu.root;
  if (sp instanceof KvmMmuPage ? isObsoleteSp(vcpu.kvm, sp) : sp?.role.invalid === true) return true;
  // Without a page nobody can say how old the root is: any request may mean it.
  if (sp === null && kvmTestRequest(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS, vcpu)) return true;
  return fault.slot !== null && mmuInvalidateRetryGfn(vcpu.kvm, fault.mmuSeq, fault.gfn);
}
