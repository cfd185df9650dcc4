// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMs, vCPUs and memory slots for selftests: after tools/testing/selftests/kvm/lib/kvm_util.c. What is an ioctl there
 * is a call of the Backend here; what may sleep is a `Steps` generator. Memory is handed out as upstream does it: guest
 * physical pages from a slot, guest virtual ranges from the lowest gap.
 */
import { PAGE_SIZE, gpa, hva, type Gpa, type Gva, type Hva } from '../x86/addr.ts';
import { hex } from '../x86/bits.ts';
import type { Backend, BackingSource, Steps, VcpuFd, VmFd } from './backend.ts';
import { MemRegions, phyPagesAlloc, regionGpaToHva, type UserspaceMemRegion } from './mem_region.ts';
import { TEST_ASSERT } from './test_util.ts';

/** No guest physical or virtual page below these is handed out. */
export const KVM_UTIL_MIN_PFN = 2;
export const KVM_UTIL_MIN_VADDR = 0x2000n;
export const MEM_REGION_SLOT_DEFAULT = 0;

export interface KvmVcpu {
  readonly id: number;
  readonly vm: KvmVm;
  readonly fd: VcpuFd;
}

/** A guest page table's root and the CPU state that goes with it. */
export interface VmArch {
  pgd: Gpa | undefined;
  /** 4 or 5. */
  readonly pgtableLevels: number;
  gdt: Gva;
  tss: Gva;
  idt: Gva;
  /** Root of the tables that L1 gives its guests (EPT), once vmEnableTdp() made one. */
  tdpPgd: Gpa | undefined;
}

export class KvmVm {
  readonly backend: Backend;
  /** Another one after kvmVmRestart(). */
  fd: VmFd;
  readonly regions = new MemRegions();
  readonly vcpus: KvmVcpu[] = [];
  readonly arch: VmArch;
  /** Guest virtual pages in use (page numbers). */
  readonly vpages = new Set<number>();
  /** Addresses of the loaded image's symbols. */
  symbols: ReadonlyMap<string, bigint> = new Map();
  /** From an address in the image to `file:line function`, or undefined. */
  locate: (addr: bigint) => string | undefined = () => undefined;

  constructor(backend: Backend, fd: VmFd, pgtableLevels: number) {
    this.backend = backend;
    this.fd = fd;
    this.arch = { pgd: undefined, pgtableLevels, gdt: 0n, tss: 0n, idt: 0n, tdpPgd: undefined };
  }
}

export interface MemRegionOptions {
  readonly slot: number;
  readonly guestPhysAddr: Gpa;
  readonly npages: number;
  readonly flags?: number;
  readonly backing?: BackingSource;
}

/** vm_userspace_mem_region_add(): map memory of the given kind and make it a slot. */
export function* vmUserspaceMemRegionAdd(vm: KvmVm, options: MemRegionOptions): Steps<UserspaceMemRegion> {
  const { slot, guestPhysAddr, npages, flags = 0, backing = 'anonymous' } = options;
  TEST_ASSERT(
    guestPhysAddr % PAGE_SIZE === 0,
    () => `Guest physical address not on a page boundary: ${hex(guestPhysAddr)}`,
  );
  const align = backing === 'anonymous_thp' ? 0x20_0000 : PAGE_SIZE;
  const hostMem = yield* vm.backend.memory.mmap({ length: npages * PAGE_SIZE, backing, align });
  const region: UserspaceMemRegion = {
    slot,
    guestPhysAddr,
    hostMem,
    npages,
    flags,
    backing,
    used: undefined,
  };
  vm.regions.add(region);
  yield* setRegion(vm, region);
  return region;
}

const setRegion = (vm: KvmVm, r: UserspaceMemRegion): Steps<void> =>
  vm.fd.setUserMemoryRegion2({
    slot: r.slot,
    flags: r.flags,
    guest_phys_addr: r.guestPhysAddr,
    memory_size: r.npages * PAGE_SIZE,
    userspace_addr: r.hostMem,
    guest_memfd: 0,
    guest_memfd_offset: 0,
  });

/** vm_mem_region_move(). */
export function* vmMemRegionMove(vm: KvmVm, slot: number, to: Gpa): Steps<void> {
  vm.regions.move(slot, to);
  yield* setRegion(vm, vm.regions.get(slot));
}

/** vm_mem_region_set_flags(). */
export function* vmMemRegionSetFlags(vm: KvmVm, slot: number, flags: number): Steps<void> {
  const region = vm.regions.get(slot);
  region.flags = flags;
  yield* setRegion(vm, region);
}

/** vm_mem_region_delete(): the slot goes first, then its memory. */
export function* vmMemRegionDelete(vm: KvmVm, slot: number): Steps<void> {
  const region = vm.regions.remove(slot);
  yield* vm.fd.setUserMemoryRegion2({
    slot,
    flags: 0,
    guest_phys_addr: region.guestPhysAddr,
    memory_size: 0,
    userspace_addr: region.hostMem,
    guest_memfd: 0,
    guest_memfd_offset: 0,
  });
  yield* vm.backend.memory.munmap(region.hostMem, region.npages * PAGE_SIZE);
}

/** vm_phy_pages_alloc(). */
export function vmPhyPagesAlloc(vm: KvmVm, count: number, min: Gpa, slot: number): Gpa {
  return phyPagesAlloc(vm.regions.get(slot), count, min);
}

/** addr_gpa2hva(): fails the test if no slot holds the address. */
export function addrGpa2hva(vm: KvmVm, addr: Gpa): Hva {
  const region = vm.regions.find(addr);
  TEST_ASSERT(region !== undefined, () => `No vm physical memory at ${hex(addr)}`);
  return regionGpaToHva(region, addr);
}

/** addr_hva2gpa(): the guest physical address of a byte of some slot's memory. */
export function addrHva2gpa(vm: KvmVm, addr: Hva): Gpa {
  const region = vm.regions.all().find((r) => addr >= r.hostMem && addr < r.hostMem + r.npages * PAGE_SIZE);
  TEST_ASSERT(region !== undefined, () => `No mapping to a guest physical address, hva: ${hex(addr)}`);
  return gpa(region.guestPhysAddr + (addr - region.hostMem));
}

/** vm_vaddr_unused_gap(): the lowest free range of guest virtual pages at or above `min`. */
export function vmVaddrUnusedGap(vm: KvmVm, bytes: number, min: Gva): Gva {
  const pages = Math.ceil(bytes / PAGE_SIZE);
  let first = Number(min >> 12n);
  for (let i = 0; i < pages; i++) {
    if (!vm.vpages.has(first + i)) continue;
    first += i + 1;
    i = -1;
  }
  return BigInt(first) << 12n;
}

/** Note that `pages` guest virtual pages from `start` are mapped. */
export function markVpages(vm: KvmVm, start: Gva, pages: number): void {
  const first = Number(start >> 12n);
  for (let i = 0; i < pages; i++) vm.vpages.add(first + i);
}

/** Guest-physical accessors over the slots' memory. They do not cross a slot. */
export function readGpaU64(vm: KvmVm, addr: Gpa): bigint {
  return vm.backend.memory.readU64(addrGpa2hva(vm, addr));
}

export function writeGpaU64(vm: KvmVm, addr: Gpa, value: bigint): void {
  vm.backend.memory.writeU64(addrGpa2hva(vm, addr), value);
}

/** kvm_vm_free(): vCPUs first, then the VM, then the slots' memory. */
export function* kvmVmFree(vm: KvmVm): Steps<void> {
  for (const vcpu of vm.vcpus) yield* vcpu.fd.close();
  yield* vm.fd.close();
  for (const r of vm.regions.all()) yield* vm.backend.memory.munmap(hva(r.hostMem), r.npages * PAGE_SIZE);
}
