// SPDX-License-Identifier: GPL-2.0-only
/**
 * A VM with memory, guest code and vCPUs: after __vm_create_with_vcpus() of kvm_util.c. Slot 0 lies at guest physical 0
 * and holds code, stacks, page tables and what tests allocate; its size follows from what will be put into it.
 */
import { PAGE_SIZE, gpa, type Gva } from '../x86/addr.ts';
import { KVM_CAP } from '../uapi/capabilities.ts';
import type { GuestImage } from '../guest/image.ts';
import type { Backend, BackingSource, Steps } from './backend.ts';
import {
  KVM_UTIL_MIN_PFN,
  KvmVm,
  MEM_REGION_SLOT_DEFAULT,
  markVpages,
  vmPhyPagesAlloc,
  vmUserspaceMemRegionAdd,
  type KvmVcpu,
} from './kvm_util.ts';
import { TEST_REQUIRE } from './test_util.ts';
import { ucallInit } from './ucall_common.ts';
import { vmInstallExceptionTables } from './x86/exceptions.ts';
import { virtMap, vmPgd, writeGuest } from './x86/page_table.ts';
import { vmInitDescriptorTables, vmVcpuAdd } from './x86/processor.ts';

export interface VmOptions {
  readonly image: GuestImage;
  /** Where vCPUs start; the image's entry if absent. */
  readonly entry?: Gva;
  /** Pages beyond code, stacks and their page tables: for tables that map what the test adds, and its allocations. */
  readonly extraPages?: number;
  /** Guest physical pages from 0 that are never handed out; default none. A PC has its ROMs below 1 MiB. */
  readonly lowPages?: number;
  readonly backing?: BackingSource;
  /** 4 (default) or 5 levels of guest page tables. */
  readonly pgtableLevels?: number;
  /** Whether KVM emulates the local APICs (default), or nobody does: then HLT and interrupts are the test's business. */
  readonly irqchip?: 'kernel' | 'none';
}

/** Pages of slot 0 that every VM needs: exception tables, ucall pool, page tables of the low 4 MiB. */
const BASE_PAGES = 512;
const PAGES_PER_VCPU = 16;

function loadImage(vm: KvmVm, image: GuestImage): void {
  const pages = Math.ceil(image.size / PAGE_SIZE);
  const physical = vmPhyPagesAlloc(vm, pages, gpa(KVM_UTIL_MIN_PFN * PAGE_SIZE), MEM_REGION_SLOT_DEFAULT);
  virtMap(vm, image.base, physical, pages);
  markVpages(vm, image.base, pages);
  writeGuest(vm, image.base, image.bytes);
  vm.symbols = image.symbols;
  vm.locate = (addr) => {
    const at = image.locate(addr);
    return at === undefined ? undefined : `${at.file}:${at.line} ${at.fn}()`;
  };
}

/** vm_create_barebones(): no memory, no irqchip, no vCPU. */
export function* vmCreateBarebones(backend: Backend): Steps<KvmVm> {
  return new KvmVm(backend, yield* backend.kvm.createVm(0), 4);
}

/** vm_create(): slot 0, the image, descriptor and exception tables, the ucall pool; no vCPU yet. */
export function* vmCreate(backend: Backend, options: VmOptions, nrVcpus: number): Steps<KvmVm> {
  TEST_REQUIRE(backend.kvm.checkExtension(KVM_CAP.USER_MEMORY) > 0, 'KVM_CAP_USER_MEMORY');
  const fd = yield* backend.kvm.createVm(0);
  const vm = new KvmVm(backend, fd, options.pgtableLevels ?? 4);
  const imagePages = Math.ceil(options.image.size / PAGE_SIZE);
  const npages = BASE_PAGES + imagePages + nrVcpus * PAGES_PER_VCPU + (options.extraPages ?? 0);
  const lowPages = options.lowPages ?? 0;
  const backing = options.backing ?? 'anonymous';
  yield* vmUserspaceMemRegionAdd(vm, {
    slot: MEM_REGION_SLOT_DEFAULT,
    guestPhysAddr: gpa(0),
    npages: npages + lowPages,
    backing,
  });
  if (lowPages > 0) vmPhyPagesAlloc(vm, lowPages, gpa(0), MEM_REGION_SLOT_DEFAULT);
  if (options.irqchip !== 'none') fd.createIrqchip();
  vmPgd(vm);
  loadImage(vm, options.image);
  vmInitDescriptorTables(vm);
  vmInstallExceptionTables(vm);
  ucallInit(vm);
  return vm;
}

/** vm_create_with_vcpus(). */
export function* vmCreateWithVcpus(backend: Backend, nrVcpus: number, options: VmOptions): Steps<KvmVm> {
  const vm = yield* vmCreate(backend, options, nrVcpus);
  for (let id = 0; id < nrVcpus; id++) yield* vmVcpuAdd(vm, id, options.entry ?? options.image.entry);
  return vm;
}

/** vm_create_with_one_vcpu(). */
export function* vmCreateWithOneVcpu(backend: Backend, options: VmOptions): Steps<[KvmVm, KvmVcpu]> {
  const vm = yield* vmCreateWithVcpus(backend, 1, options);
  return [vm, vm.vcpus[0]!];
}
