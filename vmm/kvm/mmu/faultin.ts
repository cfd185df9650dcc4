// SPDX-License-Identifier: GPL-2.0-only
/**
 * The frame behind a faulting gfn. Mirrors kvm_faultin_pfn() of arch/x86/kvm/mmu/mmu.c and hva_to_pfn() of
 * virt/kvm/kvm_main.c, 6.12; leaves out async page faults and hardware poison.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import type { Gfn, Pfn } from '../../../lib/x86/addr.ts';
import { FOLL } from '../../host/mm/fault.ts';
import { getUserPage, getUserPageNowait } from '../../host/mm/gup.ts';
import type { Steps } from '../../host/steps.ts';
import { gfnToHvaSlot } from '../guest_memory.ts';
import { KVM_HVA_ERR, KVM_PFN_ERR, INVALID_GFN, type Kvm, type Vcpu } from '../kvm_host.ts';
import { KVM_MEMSLOT_INVALID, memslotIsReadonly } from '../memslots.ts';
import { BugError } from '../../machine/errors.ts';
import { vcpuCacheMmioInfo } from './mmio.ts';
import { RET_PF, type KvmPageFault } from './page_fault.ts';

/** More than RET_PF: the host has to be waited for. */
export const FAULTIN_MUST_WAIT = 100;

/** kvm_faultin_pfn() as far as it goes without waiting: RET_PF.*, a negated errno, or FAULTIN_MUST_WAIT. */
export function kvmFaultinPfnNowait(vcpu: Vcpu, fault: KvmPageFault): number {
  const before = beforeLookup(vcpu, fault);
  if (before !== RET_PF.CONTINUE || fault.slot === null) return before;
  const foll = fault.write ? FOLL.WRITE : FOLL.READ;
  const found = getUserPageNowait(vcpu.kvm.mm, fault.hva, foll);
  if (found === -ERRNO.EAGAIN) return FAULTIN_MUST_WAIT;
  return afterLookup(vcpu, fault, found);
}

/** kvm_faultin_pfn(). */
export function* kvmFaultinPfn(vcpu: Vcpu, fault: KvmPageFault): Steps<number> {
  const { sched } = vcpu.kvm.host;
  const before = beforeLookup(vcpu, fault);
  if (before !== RET_PF.CONTINUE || fault.slot === null) return before;
  if (sched.shouldYield()) yield;
  const found = yield* getUserPage(vcpu.kvm.mm, fault.hva, fault.write ? FOLL.WRITE : FOLL.READ);
  return afterLookup(vcpu, fault, found);
}

/** Snapshot the sequence, then everything that can be decided without the frame. */
function beforeLookup(vcpu: Vcpu, fault: KvmPageFault): number {
  const { kvm } = vcpu;
  const { slot } = fault;
  fault.mmuSeq = kvm.mmuInvalidateSeq;
  if (slot === null) return kvmHandleNoslotFault(vcpu, fault);
  // The slot is being deleted or moved: what replaces it will be there soon.
  if (slot.flags & KVM_MEMSLOT_INVALID) return RET_PF.RETRY;
  if (mmuInvalidateRetryGfn(kvm, fault.mmuSeq, fault.gfn)) return RET_PF.RETRY;
  fault.hva = gfnToHvaSlot(slot, fault.gfn, fault.write ? 'write' : 'read');
  if (fault.hva === KVM_HVA_ERR.RO_BAD) {
    // Not cached as MMIO: reads of the page must go on being plain reads.
    fault.pfn = KVM_PFN_ERR.RO_FAULT;
    return RET_PF.EMULATE;
  }
  return RET_PF.CONTINUE;
}

function afterLookup(vcpu: Vcpu, fault: KvmPageFault, found: number): number {
  const { kvm } = vcpu;
  if (found < 0) {
    // kvm_handle_error_pfn(): a signal ends the fault, anything else is userspace's mistake.
    return found === -ERRNO.EINTR ? -ERRNO.EINTR : -ERRNO.EFAULT;
  }
  const { gup } = kvm.mm;
  fault.pfn = found as Pfn;
  fault.lookupPfn = fault.pfn;
  fault.refcounted = gup.refcounted;
  fault.mapWritable = gup.writable && !memslotIsReadonly(fault.slot!);
  if (mmuInvalidateRetryGfn(kvm, fault.mmuSeq, fault.gfn)) {
    kvmReleaseFaultPage(kvm, fault);
    return RET_PF.RETRY;
  }
  return RET_PF.CONTINUE;
}

/** kvm_handle_noslot_fault(): MMIO. */
function kvmHandleNoslotFault(vcpu: Vcpu, fault: KvmPageFault): number {
  const { caps } = vcpu.kvm.module;
  vcpuCacheMmioInfo(vcpu, fault.gfn, 0);
  fault.slot = null;
  fault.pfn = KVM_PFN_ERR.NOSLOT;
  fault.mapWritable = false;
  fault.hva = KVM_HVA_ERR.BAD;
  if (!caps.mmioCaching) return RET_PF.EMULATE;
  if (fault.gfn > 2 ** (caps.maxphyaddr - 12) - 1) return RET_PF.EMULATE;
  return RET_PF.CONTINUE;
}

/** kvm_release_pfn_clean(): give the reference of the lookup back. */
export function kvmReleaseFaultPage(kvm: Kvm, fault: KvmPageFault): void {
  if (!fault.refcounted) return;
  fault.refcounted = false;
  kvm.host.pages.putPage(fault.lookupPfn);
}

/** mmu_invalidate_retry_gfn(): has, or is, the gfn being invalidated since the sequence was `seq`? */
export function mmuInvalidateRetryGfn(kvm: Kvm, seq: number, gfn: Gfn): boolean {
  if (kvm.mmuInvalidateInProgress !== 0) {
    if (kvm.mmuInvalidateRangeStart === INVALID_GFN)
      throw new BugError('an invalidation in progress has no range');
    if (gfn >= kvm.mmuInvalidateRangeStart && gfn < kvm.mmuInvalidateRangeEnd) return true;
  }
  return kvm.mmuInvalidateSeq !== seq;
}
