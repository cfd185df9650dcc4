// SPDX-License-Identifier: GPL-2.0-only
/**
 * Regions that come and go between two reads of a stopped vCPU. test_mmio_during_vectoring() is upstream's; the others are
 * added: MMIO caching across memslot generations, a read-only slot, and zapping by the MMU notifier.
 */
import { gpa, hva } from '../../lib/x86/addr.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../lib/uapi/run.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_MEM } from '../../lib/uapi/memory.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { SelftestContext } from '../../harness/api.ts';
import { MADV, PROT, type Backend, type Steps } from '../../lib/kvm_util/backend.ts';
import {
  addrGpa2hva,
  kvmVmFree,
  vmMemRegionDelete,
  vmUserspaceMemRegionAdd,
  type KvmVcpu,
} from '../../lib/kvm_util/kvm_util.ts';
import { getStat } from '../../lib/kvm_util/stats.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { errnoText, getUcall, tryVcpuRun, unexpectedExit, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { MEM_REGION_GPA, MEM_REGION_SIZE, MEM_REGION_SLOT, MMIO_VAL, WRITTEN } from './guest.ts';
import { addRegion, answerMmioRead, vmWithoutRegion } from './vm.ts';

/** sizeof(struct idt_entry). */
const IDT_ENTRY_SIZE = 16;

/** test_mmio_during_vectoring(): an exception is to be delivered through an IDT that is MMIO. */
export function* testMmioDuringVectoring({ backend, print }: SelftestContext): Steps<void> {
  print('Testing MMIO during vectoring error handling');
  const [vm, vcpu] = yield* vmWithoutRegion(backend, 'vectoring');
  yield* vcpuRun(vcpu);
  const { run } = vcpu.fd;
  if (run.exit_reason !== KVM_EXIT.INTERNAL_ERROR) unexpectedExit(vcpu);
  const { internal } = run;
  TEST_ASSERT_EQ(internal.suberror, KVM_INTERNAL_ERROR.DELIVERY_EV, 'Unexpected suberror');
  TEST_ASSERT(internal.ndata > 4, `Unexpected internal error data array size = ${internal.ndata}`);
  const expected = BigInt(MEM_REGION_GPA + VECTOR.GP * IDT_ENTRY_SIZE);
  TEST_ASSERT_EQ(internal.data[3]!, expected, 'Unexpected GPA');
  yield* kvmVmFree(vm);
}

/** The guest's next report. */
function* nextSync(vcpu: KvmVcpu): Steps<bigint> {
  yield* vcpuRun(vcpu);
  const uc = getUcall(vcpu);
  if (uc.cmd !== UCALL.SYNC) unexpectedExit(vcpu, 'GUEST_SYNC was expected');
  return uc.args[1]!;
}

/** The guest's next read of the region is MMIO, and it sees what userspace answers. */
function* expectMmioRead(vcpu: KvmVcpu, when: string): Steps<void> {
  yield* vcpuRun(vcpu);
  if (vcpu.fd.run.exit_reason !== KVM_EXIT.MMIO) unexpectedExit(vcpu, `${when} the read must be MMIO`);
  answerMmioRead(vcpu);
  TEST_ASSERT_EQ(yield* nextSync(vcpu), MMIO_VAL, `what the guest read ${when}`);
}

const mmioSptes = (vcpu: KvmVcpu): bigint => getStat(vcpu.fd.statsFd(), 'pf_mmio_spte_created');

/** MMIO becomes RAM and RAM becomes MMIO; an entry of an older generation is made anew, one of the same is used again. */
export function* testMmioCaching(backend: Backend): Steps<void> {
  const [vm, vcpu] = yield* vmWithoutRegion(backend, 'read');
  yield* expectMmioRead(vcpu, 'before there is a slot');
  const first = mmioSptes(vcpu);
  yield* expectMmioRead(vcpu, 'before there is a slot, again');
  TEST_ASSERT_EQ(mmioSptes(vcpu), first, 'MMIO entries made for a second read');
  yield* addRegion(vm);
  backend.memory.writeU64(addrGpa2hva(vm, gpa(MEM_REGION_GPA)), 0x5an);
  TEST_ASSERT_EQ(yield* nextSync(vcpu), 0x5an, 'what the guest read from the new slot');
  yield* vmMemRegionDelete(vm, MEM_REGION_SLOT);
  yield* expectMmioRead(vcpu, 'after the slot is gone');
  const second = mmioSptes(vcpu);
  // A slot elsewhere: the generation changes, and with it every cached MMIO entry is out of date.
  yield* vmUserspaceMemRegionAdd(vm, {
    slot: MEM_REGION_SLOT + 1,
    guestPhysAddr: gpa(MEM_REGION_GPA + MEM_REGION_SIZE),
    npages: 1,
  });
  yield* expectMmioRead(vcpu, 'after a slot elsewhere was added');
  if (backend.moduleParam('kvm.mmio_caching') !== 'N') {
    TEST_ASSERT(first > 0n, 'no MMIO entry was made for the first read');
    TEST_ASSERT_EQ(mmioSptes(vcpu), second + 1n, 'MMIO entries after the generation changed');
  }
  yield* kvmVmFree(vm);
}

const dataOf = (vcpu: KvmVcpu): bigint => {
  const { mmio } = vcpu.fd.run;
  return mmio.data.subarray(0, mmio.len).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
};

interface ExpectedWrite {
  readonly phys_addr: number;
  readonly len: number;
  readonly data: bigint;
}

/** The guest's next write leaves as MMIO. */
function* expectMmioWrite(vcpu: KvmVcpu, expected: ExpectedWrite): Steps<void> {
  yield* vcpuRun(vcpu);
  if (vcpu.fd.run.exit_reason !== KVM_EXIT.MMIO)
    unexpectedExit(vcpu, 'a write to a read-only slot must be MMIO');
  const { mmio } = vcpu.fd.run;
  TEST_ASSERT_EQ(mmio.is_write, 1, 'is_write');
  TEST_ASSERT_EQ(mmio.len, expected.len, 'length of the write');
  TEST_ASSERT_EQ(mmio.phys_addr, expected.phys_addr, 'address of the write');
  TEST_ASSERT_EQ(dataOf(vcpu), expected.data, 'data of the write');
}

/** A write to a read-only slot goes to userspace and does not land; reads are plain RAM before and after. */
export function* testReadOnlyRegion(backend: Backend): Steps<void> {
  const { memory } = backend;
  const [vm, vcpu] = yield* vmWithoutRegion(backend, 'write');
  yield* addRegion(vm, KVM_MEM.READONLY);
  const at = addrGpa2hva(vm, gpa(MEM_REGION_GPA));
  for (const value of [0x1234n, 0x5678n]) {
    memory.writeU64(at, value);
    yield* expectMmioWrite(vcpu, { phys_addr: MEM_REGION_GPA, len: 8, data: WRITTEN });
    TEST_ASSERT_EQ(memory.readU64(at), value, 'memory of the read-only slot after the write');
    TEST_ASSERT_EQ(yield* nextSync(vcpu), value, 'what the guest read after its write');
  }
  yield* kvmVmFree(vm);
  yield* testReadOnlyShortWrite(backend);
}

function* testReadOnlyShortWrite(backend: Backend): Steps<void> {
  const [vm, vcpu] = yield* vmWithoutRegion(backend, 'writeShort');
  yield* addRegion(vm, KVM_MEM.READONLY);
  yield* expectMmioWrite(vcpu, { phys_addr: MEM_REGION_GPA + 0x802, len: 2, data: 0xabcdn });
  TEST_ASSERT_EQ(yield* nextSync(vcpu), 0n, 'stage after the write');
  const at = hva(addrGpa2hva(vm, gpa(MEM_REGION_GPA)) + 0x800);
  TEST_ASSERT_EQ(backend.memory.readU64(at), 0n, 'memory of the read-only slot after the short write');
  yield* kvmVmFree(vm);
}

/** What userspace does to its mapping reaches the guest: dropped, moved and forbidden pages. */
export function* testNotifierZap(backend: Backend): Steps<void> {
  const { memory } = backend;
  const [vm, vcpu] = yield* vmWithoutRegion(backend, 'read');
  yield* addRegion(vm);
  const at = addrGpa2hva(vm, gpa(MEM_REGION_GPA));
  memory.writeU64(at, 0x11n);
  TEST_ASSERT_EQ(yield* nextSync(vcpu), 0x11n, 'what the guest read at first');
  yield* memory.madvise(at, MEM_REGION_SIZE, MADV.DONTNEED);
  TEST_ASSERT_EQ(yield* nextSync(vcpu), 0n, 'what the guest read after MADV_DONTNEED');
  memory.writeU64(at, 0x22n);
  TEST_ASSERT_EQ(yield* nextSync(vcpu), 0x22n, 'what the guest read after the host wrote the new page');
  yield* memory.madvise(at, MEM_REGION_SIZE, MADV.DONTNEED);
  yield* memory.mprotect(at, MEM_REGION_SIZE, PROT.NONE);
  const errno = yield* tryVcpuRun(vcpu);
  TEST_ASSERT(
    errno === ERRNO.EFAULT,
    `KVM_RUN on PROT_NONE memory should fail with EFAULT, got ${errnoText(errno)}`,
  );
  yield* memory.mprotect(at, MEM_REGION_SIZE, PROT.READ | PROT.WRITE);
  memory.writeU64(at, 0x33n);
  TEST_ASSERT_EQ(yield* nextSync(vcpu), 0x33n, 'what the guest read once it was allowed to');
  yield* memory.madvise(at, MEM_REGION_SIZE, MADV.DONTNEED);
  yield* kvmVmFree(vm);
  yield* testMigration(backend);
}

/** A page in another frame: the guest must follow, in both directions. */
function* testMigration(backend: Backend): Steps<void> {
  const { memory } = backend;
  const [vm, vcpu] = yield* vmWithoutRegion(backend, 'write');
  yield* vmUserspaceMemRegionAdd(vm, {
    slot: MEM_REGION_SLOT,
    guestPhysAddr: gpa(MEM_REGION_GPA),
    npages: 2,
  });
  const at = addrGpa2hva(vm, gpa(MEM_REGION_GPA));
  for (let round = 0; round < 3; round++) {
    TEST_ASSERT_EQ(yield* nextSync(vcpu), WRITTEN, `what the guest wrote and read in round ${round}`);
    TEST_ASSERT_EQ(memory.readU64(at), WRITTEN, 'memory before the migration');
    TEST_ASSERT(yield* memory.migratePage(at), 'the page could not be migrated');
    TEST_ASSERT_EQ(memory.readU64(at), WRITTEN, 'memory after the migration');
    memory.writeU64(at, 0n);
  }
  yield* kvmVmFree(vm);
}
