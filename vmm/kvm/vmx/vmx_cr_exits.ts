// SPDX-License-Identifier: GPL-2.0-only
/** Accesses to control registers: handle_cr(), handle_set_cr0() and handle_set_cr4() of arch/x86/kvm/vmx/vmx.c, 6.12. */
import { KVM_EXIT } from '../../../lib/uapi/run.ts';
import { CR0 } from '../../../lib/x86/registers.ts';
import { CR_QUAL, CR_QUAL_LMSW_SOURCE_SHIFT, CR_QUAL_REG_SHIFT } from '../../../lib/x86/vmx/exit_quals.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { vmread32, vmwrite64 } from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import { isGuestMode, kvmReadCr0, kvmReadCr3, kvmRegisterRead, kvmRegisterWrite } from '../x86/cache_regs.ts';
import { kvmSetCr0, kvmSetCr3, kvmSetCr4, kvmSetCr8 } from '../x86/cr.ts';
import { kvmLapicGetCr8, lapicInKernel } from '../x86/lapic.ts';
import { kvmCompleteInsnGp, kvmSkipEmulatedInstruction } from '../x86/skip.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

/**
 * handle_set_cr0() and handle_set_cr4(): 1 is refused. L2 changed bits that only L0 traps: those that L1 traps keep L1's
 * value in the register, and L2 reads what it wrote.
 */
function handleSetCr(vcpu: Vcpu, which: 'CR0' | 'CR4', value: bigint): number {
  const set = which === 'CR0' ? kvmSetCr0 : kvmSetCr4;
  if (!isGuestMode(vcpu)) return set(vcpu, value);
  const v = toVmx(vcpu).nested.cachedVmcs12;
  const mask = v.u64(VMCS_CTRL[`${which}_GUEST_HOST_MASK`]);
  if (set(vcpu, (value & ~mask) | (v.u64(VMCS_GUEST[which]) & mask)) !== 0) return 1;
  vmwrite64(vmxCpu(vcpu), VMCS_CTRL[`${which}_READ_SHADOW`], value);
  return 0;
}

/** handle_cr(): MOV to and from control registers, CLTS, LMSW. */
export function handleCr(vcpu: Vcpu): number {
  const qual = vmread32(vmxCpu(vcpu), VMCS_INFO.EXIT_QUALIFICATION);
  const cr = qual & CR_QUAL.CR_MASK;
  const reg = (qual & CR_QUAL.REG_MASK) >> CR_QUAL_REG_SHIFT;
  const { trace } = vcpu.kvm.module;
  switch (qual & CR_QUAL.TYPE_MASK) {
    case CR_QUAL.TYPE_MOV_TO_CR:
      if (trace.on[TP.KVM_CR] !== 0) trace.record(TP.KVM_CR, 1, cr, kvmRegisterRead(vcpu, reg));
      return movToCr(vcpu, cr, reg);
    case CR_QUAL.TYPE_MOV_FROM_CR: {
      const value = cr === 3 ? kvmReadCr3(vcpu) : kvmLapicGetCr8(vcpu);
      if (trace.on[TP.KVM_CR] !== 0) trace.record(TP.KVM_CR, 0, cr, value);
      kvmRegisterWrite(vcpu, reg, value | 0, Math.floor(value / 2 ** 32));
      return kvmSkipEmulatedInstruction(vcpu);
    }
    case CR_QUAL.TYPE_CLTS:
      return kvmCompleteInsnGp(vcpu, kvmSetCr0(vcpu, BigInt((kvmReadCr0(vcpu) & ~CR0.TS) >>> 0)));
    default: {
      const msw = (qual >>> CR_QUAL_LMSW_SOURCE_SHIFT) & 0xf;
      // LMSW can set PE but not clear it.
      const keep = kvmReadCr0(vcpu) & ~(CR0.MP | CR0.EM | CR0.TS);
      return kvmCompleteInsnGp(vcpu, kvmSetCr0(vcpu, BigInt((keep | msw) >>> 0)));
    }
  }
}

function movToCr(vcpu: Vcpu, cr: number, reg: number): number {
  const value = kvmRegisterRead(vcpu, reg);
  switch (cr) {
    case 0:
      return kvmCompleteInsnGp(vcpu, handleSetCr(vcpu, 'CR0', value));
    case 3:
      return kvmCompleteInsnGp(vcpu, kvmSetCr3(vcpu, value));
    case 4:
      return kvmCompleteInsnGp(vcpu, handleSetCr(vcpu, 'CR4', value));
    default:
      return movToCr8(vcpu, value);
  }
}

/** Userspace with an APIC of its own learns of a lower TPR: an interrupt may be deliverable now. */
function movToCr8(vcpu: Vcpu, value: bigint): number {
  const before = kvmLapicGetCr8(vcpu);
  const err = kvmSetCr8(vcpu, value);
  const r = kvmCompleteInsnGp(vcpu, err);
  if (err !== 0 || lapicInKernel(vcpu) || before <= Number(value)) return r;
  vcpu.run.exit_reason = KVM_EXIT.SET_TPR;
  return 0;
}
