// SPDX-License-Identifier: GPL-2.0-only
/**
 * EPT violations of L2's accesses that L0 emulates: L1 is told whether the final page or a page-table page was met, and which
 * access it was. After x86/nested_tdp_fault_test.c of the KVM selftests, its VMX half. Adds to upstream: the same faults by
 * loads and stores, which L0 only reflects.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { UCALL } from '../lib/guest/ucall.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { symbolAddress, writeGuestGlobal } from '../lib/kvm_util/guest_global.ts';
import { kvmVmFree, type KvmVcpu, type KvmVm, readGpaU64, writeGpaU64 } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT_EQ, TEST_REQUIRE, UsageError } from '../lib/kvm_util/test_util.ts';
import { getUcall, reportGuestAssert, unexpectedExit, vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { kvmCpuHasTdp, kvmGetFeatureMsr } from '../lib/kvm_util/x86/cpuid.ts';
import { requireVmx } from '../lib/kvm_util/x86/nested_vm.ts';
import { addrGva2gpa, vmGetPageTableEntry, vmVaddrAlloc } from '../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../lib/kvm_util/x86/processor.ts';
import { tdpGetPte, tdpIdentityMapDefaultMemslots, vmEnableTdp } from '../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../lib/kvm_util/x86/vmx.ts';
import { KVM_EXIT, KVM_EXIT_IO } from '../lib/uapi/run.ts';
import { EPTE } from '../lib/x86/paging.ts';
import { VMX_EPT_CAP, VMX_MSR } from '../lib/x86/vmx/capability_msrs.ts';
import { EPT_VIOLATION } from '../lib/x86/vmx/exit_quals.ts';
import {
  l2_entry,
  l2_guest_code_ins,
  l2_guest_code_load,
  l2_guest_code_outs,
  l2_guest_code_store,
  l2_test_page,
  linkTdpFault,
  TEST_IO_PORT,
} from './nested_tdp_fault/guest.ts';

const { ACC_READ, ACC_WRITE, PROT_READ, PROT_EXEC, GVA_IS_VALID, GVA_TRANSLATED } = EPT_VIOLATION;

interface FaultTest {
  readonly what: string;
  /** An address whose page-table page maps nothing else. */
  readonly vaddr: bigint;
  readonly met: 'final page' | 'page table';
  readonly change: 'unmap' | 'write-protect';
  readonly access: 'read' | 'write';
  readonly qualification: number;
}

// prettier-ignore
const TESTS: readonly FaultTest[] = [
  { what: 'final page unmapped', vaddr: 0x800_0000n, met: 'final page', change: 'unmap', access: 'read',
    qualification: ACC_READ | GVA_IS_VALID | GVA_TRANSLATED },
  // Accesses to page tables are always reads and writes, for the accessed and dirty flags.
  { what: 'page table unmapped', vaddr: 0x1000_0000n, met: 'page table', change: 'unmap', access: 'read',
    qualification: ACC_READ | ACC_WRITE | GVA_IS_VALID },
  { what: 'final page write-protected', vaddr: 0x1800_0000n, met: 'final page', change: 'write-protect', access: 'write',
    qualification: ACC_WRITE | PROT_READ | PROT_EXEC | GVA_IS_VALID | GVA_TRANSLATED },
  { what: 'page table write-protected', vaddr: 0x2000_0000n, met: 'page table', change: 'write-protect', access: 'read',
    qualification: ACC_READ | ACC_WRITE | PROT_READ | PROT_EXEC | GVA_IS_VALID },
];

const CODE = {
  emulated: { read: l2_guest_code_outs, write: l2_guest_code_ins },
  direct: { read: l2_guest_code_load, write: l2_guest_code_store },
} as const;

/** The guest physical address that L2's access must not reach, with its entry in L1's EPT changed. */
function prepareFault(vm: KvmVm, test: FaultTest, page: bigint): bigint {
  const table = Math.floor(vmGetPageTableEntry(vm, page).at / 4096) * 4096;
  const fault = test.met === 'final page' ? addrGva2gpa(vm, page) : table;
  tdpIdentityMapDefaultMemslots(vm);
  const pte = tdpGetPte(vm, fault);
  const gone = BigInt(test.change === 'unmap' ? EPTE.R | EPTE.W | EPTE.X : EPTE.W);
  writeGpaU64(vm, pte, readGpaU64(vm, pte) & ~gone);
  return BigInt(fault);
}

/** INS asks userspace for the port's value before it writes to memory. */
function* runPastPort(vcpu: KvmVcpu): Steps<void> {
  const { run } = vcpu.fd;
  do yield* vcpuRun(vcpu);
  while (
    run.exit_reason === KVM_EXIT.IO &&
    run.io.port === TEST_IO_PORT &&
    run.io.direction === KVM_EXIT_IO.IN
  );
}

function* runTest(backend: Backend, test: FaultTest, how: keyof typeof CODE): Steps<void> {
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkTdpFault(), extraPages: 64 });
  vmEnableTdp(vm);
  const vmx = vcpuAllocVmx(vm);
  const page = vmVaddrAlloc(vm, 4096, test.vaddr);
  const fault = prepareFault(vm, test, page);
  writeGuestGlobal(vm, l2_entry.symbol, symbolAddress(vm, CODE[how][test.access].symbol));
  writeGuestGlobal(vm, l2_test_page.symbol, page);
  vcpuArgsSet(vcpu, vmx, fault, BigInt(test.qualification));
  yield* runPastPort(vcpu);
  const uc = getUcall(vcpu);
  if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
  if (uc.cmd === UCALL.NONE) unexpectedExit(vcpu, test.what);
  TEST_ASSERT_EQ(uc.cmd, UCALL.DONE, `${test.what}: ucall`);
  yield* kvmVmFree(vm);
}

function* run({ backend, args }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  requireVmx(backend);
  TEST_REQUIRE(kvmCpuHasTdp(backend), 'kvm_cpu_has_tdp()');
  // SDM: without accessed and dirty flags of EPT, accesses to page tables are reads.
  const caps = kvmGetFeatureMsr(backend, VMX_MSR.IA32_VMX_EPT_VPID_CAP);
  const hasAd = (caps & BigInt(VMX_EPT_CAP.AD_BIT)) !== 0n;
  const tests = hasAd ? TESTS : TESTS.filter(({ met }) => met === 'final page');
  for (const how of ['emulated', 'direct'] as const) {
    for (const test of tests) yield* runTest(backend, test, how);
  }
}

export const selftest: Selftest = {
  name: 'nested_tdp_fault_test',
  summary: "EPT violations of L2's accesses, emulated by L0 or not",
  upstream: 'x86/nested_tdp_fault_test.c',
  run,
};
