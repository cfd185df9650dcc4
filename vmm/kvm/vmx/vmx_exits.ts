// SPDX-License-Identifier: GPL-2.0-only
/**
 * What L0 does about each VM exit: kvm_vmx_exit_handlers[] and its handle_*() functions. Mirrors
 * arch/x86/kvm/vmx/vmx.c, 6.12. A handler returns 1 to go on, 0 to go to userspace. VMX instructions of a guest without VMX
 * are undefined; L1's are in nested/.
 */
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../../lib/uapi/run.ts';
import { KVM_X86_QUIRK } from '../../../lib/uapi/memory.ts';
import { X86_FEATURE } from '../../../lib/x86/cpuid.ts';
import { VECTOR, PFERR } from '../../../lib/x86/exceptions.ts';
import { CR4, DR6, DR7, GPR, RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED } from '../../../lib/x86/vmx/controls.ts';
import {
  DR_QUAL,
  DR_QUAL_REG_SHIFT,
  EPT_VIOLATION,
  IO_QUAL,
  IO_QUAL_PORT_SHIFT,
} from '../../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_INTR_STATE, PENDING_DBG } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { gpa } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BLOCKING } from '../../machine/cpu/state.ts';
import { vmread32, vmreadNum, vmwrite32 } from '../../machine/vmx/vmcs_access.ts';
import type { Steps } from '../../host/steps.ts';
import { INVALID_GPA, type Vcpu } from '../kvm_host.ts';
import type { MaybeSteps } from '../kvm_host_x86.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { TP } from '../trace_events.ts';
import {
  isGuestMode,
  kvmReadCr4,
  kvmRegisterRead,
  kvmRegisterRead32,
  kvmRegisterWrite,
  kvmRipAdvance,
  low,
  high,
} from '../x86/cache_regs.ts';
import { kvmSetXcr } from '../x86/cr.ts';
import { kvmEmulateCpuid } from '../x86/cpuid.ts';
import { guestHas } from '../x86/cpuid_entry.ts';
import { kvmGetDr, kvmSetDr } from '../x86/dr.ts';
import { kvmEmulateInstruction } from '../x86/emulate.ts';
import { handleUd } from '../x86/handle_ud.ts';
import { kvmPrepareEventVectoringExit } from '../x86/event_vectoring.ts';
import { kvmInjectGp, kvmQueueDebugException, kvmQueueException, kvmQueueExceptionE } from '../x86/events.ts';
import { kvmEmulateHaltNoskip } from '../x86/mp_state.ts';
import { kvmCompleteInsnGp, kvmSkipEmulatedInstruction } from '../x86/skip.ts';
import { kvmHandleGpaFault } from '../x86/page_fault.ts';
import { kvmFastPio } from '../x86/pio.ts';
import { kvmEmulateRdmsr, kvmEmulateWrmsr } from '../x86/msr.ts';
import { NESTED_EXIT_HANDLERS } from './nested/nested_ops.ts';
import { nestedMarkVmcs12PagesDirty } from './nested/posted_interrupts.ts';
import { settleExitPages } from './nested/pages.ts';
import { nestedVmxReflectVmexit } from './nested/reflect.ts';
import { nestedCpuHasMtf } from './nested/vmcs12_controls.ts';
import { handleInvalidGuestState } from './invalid_guest_state.ts';
import { nestedVmxVmexitSimple } from './nested/exit.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';
import { handleCr } from './vmx_cr_exits.ts';
import { vmxChangeCpuBased } from './vmx_controls.ts';

type Handler = (vcpu: Vcpu) => MaybeSteps<number>;

const qualification = (vcpu: Vcpu): number => vmread32(vmxCpu(vcpu), VMCS_INFO.EXIT_QUALIFICATION);

/** vmx_skip_emulated_instruction(): RIP moves on, and the interrupt shadow of STI or MOV SS ends. */
export function vmxSkipEmulatedInstruction(vcpu: Vcpu): number {
  const cpu = vmxCpu(vcpu);
  kvmRipAdvance(vcpu, vmread32(cpu, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN));
  const info = vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO);
  const shadow = info & (BLOCKING.STI | BLOCKING.MOV_SS);
  if (shadow !== 0) vmwrite32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO, info & ~shadow);
  vmxUpdateEmulatedInstruction(vcpu);
  return 1;
}

/** vmx_update_emulated_instruction(): an MTF exit to L1 is due after it, unless it ended in a fault. */
export function vmxUpdateEmulatedInstruction(vcpu: Vcpu): void {
  if (!isGuestMode(vcpu)) return;
  const { nested } = toVmx(vcpu);
  const { exception, exceptionVmexit } = vcpu.arch;
  const faults = [exception, exceptionVmexit].some((ex) => ex.pending && ex.vector !== VECTOR.DB);
  nested.mtfPending = nestedCpuHasMtf(nested.cachedVmcs12) && !faults;
  if (nested.mtfPending) kvmMakeRequest(KVM_REQ.EVENT, vcpu);
}

function handleExceptionNmi(vcpu: Vcpu): number {
  const cpu = vmxCpu(vcpu);
  const info = vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_INFO);
  const vector = info & INTR_INFO.VECTOR_MASK;
  // A host NMI has been handled by the exit itself.
  if ((info & INTR_INFO.INTR_TYPE_MASK) === INTR_TYPE.NMI_INTR) return 1;
  if (vector === VECTOR.UD) return handleUd(vcpu);
  if ((toVmx(vcpu).exit.idtVectoring & INTR_INFO.VALID_MASK) !== 0) return simultaneousExceptions(vcpu, info);
  if (vector === VECTOR.DB && vcpu.arch.guestDebug === 0) {
    // INT1 is a trap for the guest, but its exit comes before the instruction.
    if ((info & INTR_INFO.INTR_TYPE_MASK) === INTR_TYPE.PRIV_SW_EXCEPTION) vmxSkipEmulatedInstruction(vcpu);
    else steppedIntoShadow(vcpu);
    kvmQueueDebugException(vcpu, qualification(vcpu));
    return 1;
  }
  if (vector === VECTOR.AC) {
    kvmQueueExceptionE(vcpu, VECTOR.AC, vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE));
    return 1;
  }
  const { run } = vcpu;
  run.exit_reason = vector === VECTOR.DB || vector === VECTOR.BP ? KVM_EXIT.DEBUG : KVM_EXIT.EXCEPTION;
  run.ex.exception = vector;
  run.ex.error_code =
    (info & INTR_INFO.DELIVER_CODE_MASK) === 0 ? 0 : vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE);
  return 0;
}

/**
 * A step over STI or MOV SS: the exit has saved the blocking and not the pending BS, but with TF set the entry that
 * injects the DB wants both or neither. SDM, "Checks on Guest Non-Register State".
 */
function steppedIntoShadow(vcpu: Vcpu): void {
  const cpu = vmxCpu(vcpu);
  const blocked =
    vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO) & (GUEST_INTR_STATE.STI | GUEST_INTR_STATE.MOV_SS);
  if (blocked === 0 || (vmread32(cpu, VMCS_GUEST.RFLAGS) & RFLAGS.TF) === 0) return;
  vmwrite32(
    cpu,
    VMCS_GUEST.PENDING_DBG_EXCEPTIONS,
    vmread32(cpu, VMCS_GUEST.PENDING_DBG_EXCEPTIONS) | PENDING_DBG.BS,
  );
}

/** An intercepted exception during the delivery of another event: KVM_INTERNAL_ERROR_SIMUL_EX. */
function simultaneousExceptions(vcpu: Vcpu, info: number): number {
  const { run } = vcpu;
  const error = vmread32(vmxCpu(vcpu), VMCS_INFO.VM_EXIT_INTR_ERROR_CODE);
  const words = [toVmx(vcpu).exit.idtVectoring, info, error, vcpu.arch.lastVmentryCpu];
  run.exit_reason = KVM_EXIT.INTERNAL_ERROR;
  run.internal.suberror = KVM_INTERNAL_ERROR.SIMUL_EX;
  run.internal.ndata = words.length;
  for (const [i, word] of words.entries()) run.internal.data[i] = BigInt(word >>> 0);
  return 0;
}

function handleExternalInterrupt(vcpu: Vcpu): number {
  vcpu.stat.irq_exits++;
  return 1;
}

function handleTripleFault(vcpu: Vcpu): number {
  vcpu.run.exit_reason = KVM_EXIT.SHUTDOWN;
  vcpu.mmioNeeded = 0;
  return 0;
}

function handleNmiWindow(vcpu: Vcpu): number {
  vmxChangeCpuBased(vcpu, 0, CPU_BASED.NMI_WINDOW_EXITING);
  vcpu.stat.nmi_window_exits++;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return 1;
}

function handleInterruptWindow(vcpu: Vcpu): number {
  vmxChangeCpuBased(vcpu, 0, CPU_BASED.INTR_WINDOW_EXITING);
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  vcpu.stat.irq_window_exits++;
  return 1;
}

function handleIo(vcpu: Vcpu): MaybeSteps<number> {
  const qual = qualification(vcpu);
  vcpu.stat.io_exits++;
  if ((qual & IO_QUAL.STRING) !== 0) return kvmEmulateInstruction(vcpu);
  const size = (qual & IO_QUAL.SIZE_MASK) + 1;
  return kvmFastPio(vcpu, {
    port: qual >>> IO_QUAL_PORT_SHIFT,
    size,
    direction: (qual & IO_QUAL.IN) !== 0 ? 'in' : 'out',
  });
}

/** handle_dr(). */
function handleDr(vcpu: Vcpu): number {
  const qual = qualification(vcpu);
  const dr = qual & DR_QUAL.DR_MASK;
  const reg = (qual & DR_QUAL.REG_MASK) >> DR_QUAL_REG_SHIFT;
  // The exit comes before every fault of the instruction; they are left to L0: UD, GP, general detect.
  if ((dr === 4 || dr === 5) && (kvmReadCr4(vcpu) & CR4.DE) !== 0) {
    kvmQueueException(vcpu, VECTOR.UD);
    return 1;
  }
  if (vcpu.kvm.module.ops.getCpl(vcpu) > 0) return kvmCompleteInsnGp(vcpu, 1);
  if ((vcpu.arch.dr7 & DR7.GD) !== 0) {
    kvmQueueDebugException(vcpu, DR6.BD);
    return 1;
  }
  if ((qual & DR_QUAL.MOV_FROM_DR) !== 0) {
    const value = kvmGetDr(vcpu, dr);
    kvmRegisterWrite(vcpu, reg, low(value), high(value));
    return kvmSkipEmulatedInstruction(vcpu);
  }
  return kvmCompleteInsnGp(vcpu, kvmSetDr(vcpu, dr, kvmRegisterRead(vcpu, reg)));
}

function handleHlt(vcpu: Vcpu): number {
  kvmSkipEmulatedInstruction(vcpu);
  return kvmEmulateHaltNoskip(vcpu);
}

/** Linux's KVM_EPERM and KVM_ENOSYS, and the one hypercall that does nothing. */
const KVM_HC = { VAPIC_POLL_IRQ: 1, EPERM: 1, ENOSYS: 1000 } as const;

/** kvm_emulate_hypercall(): no paravirtual feature is offered, and user mode may not call at all. */
function handleVmcall(vcpu: Vcpu): number {
  const { trace, ops } = vcpu.kvm.module;
  if (trace.on[TP.KVM_HYPERCALL] !== 0) {
    const arg = (n: number): bigint => kvmRegisterRead(vcpu, n);
    trace.record(TP.KVM_HYPERCALL, arg(GPR.RAX), arg(GPR.RBX), arg(GPR.RCX), arg(GPR.RDX), arg(GPR.RSI));
  }
  vcpu.stat.hypercalls++;
  spend(vmxCpu(vcpu), COST.HYPERCALL);
  const nr = kvmRegisterRead(vcpu, GPR.RAX);
  const known = nr === BigInt(KVM_HC.VAPIC_POLL_IRQ);
  const ret = ops.getCpl(vcpu) !== 0 ? -KVM_HC.EPERM : known ? 0 : -KVM_HC.ENOSYS;
  kvmRegisterWrite(vcpu, GPR.RAX, ret, ret >> 31);
  return kvmSkipEmulatedInstruction(vcpu);
}

function undefinedInsn(vcpu: Vcpu): number {
  kvmQueueException(vcpu, VECTOR.UD);
  return 1;
}

const skip: Handler = (vcpu) => kvmSkipEmulatedInstruction(vcpu);

/** kvm_emulate_monitor_mwait(): a NOP, unless userspace switched that quirk off. */
const monitorMwait: Handler = (vcpu) =>
  (vcpu.kvm.arch.disabledQuirks & KVM_X86_QUIRK.MWAIT_NEVER_UD_FAULTS) !== 0 &&
  !guestHas(vcpu, X86_FEATURE.MWAIT)
    ? undefinedInsn(vcpu)
    : kvmSkipEmulatedInstruction(vcpu);

/** handle_ept_violation(): the qualification becomes a page-fault error code. */
function handleEptViolation(vcpu: Vcpu): MaybeSteps<number> {
  const cpu = vmxCpu(vcpu);
  const qual = vmread32(cpu, VMCS_INFO.EXIT_QUALIFICATION);
  // IRET unblocked NMIs and then faulted: the unblocking must be undone.
  if (
    (toVmx(vcpu).exit.idtVectoring & INTR_INFO.VALID_MASK) === 0 &&
    (qual & EPT_VIOLATION.NMI_UNBLOCKING) !== 0
  ) {
    vmwrite32(
      cpu,
      VMCS_GUEST.INTERRUPTIBILITY_INFO,
      vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO) | BLOCKING.NMI,
    );
  }
  const address = vmreadNum(cpu, VMCS_INFO.GUEST_PHYSICAL_ADDRESS);
  const errorCode =
    ((qual & EPT_VIOLATION.ACC_READ) !== 0 ? PFERR.USER : 0) |
    ((qual & EPT_VIOLATION.ACC_WRITE) !== 0 ? PFERR.WRITE : 0) |
    ((qual & EPT_VIOLATION.ACC_INSTR) !== 0 ? PFERR.FETCH : 0) |
    ((qual & (EPT_VIOLATION.PROT_READ | EPT_VIOLATION.PROT_WRITE | EPT_VIOLATION.PROT_EXEC)) !== 0
      ? PFERR.PRESENT
      : 0);
  spend(cpu, COST.L0_EXIT_FAULT);
  return kvmHandleGpaFault(vcpu, gpa(address), errorCode);
}

/** handle_ept_misconfig(): with MMIO caching, an MMIO entry is misconfigured on purpose; anything else is L0's bug. */
function handleEptMisconfig(vcpu: Vcpu): MaybeSteps<number> {
  return kvmHandleGpaFault(vcpu, gpa(vmreadNum(vmxCpu(vcpu), VMCS_INFO.GUEST_PHYSICAL_ADDRESS)), PFERR.RSVD);
}

function handlePreemptionTimer(vcpu: Vcpu): number {
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return 1;
}

function handleXsetbv(vcpu: Vcpu): number {
  const index = kvmRegisterRead32(vcpu, GPR.RCX);
  const value = kvmRegisterRead32(vcpu, GPR.RAX);
  const upper = kvmRegisterRead32(vcpu, GPR.RDX);
  return kvmCompleteInsnGp(vcpu, kvmSetXcr(vcpu, index, (BigInt(upper) << 32n) | BigInt(value)));
}

/** handle_monitor_trap(): L0 does not step guests. */
const handleMonitorTrap: Handler = () => 1;

/** Handlers by basic exit reason. */
// prettier-ignore
const HANDLERS: Readonly<Record<number, Handler>> = {
  [EXIT_REASON.EXCEPTION_NMI]:       handleExceptionNmi,
  [EXIT_REASON.EXTERNAL_INTERRUPT]:  handleExternalInterrupt,
  [EXIT_REASON.TRIPLE_FAULT]:        handleTripleFault,
  [EXIT_REASON.NMI_WINDOW]:          handleNmiWindow,
  [EXIT_REASON.IO_INSTRUCTION]:      handleIo,
  [EXIT_REASON.CR_ACCESS]:           handleCr,
  [EXIT_REASON.DR_ACCESS]:           handleDr,
  [EXIT_REASON.CPUID]:               (vcpu) => kvmEmulateCpuid(vcpu),
  [EXIT_REASON.MSR_READ]:            (vcpu) => kvmEmulateRdmsr(vcpu),
  [EXIT_REASON.MSR_WRITE]:           (vcpu) => kvmEmulateWrmsr(vcpu),
  [EXIT_REASON.INTERRUPT_WINDOW]:    handleInterruptWindow,
  [EXIT_REASON.HLT]:                 handleHlt,
  [EXIT_REASON.INVD]:                skip,
  [EXIT_REASON.RDPMC]:               (vcpu) => { kvmInjectGp(vcpu, 0); return 1; },
  [EXIT_REASON.VMCALL]:              handleVmcall,
  [EXIT_REASON.VMCLEAR]:             undefinedInsn,
  [EXIT_REASON.VMLAUNCH]:            undefinedInsn,
  [EXIT_REASON.VMPTRLD]:             undefinedInsn,
  [EXIT_REASON.VMPTRST]:             undefinedInsn,
  [EXIT_REASON.VMREAD]:              undefinedInsn,
  [EXIT_REASON.VMRESUME]:            undefinedInsn,
  [EXIT_REASON.VMWRITE]:             undefinedInsn,
  [EXIT_REASON.VMOFF]:               undefinedInsn,
  [EXIT_REASON.VMON]:                undefinedInsn,
  [EXIT_REASON.INVEPT]:              undefinedInsn,
  [EXIT_REASON.INVVPID]:             undefinedInsn,
  [EXIT_REASON.GETSEC]:              undefinedInsn,
  [EXIT_REASON.WBINVD]:              skip,
  [EXIT_REASON.XSETBV]:              handleXsetbv,
  [EXIT_REASON.EPT_VIOLATION]:       handleEptViolation,
  [EXIT_REASON.EPT_MISCONFIG]:       handleEptMisconfig,
  [EXIT_REASON.PAUSE_INSTRUCTION]:   skip,
  [EXIT_REASON.MWAIT_INSTRUCTION]:   monitorMwait,
  [EXIT_REASON.MONITOR_INSTRUCTION]: monitorMwait,
  [EXIT_REASON.PREEMPTION_TIMER]:    handlePreemptionTimer,
  [EXIT_REASON.MONITOR_TRAP_FLAG]:   handleMonitorTrap,
};

/** Exits that a guest can cause while an event is being delivered, and after which delivery can go on. */
const VECTORING_EXITS: ReadonlySet<number> = new Set([
  EXIT_REASON.EXCEPTION_NMI,
  EXIT_REASON.EPT_VIOLATION,
  EXIT_REASON.EPT_MISCONFIG,
  EXIT_REASON.PML_FULL,
  EXIT_REASON.APIC_ACCESS,
  EXIT_REASON.TASK_SWITCH,
  EXIT_REASON.NOTIFY,
]);

/** vmx_handle_exit(): an exit that may be L1's waits for the pages that L1 wants written. */
export function vmxHandleExit(vcpu: Vcpu): MaybeSteps<number> {
  const settle = isGuestMode(vcpu) ? settleExitPages(vcpu, toVmx(vcpu).exit.reason & 0xffff) : null;
  return settle === null ? handleExit(vcpu) : handleExitLater(vcpu, settle);
}

function* handleExitLater(vcpu: Vcpu, settle: Steps<void>): Steps<number> {
  yield* settle;
  const r = handleExit(vcpu);
  return typeof r === 'number' ? r : yield* r;
}

/** __vmx_handle_exit(). */
function handleExit(vcpu: Vcpu): MaybeSteps<number> {
  const vmx = toVmx(vcpu);
  const { run } = vcpu;
  const { reason } = vmx.exit;
  if (isGuestMode(vcpu)) {
    nestedMarkVmcs12PagesDirty(vcpu);
    if (vmx.emulationRequired) {
      // KVM emulates invalid state for L1 only.
      vmx.emulationRequired = false;
      nestedVmxVmexitSimple(vcpu, EXIT_REASON.TRIPLE_FAULT);
      return 1;
    }
    if (nestedVmxReflectVmexit(vcpu)) return 1;
  }
  if (vmx.emulationRequired) return handleInvalidGuestState(vcpu);
  if (vmx.fail !== 0) {
    run.exit_reason = KVM_EXIT.FAIL_ENTRY;
    run.fail_entry.hardware_entry_failure_reason = BigInt(
      vmread32(vmxCpu(vcpu), VMCS_INFO.VM_INSTRUCTION_ERROR),
    );
    run.fail_entry.cpu = vcpu.arch.lastVmentryCpu;
    return 0;
  }
  if ((reason & VMX_EXIT_REASONS.FAILED_VMENTRY) !== 0) {
    run.exit_reason = KVM_EXIT.FAIL_ENTRY;
    run.fail_entry.hardware_entry_failure_reason = BigInt(reason);
    run.fail_entry.cpu = vcpu.arch.lastVmentryCpu;
    return 0;
  }
  if ((vmx.exit.idtVectoring & INTR_INFO.VALID_MASK) !== 0 && !VECTORING_EXITS.has(reason & 0xffff))
    return kvmPrepareEventVectoringExit(vcpu, INVALID_GPA);
  const handler =
    (vmx.guestCanUseVmx ? NESTED_EXIT_HANDLERS[reason & 0xffff] : undefined) ?? HANDLERS[reason & 0xffff];
  if (handler !== undefined) {
    spend(vmxCpu(vcpu), COST.L0_EXIT_LIGHT);
    return handler(vcpu);
  }
  run.exit_reason = KVM_EXIT.INTERNAL_ERROR;
  run.internal.suberror = KVM_INTERNAL_ERROR.UNEXPECTED_EXIT_REASON;
  run.internal.ndata = 2;
  run.internal.data[0] = BigInt(reason);
  run.internal.data[1] = BigInt(vcpu.arch.lastVmentryCpu);
  return 0;
}
