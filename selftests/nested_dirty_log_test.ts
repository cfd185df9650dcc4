// SPDX-License-Identifier: GPL-2.0-only
/**
 * Dirty logging of what L2 writes, by L1's guest physical addresses, with and without EPT of L1. After
 * x86/nested_dirty_log_test.c of the KVM selftests, its VMX half. Adds to upstream: L2 writes both pages again after the log
 * was read.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import {
  addrGpa2hva,
  kvmVmFree,
  type KvmVm,
  readGpaU64,
  vmUserspaceMemRegionAdd,
  writeGpaU64,
} from '../lib/kvm_util/kvm_util.ts';
import { TEST_FAIL, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHas, kvmCpuHasTdp } from '../lib/kvm_util/x86/cpuid.ts';
import { virtMap, vmGetPageTableEntry } from '../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { tdpGetPte, tdpIdentityMapDefaultMemslots, tdpMap, vmEnableTdp } from '../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { KVM_MEM } from '../lib/uapi/memory.ts';
import { gpa, type Gpa } from '../lib/x86/addr.ts';
import { X86_FEATURE } from '../lib/x86/cpuid.ts';
import { EPTE, PTE } from '../lib/x86/paging.ts';
import { handleSync } from './nested_dirty_log/check.ts';
import {
  linkNestedDirtyLog,
  TEST_ALIAS_GPA,
  TEST_GPA,
  TEST_MEM_BASE,
  TEST_MEM_PAGES,
  TEST_MEM_SLOT_INDEX,
} from './nested_dirty_log/guest.ts';

const PAGE_SIZE = 4096;

type NestedTdp = 'enabled' | 'disabled';

/** The aliases of both pages in L1's EPT, dirty from the start, so that KVM can map them writable on a read. */
function mapAliases(vm: KvmVm): void {
  tdpIdentityMapDefaultMemslots(vm);
  for (const page of [0, 1]) {
    tdpMap(vm, TEST_ALIAS_GPA(page), TEST_GPA(page), PAGE_SIZE);
    setBits(vm, tdpGetPte(vm, TEST_ALIAS_GPA(page)), EPTE.D);
  }
}

function setBits(vm: KvmVm, entry: Gpa, bits: number): void {
  writeGpaU64(vm, entry, readGpaU64(vm, entry) | BigInt(bits));
}

function* createVm(backend: Backend, tdp: NestedTdp) {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkNestedDirtyLog(), extraPages: 64 });
  if (tdp === 'enabled') vmEnableTdp(vm);
  vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
  yield* vmUserspaceMemRegionAdd(vm, {
    slot: TEST_MEM_SLOT_INDEX,
    guestPhysAddr: gpa(TEST_MEM_BASE),
    npages: TEST_MEM_PAGES,
    flags: KVM_MEM.LOG_DIRTY_PAGES,
  });
  virtMap(vm, BigInt(TEST_MEM_BASE), gpa(TEST_MEM_BASE), TEST_MEM_PAGES);
  if (tdp === 'enabled') mapAliases(vm);
  else for (const page of [0, 1]) setBits(vm, vmGetPageTableEntry(vm, BigInt(TEST_GPA(page))).at, PTE.D);
  return vcpu;
}

function* testDirtyLog(backend: Backend, tdp: NestedTdp, print: (line: string) => void): Steps<void> {
  print(`Nested TDP: ${tdp}`);
  const vcpu = yield* createVm(backend, tdp);
  const { vm } = vcpu;
  const memory = addrGpa2hva(vm, gpa(TEST_MEM_BASE));
  for (;;) {
    backend.memory.fill(memory, TEST_MEM_PAGES * PAGE_SIZE, 0xaa);
    const uc = yield* runUntilUcall(vcpu, print);
    if (uc.cmd === UCALL.DONE) break;
    if (uc.cmd !== UCALL.SYNC) TEST_FAIL(`Unknown ucall ${uc.cmd}`);
    yield* handleSync(vm, uc.args[1]!);
  }
  yield* kvmVmFree(vm);
}

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');
  yield* testDirtyLog(backend, 'disabled', print);
  if (kvmCpuHasTdp(backend)) yield* testDirtyLog(backend, 'enabled', print);
}

export const selftest: Selftest = {
  name: 'nested_dirty_log_test',
  summary: "dirty logging of L2's writes by L1's guest physical addresses",
  upstream: 'x86/nested_dirty_log_test.c',
  run,
};
