// SPDX-License-Identifier: GPL-2.0-only
/**
 * The APIC ID in KVM_GET_LAPIC's image, in both modes and formats; after x86/xapic_state_test.c of the KVM selftests.
 * Added: KVM_CAP_X2APIC_API's refusals, and the local vector table. SDM, "Local Vector Table".
 */
import { gpa } from '../../lib/x86/addr.ts';
import { APIC_LVT, APIC_REG, APIC_SPIV, APICBASE } from '../../lib/x86/apic.ts';
import { hex } from '../../lib/x86/bits.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_APIC_REG_SIZE, KVM_X2APIC_API } from '../../lib/uapi/vcpu_state.ts';
import { APIC_DEFAULT_GPA } from '../../lib/guest/apic.ts';
import type { Backend, Steps } from '../../lib/kvm_util/backend.ts';
import { ioctlErrno, plainIoctlErrno, TEST_ASSERT_ERRNO } from '../../lib/kvm_util/ioctl_errno.ts';
import { kvmVmFree, type KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu, vmCreateWithVcpus } from '../../lib/kvm_util/vm_create.ts';
import { vcpuGetMsr, vcpuSetMsr } from '../../lib/kvm_util/x86/msr.ts';
import { virtPgMap } from '../../lib/kvm_util/x86/page_table.ts';
import { LVT, LVT_PATTERN, linkXapicState, lvt_guest_code } from './guest.ts';
import { lapicView } from './icr.ts';

const EXTD = BigInt(APICBASE.EXTD);
const ENABLE = BigInt(APICBASE.ENABLE);
const NR_VCPUS = 3;

const apicId = (vcpu: KvmVcpu): number => lapicView(vcpu.fd.getLapic().regs).getUint32(APIC_REG.ID, true);

/** __test_apic_id(). */
function checkApicId(vcpu: KvmVcpu, apicBase: bigint): void {
  vcpuSetMsr(vcpu, MSR.IA32_APICBASE, apicBase);
  const x2apic = (apicBase & EXTD) !== 0n;
  const expected = x2apic ? vcpu.id : vcpu.id << 24;
  const got = apicId(vcpu);
  TEST_ASSERT(
    got === expected,
    () =>
      `APIC_ID not set back to ${x2apic ? 'x2APIC' : 'xAPIC'} format; wanted = ${hex(expected)}, got = ${hex(got)}`,
  );
}

/**
 * test_apic_id(): the ID follows the mode when userspace writes IA32_APICBASE, also on the way from x2APIC straight to
 * xAPIC, which no processor allows.
 */
export function* testApicId(backend: Backend): Steps<void> {
  const vm = yield* vmCreateWithVcpus(backend, NR_VCPUS, { image: linkXapicState() });
  yield* vm.fd.enableCap({ cap: KVM_CAP.X2APIC_API, flags: 0, args: [KVM_X2APIC_API.USE_32BIT_IDS] });
  for (const vcpu of vm.vcpus) {
    const base = vcpuGetMsr(vcpu, MSR.IA32_APICBASE);
    TEST_ASSERT((base & ENABLE) !== 0n, 'APIC not in ENABLED state at vCPU RESET');
    TEST_ASSERT((base & EXTD) === 0n, 'APIC not in xAPIC mode at vCPU RESET');
    checkApicId(vcpu, base);
    checkApicId(vcpu, base | EXTD);
    checkApicId(vcpu, base);
  }
  yield* kvmVmFree(vm);
}

/** test_x2apic_id(): a modified ID is ignored, in the old format of the image. */
export function* testX2apicId(backend: Backend): Steps<void> {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkXapicState() });
  vcpuSetMsr(vcpu, MSR.IA32_APICBASE, BigInt(APIC_DEFAULT_GPA) | ENABLE | EXTD);
  const state = { regs: new Uint8Array(KVM_APIC_REG_SIZE) };
  for (let i = 0; i <= 0xff; i++) {
    const view = lapicView(state.regs);
    view.setUint32(APIC_REG.ID, (i << 24) >>> 0, true);
    view.setUint32(APIC_REG.SPIV, APIC_SPIV.APIC_ENABLED, true);
    vcpu.fd.setLapic(state);
    TEST_ASSERT(apicId(vcpu) === vcpu.id << 24, 'x2APIC ID should be fully readonly');
  }
  yield* kvmVmFree(vm);
}

/** Added: with 32-bit IDs a wrong ID is refused and a wrong LDR is put right; unknown flags are refused. */
export function* testX2apicApi(backend: Backend): Steps<void> {
  const vm = yield* vmCreateWithVcpus(backend, NR_VCPUS, { image: linkXapicState() });
  const unknown = yield* ioctlErrno(vm.fd.enableCap({ cap: KVM_CAP.X2APIC_API, flags: 0, args: [1 << 30] }));
  TEST_ASSERT_ERRNO(unknown, 'EINVAL', 'an unknown flag of KVM_CAP_X2APIC_API');
  yield* vm.fd.enableCap({ cap: KVM_CAP.X2APIC_API, flags: 0, args: [KVM_X2APIC_API.USE_32BIT_IDS] });
  for (const vcpu of vm.vcpus) {
    vcpuSetMsr(vcpu, MSR.IA32_APICBASE, vcpuGetMsr(vcpu, MSR.IA32_APICBASE) | EXTD);
    const state = vcpu.fd.getLapic();
    const view = lapicView(state.regs);
    view.setUint32(APIC_REG.LDR, 0x1234_5678, true);
    vcpu.fd.setLapic(state);
    const ldr = lapicView(vcpu.fd.getLapic().regs).getUint32(APIC_REG.LDR, true);
    // SDM: cluster in bits 31:16 is the ID's bits 19:4, and one bit of 15:0 is set.
    TEST_ASSERT_EQ(ldr, 1 << vcpu.id, 'LDR in x2APIC mode');
    view.setUint32(APIC_REG.ID, vcpu.id + 1, true);
    TEST_ASSERT_ERRNO(
      plainIoctlErrno(() => vcpu.fd.setLapic(state)),
      'EINVAL',
      'KVM_SET_LAPIC with the ID of another vCPU',
    );
    TEST_ASSERT_EQ(apicId(vcpu), vcpu.id, 'APIC ID after the refusal');
  }
  yield* kvmVmFree(vm);
}

/** Bits that the pattern leaves in each entry. SDM, "Local Vector Table (LVT)"; KVM has polarity and trigger in LINT0/1. */
const LVT_READ_BACK: Readonly<Record<(typeof LVT)[number], number>> = {
  LVTTHMR: 0x1_07ff,
  LVTPC: 0x1_07ff,
  LVT0: 0x1_a7ff,
  LVT1: 0x1_a7ff,
  LVTERR: 0x1_00ff,
};

/** Added: reserved bits of the local vector table read as zero; without software enable every entry is masked. */
export function* testLvt(backend: Backend): Steps<void> {
  const image = linkXapicState();
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image, entry: image.addressOf(lvt_guest_code) });
  virtPgMap(vm, BigInt(APIC_DEFAULT_GPA), gpa(APIC_DEFAULT_GPA));
  for (const name of LVT) {
    const { args } = yield* runUntilUcall(vcpu);
    TEST_ASSERT_EQ(Number(args[2]!), LVT_READ_BACK[name], `${name} after a write of ${hex(LVT_PATTERN)}`);
    TEST_ASSERT_EQ(Number(args[3]!), 0, `${name} after a write of 0`);
  }
  for (const name of LVT) {
    const { args } = yield* runUntilUcall(vcpu);
    TEST_ASSERT_EQ(Number(args[2]!), APIC_LVT.MASKED, `${name} once the APIC is off`);
    TEST_ASSERT_EQ(Number(args[3]!), APIC_LVT.MASKED | 0x30, `${name} written while the APIC is off`);
  }
  yield* kvmVmFree(vm);
}
