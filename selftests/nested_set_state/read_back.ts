// SPDX-License-Identifier: GPL-2.0-only
/** Beyond upstream: a state that was taken reads back, and one that was refused changes nothing. */
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { plainIoctlErrno, TEST_ASSERT_ERRNO } from '../../lib/kvm_util/ioctl_errno.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { vcpuNestedStateGet } from '../../lib/kvm_util/x86/nested_state.ts';
import {
  KVM_NESTED_NO_PA,
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED,
  KVM_STATE_NESTED_FORMAT,
} from '../../lib/uapi/nested_state.ts';
import { expectEinval, expectTaken, STATE_SIZE, vmxState } from './states.ts';

/** A byte of vmcs12 that no field check looks at while L1 runs. */
const SOME_BYTE = 0x3a0;

function expectCurrentVmcs(vcpu: KvmVcpu, what: string): void {
  const got = vcpuNestedStateGet(vcpu);
  TEST_ASSERT_EQ(got.format, KVM_STATE_NESTED_FORMAT.VMX, `${what}: format`);
  TEST_ASSERT_EQ(got.flags, 0, `${what}: flags`);
  TEST_ASSERT_EQ(got.size, STATE_SIZE, `${what}: size`);
  TEST_ASSERT_EQ(got.hdr.vmx.vmxon_pa, 0x1000n, `${what}: vmxon_pa`);
  TEST_ASSERT_EQ(got.hdr.vmx.vmcs12_pa, 0x2000n, `${what}: vmcs12_pa`);
  TEST_ASSERT_EQ(got.data.vmx.vmcs12[SOME_BYTE]!, 0x5a, `${what}: a byte of vmcs12`);
}

/** VMXON without a current VMCS, then with one; a buffer without room for it. */
function readBackL1(vcpu: KvmVcpu): void {
  expectTaken(
    vcpu,
    vmxState((s) => {
      s.size = KVM_NESTED_STATE_SIZE;
      s.hdr.vmx.vmcs12_pa = KVM_NESTED_NO_PA;
    }),
    'VMXON alone',
  );
  const alone = vcpuNestedStateGet(vcpu);
  TEST_ASSERT_EQ(alone.size, KVM_NESTED_STATE_SIZE, 'VMXON alone: size');
  TEST_ASSERT_EQ(alone.hdr.vmx.vmxon_pa, 0x1000n, 'VMXON alone: vmxon_pa');
  TEST_ASSERT_EQ(alone.hdr.vmx.vmcs12_pa, KVM_NESTED_NO_PA, 'VMXON alone: vmcs12_pa');

  expectTaken(
    vcpu,
    vmxState((s) => (s.data.vmx.vmcs12[SOME_BYTE] = 0x5a)),
    'a current VMCS',
  );
  expectCurrentVmcs(vcpu, 'a current VMCS');
  const errno = plainIoctlErrno(() => vcpuNestedStateGet(vcpu, KVM_NESTED_STATE_SIZE));
  TEST_ASSERT_ERRNO(errno, 'E2BIG', 'KVM_GET_NESTED_STATE without room for vmcs12');
}

/** L2 running on a VMCS of zeroes fails the checks of a VM entry; KVM has left nested mode by then. */
function refusedL2(vcpu: KvmVcpu): void {
  expectEinval(
    vcpu,
    vmxState((s) => (s.flags = KVM_STATE_NESTED.GUEST_MODE)),
    'L2 running on a VMCS of zeroes',
  );
  const got = vcpuNestedStateGet(vcpu);
  TEST_ASSERT((got.flags & KVM_STATE_NESTED.GUEST_MODE) === 0, 'the refused state left the vCPU in L2');
}

export function testReadBack(vcpu: KvmVcpu): void {
  readBackL1(vcpu);
  // Refused before anything is changed.
  expectEinval(
    vcpu,
    vmxState((s) => (s.hdr.vmx.vmxon_pa = 1n)),
    'a VMXON region that is not on a page boundary',
  );
  expectCurrentVmcs(vcpu, 'after a refused state');
  refusedL2(vcpu);
}
