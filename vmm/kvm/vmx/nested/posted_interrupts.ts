// SPDX-License-Identifier: GPL-2.0-only
/**
 * Posted interrupts and virtual-interrupt delivery for L2: vmx_complete_nested_posted_interrupt() and what goes with it of
 * arch/x86/kvm/vmx/nested.c, 6.12. SDM, "Posted-Interrupt Processing".
 */
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../../../lib/uapi/run.ts';
import { APIC_REG } from '../../../../lib/x86/apic.ts';
import { gfn, PAGE_SIZE } from '../../../../lib/x86/addr.ts';
import { CPU_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { KernelMapping } from '../../../host/mm/kernel_mapping.ts';
import { vmread32, vmwrite32 } from '../../../machine/vmx/vmcs_access.ts';
import { markPageDirtyInSlot } from '../../dirty_bitmap.ts';
import { kvmVcpuGfnToMemslot } from '../../guest_memory.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';
import { lapicInKernel, vcpuApic } from '../../x86/lapic.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import type { NestedVmx } from './nested_vmx.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHas, nestedCpuHasPostedIntr, nestedCpuHasVid } from './vmcs12_controls.ts';

/** struct pi_desc: 256 bits of requests, then the outstanding-notification bit. */
const PI_DESC = { PIR_WORDS: 8, ON_OFFSET: 32, ON: 1 } as const;

const RVI_MASK = 0xff;

/** The highest vector requested in the descriptor, or -1. */
function highestVector(map: KernelMapping, at: number): number {
  for (let word = PI_DESC.PIR_WORDS - 1; word >= 0; word--) {
    const bits = map.read32(at + 4 * word);
    if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
  }
  return -1;
}

/** Whether the descriptor's ON bit is set. */
const isOn = (map: KernelMapping, at: number): boolean =>
  (map.read32(at + PI_DESC.ON_OFFSET) & PI_DESC.ON) !== 0;

/** __kvm_apic_update_irr(): requests move to the virtual-APIC page. */
function moveRequests(desc: KernelMapping, at: number, vapic: KernelMapping): void {
  for (let word = 0; word < PI_DESC.PIR_WORDS; word++) {
    const bits = desc.read32(at + 4 * word);
    if (bits === 0) continue;
    desc.write32(at + 4 * word, 0);
    const irr = APIC_REG.IRR + 16 * word;
    vapic.write32(irr, (vapic.read32(irr) | bits) >>> 0);
  }
}

/** nested_mark_vmcs12_pages_dirty(): what the processor may have written without L0. */
export function nestedMarkVmcs12PagesDirty(vcpu: Vcpu): void {
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  if (nestedCpuHas(vmcs12, CPU_BASED.TPR_SHADOW)) markDirty(vcpu, vmcs12, VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR);
  if (nestedCpuHasPostedIntr(vmcs12)) markDirty(vcpu, vmcs12, VMCS_CTRL.POSTED_INTR_DESC_ADDR);
}

function markDirty(vcpu: Vcpu, vmcs12: Vmcs12, field: number): void {
  const page = gfn(Math.floor(vmcs12.num(field) / PAGE_SIZE));
  const slot = kvmVcpuGfnToMemslot(vcpu, page);
  if (slot !== null) markPageDirtyInSlot(slot, page);
}

/** vmx_complete_nested_posted_interrupt(): false: a page is missing, KVM_RUN ends with an internal error. */
export function completeNestedPostedInterrupt(vcpu: Vcpu): boolean {
  const { nested } = toVmx(vcpu);
  if (!nested.piPending) return true;
  const desc = nested.piDescMap.mapping;
  if (desc === null) return mmioNeeded(vcpu);
  nested.piPending = false;
  const at = nested.piDescOffset;
  if (!isOn(desc, at)) return true;
  desc.write32(at + PI_DESC.ON_OFFSET, desc.read32(at + PI_DESC.ON_OFFSET) & ~PI_DESC.ON);
  const vector = highestVector(desc, at);
  if (vector > 0) {
    const vapic = nested.virtualApicMap.mapping;
    if (vapic === null) return mmioNeeded(vcpu);
    moveRequests(desc, at, vapic);
    raiseRvi(vcpu, highestIrr(vapic));
  }
  nestedMarkVmcs12PagesDirty(vcpu);
  return true;
}

function highestIrr(vapic: KernelMapping): number {
  for (let word = PI_DESC.PIR_WORDS - 1; word >= 0; word--) {
    const bits = vapic.read32(APIC_REG.IRR + 16 * word);
    if (bits !== 0) return word * 32 + 31 - Math.clz32(bits);
  }
  return 0;
}

function raiseRvi(vcpu: Vcpu, vector: number): void {
  const cpu = vmxCpu(vcpu);
  const status = vmread32(cpu, VMCS_GUEST.INTR_STATUS);
  if (vector > (status & RVI_MASK)) vmwrite32(cpu, VMCS_GUEST.INTR_STATUS, (status & ~RVI_MASK) | vector);
}

/** kvm_handle_memory_failure(X86EMUL_IO_NEEDED). */
function mmioNeeded(vcpu: Vcpu): false {
  vcpu.run.exit_reason = KVM_EXIT.INTERNAL_ERROR;
  vcpu.run.internal.suberror = KVM_INTERNAL_ERROR.EMULATION;
  vcpu.run.internal.ndata = 0;
  return false;
}

/** nested_vmx_run(): a notification that waits in the local APIC is processed by the entry. */
export function postedInterruptsOnEntry(vcpu: Vcpu): void {
  const { nested } = toVmx(vcpu);
  if (!nestedCpuHasPostedIntr(nested.cachedVmcs12) || !lapicInKernel(vcpu)) return;
  const { apic } = vcpuApic(vcpu);
  if (apic.highestDeliverable() !== nested.postedIntrNv) return;
  nested.piPending = true;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  apic.vectors.cancel(nested.postedIntrNv);
}

/** Whether a virtual interrupt would be delivered: part of vmx_has_nested_events(), for an L2 that halts. */
export function virtualInterruptPending(vcpu: Vcpu, nested: NestedVmx): boolean {
  const vapic = nested.virtualApicMap.mapping;
  if (!nestedCpuHasVid(nested.cachedVmcs12) || vapic === null) return false;
  const vppr = vapic.read32(APIC_REG.PROCPRI) & 0xf0;
  const rvi = vmread32(vmxCpu(vcpu), VMCS_GUEST.INTR_STATUS) & RVI_MASK;
  if ((rvi & 0xf0) > vppr) return true;
  const desc = nested.piDescMap.mapping;
  if (!nested.piPending || desc === null || !isOn(desc, nested.piDescOffset)) return false;
  const vector = highestVector(desc, nested.piDescOffset);
  return vector > 0 && (vector & 0xf0) > vppr;
}
