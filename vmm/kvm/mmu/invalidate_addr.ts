// SPDX-License-Identifier: GPL-2.0-only
/**
 * One address is to be looked up anew: kvm_mmu_invalidate_addr() of arch/x86/kvm/mmu/mmu.c, and injecting a fault that
 * a walk met, kvm_inject_emulated_page_fault() of x86.c, 6.12.
 */
import { PAGE_SIZE } from '../../../lib/x86/addr.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmMmu } from '../kvm_host_x86.ts';
import { high, kvmReadCr4, low } from '../x86/cache_regs.ts';
import type { X86Exception } from '../x86/x86_exception.ts';
import { kvmMmuInvalidateNestedAddr } from './shadow_work.ts';

/** is_noncanonical_invlpg_address(): INVLPG of such an address does nothing. */
function isCanonical(vcpu: Vcpu, linear: bigint): boolean {
  const bits = (kvmReadCr4(vcpu) & CR4.LA57) !== 0 ? 57 : 48;
  return BigInt.asUintN(64, BigInt.asIntN(bits, linear)) === linear;
}

/** kvm_mmu_invalidate_addr() of a linear address; under two-dimensional paging only the TLB knows of it. */
export function kvmMmuInvalidateGva(vcpu: Vcpu, linear: bigint): void {
  if (isCanonical(vcpu, linear)) vcpu.kvm.module.ops.flushTlbGva(vcpu, low(linear), high(linear));
}

/**
 * kvm_inject_emulated_page_fault(): to L1 if its tables for L2 are at fault, else to the guest whose linear address it
 * is. What the CPU has cached may be older than what the walk saw.
 */
export function kvmInjectEmulatedPageFault(vcpu: Vcpu, fault: X86Exception): void {
  const { mmu, walkMmu } = vcpu.arch;
  const owner = fault.nestedPageFault ? mmu : walkMmu;
  if (fault.nestedPageFault) invalidateCachedRoots(vcpu, mmu, fault.address);
  else if ((fault.errorCode & (PFERR.PRESENT | PFERR.RSVD)) === PFERR.PRESENT)
    kvmMmuInvalidateGva(vcpu, fault.linear);
  owner.injectPageFault(vcpu, fault);
}

/**
 * nested_ept_invalidate_addr(): an EPT violation makes the CPU forget the address in the EPTP's context, that is in every
 * root that was made for the same table.
 */
function invalidateCachedRoots(vcpu: Vcpu, mmu: KvmMmu, address: number): void {
  const table = Math.floor(mmu.getGuestPgd(vcpu) / PAGE_SIZE);
  for (const { pgd, sp } of [mmu.root, ...mmu.prevRoots]) {
    if (sp !== null && Math.floor(pgd / PAGE_SIZE) === table)
      kvmMmuInvalidateNestedAddr(vcpu, mmu, address, sp);
  }
}
