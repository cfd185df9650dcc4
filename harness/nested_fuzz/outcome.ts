// SPDX-License-Identifier: GPL-2.0-only
/**
 * How a case of the nested fuzzer may end: what L1 can report at all, and what a processor with L1's capabilities can
 * have said of the vmcs12 that it was given.
 */
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { codeName } from '../../lib/x86/bits.ts';
import { CPU_BASED } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../lib/x86/vmx/insn_errors.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { nestedCpuHas } from '../../vmm/kvm/vmx/nested/vmcs12_controls.ts';
import type { Vmcs12 } from '../../vmm/kvm/vmx/nested/vmcs12.ts';
import { FUZZ_RECORD } from './guest_code.ts';
import type { Verdict } from './oracle.ts';

/** How a case ended: a key for the statistics. */
export type Outcome = string;

const REFUSED_CONTROLS = 'VMLAUNCH: VMfail ENTRY_INVALID_CONTROL_FIELD';
const REFUSED_HOST = 'VMLAUNCH: VMfail ENTRY_INVALID_HOST_STATE_FIELD';

/** Exits to userspace that a guest can cause. */
export const CLEAN_EXITS: readonly number[] = [
  KVM_EXIT.IO,
  KVM_EXIT.MMIO,
  KVM_EXIT.HLT,
  KVM_EXIT.SHUTDOWN,
  KVM_EXIT.INTERNAL_ERROR,
];
const ENTRY_ERRORS: readonly number[] = [
  VMXERR.VMLAUNCH_NONCLEAR_VMCS,
  VMXERR.ENTRY_INVALID_CONTROL_FIELD,
  VMXERR.ENTRY_INVALID_HOST_STATE_FIELD,
  VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS,
];

/** A broken promise; the message says which. */
export class FuzzFailure extends Error {
  override readonly name: string = 'FuzzFailure';
}

const hex = (value: bigint): string => `0x${value.toString(16)}`;

/** What L1 reports must be possible, unless L1 does not know itself what it does: `vmcs12` is L0's copy. */
export function judge(record: readonly bigint[], vmcs12: Vmcs12): Outcome {
  const [kind, a, b] = record as [bigint, bigint, bigint];
  // HOST_RIP, or a jump of L2, may lead into the middle of L1's code.
  if (kind === FUZZ_RECORD.EXIT && a !== BigInt(vmcs12.u32(VMCS_INFO.VM_EXIT_REASON)))
    return 'L1 has lost its way';
  if (kind !== FUZZ_RECORD.EXIT && a === 2n && b !== BigInt(vmcs12.u32(VMCS_INFO.VM_INSTRUCTION_ERROR)))
    return 'L1 has lost its way';
  if (kind === FUZZ_RECORD.VMPTRLD) {
    if (a === 2n && b !== BigInt(VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID))
      throw new FuzzFailure(`VMPTRLD failed with error ${b}`);
    return a === 1n ? 'VMPTRLD: VMfailInvalid' : 'VMPTRLD: wrong revision';
  }
  if (kind === FUZZ_RECORD.VMLAUNCH) {
    if (a === 1n) return 'VMLAUNCH: VMfailInvalid';
    if (a !== 2n || !ENTRY_ERRORS.includes(Number(b)))
      throw new FuzzFailure(`VMLAUNCH: status ${a}, error ${b}`);
    return `VMLAUNCH: VMfail ${codeName(VMXERR, Number(b))}`;
  }
  if (kind !== FUZZ_RECORD.EXIT) throw new FuzzFailure(`L1 reports ${record.map(hex).join(' ')}`);
  return judgeExit(Number(a), b);
}

function judgeExit(reason: number, qualification: bigint): Outcome {
  const basic = reason & VMX_EXIT_REASONS.BASIC_MASK;
  if (!(Object.values(EXIT_REASON) as number[]).includes(basic))
    throw new FuzzFailure(`exit to L1 with reason 0x${reason.toString(16)}`);
  if (reason < 0x8000_0000) return `exit: ${codeName(EXIT_REASON, basic)}`;
  const state = basic === EXIT_REASON.INVALID_STATE && [0n, 2n, 3n, 4n].includes(qualification);
  const msrs = basic === EXIT_REASON.MSR_LOAD_FAIL && qualification > 0n && qualification <= 513n;
  if (!state && !msrs)
    throw new FuzzFailure(`failed entry: reason ${basic}, qualification ${hex(qualification)}`);
  return `failed entry: ${codeName(EXIT_REASON, basic)}`;
}

/**
 * Checks that depend on memory: the TPR threshold on the virtual-APIC page, without which L0 makes an entry fail; the link
 * pointer on what it points to.
 */
function dependsOnMemory(v: Vmcs12, of: 'controls' | 'guest'): boolean {
  if (of === 'controls') return nestedCpuHas(v, CPU_BASED.TPR_SHADOW);
  return v.lo(VMCS_GUEST.VMCS_LINK_POINTER) !== -1 || v.hi(VMCS_GUEST.VMCS_LINK_POINTER) !== -1;
}

/** Controls that KVM leaves to the processor, which sees them after L0 checked guest state and loaded L2's MSRs. */
const LEFT_TO_THE_PROCESSOR: readonly string[] = ['TSC multiplier is zero', 'TPR threshold: bits 31:4'];

/** Why a processor could not have said this, or null. Checks on controls and host state have no order. */
export function objectionTo(outcome: Outcome, { controls, host, guest }: Verdict, v: Vmcs12): string | null {
  if (outcome === REFUSED_CONTROLS)
    return controls !== null || dependsOnMemory(v, 'controls') ? null : 'no control is wrong';
  if (outcome === REFUSED_HOST) return host !== null ? null : 'host state is right';
  const failedOnState = outcome === 'failed entry: INVALID_STATE';
  if (!failedOnState && !outcome.startsWith('failed entry') && !outcome.startsWith('exit:')) return null;
  const early =
    outcome.startsWith('failed entry') && controls !== null && LEFT_TO_THE_PROCESSOR.includes(controls);
  if (controls !== null && !early) return `controls: ${controls}`;
  if (host !== null) return `host state: ${host}`;
  if (failedOnState) return guest !== null || dependsOnMemory(v, 'guest') ? null : 'guest state is right';
  // L0 loads L2's MSRs before the processor checks the guest state that KVM leaves to it.
  if (outcome === 'failed entry: MSR_LOAD_FAIL') return null;
  return guest === null ? null : `guest state: ${guest}`;
}
