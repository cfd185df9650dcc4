// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VMX areas of a vCPU that is a hypervisor: the host half of lib/x86/vmx.c in tools/testing/selftests/kvm. The guest
 * half is lib/guest/vmx.ts.
 */
import { VMX_AREAS, VmxPages } from '../../guest/vmx_pages.ts';
import type { Gva } from '../../x86/addr.ts';
import { u64Bytes } from '../guest_global.ts';
import { KVM_UTIL_MIN_VADDR, type KvmVm } from '../kvm_util.ts';
import { addrGva2gpa, addrGva2hva, vmVaddrAlloc, writeGuest } from './page_table.ts';

type Area = (typeof VMX_AREAS)[number];

/** vm_vaddr_alloc_page(). */
export const vmVaddrAllocPage = (vm: KvmVm): Gva => vmVaddrAlloc(vm, 4096, KVM_UTIL_MIN_VADDR);

function writeField(vm: KvmVm, vmx: Gva, field: string, value: bigint): void {
  writeGuest(vm, vmx + BigInt(VmxPages.offsetof(field)), u64Bytes(value));
}

/** A page for one area, known by all three addresses. */
function allocArea(vm: KvmVm, vmx: Gva, area: Area): void {
  const page = vmVaddrAllocPage(vm);
  writeField(vm, vmx, area, page);
  writeField(vm, vmx, `${area}_gpa`, BigInt(addrGva2gpa(vm, page)));
  writeField(vm, vmx, `${area}_hva`, BigInt(addrGva2hva(vm, page)));
}

/** vcpu_alloc_vmx(): guest virtual address of a struct vmx_pages with its pages, for vcpuArgsSet(). */
export function vcpuAllocVmx(vm: KvmVm): Gva {
  const vmx = vmVaddrAllocPage(vm);
  for (const area of VMX_AREAS) if (area !== 'apic_access') allocArea(vm, vmx, area);
  if (vm.arch.tdpPgd !== undefined) writeField(vm, vmx, 'eptp_gpa', BigInt(vm.arch.tdpPgd));
  return vmx;
}

/** prepare_virtualize_apic_accesses(): a page for the APIC-access address. */
export const prepareVirtualizeApicAccesses = (vm: KvmVm, vmx: Gva): void => allocArea(vm, vmx, 'apic_access');
