// SPDX-License-Identifier: GPL-2.0-only
/**
 * Userspace restores VMX capability MSRs with fewer bits than KVM supports, never with more. The first half is
 * vmx_save_restore_msrs_test() of x86/vmx_msrs_test.c of the KVM selftests.
 */
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { _vcpuSetMsr, vcpuGetMsr, vcpuSetMsr } from '../../lib/kvm_util/x86/msr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { VMX_MSR } from '../../lib/x86/vmx/capability_msrs.ts';

const ALL_ONES = 2n ** 64n - 1n;
const LOW_HALF = 0xffff_ffffn;
const HIGH_HALF = 0xffff_ffff_0000_0000n;

const bits = (...numbers: readonly number[]): bigint =>
  numbers.reduce((all, n) => all | (1n << BigInt(n)), 0n);

/** Every bit of a mask, lowest first. */
export const bitsOf = (mask: bigint): bigint[] =>
  Array.from({ length: 64 }, (_, n) => 1n << BigInt(n)).filter((bit) => (mask & bit) !== 0n);

/** vmx_fixed1_msr_test(): what is 1 may be restored as 0, and as 1 again. */
function vmxFixed1MsrTest(vcpu: KvmVcpu, index: number, mask: bigint): void {
  const value = vcpuGetMsr(vcpu, index);
  for (const bit of bitsOf(mask & value)) {
    vcpuSetMsr(vcpu, index, value & ~bit);
    vcpuSetMsr(vcpu, index, value);
  }
}

/** vmx_fixed0_msr_test(): what is 0 may be restored as 1, and as 0 again. */
function vmxFixed0MsrTest(vcpu: KvmVcpu, index: number, mask: bigint): void {
  const value = vcpuGetMsr(vcpu, index);
  for (const bit of bitsOf(mask & ~value)) {
    vcpuSetMsr(vcpu, index, value | bit);
    vcpuSetMsr(vcpu, index, value);
  }
}

/** vmx_fixed0and1_msr_test(): the low half must be 1 where it is 1, the high half may be 1 where it is 1. */
function vmxFixed0and1MsrTest(vcpu: KvmVcpu, index: number): void {
  vmxFixed0MsrTest(vcpu, index, LOW_HALF);
  vmxFixed1MsrTest(vcpu, index, HIGH_HALF);
}

/** MSRs of controls: bits that must be 1, and that may be 1. */
const CONTROLS = [
  ...[VMX_MSR.IA32_VMX_PROCBASED_CTLS2, VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS],
  ...[VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS],
  VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS,
] as const;

const BASIC_BITS = bits(49, 54, 55);
const MISC_BITS = bits(5, 6, 7, 8, 14, 15, 28, 29, 30);

/** vmx_save_restore_msrs_test(). */
export function vmxSaveRestoreMsrsTest(vcpu: KvmVcpu): void {
  vcpuSetMsr(vcpu, VMX_MSR.IA32_VMX_VMCS_ENUM, 0n);
  vcpuSetMsr(vcpu, VMX_MSR.IA32_VMX_VMCS_ENUM, ALL_ONES);
  vmxFixed1MsrTest(vcpu, VMX_MSR.IA32_VMX_BASIC, BASIC_BITS);
  vmxFixed1MsrTest(vcpu, VMX_MSR.IA32_VMX_MISC, MISC_BITS);
  vmxFixed1MsrTest(vcpu, VMX_MSR.IA32_VMX_EPT_VPID_CAP, ALL_ONES);
  for (const index of CONTROLS) vmxFixed0and1MsrTest(vcpu, index);
  vmxFixed1MsrTest(vcpu, VMX_MSR.IA32_VMX_VMFUNC, ALL_ONES);
}

function expectRefused(vcpu: KvmVcpu, index: number, value: bigint): void {
  const before = vcpuGetMsr(vcpu, index);
  TEST_ASSERT(
    _vcpuSetMsr(vcpu, index, value) === 0,
    () => `KVM_SET_MSRS of MSR ${hex(index)} should refuse ${hex(value)}`,
  );
  TEST_ASSERT_EQ(vcpuGetMsr(vcpu, index), before, `MSR ${hex(index)} after a refused write`);
}

/** The capability MSRs that KVM derives from the TRUE ones: userspace cannot set them. */
const DERIVED = [
  ...[VMX_MSR.IA32_VMX_PINBASED_CTLS, VMX_MSR.IA32_VMX_PROCBASED_CTLS],
  ...[VMX_MSR.IA32_VMX_EXIT_CTLS, VMX_MSR.IA32_VMX_ENTRY_CTLS],
  ...[VMX_MSR.IA32_VMX_CR0_FIXED1, VMX_MSR.IA32_VMX_CR4_FIXED1],
] as const;

/** More than KVM supports is refused, bit by bit, and changes nothing. */
export function unsupportedBitsTest(vcpu: KvmVcpu): void {
  for (const index of CONTROLS) {
    const value = vcpuGetMsr(vcpu, index);
    // Fewer bits that must be 1, more that may be.
    for (const bit of bitsOf(LOW_HALF & value)) expectRefused(vcpu, index, value & ~bit);
    for (const bit of bitsOf(HIGH_HALF & ~value)) expectRefused(vcpu, index, value | bit);
  }
  for (const index of [VMX_MSR.IA32_VMX_EPT_VPID_CAP, VMX_MSR.IA32_VMX_VMFUNC]) {
    const value = vcpuGetMsr(vcpu, index);
    for (const bit of bitsOf(ALL_ONES & ~value)) expectRefused(vcpu, index, value | bit);
  }
  const basic = vcpuGetMsr(vcpu, VMX_MSR.IA32_VMX_BASIC);
  expectRefused(vcpu, VMX_MSR.IA32_VMX_BASIC, basic ^ 1n);
  for (const bit of bitsOf(BASIC_BITS & ~basic)) expectRefused(vcpu, VMX_MSR.IA32_VMX_BASIC, basic | bit);
  for (const index of DERIVED) expectRefused(vcpu, index, vcpuGetMsr(vcpu, index));
}
