// SPDX-License-Identifier: GPL-2.0-only
/** test_vmx_nested_state() of x86/nested_set_state_test.c of the KVM selftests: each line is one of its cases, in its order. */
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { vcpuSetCpuidFeature } from '../../lib/kvm_util/x86/cpuid.ts';
import { vcpuNestedStateGet } from '../../lib/kvm_util/x86/nested_state.ts';
import {
  KVM_NESTED_NO_PA,
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED,
  KVM_STATE_NESTED_FORMAT,
  KVM_STATE_NESTED_SMM,
  type KvmNestedState,
} from '../../lib/uapi/nested_state.ts';
import { X86_FEATURE } from '../../lib/x86/cpuid.ts';
import { expectEinval, expectTaken, STATE_SIZE, vmxState } from './states.ts';

type Change = (state: KvmNestedState) => void;
type Case = readonly [expected: 'EINVAL' | 'taken', what: string, change: Change];

const NONE = KVM_NESTED_NO_PA;
const ALL_SMM = KVM_STATE_NESTED_SMM.GUEST_MODE | KVM_STATE_NESTED_SMM.VMXON;

const noVmx = (flags: number, smm = 0): Change => {
  return (s) => {
    s.hdr.vmx.vmxon_pa = NONE;
    s.hdr.vmx.vmcs12_pa = NONE;
    s.hdr.vmx.smm.flags = smm;
    s.flags = flags;
  };
};

/** While CPUID hides VMX. */
const WITHOUT_VMX: readonly Case[] = [
  ['EINVAL', 'the format of SVM', (s) => (s.format = KVM_STATE_NESTED_FORMAT.SVM)],
  ['EINVAL', 'VMX without VMX in CPUID', () => undefined],
  ['EINVAL', 'a current VMCS without VMXON', (s) => (s.hdr.vmx.vmxon_pa = NONE)],
  ['EINVAL', 'EVMCS without VMX', noVmx(KVM_STATE_NESTED.EVMCS)],
  ['taken', 'no VMX at all', noVmx(0)],
];

/** With VMX in CPUID. */
const WITH_VMX: readonly Case[] = [
  ['taken', 'neither VMXON nor VMCS', noVmx(0)],
  ['EINVAL', 'SMM flags without VMXON', noVmx(0, 1)],
  ['EINVAL', 'all flags of the header', (s) => (s.hdr.vmx.flags = 0xffff_ffff)],
  ['EINVAL', 'a current VMCS without VMXON', (s) => (s.hdr.vmx.vmxon_pa = NONE)],
  ['EINVAL', 'a VMXON region that is not on a page boundary', (s) => (s.hdr.vmx.vmxon_pa = 1n)],
  [
    'EINVAL',
    'L2 running inside and outside of SMM',
    (s) => {
      s.flags = KVM_STATE_NESTED.GUEST_MODE | KVM_STATE_NESTED.RUN_PENDING;
      s.hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM.GUEST_MODE;
    },
  ],
  ['EINVAL', 'SMM flags that do not exist', (s) => (s.hdr.vmx.smm.flags = 0xffff & ~ALL_SMM)],
  ['EINVAL', 'SMM flags outside of SMM', (s) => (s.hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM.GUEST_MODE)],
  ['EINVAL', 'no room for vmcs12', (s) => (s.size = KVM_NESTED_STATE_SIZE)],
  [
    'taken',
    'no room for vmcs12, and no current VMCS',
    (s) => {
      s.size = KVM_NESTED_STATE_SIZE;
      s.hdr.vmx.vmcs12_pa = NONE;
    },
  ],
  ['taken', 'a VMCS that could not be entered, with L1 running', () => undefined],
  [
    'EINVAL',
    'all flags of the header without a VMCS',
    (s) => {
      s.size = KVM_NESTED_STATE_SIZE;
      s.hdr.vmx.vmcs12_pa = NONE;
      s.hdr.vmx.flags = 0xffff_ffff;
    },
  ],
  [
    'EINVAL',
    'one address for VMXON region and VMCS',
    (s) => {
      s.hdr.vmx.vmxon_pa = 0n;
      s.hdr.vmx.vmcs12_pa = 0n;
    },
  ],
];

function runCases(vcpu: KvmVcpu, cases: readonly Case[]): void {
  for (const [expected, what, change] of cases) {
    if (expected === 'taken') expectTaken(vcpu, vmxState(change), what);
    else expectEinval(vcpu, vmxState(change), what);
  }
}

export function testVmxNestedState(vcpu: KvmVcpu): void {
  runCases(vcpu, WITHOUT_VMX);
  vcpuSetCpuidFeature(vcpu, X86_FEATURE.VMX);
  runCases(vcpu, WITH_VMX);
  // What is left is what is read.
  expectTaken(vcpu, vmxState(noVmx(0)), 'leaving VMX');
  const state = vcpuNestedStateGet(vcpu, STATE_SIZE);
  TEST_ASSERT(
    state.size >= KVM_NESTED_STATE_SIZE && state.size <= STATE_SIZE,
    () =>
      `Size must be between ${KVM_NESTED_STATE_SIZE} and ${STATE_SIZE}.  The size returned was ${state.size}.`,
  );
  TEST_ASSERT_EQ(state.hdr.vmx.vmxon_pa, NONE, 'vmxon_pa');
  TEST_ASSERT_EQ(state.hdr.vmx.vmcs12_pa, NONE, 'vmcs12_pa');
  TEST_ASSERT_EQ(state.flags, 0, 'flags');
}
