// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which control registers and which EFER VMX operation allows: nested_host_cr0_valid(), nested_guest_cr0_valid() and
 * nested_cr4_valid() of arch/x86/kvm/vmx/nested.h, kvm_valid_efer(), and from them vmx_is_valid_cr0() and
 * vmx_is_valid_cr4(), 6.12. Values are given in words.
 */
import { CR0 } from '../../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { isGuestMode } from '../../x86/cache_regs.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { fixedBitsValid } from './check_util.ts';
import { nestedCpuHasUnrestrictedGuest } from './vmcs12_controls.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** nested_guest_cr0_valid(): an unrestricted guest may do without paging and protection. */
export function nestedGuestCr0Valid(vcpu: Vcpu, vmcs12: Vmcs12, lo: number, hi: number): boolean {
  const { cr0Fixed0, cr0Fixed1, secondary } = toVmx(vcpu).nested.msrs;
  const unrestricted =
    (secondary.high & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0 && nestedCpuHasUnrestrictedGuest(vmcs12);
  const fixed0 = unrestricted ? cr0Fixed0[0] & ~(CR0.PG | CR0.PE) : cr0Fixed0[0];
  return fixedBitsValid(lo, fixed0, cr0Fixed1[0]) && fixedBitsValid(hi, cr0Fixed0[1], cr0Fixed1[1]);
}

/** nested_host_cr0_valid(). */
export function nestedHostCr0Valid(vcpu: Vcpu, lo: number, hi: number): boolean {
  const { cr0Fixed0, cr0Fixed1 } = toVmx(vcpu).nested.msrs;
  return fixedBitsValid(lo, cr0Fixed0[0], cr0Fixed1[0]) && fixedBitsValid(hi, cr0Fixed0[1], cr0Fixed1[1]);
}

/** nested_cr4_valid(): as VMX and as this vCPU's CPUID allow it. */
export function nestedCr4Valid(vcpu: Vcpu, lo: number, hi: number): boolean {
  const { cr4Fixed0, cr4Fixed1 } = toVmx(vcpu).nested.msrs;
  return (
    fixedBitsValid(lo, cr4Fixed0[0], cr4Fixed1[0]) &&
    fixedBitsValid(hi, cr4Fixed0[1], cr4Fixed1[1]) &&
    (lo & vcpu.arch.cr4GuestRsvdBits) === 0
  );
}

/** kvm_valid_efer(). */
export const kvmValidEfer = (vcpu: Vcpu, lo: number, hi: number): boolean =>
  hi === 0 && (lo & ~vcpu.arch.eferValidBits) === 0;

/** vmx_is_valid_cr0(): bits 63:32 are zero already. */
export function vmxIsValidCr0(vcpu: Vcpu, cr0: number): boolean {
  const { nested } = toVmx(vcpu);
  if (isGuestMode(vcpu)) return nestedGuestCr0Valid(vcpu, nested.cachedVmcs12, cr0, 0);
  return !nested.vmxon || nestedHostCr0Valid(vcpu, cr0, 0);
}

/** vmx_is_valid_cr4(). */
export const vmxIsValidCr4 = (vcpu: Vcpu, cr4: number): boolean =>
  !toVmx(vcpu).nested.vmxon || nestedCr4Valid(vcpu, cr4, 0);
