// SPDX-License-Identifier: GPL-2.0-only
/**
 * Whose is an exit from L2? nested_vmx_reflect_vmexit(), nested_vmx_l0_wants_exit() and nested_vmx_l1_wants_exit() of
 * arch/x86/kvm/vmx/nested.c, 6.12. L0 goes first; what it does not want goes to L1 if L1 asked for it; the rest is L0's.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { CR0 } from '../../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { CR_QUAL, CR_QUAL_LMSW_SOURCE_SHIFT, CR_QUAL_REG_SHIFT } from '../../../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { BugError } from '../../../machine/errors.ts';
import { vmread32, vmreadHigh } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { TP } from '../../trace_events.ts';
import { kvmRegisterRead, kvmRipRead } from '../../x86/cache_regs.ts';
import { exitReasonText } from '../exit_reason_text.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { nestedVmenterFailed } from './check_util.ts';
import { nestedVmxVmexit, nestedVmxVmexitSimple } from './exit.ts';
import { exitHandledIo, exitHandledMsr, exitHandledVmcsAccess } from './intercept_bitmaps.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHas, nestedCpuHas2, nestedCpuHasMtf, nestedExitOnIntr } from './vmcs12_controls.ts';

const intrInfo = (vcpu: Vcpu): number => vmread32(vmxCpu(vcpu), I.VM_EXIT_INTR_INFO);
const isNmi = (info: number): boolean => (info & INTR_INFO.INTR_TYPE_MASK) === INTR_TYPE.NMI_INTR;

/** nested_vmx_l0_wants_exit(): whatever L1 thinks of it. */
function l0WantsExit(vcpu: Vcpu, reason: number): boolean {
  switch (reason & 0xffff) {
    case EXIT_REASON.EXCEPTION_NMI:
      return l0WantsException(vcpu);
    case EXIT_REASON.EXTERNAL_INTERRUPT:
    case EXIT_REASON.MCE_DURING_VMENTRY:
    // L0's own tables: what EPT12 has to say about it comes out of the shadow MMU.
    case EXIT_REASON.EPT_VIOLATION:
    case EXIT_REASON.EPT_MISCONFIG:
    case EXIT_REASON.PREEMPTION_TIMER:
    case EXIT_REASON.PML_FULL:
    case EXIT_REASON.VMFUNC:
    case EXIT_REASON.BUS_LOCK:
      return true;
    default:
      return false;
  }
}

/** With EPT, page faults are nobody's but the guests'. */
function l0WantsException(vcpu: Vcpu): boolean {
  const info = intrInfo(vcpu);
  if (isNmi(info)) return true;
  const vector = info & INTR_INFO.VECTOR_MASK;
  return vcpu.arch.guestDebug !== 0 && (vector === VECTOR.DB || vector === VECTOR.BP);
}

type Wants = (vcpu: Vcpu, vmcs12: Vmcs12) => boolean;

const always: Wants = () => true;
const exec =
  (bit: number): Wants =>
  (_vcpu, v) =>
    nestedCpuHas(v, bit);
const secondary =
  (bit: number): Wants =>
  (_vcpu, v) =>
    nestedCpuHas2(v, bit);

/** NMIs and page faults that came as far as here are L1's; other exceptions if their bit is set. */
const wantsException: Wants = (vcpu, v) => {
  const info = intrInfo(vcpu);
  const vector = info & INTR_INFO.VECTOR_MASK;
  if (isNmi(info) || vector === VECTOR.PF) return true;
  return ((v.lo(C.EXCEPTION_BITMAP) >>> vector) & 1) !== 0;
};

/** An MTF exit can also be injected, whatever the control says. */
const wantsMtf: Wants = (_vcpu, v) =>
  nestedCpuHasMtf(v) ||
  (v.lo(C.VM_ENTRY_INTR_INFO_FIELD) | 0) === (INTR_INFO.VALID_MASK | INTR_TYPE.OTHER_EVENT | 0);

/** nested_vmx_exit_handled_cr(): does the access change what L1 traps? */
const wantsCr: Wants = (vcpu, v) => {
  const qual = vmread32(vmxCpu(vcpu), I.EXIT_QUALIFICATION);
  const cr = qual & CR_QUAL.CR_MASK;
  switch (qual & CR_QUAL.TYPE_MASK) {
    case CR_QUAL.TYPE_MOV_TO_CR:
      return wantsMovToCr(vcpu, v, cr, (qual & CR_QUAL.REG_MASK) >> CR_QUAL_REG_SHIFT);
    case CR_QUAL.TYPE_MOV_FROM_CR:
      return cr === 3
        ? nestedCpuHas(v, CPU_BASED.CR3_STORE_EXITING)
        : cr === 8 && nestedCpuHas(v, CPU_BASED.CR8_STORE_EXITING);
    case CR_QUAL.TYPE_CLTS:
      return (v.lo(C.CR0_GUEST_HOST_MASK) & v.lo(C.CR0_READ_SHADOW) & CR0.TS) !== 0;
    default:
      return wantsLmsw(v, (qual >>> CR_QUAL_LMSW_SOURCE_SHIFT) & 0xf);
  }
};

function wantsMovToCr(vcpu: Vcpu, v: Vmcs12, cr: number, reg: number): boolean {
  switch (cr) {
    case 0:
      return (v.u64(C.CR0_GUEST_HOST_MASK) & (kvmRegisterRead(vcpu, reg) ^ v.u64(C.CR0_READ_SHADOW))) !== 0n;
    case 3:
      return nestedCpuHas(v, CPU_BASED.CR3_LOAD_EXITING);
    case 4:
      return (v.u64(C.CR4_GUEST_HOST_MASK) & (kvmRegisterRead(vcpu, reg) ^ v.u64(C.CR4_READ_SHADOW))) !== 0n;
    default:
      return cr === 8 && nestedCpuHas(v, CPU_BASED.CR8_LOAD_EXITING);
  }
}

/** LMSW changes bits 3:1 of CR0, and can set bit 0. */
function wantsLmsw(v: Vmcs12, value: number): boolean {
  const mask = v.lo(C.CR0_GUEST_HOST_MASK);
  const shadow = v.lo(C.CR0_READ_SHADOW);
  if ((mask & 0xe & (value ^ shadow)) !== 0) return true;
  return (mask & 1) !== 0 && (shadow & 1) === 0 && (value & 1) !== 0;
}

/** nested_vmx_l1_wants_exit() by basic exit reason; reasons that are not here are L1's. */
// prettier-ignore
const L1_WANTS: Readonly<Record<number, Wants>> = {
  [EXIT_REASON.EXCEPTION_NMI]:       wantsException,
  [EXIT_REASON.EXTERNAL_INTERRUPT]:  (_vcpu, v) => nestedExitOnIntr(v),
  [EXIT_REASON.INTERRUPT_WINDOW]:    exec(CPU_BASED.INTR_WINDOW_EXITING),
  [EXIT_REASON.NMI_WINDOW]:          exec(CPU_BASED.NMI_WINDOW_EXITING),
  [EXIT_REASON.HLT]:                 exec(CPU_BASED.HLT_EXITING),
  [EXIT_REASON.INVLPG]:              exec(CPU_BASED.INVLPG_EXITING),
  [EXIT_REASON.RDPMC]:               exec(CPU_BASED.RDPMC_EXITING),
  [EXIT_REASON.RDRAND]:              secondary(SECONDARY_EXEC.RDRAND_EXITING),
  [EXIT_REASON.RDSEED]:              secondary(SECONDARY_EXEC.RDSEED_EXITING),
  [EXIT_REASON.RDTSC]:               exec(CPU_BASED.RDTSC_EXITING),
  [EXIT_REASON.RDTSCP]:              exec(CPU_BASED.RDTSC_EXITING),
  [EXIT_REASON.VMREAD]:              (vcpu, v) => exitHandledVmcsAccess(vcpu, v, C.VMREAD_BITMAP),
  [EXIT_REASON.VMWRITE]:             (vcpu, v) => exitHandledVmcsAccess(vcpu, v, C.VMWRITE_BITMAP),
  [EXIT_REASON.CR_ACCESS]:           wantsCr,
  [EXIT_REASON.DR_ACCESS]:           exec(CPU_BASED.MOV_DR_EXITING),
  [EXIT_REASON.IO_INSTRUCTION]:      exitHandledIo,
  [EXIT_REASON.GDTR_IDTR]:           secondary(SECONDARY_EXEC.DESC),
  [EXIT_REASON.LDTR_TR]:             secondary(SECONDARY_EXEC.DESC),
  [EXIT_REASON.MSR_READ]:            (vcpu, v) => exitHandledMsr(vcpu, v, 'read'),
  [EXIT_REASON.MSR_WRITE]:           (vcpu, v) => exitHandledMsr(vcpu, v, 'write'),
  [EXIT_REASON.MWAIT_INSTRUCTION]:   exec(CPU_BASED.MWAIT_EXITING),
  [EXIT_REASON.MONITOR_TRAP_FLAG]:   wantsMtf,
  [EXIT_REASON.MONITOR_INSTRUCTION]: exec(CPU_BASED.MONITOR_EXITING),
  [EXIT_REASON.PAUSE_INSTRUCTION]:   (_vcpu, v) => nestedCpuHas(v, CPU_BASED.PAUSE_EXITING) ||
                                                  nestedCpuHas2(v, SECONDARY_EXEC.PAUSE_LOOP_EXITING),
  [EXIT_REASON.TPR_BELOW_THRESHOLD]: exec(CPU_BASED.TPR_SHADOW),
  [EXIT_REASON.INVPCID]:             (_vcpu, v) => nestedCpuHas2(v, SECONDARY_EXEC.ENABLE_INVPCID) &&
                                                  nestedCpuHas(v, CPU_BASED.INVLPG_EXITING),
  [EXIT_REASON.WBINVD]:              secondary(SECONDARY_EXEC.WBINVD_EXITING),
  [EXIT_REASON.XSAVES]:              secondary(SECONDARY_EXEC.ENABLE_XSAVES),
  [EXIT_REASON.XRSTORS]:             secondary(SECONDARY_EXEC.ENABLE_XSAVES),
  [EXIT_REASON.NOTIFY]:              () => false,
};

function traceVmexit(vcpu: Vcpu): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_NESTED_VMEXIT] === 0) return;
  const cpu = vmxCpu(vcpu);
  const { exit } = toVmx(vcpu);
  const qual = vmread32(cpu, I.EXIT_QUALIFICATION) + vmreadHigh(cpu, I.EXIT_QUALIFICATION) * 2 ** 32;
  const info = intrInfo(vcpu);
  const error = (info & INTR_INFO.DELIVER_CODE_MASK) === 0 ? 0 : vmread32(cpu, I.VM_EXIT_INTR_ERROR_CODE);
  trace.record(
    TP.KVM_NESTED_VMEXIT,
    kvmRipRead(vcpu),
    exitReasonText(exit.reason),
    qual,
    exit.idtVectoring,
    info,
    error,
  );
}

/** nested_vmx_reflect_vmexit(): true if L1 has the exit now; L2 was active. */
export function nestedVmxReflectVmexit(vcpu: Vcpu): boolean {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const cpu = vmxCpu(vcpu);
  const { reason } = vmx.exit;
  if (nested.nestedRunPending) throw new BugError(`${vcpu.name}: an exit before L2 ran`);
  if (vmx.fail !== 0) {
    // VMfail of vmcs02 comes late, with L2's state loaded, and takes the way of an exit.
    nestedVmenterFailed(vcpu, 'hardware VM-instruction error: ', vmread32(cpu, I.VM_INSTRUCTION_ERROR));
    nestedVmxVmexitSimple(vcpu, reason);
    return true;
  }
  traceVmexit(vcpu);
  if (l0WantsExit(vcpu, reason)) return false;
  const vmcs12 = nested.cachedVmcs12;
  const wants = L1_WANTS[reason & 0xffff] ?? always;
  if (!wants(vcpu, vmcs12)) return false;
  const info = intrInfo(vcpu);
  const hasCode = INTR_INFO.DELIVER_CODE_MASK | INTR_INFO.VALID_MASK;
  if ((info & hasCode) === (hasCode | 0))
    vmcs12.set32(I.VM_EXIT_INTR_ERROR_CODE, vmread32(cpu, I.VM_EXIT_INTR_ERROR_CODE));
  const qualLo = vmread32(cpu, I.EXIT_QUALIFICATION);
  nestedVmxVmexit(vcpu, { reason, intrInfo: info, qualLo, qualHi: vmreadHigh(cpu, I.EXIT_QUALIFICATION) });
  return true;
}
