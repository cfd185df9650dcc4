// SPDX-License-Identifier: GPL-2.0-only
/**
 * From linear to guest-physical addresses of L1, for instructions that L0 emulates and for operands that it reads itself:
 * kvm_mmu_gva_to_gpa_*() and vcpu_mmio_gva_to_gpa() of arch/x86/kvm/x86.c, 6.12. Goes through vcpu.arch.walkMmu: while L2
 * runs on EPT12, through L2's tables and L1's for L2.
 */
import { gpa, offsetInPage, PAGE_SIZE, type Gpa } from '../../../lib/x86/addr.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { INVALID_GPA, type Vcpu } from '../kvm_host.ts';
import { PAGING, type KvmMmu } from '../kvm_host_x86.ts';
import { WALK } from '../mmu/guest_walker.ts';
import { kvmTranslateGpa, walkAddrGeneric } from '../mmu/walk_addr.ts';
import { high, low } from './cache_regs.ts';
import { X86Exception } from './x86_exception.ts';

/** A translation, or the fault that it ends in: for kvmInjectEmulatedPageFault(). */
export type GvaResult = { readonly gpa: Gpa } | X86Exception;

/** The CPL decides whether an access is a user's. */
const userAccess = (vcpu: Vcpu): number => (vcpu.kvm.module.ops.getCpl(vcpu) === 3 ? PFERR.USER : 0);

/** kvm_mmu_gva_to_gpa_read(), _write() and _fetch(): `access` is PFERR.WRITE, PFERR.FETCH or 0. */
export function kvmGvaToGpa(vcpu: Vcpu, linear: bigint, access: number): GvaResult {
  const fault = new X86Exception();
  const to = kvmMmuGvaToGpa(vcpu, vcpu.arch.walkMmu, linear, access | userAccess(vcpu), fault);
  return to === INVALID_GPA ? fault : { gpa: to };
}

/**
 * mmu->gva_to_gpa(): `access` is PFERR.* including USER. INVALID_GPA with `fault` filled, or with vcpu.guestPageBusy set
 * if the host has to be waited for: then nothing is to be injected, and the instruction begins anew.
 */
export function kvmMmuGvaToGpa(
  vcpu: Vcpu,
  mmu: KvmMmu,
  linear: bigint,
  access: number,
  fault: X86Exception,
): Gpa {
  if (mmu.format === PAGING.NONE) return kvmTranslateGpa(vcpu, mmu, gpa(Number(linear)), access, fault);
  const w = vcpu.arch.gvaWalker;
  w.fault = fault;
  const lo = low(linear);
  const r = walkAddrGeneric(w, vcpu, mmu, lo, high(linear), access);
  if (r === WALK.OK) return gpa(w.gfn * PAGE_SIZE + offsetInPage(lo));
  if (r === WALK.BUSY) vcpu.guestPageBusy = true;
  return INVALID_GPA;
}
