// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the consistency checks on vmcs12 share: CC() of arch/x86/kvm/vmx/nested.c, 6.12, and the tests on addresses and
 * control words. A caller of a check learns only that one failed, as in the kernel; which one is in the trace and in
 * NestedVmx.failedCheck.
 */
import { CR4 } from '../../../../lib/x86/registers.ts';
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { TP } from '../../trace_events.ts';
import { kvmReadCr4 } from '../../x86/cache_regs.ts';
import { toVmx } from '../vcpu_vmx.ts';
import type { NestedControlCaps } from './nested_msrs.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** enum vm_entry_failure_code: the exit qualification of an entry that failed on guest state. */
// prettier-ignore
export const ENTRY_FAIL = { DEFAULT: 0, PDPTE: 2, NMI: 3, VMCS_LINK_PTR: 4 } as const;

/** What a check that failed returns. */
export const CHECK_FAILED = -ERRNO.EINVAL;

/** CC(): pass `failed` on; if it is true, leave a trace of the rule that is broken. */
export function cc(vcpu: Vcpu, failed: boolean, rule: string): boolean {
  if (failed) nestedVmenterFailed(vcpu, rule);
  return failed;
}

/** trace_kvm_nested_vmenter_failed(); `error` is a VM-instruction error of the processor, 0 for a check of L0's own. */
export function nestedVmenterFailed(vcpu: Vcpu, rule: string, error = 0): void {
  toVmx(vcpu).nested.failedCheck = rule;
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_NESTED_VMENTER_FAILED] !== 0) trace.record(TP.KVM_NESTED_VMENTER_FAILED, rule, error);
}

/** fixed_bits_valid() of one word. */
export const fixedBitsValid = (word: number, fixed0: number, fixed1: number): boolean =>
  ((word & fixed1) | fixed0) === (word | 0);

/** vmx_control_verify(): the bits that must be 1 are, the bits that may not be are not. */
export const vmxControlVerify = (control: number, caps: NestedControlCaps): boolean =>
  fixedBitsValid(control, caps.low, caps.high);

/** kvm_vcpu_is_legal_gpa(): nothing above the guest's physical-address width. */
export function kvmVcpuIsLegalGpa(vcpu: Vcpu, lo: number, hi: number): boolean {
  const bits = vcpu.arch.maxphyaddr;
  return bits >= 32 ? hi >>> (bits - 32) === 0 : hi === 0 && lo >>> bits === 0;
}

/** kvm_vcpu_is_legal_aligned_gpa() of a field; `align` is a power of two. */
export function legalAlignedGpa(vcpu: Vcpu, vmcs12: Vmcs12, field: number, align: number): boolean {
  const lo = vmcs12.lo(field);
  return (lo & (align - 1)) === 0 && kvmVcpuIsLegalGpa(vcpu, lo, vmcs12.hi(field));
}

/** page_address_valid() of a field. */
export const pageAddressValid = (vcpu: Vcpu, vmcs12: Vmcs12, field: number): boolean =>
  legalAlignedGpa(vcpu, vmcs12, field, 0x1000);

/** kvm_vcpu_is_legal_cr3() of a field: no bit above the physical-address width, none of LAM's either. */
export const legalCr3 = (vcpu: Vcpu, vmcs12: Vmcs12, field: number): boolean =>
  kvmVcpuIsLegalGpa(vcpu, vmcs12.lo(field), vmcs12.hi(field));

/** vcpu_virt_addr_bits(): bits 63:32 shifted right by this are all alike in a canonical address. */
export const canonicalShift = (vcpu: Vcpu): number => ((kvmReadCr4(vcpu) & CR4.LA57) !== 0 ? 24 : 15);

/** is_noncanonical_address() of bits 63:32. */
export function isNoncanonicalHigh(hi: number, shift: number): boolean {
  const top = hi >> shift;
  return top !== 0 && top !== -1;
}

/** kvm_pat_valid() of a field: each byte is one of the memory types 0, 1, 4, 5, 6, 7. */
export const patFieldValid = (vmcs12: Vmcs12, field: number): boolean =>
  patHalfValid(vmcs12.lo(field)) && patHalfValid(vmcs12.hi(field));

/** Types 2 and 3 are those with bit 1 set and bit 2 clear. */
const patHalfValid = (word: number): boolean =>
  (word & 0xf8f8_f8f8) === 0 && (word & 0x0202_0202 & ~(word >>> 1)) === 0;
