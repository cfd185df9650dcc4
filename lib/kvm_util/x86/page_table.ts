// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest page tables, built by the host half of a test in slot 0: virt_pg_map() and friends of
 * tools/testing/selftests/kvm/lib/x86/processor.c. Tables are 4 or 5 levels of real x86-64 entries.
 */
import { PAGE_SIZE, gpa, hva, type Gpa, type Gva, type Hva } from '../../x86/addr.ts';
import { hex } from '../../x86/bits.ts';
import { PG_LEVEL, PTE } from '../../x86/paging.ts';
import {
  KVM_UTIL_MIN_PFN,
  MEM_REGION_SLOT_DEFAULT,
  markVpages,
  readGpaU64,
  vmPhyPagesAlloc,
  vmVaddrUnusedGap,
  writeGpaU64,
  addrGpa2hva,
  type KvmVm,
} from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';

/** Physical address bits 51:12 of an entry. */
export const PHYSICAL_PAGE_MASK = 0x000f_ffff_ffff_f000n;
const TABLE_FLAGS = BigInt(PTE.P | PTE.RW | PTE.US);

const entryGpa = (entry: bigint): Gpa => gpa(Number(entry & PHYSICAL_PAGE_MASK));
const present = (entry: bigint): boolean => (entry & BigInt(PTE.P)) !== 0n;
const large = (entry: bigint): boolean => (entry & BigInt(PTE.PS)) !== 0n;

/** A zeroed page for a table, from slot 0. */
export function vmAllocPageTable(vm: KvmVm): Gpa {
  return vmPhyPagesAlloc(vm, 1, gpa(KVM_UTIL_MIN_PFN * PAGE_SIZE), MEM_REGION_SLOT_DEFAULT);
}

/** The root, made at first use. */
export function vmPgd(vm: KvmVm): Gpa {
  return (vm.arch.pgd ??= vmAllocPageTable(vm));
}

const entryAddr = (table: Gpa, addr: Gva, level: number): Gpa =>
  gpa(table + Number((addr >> BigInt(12 + 9 * (level - 1))) & 0x1ffn) * 8);

/** The entry that maps `addr` at `target` level, with the tables above it made as needed. */
function entryFor(vm: KvmVm, addr: Gva, target: number): Gpa {
  let table = vmPgd(vm);
  for (let level = vm.arch.pgtableLevels; level > target; level--) {
    const at = entryAddr(table, addr, level);
    let entry = readGpaU64(vm, at);
    if (!present(entry)) {
      entry = BigInt(vmAllocPageTable(vm)) | TABLE_FLAGS;
      writeGpaU64(vm, at, entry);
    }
    TEST_ASSERT(!large(entry), () => `Cannot map a page at ${hex(addr)}: level ${level} holds a large page`);
    table = entryGpa(entry);
  }
  return entryAddr(table, addr, target);
}

/** __virt_pg_map(): one page of the given level (PG_LEVEL), user accessible and writable as upstream maps it. */
export function virtPgMap(vm: KvmVm, addr: Gva, to: Gpa, level: number = PG_LEVEL.L4K): void {
  const size = 4096 * 512 ** (level - 1);
  TEST_ASSERT(
    addr % BigInt(size) === 0n,
    () => `Virtual address not aligned, vaddr: ${hex(addr)} page size: ${hex(size)}`,
  );
  TEST_ASSERT(
    to % size === 0,
    () => `Physical address not aligned, paddr: ${hex(to)} page size: ${hex(size)}`,
  );
  const at = entryFor(vm, addr, level);
  TEST_ASSERT(!present(readGpaU64(vm, at)), () => `PTE already present for 4k page at vaddr: ${hex(addr)}`);
  const size_bit = level === PG_LEVEL.L4K ? 0n : BigInt(PTE.PS);
  writeGpaU64(vm, at, BigInt(to) | TABLE_FLAGS | size_bit);
}

/** virt_map(): `npages` 4 KiB pages from `addr` to `to`. */
export function virtMap(vm: KvmVm, addr: Gva, to: Gpa, npages: number): void {
  markVpages(vm, addr, npages);
  let table: Hva | undefined;
  for (let i = 0; i < npages; i++) {
    const va = addr + BigInt(i) * 4096n;
    const index = Number((va >> 12n) & 0x1ffn);
    // The leaf table changes every 512 pages only; large maps would spend their time walking otherwise.
    if (table === undefined || index === 0)
      table = addrGpa2hva(vm, gpa(entryFor(vm, va, PG_LEVEL.L4K) - index * 8));
    const at = hva(table + index * 8);
    TEST_ASSERT(
      !present(vm.backend.memory.readU64(at)),
      () => `PTE already present for 4k page at vaddr: ${hex(va)}`,
    );
    vm.backend.memory.writeU64(at, BigInt(to + i * PAGE_SIZE) | TABLE_FLAGS);
  }
}

/** vm_get_page_table_entry(): the guest physical address of the leaf entry that maps `addr`. */
export function vmGetPageTableEntry(vm: KvmVm, addr: Gva): { at: Gpa; entry: bigint; level: number } {
  let table = vmPgd(vm);
  for (let level = vm.arch.pgtableLevels; ; level--) {
    const at = entryAddr(table, addr, level);
    const entry = readGpaU64(vm, at);
    TEST_ASSERT(
      present(entry),
      () => `No mapping for guest virtual address ${hex(addr)} (level ${level} entry is ${hex(entry)})`,
    );
    if (level === PG_LEVEL.L4K || large(entry)) return { at, entry, level };
    table = entryGpa(entry);
  }
}

/** addr_gva2gpa(). */
export function addrGva2gpa(vm: KvmVm, addr: Gva): Gpa {
  const { entry, level } = vmGetPageTableEntry(vm, addr);
  const mask = (1n << BigInt(12 + 9 * (level - 1))) - 1n;
  return gpa(Number((entry & PHYSICAL_PAGE_MASK & ~mask) | (addr & mask)));
}

/** addr_gva2hva(). */
export const addrGva2hva = (vm: KvmVm, addr: Gva): Hva => addrGpa2hva(vm, addrGva2gpa(vm, addr));

/** __vm_vaddr_alloc(): contiguous pages of slot 0 at the lowest free guest virtual range from `min`. */
export function vmVaddrAlloc(vm: KvmVm, bytes: number, min: Gva): Gva {
  const pages = Math.ceil(bytes / PAGE_SIZE);
  vmPgd(vm);
  const start = vmVaddrUnusedGap(vm, bytes, min);
  const physical = vmPhyPagesAlloc(vm, pages, gpa(KVM_UTIL_MIN_PFN * PAGE_SIZE), MEM_REGION_SLOT_DEFAULT);
  virtMap(vm, start, physical, pages);
  return start;
}

/** Copy bytes to guest virtual memory, page by page. */
export function writeGuest(vm: KvmVm, addr: Gva, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) {
    const at = addr + BigInt(done);
    const step = Math.min(bytes.length - done, PAGE_SIZE - Number(at & 0xfffn));
    vm.backend.memory.write(addrGva2hva(vm, at), bytes.subarray(done, done + step));
    done += step;
  }
}

/** Copy bytes from guest virtual memory, page by page. */
export function readGuest(vm: KvmVm, addr: Gva, length: number): Uint8Array {
  const out = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const at = addr + BigInt(done);
    const step = Math.min(length - done, PAGE_SIZE - Number(at & 0xfffn));
    out.set(vm.backend.memory.read(addrGva2hva(vm, at), step), done);
    done += step;
  }
  return out;
}
