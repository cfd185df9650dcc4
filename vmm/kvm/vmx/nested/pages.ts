// SPDX-License-Identifier: GPL-2.0-only
/**
 * The pages that vmcs12 names, mapped for as long as L2 runs: nested_get_vmcs12_pages() of arch/x86/kvm/vmx/nested.c,
 * 6.12. Mapping at each entry and unmapping at each exit is the policy `host-map`.
 */
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../../../lib/uapi/run.ts';
import { gfn, PAGE_SIZE, type Gfn } from '../../../../lib/x86/addr.ts';
import { CPU_BASED, PIN_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { vmwriteNum, vmwritePair } from '../../../machine/vmx/vmcs_access.ts';
import { FOLL } from '../../../host/mm/fault.ts';
import { userHpa } from '../../../host/mm/user_access.ts';
import type { Steps } from '../../../host/steps.ts';
import { gfnToHvaSlot, kvmVcpuGfnToMemslot } from '../../guest_memory.ts';
import { kvmVcpuMap, kvmVcpuMapWait, type KvmHostMap } from '../../host_map.ts';
import { kvmIsErrorHva, type Vcpu } from '../../kvm_host.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { vmxChangeCpuBased, vmxChangePin } from '../vmx_controls.ts';
import type { MsrArea } from './msr_switch.ts';
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

const hasLink = (v: Vmcs12): boolean => v.lo(G.VMCS_LINK_POINTER) !== -1 || v.hi(G.VMCS_LINK_POINTER) !== -1;

/** The pages of an MSR area. */
function areaPages(vcpu: Vcpu, area: MsrArea): Gfn[] {
  const { cachedVmcs12, msrs } = toVmx(vcpu).nested;
  const entries = Math.min(cachedVmcs12.u32(area.count), nestedVmxMaxAtomicSwitchMsrs(msrs));
  if (entries === 0) return [];
  const first = cachedVmcs12.num(area.address);
  const pages: Gfn[] = [];
  for (let at = first - (first % PAGE_SIZE); at < first + entries * 16; at += PAGE_SIZE)
    pages.push(gfn(at / PAGE_SIZE));
  return pages;
}

const linkPage = (v: Vmcs12): Gfn[] => (hasLink(v) ? [gfnOf(v, G.VMCS_LINK_POINTER)] : []);

const ENTRY_LOAD = { address: VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR, count: VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT };
const EXIT_STORE = { address: VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR, count: VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT };
const EXIT_LOAD = { address: VMCS_CTRL.VM_EXIT_MSR_LOAD_ADDR, count: VMCS_CTRL.VM_EXIT_MSR_LOAD_COUNT };

/** Pages that an entry touches without mapping them: the shadow VMCS and the VM-entry MSR-load area. */
const pagesOfEntry = (vcpu: Vcpu): Gfn[] => [
  ...linkPage(toVmx(vcpu).nested.cachedVmcs12),
  ...areaPages(vcpu, ENTRY_LOAD),
];

/** Bitmaps that say whether an exit is L1's, by exit reason, and the controls that bring them into use. */
const BITMAPS: Readonly<Record<number, readonly number[]>> = {
  [EXIT_REASON.IO_INSTRUCTION]: [VMCS_CTRL.IO_BITMAP_A, VMCS_CTRL.IO_BITMAP_B],
  [EXIT_REASON.MSR_READ]: [VMCS_CTRL.MSR_BITMAP],
  [EXIT_REASON.MSR_WRITE]: [VMCS_CTRL.MSR_BITMAP],
  [EXIT_REASON.VMREAD]: [VMCS_CTRL.VMREAD_BITMAP],
  [EXIT_REASON.VMWRITE]: [VMCS_CTRL.VMWRITE_BITMAP],
};

/** What an exit for `reason` and the way back to L1 touch; -1: no exit yet. */
const pagesOfExit = (vcpu: Vcpu, reason: number): Gfn[] => [
  ...linkPage(toVmx(vcpu).nested.cachedVmcs12),
  ...areaPages(vcpu, EXIT_STORE),
  ...areaPages(vcpu, EXIT_LOAD),
  // One that is not in use may as well be looked at.
  ...(BITMAPS[reason] ?? []).map((field) => gfnOf(toVmx(vcpu).nested.cachedVmcs12, field)),
];

/** Whether the page is there, but must be waited for. */
function pageBusy(vcpu: Vcpu, page: Gfn): boolean {
  const address = gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, page), page, 'read');
  return !kvmIsErrorHva(address) && userHpa(vcpu.kvm.mm, address, FOLL.WRITE) === -ERRNO.EAGAIN;
}

/** Neither the checks nor the MSR loads of an entry can begin anew. */
const entryPages = (vcpu: Vcpu): PagesResult =>
  pagesOfEntry(vcpu).some((page) => pageBusy(vcpu, page)) ? 'busy' : 'ok';

/** Wait for what an exit to L1 may touch, which cannot wait; null: all is there. While L2 is active. */
export function settleExitPages(vcpu: Vcpu, reason = -1): Steps<void> | null {
  const v = toVmx(vcpu).nested.cachedVmcs12;
  const none = !hasLink(v) && v.lo(EXIT_STORE.count) === 0 && v.lo(EXIT_LOAD.count) === 0;
  if (none && BITMAPS[reason] === undefined) return null;
  if (!pagesOfExit(vcpu, reason).some((page) => pageBusy(vcpu, page))) return null;
  return waitForExitPages(vcpu, reason);
}

function* waitForExitPages(vcpu: Vcpu, reason: number): Steps<void> {
  for (;;) {
    const busy = pagesOfExit(vcpu, reason).find((page) => pageBusy(vcpu, page));
    if (busy === undefined) return;
    yield* kvmVcpuMapWait(vcpu, busy);
  }
}

const PAGES = [apicAccessPage, virtualApicPage, postedInterruptDescriptor, msrBitmap, entryPages];

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
  const pages = [...fields.map((field) => gfnOf(vmcs12, field)), ...pagesOfEntry(vcpu)];
  for (const page of pages) yield* kvmVcpuMapWait(vcpu, page);
}
