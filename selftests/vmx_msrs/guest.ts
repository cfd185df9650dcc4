// SPDX-License-Identifier: GPL-2.0-only
/**
 * Beyond upstream: the guest reads what userspace restored, and has GP for every write. SDM, "VMX Capability Reporting Facility":
 * the capability MSRs are read only.
 */
import {
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  GUEST_SYNC,
  guestFn,
  guestGlobal,
  type GuestImage,
  linkGuest,
  rdmsr_safe,
  u32,
  u64,
  wrmsr_safe,
} from '../../lib/guest/index.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../../lib/kvm_util/ucall_common.ts';
import { vcpuGetMsr, vcpuSetMsr } from '../../lib/kvm_util/x86/msr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { VMX_MSR } from '../../lib/x86/vmx/capability_msrs.ts';

const FIRST = VMX_MSR.IA32_VMX_BASIC;
const LAST = VMX_MSR.IA32_VMX_VMFUNC;

const value = guestGlobal('msr_value', u64);

const guest_code = guestFn('guest_code', [], (g) => {
  const msr = g.local(u32);
  g.forRange(msr, FIRST, LAST + 1, 1, () => {
    GUEST_ASSERT_EQ(g, rdmsr_safe(g, msr, value), 0);
    GUEST_ASSERT_EQ(g, wrmsr_safe(g, msr, value), VECTOR.GP);
    GUEST_SYNC(g, value);
  });
  GUEST_DONE(g);
});

export const linkVmxMsrs = (): GuestImage => linkGuest(guest_code);

/** A restricted IA32_VMX_EPT_VPID_CAP, for the guest to see that it is restricted. */
function restrict(vcpu: KvmVcpu): void {
  const caps = vcpuGetMsr(vcpu, VMX_MSR.IA32_VMX_EPT_VPID_CAP);
  vcpuSetMsr(vcpu, VMX_MSR.IA32_VMX_EPT_VPID_CAP, caps & (caps - 1n));
}

export function* guestMsrTest(vcpu: KvmVcpu): Steps<void> {
  restrict(vcpu);
  for (let msr: number = FIRST; msr <= LAST; msr++) {
    const uc = yield* runUntilUcall(vcpu);
    TEST_ASSERT_EQ(uc.cmd, UCALL.SYNC, 'ucall');
    TEST_ASSERT_EQ(uc.args[1]!, vcpuGetMsr(vcpu, msr), `MSR ${hex(msr)} as the guest reads it`);
  }
  TEST_ASSERT_EQ((yield* runUntilUcall(vcpu)).cmd, UCALL.DONE, 'ucall');
}
