// SPDX-License-Identifier: GPL-2.0-only
/**
 * Time that vCPUs need to page memory in: at first touch, and again after madvise(MADV_DONTNEED) dropped it. After
 * demand_paging_test.c of the KVM selftests. There is no userfaultfd: -u MISSING and MINOR and what belongs to them are
 * refused. Adds to upstream: the second round, that what was written is there, and that dropped pages read as zero.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { gpa, hva, PAGE_SIZE } from '../lib/x86/addr.ts';
import { KVM_CAP } from '../lib/uapi/capabilities.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import { MADV, type Backend, type Steps } from '../lib/kvm_util/backend.ts';
import { vmGuestModeString, vmMaxGfn, VM_MODE_DEFAULT } from '../lib/kvm_util/guest_modes.ts';
import { symbolAddress, u64Bytes, writeGuestGlobal } from '../lib/kvm_util/guest_global.ts';
import {
  addrGpa2hva,
  kvmVmFree,
  vmUserspaceMemRegionAdd,
  type KvmVcpu,
  type KvmVm,
} from '../lib/kvm_util/kvm_util.ts';
import { getStat } from '../lib/kvm_util/stats.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, TestSkip } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithVcpus } from '../lib/kvm_util/vm_create.ts';
import { virtMap, writeGuest } from '../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { linkDemandPaging, MEMSTRESS_VALUE, VcpuArgs } from './demand_paging/guest.ts';
import { parseTestParams, type TestParams } from './demand_paging/options.ts';

const MEMSTRESS_MEM_SLOT_INDEX = 1;
const DEFAULT_GUEST_TEST_MEM = 0xc000_0000;
const SECOND_NS = 1e9;

interface Memory {
  readonly gpa: number;
  readonly pages: number;
}

/** memstress_setup_vcpus(): each vCPU's part of the memory, or all of it. */
function setupVcpus(vm: KvmVm, p: TestParams): void {
  const bytes = p.partition ? p.vcpuMemSize : p.vcpuMemSize * p.vcpus;
  const base = symbolAddress(vm, 'vcpu_args');
  vm.vcpus.forEach((vcpu, i) => {
    const gva = DEFAULT_GUEST_TEST_MEM + (p.partition ? i * p.vcpuMemSize : 0);
    const at = base + BigInt(i * VcpuArgs.size);
    for (const [field, value] of Object.entries({ gva, pages: bytes / PAGE_SIZE, vcpu_idx: i }))
      writeGuest(vm, at + BigInt(VcpuArgs.offsetof(field)), u64Bytes(BigInt(value)));
    vcpuArgsSet(vcpu, i);
  });
}

/** memstress_create_vm(). */
function* createVm(backend: Backend, p: TestParams): Steps<[KvmVm, Memory]> {
  const pages = (p.vcpuMemSize * p.vcpus) / PAGE_SIZE;
  const vm = yield* vmCreateWithVcpus(backend, p.vcpus, {
    image: linkDemandPaging(),
    extraPages: Math.ceil(pages / 512) + 16,
  });
  // As high as possible; below a multiple of 2 MiB, so that huge pages can be used.
  const top = vmMaxGfn(backend) - pages;
  const guestPhysAddr = gpa((top - (top % 512)) * PAGE_SIZE);
  yield* vmUserspaceMemRegionAdd(vm, {
    slot: MEMSTRESS_MEM_SLOT_INDEX,
    guestPhysAddr,
    npages: pages,
    backing: p.backing,
  });
  virtMap(vm, BigInt(DEFAULT_GUEST_TEST_MEM), guestPhysAddr, pages);
  writeGuestGlobal(vm, 'guest_page_size', BigInt(PAGE_SIZE));
  setupVcpus(vm, p);
  return [vm, { gpa: guestPhysAddr, pages }];
}

/** vcpu_worker(): one pass over the memory; the value that the guest reports with `stage`. */
function* vcpuWorker(vcpu: KvmVcpu, stage: bigint): Steps<bigint> {
  const uc = yield* runUntilUcall(vcpu);
  TEST_ASSERT(
    uc.cmd === UCALL.SYNC && uc.args[1] === stage,
    `Invalid guest sync status: stage ${uc.args[1]!}`,
  );
  return uc.args[2]!;
}

/** memstress_start_vcpu_threads() and memstress_join_vcpu_threads(): each vCPU's report. */
function* runVcpus(vm: KvmVm, stage: bigint): Steps<bigint[]> {
  const { threads } = vm.backend;
  const reports: bigint[] = [];
  const started = vm.vcpus.map((vcpu, i) =>
    threads.spawn(
      `vcpu-${i}`,
      function* () {
        reports[i] = yield* vcpuWorker(vcpu, stage);
      },
      { cpu: i % threads.nrCpus },
    ),
  );
  for (const thread of started) yield* threads.join(thread);
  return reports;
}

const seconds = (ns: number): string =>
  `${Math.floor(ns / SECOND_NS)}.${String(Math.floor(ns) % SECOND_NS).padStart(9, '0')}s`;

/** Faults that all vCPUs of the VM have taken. */
const faults = (vm: KvmVm): bigint =>
  vm.vcpus.reduce((sum, vcpu) => sum + getStat(vcpu.fd.statsFd(), 'pf_fixed'), 0n);

/** The guest has written every page, and nothing else of it. */
function checkMemory(vm: KvmVm, mem: Memory): void {
  const { memory } = vm.backend;
  const base = addrGpa2hva(vm, gpa(mem.gpa));
  for (let page = 0; page < mem.pages; page++) {
    const at = base + page * PAGE_SIZE;
    TEST_ASSERT(
      memory.readU64(hva(at)) === MEMSTRESS_VALUE,
      () => `page ${page} does not hold what the guest wrote`,
    );
    TEST_ASSERT(memory.readU64(hva(at + 8)) === 0n, () => `page ${page} holds more than the guest wrote`);
  }
}

/** One timed pass in which every page is faulted in. */
function* timedPass(t: SelftestContext, vm: KvmVm, mem: Memory, stage: bigint): Steps<bigint[]> {
  const { threads } = t.backend;
  const before = faults(vm);
  const began = threads.nowNs();
  const reports = yield* runVcpus(vm, stage);
  const elapsed = threads.nowNs() - began;
  t.print(`Total guest execution time: ${seconds(elapsed)}`);
  t.print(`Overall demand paging rate: ${((mem.pages * SECOND_NS) / elapsed).toFixed(6)} pgs/sec`);
  const huge = vm.regions.get(MEMSTRESS_MEM_SLOT_INDEX).backing === 'anonymous_thp';
  const least = Math.ceil(mem.pages / (huge ? 512 : 1));
  const taken = faults(vm) - before;
  TEST_ASSERT(
    taken >= BigInt(least),
    `${taken} faults were taken for ${mem.pages} pages, ${least} are needed`,
  );
  return reports;
}

/** run_test(). */
function* runTest(t: SelftestContext, p: TestParams): Steps<void> {
  const { backend, print } = t;
  print(`Testing guest mode: ${vmGuestModeString(VM_MODE_DEFAULT)}`);
  const [vm, mem] = yield* createVm(backend, p);
  print('Finished creating vCPUs');
  yield* timedPass(t, vm, mem, 1n);
  print('All vCPU threads joined');
  checkMemory(vm, mem);
  yield* pageInAgain(t, vm, mem, p);
  yield* kvmVmFree(vm);
}

/** Added: dropped pages are faulted in by reads, then by writes. A file's pages stay when a mapping of them goes. */
function* pageInAgain(t: SelftestContext, vm: KvmVm, mem: Memory, p: TestParams): Steps<void> {
  const region = vm.regions.get(MEMSTRESS_MEM_SLOT_INDEX);
  yield* t.backend.memory.madvise(region.hostMem, region.npages * PAGE_SIZE, MADV.DONTNEED);
  t.print('Paging in again after MADV_DONTNEED');
  const kept = p.backing !== 'memfd' ? 0 : p.partition ? mem.pages / p.vcpus : mem.pages;
  const found = yield* timedPass(t, vm, mem, 2n);
  found.forEach((count, i) =>
    TEST_ASSERT_EQ(count, BigInt(kept), `pages that vCPU ${i} did not find zeroed`),
  );
  yield* runVcpus(vm, 1n);
  checkMemory(vm, mem);
}

function* run(t: SelftestContext): Steps<void> {
  const p = parseTestParams(t.args, t.backend.kvm.checkExtension(KVM_CAP.MAX_VCPUS));
  const total = p.vcpuMemSize * p.vcpus;
  if (total > 1.25 * 2 ** 30)
    throw new TestSkip(`${total} bytes do not fit the host's memory; -b takes less`);
  yield* runTest(t, p);
}

export const selftest: Selftest = {
  name: 'demand_paging_test',
  summary: 'vCPUs page memory in, at first touch and after madvise(MADV_DONTNEED)',
  upstream: 'demand_paging_test.c',
  timeoutSeconds: 3600,
  quickArgs: ['-v', '2', '-b', '4M'],
  ramBytes: 0x6000_0000,
  run,
};
