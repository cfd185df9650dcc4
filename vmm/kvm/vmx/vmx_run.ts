// SPDX-License-Identifier: GPL-2.0-only
/**
 * From L0 into the guest and back: vmx_vcpu_run() and vmx_vcpu_enter_exit() with the assembly around VMLAUNCH and
 * VMRESUME, and vmx_complete_interrupts(). Mirrors arch/x86/kvm/vmx/vmx.c and vmenter.S, 6.12; leaves out speculation
 * controls, PMU and the fast paths.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { APIC_DM, APIC_REG } from '../../../lib/x86/apic.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO } from '../../../lib/x86/vmx/intr_info.ts';
import type { Steps } from '../../host/steps.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { cpuRun } from '../../machine/cpu/system/run.ts';
import { BLOCKING, RUN, S } from '../../machine/cpu/state.ts';
import { BugError } from '../../machine/errors.ts';
import { vmlaunch, vmresume } from '../../machine/vmx/entry.ts';
import { vmread32, vmreadHigh, vmwrite32 } from '../../machine/vmx/vmcs_access.ts';
import { VMX_RESULT } from '../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../kvm_host.ts';
import { EXIT_FASTPATH, type KvmExitInfo, type MaybeSteps } from '../kvm_host_x86.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { TP } from '../trace_events.ts';
import { kvmRipRead } from '../x86/cache_regs.ts';
import { vmxEmulationRequired } from './guest_state_valid.ts';
import { vmxCompleteInterrupts } from './vmx_events.ts';
import { vmxWriteDirtyRegs } from './vmx_regs.ts';
import { exitReasonText } from './exit_reason_text.ts';
import { nestedSyncVmcs12ToShadow } from './nested/shadow_vmcs.ts';
import { toVmx, vmxCpu, type VcpuVmx } from './vcpu_vmx.ts';

/** The vector of the host's reschedule interrupt: what makes a pCPU leave guest mode. */
export const RESCHEDULE_VECTOR = 0xfd;

/** Enable bits of the four breakpoints in DR7. SDM, "Debug Control Register". */
const DR7_BP_EN_MASK = 0xff;

/** 16 registers of two words; four at a time, since this is done twice for each exit. */
function copyGprs(to: Int32Array, at: number, from: Int32Array, fromAt: number): void {
  for (let i = 0; i < 32; i += 8) {
    to[at + i] = from[fromAt + i]!;
    to[at + i + 1] = from[fromAt + i + 1]!;
    to[at + i + 2] = from[fromAt + i + 2]!;
    to[at + i + 3] = from[fromAt + i + 3]!;
    to[at + i + 4] = from[fromAt + i + 4]!;
    to[at + i + 5] = from[fromAt + i + 5]!;
    to[at + i + 6] = from[fromAt + i + 6]!;
    to[at + i + 7] = from[fromAt + i + 7]!;
  }
}

/** What the assembly around the entry loads: GPRs but RSP, CR2, and what no VMCS field switches. */
function loadGuestRegs(cpu: Cpu, vcpu: Vcpu, vmx: VcpuVmx): void {
  const { s } = cpu;
  const { arch } = vcpu;
  const { regs } = arch;
  copyGprs(s, S.GPR, regs, 0);
  s[S.CR2] = arch.cr2Lo;
  s[S.CR2 + 1] = arch.cr2Hi;
  s[S.KERNEL_GS] = vmx.kernelGsBaseLo;
  s[S.KERNEL_GS + 1] = vmx.kernelGsBaseHi;
  if ((arch.cr4 & (CR4.OSXSAVE | CR4.PKE)) !== 0) {
    s[S.XCR0] = arch.xcr0;
    s[S.PKRU] = arch.pkru;
  }
  if ((arch.dr7 & DR7_BP_EN_MASK) !== 0) for (let i = 0; i < 8; i++) s[S.DR + i] = arch.db[i]!;
}

function saveGuestRegs(cpu: Cpu, vcpu: Vcpu, vmx: VcpuVmx): void {
  const { s } = cpu;
  const { arch } = vcpu;
  const { regs } = arch;
  copyGprs(regs, 0, s, S.GPR);
  arch.cr2Lo = s[S.CR2]!;
  arch.cr2Hi = s[S.CR2 + 1]!;
  vmx.kernelGsBaseLo = s[S.KERNEL_GS]!;
  vmx.kernelGsBaseHi = s[S.KERNEL_GS + 1]!;
  if ((arch.cr4 & CR4.PKE) !== 0) arch.pkru = s[S.PKRU]!;
  arch.regsAvail = 0;
}

/** Run the guest until it exits (true) or the slice ends; an interrupt that came for the pCPU makes the guest exit. */
function runSlice(vcpu: Vcpu, cpu: Cpu): boolean {
  const { sched } = vcpu.kvm.host;
  if (sched.irqPending() || toVmx(vcpu).immediateExit) cpu.apic.receive(APIC_DM.FIXED, RESCHEDULE_VECTOR, 0);
  const why = cpuRun(cpu, sched.sliceEnd());
  if (why === RUN.SHUTDOWN) throw new BugError(`${vcpu.name}: pCPU ${cpu.id} shut down in guest mode`);
  return why === RUN.VMEXIT;
}

/** The pCPU is the task's as long as it is in guest mode; between the slices other pCPUs go on. */
function* furtherSlices(vcpu: Vcpu, cpu: Cpu): Steps<number> {
  do yield;
  while (!runSlice(vcpu, cpu));
  return afterExit(vcpu, cpu, VMX_RESULT.SUCCEED);
}

/** vmx_vcpu_run(): a generator only if the guest's slice ends before it exits. */
export function vmxVcpuRun(vcpu: Vcpu): MaybeSteps<number> {
  const vmx = toVmx(vcpu);
  const cpu = vmxCpu(vcpu);
  if (vmx.guestStateTouched && vmxEmulationRequired(vcpu)) return invalidStateExit(vmx);
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_ENTRY] !== 0) {
    const info = vmread32(cpu, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD);
    const error = vmread32(cpu, VMCS_CTRL.VM_ENTRY_EXCEPTION_ERROR_CODE);
    trace.record(TP.KVM_ENTRY, vcpu.vcpuId, kvmRipRead(vcpu), info, error, 0);
  }
  if (vmx.nested.needVmcs12ToShadowSync) nestedSyncVmcs12ToShadow(vcpu);
  vmxWriteDirtyRegs(vcpu);
  loadGuestRegs(cpu, vcpu, vmx);
  const result = vmx.loadedVmcs.launched ? vmresume(cpu) : vmlaunch(cpu);
  if (result === VMX_RESULT.SUCCEED && !runSlice(vcpu, cpu)) return furtherSlices(vcpu, cpu);
  return afterExit(vcpu, cpu, result);
}

/** Instead of an entry that must fail: the exit handler starts to emulate, or reflects a triple fault of L2. */
function invalidStateExit(vmx: VcpuVmx): number {
  vmx.fail = 0;
  vmx.exit.reason = VMX_EXIT_REASONS.FAILED_VMENTRY | EXIT_REASON.INVALID_STATE;
  vmx.exit.idtVectoring = 0;
  return EXIT_FASTPATH.NONE;
}

/** The rest of vmx_vcpu_run(): what the exit left, or why the entry (VMX_RESULT) failed. */
function afterExit(vcpu: Vcpu, cpu: Cpu, result: number): number {
  const vmx = toVmx(vcpu);
  const { trace } = vcpu.kvm.module;
  vmx.fail = result === VMX_RESULT.FAIL_INVALID || result === VMX_RESULT.FAIL_VALID ? result : 0;
  if (vmx.immediateExit) {
    vmx.immediateExit = false;
    // vcpu_enter_guest(): what waited for the exit is looked at again.
    kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  }
  saveGuestRegs(cpu, vcpu, vmx);
  if (vmx.fail !== 0) {
    vmx.exit.reason = VMX_EXIT_REASONS.FAILED_VMENTRY;
    vmx.exit.idtVectoring = 0;
    vmx.nested.nestedRunPending = false;
    return EXIT_FASTPATH.NONE;
  }
  vmx.exit.reason = vmread32(cpu, VMCS_INFO.VM_EXIT_REASON);
  // After a failed entry nothing has been injected, and the VMCS still holds the event.
  const failed = (vmx.exit.reason & VMX_EXIT_REASONS.FAILED_VMENTRY) !== 0;
  vmx.exit.idtVectoring = failed ? 0 : vmread32(cpu, VMCS_INFO.IDT_VECTORING_INFO_FIELD);
  if (trace.on[TP.KVM_EXIT] !== 0) traceExit(vcpu);
  if (vmx.nested.nestedRunPending) {
    // L2 is past its entry, or its entry failed: exits to L1 may come.
    vmx.nested.nestedRunPending = false;
    if (!failed) vcpu.stat.nested_run++;
  }
  if (failed) return EXIT_FASTPATH.NONE;
  vmx.loadedVmcs.launched = true;
  recoverNmiBlocking(cpu, vmx.exit.idtVectoring);
  vmxCompleteInterrupts(vcpu, vmx.exit.idtVectoring, INTERRUPTED);
  return EXIT_FASTPATH.NONE;
}

/** vmx_recover_nmi_blocking(): IRET had ended the blocking by NMI when it faulted, and will be executed again. */
function recoverNmiBlocking(cpu: Cpu, idtVectoring: number): void {
  const info = vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_INFO);
  const unblocked = INTR_INFO.VALID_MASK | INTR_INFO.UNBLOCK_NMI;
  if ((info & unblocked) !== unblocked || (info & INTR_INFO.VECTOR_MASK) === VECTOR.DF) return;
  if ((idtVectoring & INTR_INFO.VALID_MASK) !== 0) return;
  const old = vmread32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO);
  vmwrite32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO, old | BLOCKING.NMI);
}

/** What goes with the IDT-vectoring information. */
const INTERRUPTED = {
  length: VMCS_INFO.VM_EXIT_INSTRUCTION_LEN,
  error: VMCS_INFO.IDT_VECTORING_ERROR_CODE,
} as const;

/** vmx_get_exit_info(). */
export function vmxGetExitInfo(vcpu: Vcpu, out: KvmExitInfo): void {
  const cpu = vmxCpu(vcpu);
  const { exit } = toVmx(vcpu);
  out.reason = exit.reason;
  out.info1 =
    vmread32(cpu, VMCS_INFO.EXIT_QUALIFICATION) + vmreadHigh(cpu, VMCS_INFO.EXIT_QUALIFICATION) * 2 ** 32;
  out.info2 = exit.idtVectoring;
  out.intrInfo = vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_INFO);
  const valid = INTR_INFO.DELIVER_CODE_MASK | INTR_INFO.VALID_MASK;
  out.errorCode =
    (out.intrInfo & valid) === (valid | 0) ? vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_ERROR_CODE) : 0;
}

function traceExit(vcpu: Vcpu): void {
  const info: KvmExitInfo = { reason: 0, info1: 0, info2: 0, intrInfo: 0, errorCode: 0 };
  vmxGetExitInfo(vcpu, info);
  const text = exitReasonText(info.reason);
  vcpu.kvm.module.trace.record(
    TP.KVM_EXIT,
    vcpu.vcpuId,
    text,
    kvmRipRead(vcpu),
    info.info1,
    info.info2,
    info.intrInfo,
    info.errorCode,
  );
}

/** vmx_handle_exit_irqoff(): the interrupt that made the guest exit was acknowledged by the exit; end it. */
export function vmxHandleExitIrqoff(vcpu: Vcpu): void {
  if (toVmx(vcpu).exit.reason !== EXIT_REASON.EXTERNAL_INTERRUPT) return;
  vmxCpu(vcpu).apic.write(APIC_REG.EOI, 0);
}
