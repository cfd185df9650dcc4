// SPDX-License-Identifier: GPL-2.0-only
/**
 * Injection of interrupts, NMIs and exceptions, the windows that wait for it, and interruptibility. Mirrors the vmx_*
 * functions of arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_X86_SHADOW_INT } from '../../../lib/uapi/vcpu_state.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED } from '../../../lib/x86/vmx/controls.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { BLOCKING } from '../../machine/cpu/state.ts';
import { vmread32, vmwrite32 } from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { TP } from '../trace_events.ts';
import { isGuestMode } from '../x86/cache_regs.ts';
import { nestedExitOnIntr, nestedExitOnNmi } from './nested/vmcs12_controls.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';
import { vmxChangeCpuBased } from './vmx_controls.ts';

/** Injecting an event wakes a halted guest. */
function clearHlt(vcpu: Vcpu): void {
  const cpu = vmxCpu(vcpu);
  if (vmread32(cpu, VMCS_GUEST.ACTIVITY_STATE) !== 0) vmwrite32(cpu, VMCS_GUEST.ACTIVITY_STATE, 0);
}

/** vmx_inject_irq(). */
export function vmxInjectIrq(vcpu: Vcpu, reinjected: 'first' | 'again'): void {
  const { nr, soft } = vcpu.arch.interrupt;
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_INJ_VIRQ] !== 0)
    trace.record(TP.KVM_INJ_VIRQ, nr, soft ? 1 : 0, reinjected === 'again' ? 1 : 0);
  vcpu.stat.irq_injections++;
  const type = soft ? INTR_TYPE.SOFT_INTR : INTR_TYPE.EXT_INTR;
  vmwrite32(vmxCpu(vcpu), VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, nr | INTR_INFO.VALID_MASK | type);
  clearHlt(vcpu);
}

/** vmx_inject_nmi(). */
export function vmxInjectNmi(vcpu: Vcpu): void {
  vcpu.stat.nmi_injections++;
  const info = VECTOR.NMI | INTR_INFO.VALID_MASK | INTR_TYPE.NMI_INTR;
  vmwrite32(vmxCpu(vcpu), VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, info);
  clearHlt(vcpu);
}

/** vmx_inject_exception(). */
export function vmxInjectException(vcpu: Vcpu): void {
  const ex = vcpu.arch.exception;
  const cpu = vmxCpu(vcpu);
  const soft = ex.vector === VECTOR.BP || ex.vector === VECTOR.OF;
  let info = ex.vector | INTR_INFO.VALID_MASK | (soft ? INTR_TYPE.SOFT_EXCEPTION : INTR_TYPE.HARD_EXCEPTION);
  if (ex.hasErrorCode) {
    vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_EXCEPTION_ERROR_CODE, ex.errorCode & 0xffff);
    info |= INTR_INFO.DELIVER_CODE_MASK;
  }
  if (soft)
    vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_INSTRUCTION_LEN, vmread32(cpu, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN));
  vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, info);
  clearHlt(vcpu);
}

/** The event that was being injected has been delivered. */
function forgetInjected(vcpu: Vcpu): void {
  vcpu.arch.nmiInjected = false;
  vcpu.arch.exception.injected = false;
  vcpu.arch.interrupt.injected = false;
}

/** Fields that go with an event's information. */
export interface EventFields {
  readonly length: number;
  readonly error: number;
}

/**
 * __vmx_complete_interrupts(): an event whose delivery was cut short, or whose entry did not happen, must be injected
 * again. A privileged software exception is lost, as it is in KVM.
 */
export function vmxCompleteInterrupts(vcpu: Vcpu, info: number, fields: EventFields): void {
  forgetInjected(vcpu);
  if ((info & INTR_INFO.VALID_MASK) === 0) return;
  const cpu = vmxCpu(vcpu);
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  const { arch } = vcpu;
  const vector = info & INTR_INFO.VECTOR_MASK;
  const hasErrorCode = (info & INTR_INFO.DELIVER_CODE_MASK) !== 0;
  switch (info & INTR_INFO.INTR_TYPE_MASK) {
    case INTR_TYPE.NMI_INTR:
      arch.nmiInjected = true;
      // SDM, "Injected NMIs": an entry that injects an NMI fails if NMIs are blocked, and this delivery blocked them.
      vmxSetNmiMask(vcpu, false);
      break;
    case INTR_TYPE.SOFT_EXCEPTION:
    case INTR_TYPE.HARD_EXCEPTION:
      arch.exception.injected = true;
      arch.exception.pending = false;
      arch.exception.vector = vector;
      arch.exception.hasErrorCode = hasErrorCode;
      arch.exception.errorCode = hasErrorCode ? vmread32(cpu, fields.error) : 0;
      break;
    case INTR_TYPE.SOFT_INTR:
    case INTR_TYPE.EXT_INTR:
      arch.interrupt.injected = true;
      arch.interrupt.soft = (info & INTR_INFO.INTR_TYPE_MASK) === INTR_TYPE.SOFT_INTR;
      arch.interrupt.nr = vector;
      break;
    default:
      return;
  }
  arch.eventExitInstLen = vmread32(cpu, fields.length);
  vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_INSTRUCTION_LEN, arch.eventExitInstLen);
}

/** What goes with the VM-entry interruption information. */
const TO_BE_INJECTED = {
  length: VMCS_CTRL.VM_ENTRY_INSTRUCTION_LEN,
  error: VMCS_CTRL.VM_ENTRY_EXCEPTION_ERROR_CODE,
} as const;

/**
 * vmx_cancel_injection(): the entry did not happen; what was to be injected is queued again, from the VMCS, since an event
 * that L1 injects into L2 is known nowhere else.
 */
export function vmxCancelInjection(vcpu: Vcpu): void {
  const cpu = vmxCpu(vcpu);
  const info = vmread32(cpu, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD);
  vmxCompleteInterrupts(vcpu, info, TO_BE_INJECTED);
  vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, 0);
}

/** vmx_get_interrupt_shadow(): KVM_X86_SHADOW_INT bits. */
export function vmxGetInterruptShadow(vcpu: Vcpu): number {
  const info = vmread32(vmxCpu(vcpu), VMCS_GUEST.INTERRUPTIBILITY_INFO);
  return (
    ((info & BLOCKING.STI) !== 0 ? KVM_X86_SHADOW_INT.STI : 0) |
    ((info & BLOCKING.MOV_SS) !== 0 ? KVM_X86_SHADOW_INT.MOV_SS : 0)
  );
}

/** vmx_set_interrupt_shadow(). */
export function vmxSetInterruptShadow(vcpu: Vcpu, mask: number): void {
  const cpu = vmxCpu(vcpu);
  const old = vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO);
  let info = old & ~(BLOCKING.STI | BLOCKING.MOV_SS);
  if ((mask & KVM_X86_SHADOW_INT.MOV_SS) !== 0) info |= BLOCKING.MOV_SS;
  else if ((mask & KVM_X86_SHADOW_INT.STI) !== 0) info |= BLOCKING.STI;
  if (info !== old) vmwrite32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO, info);
}

/** vmx_interrupt_blocked(): what makes L2 exit is not blocked by L2's own flags. */
export function vmxInterruptBlocked(vcpu: Vcpu): boolean {
  if (isGuestMode(vcpu) && nestedExitOnIntr(toVmx(vcpu).nested.cachedVmcs12)) return false;
  return interruptsMasked(vcpu);
}

/** __vmx_interrupt_blocked(): by the flags of whoever is active. */
export function interruptsMasked(vcpu: Vcpu): boolean {
  const cpu = vmxCpu(vcpu);
  if ((vmread32(cpu, VMCS_GUEST.RFLAGS) & RFLAGS.IF) === 0) return true;
  return (vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO) & (BLOCKING.STI | BLOCKING.MOV_SS)) !== 0;
}

/** vmx_interrupt_allowed(): an interrupt that L1 gets as an exit is never injected. */
export function vmxInterruptAllowed(vcpu: Vcpu, what: 'query' | 'injection'): number {
  const { nested } = toVmx(vcpu);
  if (nested.nestedRunPending) return -ERRNO.EBUSY;
  if (what === 'injection' && isGuestMode(vcpu) && nestedExitOnIntr(nested.cachedVmcs12)) return -ERRNO.EBUSY;
  return vmxInterruptBlocked(vcpu) ? 0 : 1;
}

/** vmx_nmi_blocked(). */
export function vmxNmiBlocked(vcpu: Vcpu): boolean {
  if (isGuestMode(vcpu) && nestedExitOnNmi(toVmx(vcpu).nested.cachedVmcs12)) return false;
  const blocked = BLOCKING.MOV_SS | BLOCKING.STI | BLOCKING.NMI;
  return (vmread32(vmxCpu(vcpu), VMCS_GUEST.INTERRUPTIBILITY_INFO) & blocked) !== 0;
}

/** vmx_nmi_allowed(). */
export function vmxNmiAllowed(vcpu: Vcpu, what: 'query' | 'injection'): number {
  const { nested } = toVmx(vcpu);
  if (nested.nestedRunPending) return -ERRNO.EBUSY;
  if (what === 'injection' && isGuestMode(vcpu) && nestedExitOnNmi(nested.cachedVmcs12)) return -ERRNO.EBUSY;
  return vmxNmiBlocked(vcpu) ? 0 : 1;
}

/** vmx_apic_init_signal_blocked(): in VMX root operation INIT waits. */
export const vmxApicInitSignalBlocked = (vcpu: Vcpu): boolean =>
  toVmx(vcpu).nested.vmxon && !isGuestMode(vcpu);

/** vmx_get_nmi_mask(). */
export function vmxGetNmiMask(vcpu: Vcpu): boolean {
  return (vmread32(vmxCpu(vcpu), VMCS_GUEST.INTERRUPTIBILITY_INFO) & BLOCKING.NMI) !== 0;
}

/** vmx_set_nmi_mask(). */
export function vmxSetNmiMask(vcpu: Vcpu, masked: boolean): void {
  const cpu = vmxCpu(vcpu);
  const info = vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO);
  vmwrite32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO, masked ? info | BLOCKING.NMI : info & ~BLOCKING.NMI);
}

export function vmxEnableIrqWindow(vcpu: Vcpu): void {
  vmxChangeCpuBased(vcpu, CPU_BASED.INTR_WINDOW_EXITING, 0);
}

/** vmx_enable_nmi_window(): blocked by STI alone, the next window that opens is that of interrupts. */
export function vmxEnableNmiWindow(vcpu: Vcpu): void {
  if ((vmread32(vmxCpu(vcpu), VMCS_GUEST.INTERRUPTIBILITY_INFO) & BLOCKING.STI) !== 0)
    vmxEnableIrqWindow(vcpu);
  else vmxChangeCpuBased(vcpu, CPU_BASED.NMI_WINDOW_EXITING, 0);
}

/** vmx_update_exception_bitmap(): with EPT a page fault is the guest's own business. */
export function vmxUpdateExceptionBitmap(vcpu: Vcpu): void {
  const loaded = toVmx(vcpu).loadedVmcs;
  let bitmap = (1 << VECTOR.UD) | (1 << VECTOR.MC) | (1 << VECTOR.DB) | (1 << VECTOR.AC);
  if (vcpu.arch.guestDebug !== 0) bitmap |= 1 << VECTOR.BP;
  // Which page faults exit is decided together with the error-code mask, which is L1's too.
  if (isGuestMode(vcpu)) bitmap |= toVmx(vcpu).nested.cachedVmcs12.lo(VMCS_CTRL.EXCEPTION_BITMAP);
  if (bitmap === loaded.exceptionBitmap) return;
  loaded.exceptionBitmap = bitmap;
  vmwrite32(vmxCpu(vcpu), VMCS_CTRL.EXCEPTION_BITMAP, bitmap);
}
