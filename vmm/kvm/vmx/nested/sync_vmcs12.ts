// SPDX-License-Identifier: GPL-2.0-only
/**
 * From vmcs02 back to vmcs12: sync_vmcs02_to_vmcs12(), its rare part, and prepare_vmcs12() of
 * arch/x86/kvm/vmx/nested.c, 6.12. What L1 reads seldom stays in vmcs02 until it asks.
 */
import { KVM_MP_STATE } from '../../../../lib/uapi/vcpu_state.ts';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { VM_ENTRY, VM_EXIT } from '../../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_ENCODING_LIMIT } from '../../../../lib/x86/vmx/field.ts';
import { GUEST_ACTIVITY } from '../../../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import type { Cpu } from '../../../machine/cpu/cpu.ts';
import { BugError } from '../../../machine/errors.ts';
import { vmread32 } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmRegisterCache, kvmRipCache } from '../../x86/cache_regs.ts';
import { VCPU_REGS_RIP } from '../../kvm_host_x86.ts';
import { GPR } from '../../../../lib/x86/registers.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { vmxVcpuLoad } from '../vmcs_load.ts';
import { FieldGroup } from './field_group.ts';
import { nestedVmxStoreMsr } from './msr_switch.ts';
import { preemptionTimerValue } from './preemption_timer.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHasPreemptionTimer, nestedCpuHasVid, nestedExitHas } from './vmcs12_controls.ts';

/** Guest state that L1 rarely reads: is_vmcs12_ext_field(). CS's and SS's access rights tell the mode and the CPL. */
// prettier-ignore
const RARE_FIELDS: readonly number[] = [
  G.ES_SELECTOR, G.CS_SELECTOR, G.SS_SELECTOR, G.DS_SELECTOR, G.FS_SELECTOR, G.GS_SELECTOR, G.LDTR_SELECTOR, G.TR_SELECTOR,
  G.ES_LIMIT, G.CS_LIMIT, G.SS_LIMIT, G.DS_LIMIT, G.FS_LIMIT, G.GS_LIMIT, G.LDTR_LIMIT, G.TR_LIMIT, G.GDTR_LIMIT,
  G.IDTR_LIMIT, G.ES_AR_BYTES, G.DS_AR_BYTES, G.FS_AR_BYTES, G.GS_AR_BYTES, G.LDTR_AR_BYTES, G.TR_AR_BYTES,
  G.ES_BASE, G.CS_BASE, G.SS_BASE, G.DS_BASE, G.FS_BASE, G.GS_BASE, G.LDTR_BASE, G.TR_BASE, G.GDTR_BASE, G.IDTR_BASE,
  G.PENDING_DBG_EXCEPTIONS,
];
const IS_RARE = new Uint8Array(VMCS_ENCODING_LIMIT);
for (const field of RARE_FIELDS) IS_RARE[field] = 1;

/** is_vmcs12_ext_field(). */
export const isVmcs12ExtField = (field: number): boolean => IS_RARE[field] === 1;

const RARE = new FieldGroup(RARE_FIELDS);

/** sync_vmcs02_to_vmcs12_rare(); vmcs02 is loaded. */
export function syncVmcs02ToVmcs12Rare(vcpu: Vcpu): void {
  const { nested } = toVmx(vcpu);
  RARE.toVmcs12(vmxCpu(vcpu), nested.cachedVmcs12);
  nested.needSyncVmcs02ToVmcs12Rare = false;
}

/** copy_vmcs02_to_vmcs12_rare(): the same while L1 runs. */
export function copyVmcs02ToVmcs12Rare(vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  if (!vmx.nested.needSyncVmcs02ToVmcs12Rare) return;
  const { cpu } = vcpu.kvm.host.sched;
  if (vmx.loadedVmcs !== vmx.vmcs01 || vmx.nested.vmcs02 === null)
    throw new BugError(`${vcpu.name}: vmcs12 is out of date, and L1 does not run`);
  vmx.loadedVmcs = vmx.nested.vmcs02;
  vmxVcpuLoad(vcpu, cpu);
  syncVmcs02ToVmcs12Rare(vcpu);
  vmx.loadedVmcs = vmx.vmcs01;
  vmxVcpuLoad(vcpu, cpu);
}

/** Encodings for guestCr(). */
interface CrFields {
  readonly guest: number;
  readonly mask: number;
  readonly shadow: number;
}
const CR0_FIELDS: CrFields = { guest: G.CR0, mask: C.CR0_GUEST_HOST_MASK, shadow: C.CR0_READ_SHADOW };
const CR4_FIELDS: CrFields = { guest: G.CR4, mask: C.CR4_GUEST_HOST_MASK, shadow: C.CR4_READ_SHADOW };

/**
 * vmcs12_guest_cr0() and vmcs12_guest_cr4(): bits that L2 owns are in the register; bits that L1 wanted to trap cannot
 * have changed; bits that only L0 trapped are in the read shadow.
 */
function guestCr(cpu: Cpu, vmcs12: Vmcs12, fields: CrFields, owned: number): number {
  const trapped = vmcs12.lo(fields.mask);
  return (
    (vmread32(cpu, fields.guest) & owned) |
    (vmcs12.lo(fields.guest) & trapped) |
    (vmread32(cpu, fields.shadow) & ~(trapped | owned))
  );
}

/** Fields that are copied at every exit as they are. */
const OFTEN = new FieldGroup([
  G.RFLAGS,
  G.CS_AR_BYTES,
  G.SS_AR_BYTES,
  G.INTERRUPTIBILITY_INFO,
  I.GUEST_LINEAR_ADDRESS,
  G.CR3,
]);
const INTR_STATUS = new FieldGroup([G.INTR_STATUS]);
const INSTRUCTION = new FieldGroup([I.VM_EXIT_INSTRUCTION_LEN, I.VMX_INSTRUCTION_INFO]);

function activityState(vcpu: Vcpu): number {
  const { mpState } = vcpu.arch;
  if (mpState === KVM_MP_STATE.HALTED) return GUEST_ACTIVITY.HLT;
  return mpState === KVM_MP_STATE.INIT_RECEIVED ? GUEST_ACTIVITY.WAIT_SIPI : GUEST_ACTIVITY.ACTIVE;
}

/** sync_vmcs02_to_vmcs12(); vmcs02 is loaded. */
export function syncVmcs02ToVmcs12(vcpu: Vcpu): void {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const vmcs12 = nested.cachedVmcs12;
  const { arch } = vcpu;
  const { regs } = arch;
  nested.needSyncVmcs02ToVmcs12Rare = true;
  const cpu = vmxCpu(vcpu);
  vmcs12.set32(G.CR0, guestCr(cpu, vmcs12, CR0_FIELDS, arch.cr0GuestOwnedBits));
  vmcs12.set32(G.CR4, guestCr(cpu, vmcs12, CR4_FIELDS, arch.cr4GuestOwnedBits));
  kvmRegisterCache(vcpu, GPR.RSP);
  kvmRipCache(vcpu);
  vmcs12.setPair(G.RSP, regs[2 * GPR.RSP]!, regs[2 * GPR.RSP + 1]!);
  vmcs12.setPair(G.RIP, regs[VCPU_REGS_RIP]!, regs[VCPU_REGS_RIP + 1]!);
  OFTEN.toVmcs12(cpu, vmcs12);
  vmcs12.set32(G.ACTIVITY_STATE, activityState(vcpu));
  const saveTimer = nestedExitHas(vmcs12, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
  if (nestedCpuHasPreemptionTimer(vmcs12) && saveTimer && !nested.nestedRunPending)
    vmcs12.set32(G.VMX_PREEMPTION_TIMER_VALUE, preemptionTimerValue(vcpu));
  if (nestedCpuHasVid(vmcs12)) INTR_STATUS.toVmcs12(cpu, vmcs12);
  const ia32e = vmx.loadedVmcs.controls.entry & VM_ENTRY.IA32E_MODE;
  vmcs12.set32(C.VM_ENTRY_CONTROLS, (vmcs12.lo(C.VM_ENTRY_CONTROLS) & ~VM_ENTRY.IA32E_MODE) | ia32e);
  // IA32_DEBUGCTL is not taken from vmcs02: writes of it reach vmcs12 at once.
  if (nestedExitHas(vmcs12, VM_EXIT.SAVE_DEBUG_CONTROLS)) vmcs12.setNum(G.DR7, arch.dr7 >>> 0);
  if (nestedExitHas(vmcs12, VM_EXIT.SAVE_IA32_EFER)) vmcs12.set32(G.IA32_EFER, arch.efer);
}

const isSoftException = (vector: number): boolean => vector === VECTOR.BP || vector === VECTOR.OF;

/** The event whose delivery the exit cut short, as IDT-vectoring information; 0: none. */
function vectoringInfo(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const { exception, interrupt, nmiInjected, eventExitInstLen } = vcpu.arch;
  if (exception.injected) {
    const soft = isSoftException(exception.vector);
    if (soft) vmcs12.set32(I.VM_EXIT_INSTRUCTION_LEN, eventExitInstLen);
    let info = exception.vector | INTR_INFO.VALID_MASK;
    info |= soft ? INTR_TYPE.SOFT_EXCEPTION : INTR_TYPE.HARD_EXCEPTION;
    if (!exception.hasErrorCode) return info;
    vmcs12.set32(I.IDT_VECTORING_ERROR_CODE, exception.errorCode);
    return info | INTR_INFO.DELIVER_CODE_MASK;
  }
  if (nmiInjected) return INTR_TYPE.NMI_INTR | INTR_INFO.VALID_MASK | VECTOR.NMI;
  if (!interrupt.injected) return 0;
  if (!interrupt.soft) return interrupt.nr | INTR_INFO.VALID_MASK | INTR_TYPE.EXT_INTR;
  vmcs12.set32(C.VM_ENTRY_INSTRUCTION_LEN, eventExitInstLen);
  return interrupt.nr | INTR_INFO.VALID_MASK | INTR_TYPE.SOFT_INTR;
}

/** vmcs12_save_pending_event(): exits due to double and triple faults never count as during event delivery. */
function savePendingEvent(vcpu: Vcpu, vmcs12: Vmcs12, reason: number, intrInfo: number): void {
  const basic = reason & 0xffff;
  const doubleFault =
    basic === EXIT_REASON.EXCEPTION_NMI &&
    (intrInfo & INTR_INFO.VALID_MASK) !== 0 &&
    (intrInfo & INTR_INFO.VECTOR_MASK) === VECTOR.DF;
  const none = basic === EXIT_REASON.TRIPLE_FAULT || doubleFault;
  vmcs12.set32(I.IDT_VECTORING_INFO_FIELD, none ? 0 : vectoringInfo(vcpu, vmcs12));
}

/** How an exit from L2 looks to L1. */
export interface NestedExit {
  /** Exit reason with its flags. */
  readonly reason: number;
  readonly intrInfo: number;
  readonly qualLo: number;
  readonly qualHi: number;
}

/** prepare_vmcs12(): exit information; false: VMX abort, an MSR could not be stored. After a failed entry only two fields change. */
export function prepareVmcs12(vcpu: Vcpu, exit: NestedExit): boolean {
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  vmcs12.set32(I.VM_EXIT_REASON, exit.reason);
  vmcs12.setPair(I.EXIT_QUALIFICATION, exit.qualLo, exit.qualHi);
  if ((exit.reason & VMX_EXIT_REASONS.FAILED_VMENTRY) !== 0) return true;
  vmcs12.launchState = 1;
  vmcs12.set32(C.VM_ENTRY_INTR_INFO_FIELD, vmcs12.lo(C.VM_ENTRY_INTR_INFO_FIELD) & ~INTR_INFO.VALID_MASK);
  savePendingEvent(vcpu, vmcs12, exit.reason, exit.intrInfo);
  vmcs12.set32(I.VM_EXIT_INTR_INFO, exit.intrInfo);
  INSTRUCTION.toVmcs12(vmxCpu(vcpu), vmcs12);
  return nestedVmxStoreMsr(vcpu, vmcs12.num(C.VM_EXIT_MSR_STORE_ADDR), vmcs12.u32(C.VM_EXIT_MSR_STORE_COUNT));
}
