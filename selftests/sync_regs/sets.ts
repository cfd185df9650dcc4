// SPDX-License-Identifier: GPL-2.0-only
/** Register sets that are asked for, given, refused and left alone. After x86/sync_regs_test.c of the KVM selftests. */
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_EXIT, KVM_SYNC_X86 } from '../../lib/uapi/run.ts';
import { KVM_VCPUEVENT_VALID } from '../../lib/uapi/vcpu_state.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR4 } from '../../lib/x86/registers.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { errnoText, tryVcpuRun, unexpectedExit, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';

export const TEST_SYNC_FIELDS = KVM_SYNC_X86.REGS | KVM_SYNC_X86.SREGS | KVM_SYNC_X86.EVENTS;
export const INVALID_SYNC_FIELD = 0x8000_0000;

/** Fail unless both have equal leaves; `path` names the one that differs. */
function compare(path: string, left: unknown, right: unknown): void {
  if (typeof left === 'bigint' || typeof left === 'number') {
    TEST_ASSERT_EQ<bigint | number>(right as bigint | number, left, `Register ${path} in kvm_run`);
    return;
  }
  const from = left as Readonly<Record<string, unknown>>;
  const to = right as Readonly<Record<string, unknown>>;
  for (const name of Object.keys(from)) compare(`${path}.${name}`, from[name], to[name]);
}

/** compare_regs(), compare_sregs() and compare_vcpu_events(); upstream leaves the latter two empty. */
function compareAll(vcpu: KvmVcpu): void {
  const { regs } = vcpu.fd.run.s;
  compare('regs', vcpu.fd.getRegs(), regs.regs);
  compare('sregs', vcpu.fd.getSregs(), regs.sregs);
  compare('events', vcpu.fd.getVcpuEvents(), regs.events);
}

/** vcpu_run() and TEST_ASSERT_KVM_EXIT_REASON(vcpu, KVM_EXIT_IO). */
export function* runToIo(vcpu: KvmVcpu): Steps<void> {
  yield* vcpuRun(vcpu);
  if (vcpu.fd.run.exit_reason !== KVM_EXIT.IO) unexpectedExit(vcpu);
}

/** KVM_RUN that must fail with EINVAL. */
export function* expectEinval(vcpu: KvmVcpu, why: string): Steps<void> {
  const errno = yield* tryVcpuRun(vcpu);
  TEST_ASSERT(
    errno === ERRNO.EINVAL,
    () => `${why} did not cause expected KVM_RUN error: ${errnoText(errno)}`,
  );
}

export function* readInvalid(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  for (const fields of [INVALID_SYNC_FIELD, INVALID_SYNC_FIELD | TEST_SYNC_FIELDS, 0x8]) {
    run.kvm_valid_regs = fields >>> 0;
    yield* expectEinval(vcpu, 'Invalid kvm_valid_regs');
    run.kvm_valid_regs = 0;
  }
  yield* runToIo(vcpu);
}

export function* setInvalid(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  for (const fields of [INVALID_SYNC_FIELD, INVALID_SYNC_FIELD | TEST_SYNC_FIELDS, 0x8]) {
    run.kvm_dirty_regs = fields >>> 0;
    yield* expectEinval(vcpu, 'Invalid kvm_dirty_regs');
    run.kvm_dirty_regs = 0;
  }
  yield* runToIo(vcpu);
}

export function* reqAndVerifyAllValid(vcpu: KvmVcpu): Steps<void> {
  vcpu.fd.run.kvm_valid_regs = TEST_SYNC_FIELDS;
  yield* runToIo(vcpu);
  compareAll(vcpu);
}

export function* setAndVerifyVarious(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  run.kvm_valid_regs = TEST_SYNC_FIELDS;
  yield* runToIo(vcpu);
  run.s.regs.regs.rbx = 0xbad1dean;
  run.s.regs.sregs.apic_base = 1n << 11n;
  run.kvm_valid_regs = TEST_SYNC_FIELDS;
  run.kvm_dirty_regs = KVM_SYNC_X86.REGS | KVM_SYNC_X86.SREGS;
  yield* runToIo(vcpu);
  TEST_ASSERT_EQ(run.s.regs.regs.rbx, 0xbad1dean + 1n, 'rbx sync regs value incorrect');
  TEST_ASSERT_EQ(run.s.regs.sregs.apic_base, 1n << 11n, 'apic_base sync regs value incorrect');
  TEST_ASSERT_EQ(run.kvm_dirty_regs, 0, 'kvm_dirty_regs after KVM_RUN');
  compareAll(vcpu);
}

/** Without a dirty bit, what userspace wrote is overwritten. */
export function* clearKvmDirtyRegsBits(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  run.kvm_valid_regs = TEST_SYNC_FIELDS;
  run.kvm_dirty_regs = 0;
  run.s.regs.regs.rbx = 0xdeadbeefn;
  yield* runToIo(vcpu);
  TEST_ASSERT(run.s.regs.regs.rbx !== 0xdeadbeefn, 'rbx sync regs value incorrect 0xdeadbeef.');
  compareAll(vcpu);
}

/** Neither bit: both sides keep their values. */
export function* clearKvmValidAndDirtyRegs(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  run.kvm_valid_regs = TEST_SYNC_FIELDS;
  yield* runToIo(vcpu);
  run.kvm_valid_regs = 0;
  run.kvm_dirty_regs = 0;
  run.s.regs.regs.rbx = 0xaaaan;
  vcpu.fd.setRegs({ ...vcpu.fd.getRegs(), rbx: 0xbac0n });
  yield* runToIo(vcpu);
  TEST_ASSERT_EQ(run.s.regs.regs.rbx, 0xaaaan, 'rbx sync regs value incorrect');
  TEST_ASSERT_EQ(vcpu.fd.getRegs().rbx, 0xbac0n + 1n, 'rbx guest value incorrect');
}

/** Dirty but not valid: the guest takes the value, kvm_run keeps it. */
export function* clearKvmValidRegsBits(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  run.kvm_valid_regs = TEST_SYNC_FIELDS;
  yield* runToIo(vcpu);
  run.kvm_valid_regs = 0;
  run.kvm_dirty_regs = TEST_SYNC_FIELDS;
  run.s.regs.regs.rbx = 0xbbbbn;
  yield* runToIo(vcpu);
  TEST_ASSERT_EQ(run.s.regs.regs.rbx, 0xbbbbn, 'rbx sync regs value incorrect');
  TEST_ASSERT_EQ(vcpu.fd.getRegs().rbx, 0xbbbbn + 1n, 'rbx guest value incorrect');
}

/** Added: after a refusal of SREGS or events the vCPU is as before, and runs once the set is right. */
export function* refusedChangesNothing(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  run.kvm_valid_regs = TEST_SYNC_FIELDS;
  yield* runToIo(vcpu);
  const before = vcpu.fd.getSregs();
  run.s.regs.sregs.cr4 = before.cr4 & ~BigInt(CR4.PAE);
  run.s.regs.sregs.cr2 = 0x1234n;
  run.kvm_dirty_regs = KVM_SYNC_X86.SREGS;
  yield* expectEinval(vcpu, 'CR4.PAE=0 with EFER.LME=1');
  TEST_ASSERT_EQ(run.kvm_dirty_regs, KVM_SYNC_X86.SREGS, 'kvm_dirty_regs after a refusal');
  compare('sregs', before, vcpu.fd.getSregs());
  run.s.regs.sregs = before;
  run.s.regs.events.flags |= 0x4000_0000;
  run.kvm_dirty_regs = KVM_SYNC_X86.EVENTS;
  yield* expectEinval(vcpu, 'An unknown flag of kvm_vcpu_events');
  run.s.regs.events = vcpu.fd.getVcpuEvents();
  run.s.regs.events.exception = { injected: 1, nr: VECTOR.NMI, has_error_code: 0, pending: 0, error_code: 0 };
  run.kvm_dirty_regs = KVM_SYNC_X86.EVENTS;
  yield* expectEinval(vcpu, 'NMI as an exception');
  run.s.regs.events.flags = KVM_VCPUEVENT_VALID.PAYLOAD;
  yield* expectEinval(vcpu, 'KVM_VCPUEVENT_VALID_PAYLOAD without the capability');
  run.kvm_dirty_regs = 0;
  const { rbx } = vcpu.fd.getRegs();
  yield* runToIo(vcpu);
  TEST_ASSERT_EQ(vcpu.fd.getRegs().rbx, rbx + 1n, 'rbx after the refusals');
}
