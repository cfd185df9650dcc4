// SPDX-License-Identifier: GPL-2.0-only
/**
 * The tables that L1 gives its guests, built by the host half in slot 0: vm_enable_tdp(), tdp_map() and friends of
 * lib/x86/processor.c and lib/x86/vmx.c in tools/testing/selftests/kvm. EPT of 4 levels; NPT comes with SVM.
 */
import { gpa, type Gpa, PAGE_SIZE } from '../../x86/addr.ts';
import { hex } from '../../x86/bits.ts';
import { EPTE, PG_LEVEL } from '../../x86/paging.ts';
import { type KvmVm, MEM_REGION_SLOT_DEFAULT, readGpaU64, writeGpaU64 } from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';
import { kvmCpuHasTdp } from './cpuid.ts';
import { PHYSICAL_PAGE_MASK, vmAllocPageTable } from './page_table.ts';

const LEVELS = 4;
const RWX = BigInt(EPTE.R | EPTE.W | EPTE.X);
/** Write-back: upstream leaves the type uncacheable, which nobody looks at. */
const MT_WB = 6n << 3n;

/** vm_enable_tdp(): make the root; vcpuAllocVmx() tells it to L1 from then on. */
export function vmEnableTdp(vm: KvmVm): void {
  TEST_ASSERT(kvmCpuHasTdp(vm.backend), "KVM doesn't support nested EPT");
  TEST_ASSERT(vm.arch.tdpPgd === undefined, 'TDP MMU already initialized');
  vm.arch.tdpPgd = vmAllocPageTable(vm);
}

/** Bytes that a page of a level (PG_LEVEL) covers. */
const levelSize = (level: number): number => PAGE_SIZE * 512 ** (level - 1);

const present = (entry: bigint): boolean => (entry & RWX) !== 0n;

/** The entry for `address` at `level`, with the tables above it made as needed. */
function tdpEntry(vm: KvmVm, address: Gpa, level: number): Gpa {
  TEST_ASSERT(vm.arch.tdpPgd !== undefined, 'vm_enable_tdp() must come first');
  let table = vm.arch.tdpPgd;
  for (let current = LEVELS; ; current--) {
    const at = gpa(table + (Math.floor(address / levelSize(current)) % 512) * 8);
    if (current === level) return at;
    const entry = readGpaU64(vm, at);
    TEST_ASSERT(
      (entry & BigInt(EPTE.PS)) === 0n,
      () => `Cannot create page table at level: ${current}, vaddr: ${hex(address)}`,
    );
    table = present(entry) ? gpa(Number(entry & PHYSICAL_PAGE_MASK)) : vmAllocPageTable(vm);
    if (!present(entry)) writeGpaU64(vm, at, BigInt(table) | RWX);
  }
}

/** __tdp_map(): `size` bytes of L2's physical memory from `nestedPaddr` to L1's `paddr`, in pages of one level. */
export function __tdpMap(vm: KvmVm, nestedPaddr: number, paddr: number, size: number, level: number): void {
  const step = levelSize(level);
  TEST_ASSERT(nestedPaddr % step === 0, () => `Virtual address not aligned, vaddr: ${hex(nestedPaddr)}`);
  TEST_ASSERT(paddr % step === 0, () => `Physical address not aligned, paddr: ${hex(paddr)}`);
  const huge = level > PG_LEVEL.L4K ? BigInt(EPTE.PS) : 0n;
  for (let done = 0; done < size; done += step) {
    const at = tdpEntry(vm, gpa(nestedPaddr + done), level);
    TEST_ASSERT(
      !present(readGpaU64(vm, at)),
      () => `PTE already present for page at vaddr: ${hex(nestedPaddr + done)}`,
    );
    writeGpaU64(vm, at, BigInt(paddr + done) | RWX | MT_WB | huge);
  }
}

/** tdp_map(): in 4-KByte pages. */
export const tdpMap = (vm: KvmVm, nestedPaddr: number, paddr: number, size: number): void =>
  __tdpMap(vm, nestedPaddr, paddr, size, PG_LEVEL.L4K);

/** tdp_identity_map_default_memslots(): every page of slot 0 that is in use, to itself. */
export function tdpIdentityMapDefaultMemslots(vm: KvmVm): void {
  const region = vm.regions.get(MEM_REGION_SLOT_DEFAULT);
  // The tables that come into use on the way are mapped if the loop reaches them, as upstream.
  for (let i = 0; i < region.npages; i++) {
    if (region.used?.[i] !== 1) continue;
    const address = region.guestPhysAddr + i * PAGE_SIZE;
    tdpMap(vm, address, address, PAGE_SIZE);
  }
}

/** tdp_identity_map_1g(). */
export const tdpIdentityMap1g = (vm: KvmVm, address: number, size: number): void =>
  __tdpMap(vm, address, address, size, PG_LEVEL.L1G);

/** tdp_get_pte(): where the 4-KByte entry for L2's physical address lies. */
export const tdpGetPte = (vm: KvmVm, l2Gpa: number): Gpa => tdpEntry(vm, gpa(l2Gpa), PG_LEVEL.L4K);
