// SPDX-License-Identifier: GPL-2.0-only
/**
 * What KVM_SET_USER_MEMORY_REGION refuses: unknown flags and slots beyond the limit as set_memory_region_test.c has them,
 * and, added, overlaps, changes of what is fixed, misalignment, and addresses that are not userspace's.
 * Documentation/virt/kvm/api.rst, "KVM_SET_USER_MEMORY_REGION".
 */
import { hex } from '../../lib/x86/bits.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import type { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { KVM_MEM } from '../../lib/uapi/memory.ts';
import { gpa, type Hva } from '../../lib/x86/addr.ts';
import type { SelftestContext } from '../../harness/api.ts';
import type { Backend, Steps } from '../../lib/kvm_util/backend.ts';
import {
  __vmSetUserMemoryRegion,
  __vmSetUserMemoryRegion2,
  TEST_ASSERT_ERRNO,
  type RawMemoryRegion,
} from '../../lib/kvm_util/ioctl_errno.ts';
import { kvmVmFree } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateBarebones } from '../../lib/kvm_util/vm_create.ts';
import { __vmVcpuAdd, vcpuInitSregs } from '../../lib/kvm_util/x86/processor.ts';
import { MEM_REGION_SIZE } from './guest.ts';

/**
 * test_zero_memory_regions(): a vCPU finds nothing to run. Upstream's is in its reset state; this machine has 64-bit mode
 * only, so that it is the walk of the guest's page tables that finds nothing. KVM_SET_NR_MMU_PAGES is left out.
 */
export function* testZeroMemoryRegions({ backend, print }: SelftestContext): Steps<void> {
  print('Testing KVM_RUN with zero added memory regions');
  const vm = yield* vmCreateBarebones(backend);
  const vcpu = yield* __vmVcpuAdd(vm, 0);
  vm.arch.pgd = gpa(0);
  vcpu.fd.setCpuid2(backend.kvm.getSupportedCpuid());
  vcpuInitSregs(vcpu);
  yield* vcpuRun(vcpu);
  TEST_ASSERT_EQ(vcpu.fd.run.exit_reason, KVM_EXIT.INTERNAL_ERROR, 'Unexpected exit_reason');
  yield* kvmVmFree(vm);
}

/** test_invalid_memory_region_flags(): each of the 32 flags alone, with both ioctls. */
export function* testInvalidMemoryRegionFlags({ backend }: SelftestContext): Steps<void> {
  const supported = KVM_MEM.LOG_DIRTY_PAGES | KVM_MEM.READONLY;
  const vm = yield* vmCreateBarebones(backend);
  for (let i = 0; i < 32; i++) {
    const flags = (1 << i) >>> 0;
    if ((supported & flags) !== 0) continue;
    const region = { slot: 0, flags, size: MEM_REGION_SIZE };
    const what = `with flag ${hex(flags)}`;
    TEST_ASSERT_ERRNO(
      yield* __vmSetUserMemoryRegion(vm, region),
      'EINVAL',
      `KVM_SET_USER_MEMORY_REGION ${what}`,
    );
    TEST_ASSERT_ERRNO(
      yield* __vmSetUserMemoryRegion2(vm, region),
      'EINVAL',
      `KVM_SET_USER_MEMORY_REGION2 ${what}`,
    );
  }
  yield* kvmVmFree(vm);
}

/** test_add_max_memory_regions(): as many slots as KVM_CAP_NR_MEMSLOTS says, and not one more. */
export function* testAddMaxMemoryRegions({ backend, print }: SelftestContext): Steps<void> {
  const { memory } = backend;
  const max = backend.kvm.checkExtension(KVM_CAP.NR_MEMSLOTS);
  TEST_ASSERT(max > 0, 'KVM_CAP_NR_MEMSLOTS should be greater than 0');
  print(`Allowed number of memory slots: ${max}`);
  const vm = yield* vmCreateBarebones(backend);
  print(`Adding slots 0..${max - 1}, each memory region with ${MEM_REGION_SIZE >> 10}K size`);
  const mem = yield* memory.mmap({ length: max * MEM_REGION_SIZE });
  const at = (slot: number): RawMemoryRegion => ({
    slot,
    gpa: slot * MEM_REGION_SIZE,
    size: MEM_REGION_SIZE,
    hva: mem + slot * MEM_REGION_SIZE,
  });
  for (let slot = 0; slot < max; slot++) {
    TEST_ASSERT_EQ(
      yield* __vmSetUserMemoryRegion(vm, at(slot)),
      0,
      `KVM_SET_USER_MEMORY_REGION of slot ${slot}`,
    );
  }
  const extra = yield* memory.mmap({ length: MEM_REGION_SIZE });
  const refused = yield* __vmSetUserMemoryRegion(vm, { ...at(max), hva: extra });
  TEST_ASSERT_ERRNO(refused, 'EINVAL', 'Adding one more memory slot');
  // Added: a full table does not keep a slot from being deleted and made again.
  TEST_ASSERT_EQ(
    yield* __vmSetUserMemoryRegion(vm, { ...at(max - 1), size: 0 }),
    0,
    'deleting the last slot',
  );
  TEST_ASSERT_EQ(yield* __vmSetUserMemoryRegion(vm, at(max - 1)), 0, 'adding the last slot again');
  yield* memory.munmap(mem, max * MEM_REGION_SIZE);
  yield* memory.munmap(extra, MEM_REGION_SIZE);
  yield* kvmVmFree(vm);
}

const PAGE = 4096;
const SIZE = MEM_REGION_SIZE;

interface Refusal {
  readonly what: string;
  readonly region: (mem: Hva) => RawMemoryRegion;
  readonly errno: keyof typeof ERRNO;
}

/** Slot 0 lies at [4 MiB, 6 MiB), slot 1 at [8 MiB, 10 MiB), both with memory at `mem`; slot 2 is not there. */
const BASE_0 = 0x40_0000;
const BASE_1 = 0x80_0000;
// prettier-ignore
const REFUSALS: readonly Refusal[] = [
  { what: 'a new slot on top of another', region: (hva) => ({ slot: 2, gpa: BASE_0, size: SIZE, hva }), errno: 'EEXIST' },
  { what: 'a new slot whose last page is taken', region: (hva) => ({ slot: 2, gpa: BASE_0 - SIZE + PAGE, size: SIZE, hva }), errno: 'EEXIST' },
  { what: 'a new slot whose first page is taken', region: (hva) => ({ slot: 2, gpa: BASE_0 + SIZE - PAGE, size: SIZE, hva }), errno: 'EEXIST' },
  { what: 'a new slot inside another', region: (hva) => ({ slot: 2, gpa: BASE_0 + PAGE, size: PAGE, hva }), errno: 'EEXIST' },
  { what: 'a new slot around another', region: (hva) => ({ slot: 2, gpa: BASE_0 - PAGE, size: SIZE + 2 * PAGE, hva }), errno: 'EEXIST' },
  { what: 'a move onto another slot', region: (hva) => ({ slot: 0, gpa: BASE_1 + PAGE, size: SIZE, hva }), errno: 'EEXIST' },
  { what: 'a change of the size', region: (hva) => ({ slot: 0, gpa: BASE_0, size: SIZE + PAGE, hva }), errno: 'EINVAL' },
  { what: 'a change of the HVA', region: (hva) => ({ slot: 0, gpa: BASE_0, size: SIZE, hva: hva + PAGE }), errno: 'EINVAL' },
  { what: 'a change to read-only', region: (hva) => ({ slot: 0, flags: KVM_MEM.READONLY, gpa: BASE_0, size: SIZE, hva }), errno: 'EINVAL' },
  { what: 'deleting a slot that is not there', region: (hva) => ({ slot: 2, size: 0, hva }), errno: 'EINVAL' },
  { what: 'a size that is no multiple of a page', region: (hva) => ({ slot: 2, gpa: 0, size: PAGE + 1, hva }), errno: 'EINVAL' },
  { what: 'a GPA that is not page aligned', region: (hva) => ({ slot: 2, gpa: 0x800, size: PAGE, hva }), errno: 'EINVAL' },
  { what: 'an HVA that is not page aligned', region: (hva) => ({ slot: 2, gpa: 0, size: PAGE, hva: hva + 8 }), errno: 'EINVAL' },
  { what: 'an HVA of the kernel', region: () => ({ slot: 2, gpa: 0, size: PAGE, hva: 0xffff_8000_0000_0000n }), errno: 'EINVAL' },
  { what: 'a GPA that wraps', region: (hva) => ({ slot: 2, gpa: 0xffff_ffff_ffff_f000n, size: 2 * PAGE, hva }), errno: 'EINVAL' },
  { what: 'an address space that is not there', region: (hva) => ({ slot: 0x7f_0002, gpa: 0, size: PAGE, hva }), errno: 'EINVAL' },
  { what: 'a slot number that is internal', region: (hva) => ({ slot: 0x7ffd, gpa: 0, size: PAGE, hva }), errno: 'EINVAL' },
];

/** Added: refusals by contents; whatever was refused has changed nothing. */
export function* testRefusals(backend: Backend): Steps<void> {
  const vm = yield* vmCreateBarebones(backend);
  const mem = yield* backend.memory.mmap({ length: SIZE + 2 * PAGE });
  const regions = [
    { slot: 0, gpa: BASE_0, size: SIZE, hva: mem },
    { slot: 1, gpa: BASE_1, size: SIZE, hva: mem },
  ];
  for (const r of regions) TEST_ASSERT_EQ(yield* __vmSetUserMemoryRegion(vm, r), 0, `adding slot ${r.slot}`);
  for (const { what, region, errno } of REFUSALS) {
    TEST_ASSERT_ERRNO(yield* __vmSetUserMemoryRegion(vm, region(mem)), errno, what);
  }
  // The neighbours' borders are free, and the same region again is no change.
  for (const slot of [2, 3]) {
    const base = slot === 2 ? BASE_0 - SIZE : BASE_0 + SIZE;
    const r = { slot, gpa: base, size: SIZE, hva: mem };
    TEST_ASSERT_EQ(yield* __vmSetUserMemoryRegion(vm, r), 0, `slot ${slot} beside slot 0`);
    TEST_ASSERT_EQ(yield* __vmSetUserMemoryRegion(vm, r), 0, `slot ${slot} as it is already`);
  }
  yield* backend.memory.munmap(mem, SIZE + 2 * PAGE);
  yield* kvmVmFree(vm);
}
