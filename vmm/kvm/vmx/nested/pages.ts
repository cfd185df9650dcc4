// SPDX-License-Identifier: GPL-2.0-only
/**
 * The pages that vmcs12 names, mapped for as long as L2 runs: nested_get_vmcs12_pages() of arch/x86/kvm/vmx/nested.c,
 * 6.12. Mapping at each entry and unmapping at each exit is the policy `host-map`.
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../../../lib/uapi/run.ts';
import { gfn, gpa, PAGE_SIZE, type Gfn } from '../../../../lib/x86/addr.ts';
import { CPU_BASED, PIN_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { vmwriteNum, vmwritePair } from '../../../machine/vmx/vmcs_access.ts';
import type { Steps } from '../../../host/steps.ts';
import { kvmVcpuMap, kvmVcpuMapWait, type KvmHostMap } from '../../host_map.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmVcpuReadGuest } from '../../x86/guest_access.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { vmxChangeCpuBased, vmxChangePin } from '../vmx_controls.ts';
import type { NestedVmxMsrs } from './nested_msrs.ts';
import { nestedVmxPrepareMsrBitmap } from './msr_bitmap.ts';
import type { Vmcs12 } from './vmcs12.ts';
import {
  nestedCpuHas,
  nestedCpuHasPostedIntr,
  nestedCpuHasVirtApicAccesses,
  nestedVmxMaxAtomicSwitchMsrs,
} from './vmcs12_controls.ts';

/** 'busy': a page must be waited for (waitForVmcs12Pages()), nothing is lost; 'failed': KVM_RUN ends. */
export type PagesResult = 'ok' | 'busy' | 'failed';

const gfnOf = (vmcs12: Vmcs12, field: number): Gfn => gfn(Math.floor(vmcs12.num(field) / PAGE_SIZE));

/** kvm_vcpu_map() of a page that vmcs12 names; one that is mapped still is kept. */
function mapPage(vcpu: Vcpu, field: number, map: KvmHostMap): number {
  if (map.mapping !== null) return 0;
  return kvmVcpuMap(vcpu, gfnOf(toVmx(vcpu).nested.cachedVmcs12, field), map);
}

function internalError(vcpu: Vcpu): PagesResult {
  vcpu.run.exit_reason = KVM_EXIT.INTERNAL_ERROR;
  vcpu.run.internal.suberror = KVM_INTERNAL_ERROR.EMULATION;
  vcpu.run.internal.ndata = 0;
  return 'failed';
}

function apicAccessPage(vcpu: Vcpu): PagesResult {
  const { nested } = toVmx(vcpu);
  if (!nestedCpuHasVirtApicAccesses(nested.cachedVmcs12)) return 'ok';
  const err = mapPage(vcpu, VMCS_CTRL.APIC_ACCESS_ADDR, nested.apicAccessPageMap);
  if (err === -ERRNO.EAGAIN) return 'busy';
  if (err !== 0) return internalError(vcpu);
  vmwriteNum(vmxCpu(vcpu), VMCS_CTRL.APIC_ACCESS_ADDR, nested.apicAccessPageMap.hpa);
  return 'ok';
}

/** Without memory behind it, either nobody looks at the page, or the entry must fail: an illegal address sees to that. */
function virtualApicPage(vcpu: Vcpu): PagesResult {
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  if (!nestedCpuHas(vmcs12, CPU_BASED.TPR_SHADOW)) return 'ok';
  const err = mapPage(vcpu, VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, nested.virtualApicMap);
  if (err === -ERRNO.EAGAIN) return 'busy';
  const cr8Exits =
    nestedCpuHas(vmcs12, CPU_BASED.CR8_LOAD_EXITING) && nestedCpuHas(vmcs12, CPU_BASED.CR8_STORE_EXITING);
  if (err === 0) vmwriteNum(vmxCpu(vcpu), VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, nested.virtualApicMap.hpa);
  else if (cr8Exits && !nestedCpuHasVirtApicAccesses(vmcs12))
    vmxChangeCpuBased(vcpu, 0, CPU_BASED.TPR_SHADOW);
  else vmwritePair(vmxCpu(vcpu), VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, -1, -1);
  return 'ok';
}

function postedInterruptDescriptor(vcpu: Vcpu): PagesResult {
  const { nested } = toVmx(vcpu);
  if (!nestedCpuHasPostedIntr(nested.cachedVmcs12)) return 'ok';
  const err = mapPage(vcpu, VMCS_CTRL.POSTED_INTR_DESC_ADDR, nested.piDescMap);
  if (err === -ERRNO.EAGAIN) return 'busy';
  if (err !== 0) {
    // KVM_RUN fails when the descriptor is needed.
    vmxChangePin(vcpu, 0, PIN_BASED.POSTED_INTR);
    return 'ok';
  }
  nested.piDescOffset = nested.cachedVmcs12.num(VMCS_CTRL.POSTED_INTR_DESC_ADDR) % PAGE_SIZE;
  vmwriteNum(vmxCpu(vcpu), VMCS_CTRL.POSTED_INTR_DESC_ADDR, nested.piDescMap.hpa + nested.piDescOffset);
  return 'ok';
}

function msrBitmap(vcpu: Vcpu): PagesResult {
  const use = nestedVmxPrepareMsrBitmap(vcpu);
  if (use === 'busy') return 'busy';
  if (use) vmxChangeCpuBased(vcpu, CPU_BASED.USE_MSR_BITMAPS, 0);
  else vmxChangeCpuBased(vcpu, 0, CPU_BASED.USE_MSR_BITMAPS);
  return 'ok';
}

/** Pages that the entry only reads: the shadow VMCS's header and the VM-entry MSR-load area. */
function pagesToRead(vmcs12: Vmcs12, msrs: NestedVmxMsrs): Gfn[] {
  const pages: Gfn[] = [];
  const link = G.VMCS_LINK_POINTER;
  if (vmcs12.lo(link) !== -1 || vmcs12.hi(link) !== -1) pages.push(gfnOf(vmcs12, link));
  const entries = Math.min(vmcs12.u32(VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT), nestedVmxMaxAtomicSwitchMsrs(msrs));
  if (entries === 0) return pages;
  const first = vmcs12.num(VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR);
  for (let at = first - (first % PAGE_SIZE); at < first + entries * 16; at += PAGE_SIZE)
    pages.push(gfn(at / PAGE_SIZE));
  return pages;
}

const isBusy = (vcpu: Vcpu): boolean => vcpu.guestPageBusy;

/** Whether they can be read without waiting: the checks and the MSR loads cannot begin anew. */
function readablePages(vcpu: Vcpu): PagesResult {
  const { nested } = toVmx(vcpu);
  const byte = new Uint8Array(1);
  for (const page of pagesToRead(nested.cachedVmcs12, nested.msrs)) {
    vcpu.guestPageBusy = false;
    const err = kvmVcpuReadGuest(vcpu, gpa(page * PAGE_SIZE), byte);
    if (err < 0 && isBusy(vcpu)) return 'busy';
  }
  return 'ok';
}

const PAGES = [apicAccessPage, virtualApicPage, postedInterruptDescriptor, msrBitmap, readablePages];

/** nested_get_vmcs12_pages(); vmcs02 is loaded. */
export function nestedGetVmcs12Pages(vcpu: Vcpu): PagesResult {
  for (const get of PAGES) {
    const r = get(vcpu);
    if (r !== 'ok') return r;
  }
  return 'ok';
}

/** Wait until every page that vmcs12 names can be mapped without waiting. */
export function* waitForVmcs12Pages(vcpu: Vcpu): Steps<void> {
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  const fields: number[] = [];
  if (nestedCpuHasVirtApicAccesses(vmcs12)) fields.push(VMCS_CTRL.APIC_ACCESS_ADDR);
  if (nestedCpuHas(vmcs12, CPU_BASED.TPR_SHADOW)) fields.push(VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR);
  if (nestedCpuHasPostedIntr(vmcs12)) fields.push(VMCS_CTRL.POSTED_INTR_DESC_ADDR);
  if (nestedCpuHas(vmcs12, CPU_BASED.USE_MSR_BITMAPS)) fields.push(VMCS_CTRL.MSR_BITMAP);
  const pages = [
    ...fields.map((field) => gfnOf(vmcs12, field)),
    ...pagesToRead(vmcs12, toVmx(vcpu).nested.msrs),
  ];
  for (const page of pages) yield* kvmVcpuMapWait(vcpu, page);
}
