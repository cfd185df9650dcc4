// SPDX-License-Identifier: GPL-2.0-only
/**
 * MSRs that are alike on both vendors: kvm_get_msr_common() and kvm_set_msr_common() of arch/x86/kvm/x86.c, 6.12, the
 * emulation of RDMSR and WRMSR, and the lists for userspace. Leaves out PMU, MCE banks, MTRRs and PV MSRs.
 */
import { KVM_EXIT } from '../../../lib/uapi/run.ts';
import { KVM_MSR_EXIT_REASON, type KvmMsrEntry } from '../../../lib/uapi/cpuid_msr.ts';
import { APIC_BASE_MSR, APIC_END_MSR } from '../../../lib/x86/apic.ts';
import { MISC_ENABLE, MSR } from '../../../lib/x86/msr.ts';
import { CR0, EFER, GPR } from '../../../lib/x86/registers.ts';
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmModule } from '../module.ts';
import { kvmMmuResetContext } from '../mmu/mmu.ts';
import { TP } from '../trace_events.ts';
import { kvmReadCr0, kvmRegisterRead32, kvmRegisterWrite, high, low, pair } from './cache_regs.ts';
import { kvmInjectGp } from './events.ts';
import { kvmCompleteInsnGp, kvmSkipEmulatedInstruction } from './skip.ts';
import { kvmSetApicBase, lapicInKernel, vcpuApic } from './lapic.ts';
import { kvmReadGuestTsc, kvmReadL1Tsc, kvmWriteTsc, kvmWriteTscAdjust } from './tsc.ts';

export type MsrBy = 'guest' | 'host';

/** What userspace saves and restores on every vendor. */
const MSRS_TO_SAVE: readonly number[] = [
  MSR.IA32_SYSENTER_CS,
  MSR.IA32_SYSENTER_ESP,
  MSR.IA32_SYSENTER_EIP,
  MSR.STAR,
  MSR.CSTAR,
  MSR.KERNEL_GS_BASE,
  MSR.SYSCALL_MASK,
  MSR.LSTAR,
  MSR.IA32_TSC,
  MSR.IA32_CR_PAT,
  MSR.TSC_AUX,
  MSR.IA32_TSC_ADJUST,
  MSR.IA32_TSC_DEADLINE,
  MSR.IA32_MISC_ENABLE,
  MSR.IA32_APICBASE,
  MSR.IA32_FEAT_CTL,
];

/** The capability MSRs among emulated_msrs_all: those that do not follow from others. */
const VMX_MSRS_TO_SAVE: readonly number[] = [
  VMX_MSR.IA32_VMX_BASIC,
  VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS,
  VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS,
  VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS,
  VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS,
  VMX_MSR.IA32_VMX_MISC,
  VMX_MSR.IA32_VMX_CR0_FIXED0,
  VMX_MSR.IA32_VMX_CR4_FIXED0,
  VMX_MSR.IA32_VMX_VMCS_ENUM,
  VMX_MSR.IA32_VMX_PROCBASED_CTLS2,
  VMX_MSR.IA32_VMX_EPT_VPID_CAP,
  VMX_MSR.IA32_VMX_VMFUNC,
];

/** KVM_GET_MSR_INDEX_LIST: kvm_init_msr_lists(), with what the vendor emulates. */
export const kvmGetMsrIndexList = (module: KvmModule): number[] => [
  ...MSRS_TO_SAVE,
  ...VMX_MSRS_TO_SAVE.filter((index) => module.ops.hasEmulatedMsr(index)),
];

/** Bits of EFER that a guest may have. */
const EFER_VALID = BigInt(EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE);
/** A PAT entry is one of the memory types 0, 1, 4, 5, 6, 7. */
const patValid = (value: bigint): boolean =>
  Array.from({ length: 8 }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn)).every((t) =>
    [0, 1, 4, 5, 6, 7].includes(t),
  );

/** set_efer(): 1 is refused. */
export function kvmSetEfer(vcpu: Vcpu, value: bigint, by: MsrBy): number {
  if ((value & ~EFER_VALID) !== 0n) return 1;
  const old = vcpu.arch.efer;
  const efer = Number(value);
  const paging = (kvmReadCr0(vcpu) & CR0.PG) !== 0;
  if (
    by === 'guest' &&
    ((efer & ~vcpu.arch.eferValidBits) !== 0 || (paging && ((old ^ efer) & EFER.LME) !== 0))
  )
    return 1;
  // LMA is the processor's: it follows LME and CR0.PG.
  vcpu.kvm.module.ops.setEfer(vcpu, (efer & ~EFER.LMA) | (old & EFER.LMA));
  if (((old ^ efer) & (EFER.NXE | EFER.LME)) !== 0) kvmMmuResetContext(vcpu);
  return 0;
}

/** There is no such MSR: KVM_MSR_RET_UNSUPPORTED. Any other refusal is 1. */
export const KVM_MSR_RET_UNSUPPORTED = 2;

/** kvm_get_msr_common(): 0, or why the guest may not. */
export function kvmGetMsrCommon(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const { arch } = vcpu;
  switch (msr.index) {
    case MSR.IA32_TSC:
      // Userspace always sees L1's, so that it can migrate the vCPU whatever runs.
      msr.data = by === 'host' ? kvmReadL1Tsc(vcpu) : kvmReadGuestTsc(vcpu);
      return 0;
    case MSR.IA32_TSC_ADJUST:
      msr.data = arch.iaTscAdjust;
      return 0;
    case MSR.IA32_TSC_DEADLINE:
      msr.data = lapicInKernel(vcpu)
        ? pair(vcpuApic(vcpu).apic.timer.tscDeadlineLo, vcpuApic(vcpu).apic.timer.tscDeadlineHi)
        : 0n;
      return 0;
    case MSR.IA32_APICBASE:
      msr.data = BigInt(arch.apicBase);
      return 0;
    case MSR.IA32_CR_PAT:
      msr.data = arch.pat;
      return 0;
    case MSR.EFER:
      msr.data = BigInt(arch.efer);
      return 0;
    case MSR.IA32_MISC_ENABLE:
      msr.data = arch.miscEnable;
      return 0;
    case MSR.IA32_UCODE_REV:
      msr.data = 0x1_0000_0000n;
      return 0;
    default:
      return isX2apic(msr.index) ? x2apicRead(vcpu, msr) : KVM_MSR_RET_UNSUPPORTED;
  }
}

const isX2apic = (index: number): boolean => index >= APIC_BASE_MSR && index < APIC_END_MSR;

function x2apicRead(vcpu: Vcpu, msr: KvmMsrEntry): number {
  const out = new Int32Array(2);
  if (!lapicInKernel(vcpu) || !vcpuApic(vcpu).apic.readMsr(msr.index, out)) return 1;
  msr.data = pair(out[0]!, out[1]!);
  return 0;
}

function x2apicWrite(vcpu: Vcpu, msr: KvmMsrEntry): number {
  return lapicInKernel(vcpu) && vcpuApic(vcpu).apic.writeMsr(msr.index, low(msr.data), high(msr.data))
    ? 0
    : 1;
}

/** kvm_set_msr_common(): 0, 1 if the value is refused, KVM_MSR_RET_UNSUPPORTED. */
export function kvmSetMsrCommon(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const { arch } = vcpu;
  switch (msr.index) {
    case MSR.IA32_TSC:
      return kvmWriteTsc(vcpu, msr.data, by);
    case MSR.IA32_TSC_ADJUST:
      return kvmWriteTscAdjust(vcpu, msr.data, by);
    case MSR.IA32_TSC_DEADLINE:
      if (lapicInKernel(vcpu)) vcpuApic(vcpu).apic.timer.writeTscDeadline(low(msr.data), high(msr.data));
      return 0;
    case MSR.IA32_APICBASE:
      return kvmSetApicBase(vcpu, msr.data, by);
    case MSR.IA32_CR_PAT:
      if (!patValid(msr.data)) return 1;
      arch.pat = msr.data;
      return 0;
    case MSR.EFER:
      return kvmSetEfer(vcpu, msr.data, by);
    case MSR.IA32_MISC_ENABLE:
      return writeMiscEnable(vcpu, msr.data, by);
    case MSR.IA32_UCODE_REV:
      // A guest's write starts a microcode update, which L0 ignores.
      return 0;
    default:
      return isX2apic(msr.index) ? x2apicWrite(vcpu, msr) : KVM_MSR_RET_UNSUPPORTED;
  }
}

/** Read-only bits fault, unless they stay as they are; EMON keeps its value. */
function writeMiscEnable(vcpu: Vcpu, value: bigint, by: MsrBy): number {
  const { arch } = vcpu;
  const readOnly = BigInt(MISC_ENABLE.PEBS_UNAVAIL | MISC_ENABLE.BTS_UNAVAIL);
  const emon = BigInt(MISC_ENABLE.EMON);
  if (by === 'guest' && ((arch.miscEnable ^ value) & readOnly) !== 0n) return 1;
  arch.miscEnable = by === 'guest' ? (value & ~emon) | (arch.miscEnable & emon) : value;
  return 0;
}

/** kvm_get_msr_ignored_check(): an unknown MSR reads as zero if kvm.ignore_msrs says so. */
export function kvmGetMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const { ops, params } = vcpu.kvm.module;
  const r = ops.getMsr(vcpu, msr, by);
  if (r !== KVM_MSR_RET_UNSUPPORTED || params['kvm.ignore_msrs'] === 0) return r;
  msr.data = 0n;
  return 0;
}

/** kvm_set_msr_ignored_check(): writes to unknown MSRs go nowhere if kvm.ignore_msrs says so. */
export function kvmSetMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const { ops, params } = vcpu.kvm.module;
  const r = ops.setMsr(vcpu, msr, by);
  return r === KVM_MSR_RET_UNSUPPORTED && params['kvm.ignore_msrs'] !== 0 ? 0 : r;
}

function traceMsr(vcpu: Vcpu, write: 0 | 1, msr: KvmMsrEntry, failed: boolean): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_MSR] !== 0) trace.record(TP.KVM_MSR, write, msr.index, msr.data, failed ? 1 : 0);
}

/** The access that L0 refused, for userspace. */
interface RefusedMsr {
  readonly msr: KvmMsrEntry;
  /** What ops.getMsr() or ops.setMsr() returned. */
  readonly result: number;
  readonly exit: number;
  /** The end of the instruction, if userspace has no error. */
  readonly complete: (vcpu: Vcpu) => number;
}

/** kvm_msr_user_space(): GP, or userspace if KVM_CAP_X86_USER_SPACE_MSR asked for refusals of this kind. */
function refused(vcpu: Vcpu, { msr, result, exit, complete }: RefusedMsr): number {
  const unknown = result === KVM_MSR_RET_UNSUPPORTED;
  const reason = unknown ? KVM_MSR_EXIT_REASON.UNKNOWN : KVM_MSR_EXIT_REASON.INVAL;
  if ((vcpu.kvm.arch.userSpaceMsrMask & reason) === 0) {
    kvmInjectGp(vcpu, 0);
    return 1;
  }
  const { run } = vcpu;
  run.exit_reason = exit;
  run.msr.error = 0;
  run.msr.reason = reason;
  run.msr.index = msr.index;
  run.msr.data = msr.data;
  vcpu.arch.completeUserspaceIo = (v) => (v.run.msr.error === 0 ? complete(v) : kvmCompleteInsnGp(v, 1));
  return 0;
}

function completeRead(vcpu: Vcpu, data: bigint): number {
  kvmRegisterWrite(vcpu, GPR.RAX, low(data), 0);
  kvmRegisterWrite(vcpu, GPR.RDX, high(data), 0);
  return kvmSkipEmulatedInstruction(vcpu);
}

/** kvm_emulate_rdmsr(). */
export function kvmEmulateRdmsr(vcpu: Vcpu): number {
  const msr: KvmMsrEntry = { index: kvmRegisterRead32(vcpu, GPR.RCX), data: 0n };
  const result = kvmGetMsr(vcpu, msr, 'guest');
  traceMsr(vcpu, 0, msr, result !== 0);
  if (result === 0) return completeRead(vcpu, msr.data);
  const complete = (v: Vcpu): number => completeRead(v, v.run.msr.data);
  return refused(vcpu, { msr, result, exit: KVM_EXIT.X86_RDMSR, complete });
}

/** kvm_emulate_wrmsr(). */
export function kvmEmulateWrmsr(vcpu: Vcpu): number {
  const msr: KvmMsrEntry = {
    index: kvmRegisterRead32(vcpu, GPR.RCX),
    data: pair(kvmRegisterRead32(vcpu, GPR.RAX), kvmRegisterRead32(vcpu, GPR.RDX)),
  };
  const result = kvmSetMsr(vcpu, msr, 'guest');
  traceMsr(vcpu, 1, msr, result !== 0);
  if (result === 0) return kvmSkipEmulatedInstruction(vcpu);
  return refused(vcpu, { msr, result, exit: KVM_EXIT.X86_WRMSR, complete: kvmSkipEmulatedInstruction });
}
