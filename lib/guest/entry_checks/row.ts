// SPDX-License-Identifier: GPL-2.0-only
/**
 * The language of the entry-check table: what one row says, and the words to say it in. A row names a rule of the SDM and the
 * field writes that make a valid VMCS one that just keeps it or just breaks it; addresses are symbolic, since L1 learns
 * at run time where its pages are and how wide physical addresses are.
 */
import { VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import { outcome, OUTCOME, type Outcome } from './outcome.ts';

/**
 * Pages of L1: all zero at first; `data` again before each case. `vmcs` is the current VMCS, `vmcs2` an ordinary one, `shadow` a
 * shadow VMCS, `ept` the root of an identity map of the low 4 GiB.
 */
export const CHECK_PAGES = [
  ...(['vmxon', 'vmcs', 'vmcs2', 'shadow', 'zero', 'data', 'apic', 'ept', 'ept_pdpt'] as const),
] as const;
/** Name of a page. */
export type CheckPage = (typeof CHECK_PAGES)[number];

/** A value: the sum of a page's guest physical address, the first address beyond the width, and a number. */
export interface Value {
  readonly page?: CheckPage;
  readonly beyond?: true;
  readonly plus?: number | bigint;
}
export type AnyValue = number | bigint | Value;

/** What a write does: VMWRITE, setting or clearing bits of a field, VMWRITE as the last of all, a store into a page. */
export const WRITE_OP = { SET: 0, OR: 1, CLEAR: 2, LATE: 3, POKE: 4 } as const;

export interface Write {
  readonly op: number;
  /** Field, or offset in the page for POKE. */
  readonly field: number;
  readonly value: Value;
  /** The page of POKE. */
  readonly into?: CheckPage;
}

const valueOf = (value: AnyValue): Value => (typeof value === 'object' ? value : { plus: value });
const write =
  (op: number) =>
  (field: number, value: AnyValue): Write => ({ op, field, value: valueOf(value) });

/** field = value. */
export const set = write(WRITE_OP.SET);
/** field |= value. */
export const or = write(WRITE_OP.OR);
/** field &= ~value. */
export const clear = write(WRITE_OP.CLEAR);
/** field = value after the host's RSP and RIP were written. */
export const late = write(WRITE_OP.LATE);
/** Eight bytes into a page. */
export const poke = (into: CheckPage, offset: number, value: AnyValue): Write => ({
  op: WRITE_OP.POKE,
  field: offset,
  value: valueOf(value),
  into,
});

/** The address of a page, and something near it. */
export const page = (name: CheckPage, plus: number | bigint = 0): Value => ({ page: name, plus });
/** The address of a page with the lowest bit set that physical addresses do not have. */
export const beyond = (name: CheckPage): Value => ({ page: name, beyond: true });

export const pin = (bits: number): Write => or(VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, bits >>> 0);
export const cpuBased = (bits: number): Write => or(VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, bits >>> 0);
export const secondary = (bits: number): Write => or(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, bits >>> 0);
export const exit = (bits: number): Write => or(VMCS_CTRL.VM_EXIT_CONTROLS, bits >>> 0);
export const entry = (bits: number): Write => or(VMCS_CTRL.VM_ENTRY_CONTROLS, bits >>> 0);

/** A condition on a capability MSR: its bits `mask` are `want`. Without it the case is skipped. */
export interface Need {
  readonly msr: number;
  readonly mask: bigint;
  readonly want: bigint;
}

const high = (bits: number): bigint => BigInt(bits >>> 0) << 32n;
const low = (bits: number): bigint => BigInt(bits >>> 0);
const all = (msr: number, mask: bigint): Need => ({ msr, mask, want: mask });
const none = (msr: number, mask: bigint): Need => ({ msr, mask, want: 0n });

/** The control may be 1. */
export const may1 = (msr: number, bits: number): Need => all(msr, high(bits));
/** The control must not be 1. */
export const never1 = (msr: number, bits: number): Need => none(msr, high(bits));
/** The control must be 1. */
export const must1 = (msr: number, bits: number): Need => all(msr, low(bits));
/** The control may be 0. */
export const may0 = (msr: number, bits: number): Need => none(msr, low(bits));
/** Bits of the low word of a capability MSR that are 1, or that are 0. */
export const has = (msr: number, bits: number): Need => all(msr, low(bits));
export const lacks = (msr: number, bits: number): Need => none(msr, low(bits));

export const hasPin = (bits: number): Need => may1(VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, bits);
export const hasCpuBased = (bits: number): Need => may1(VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, bits);
export const hasSecondary = (bits: number): Need => may1(VMX_MSR.IA32_VMX_PROCBASED_CTLS2, bits);
export const hasExit = (bits: number): Need => may1(VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, bits);
export const hasEntry = (bits: number): Need => may1(VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, bits);

export const ENTERED = outcome(OUTCOME.ENTERED);
export const failValid = (error: number): Outcome => outcome(OUTCOME.VMFAIL_VALID, error);
export const entryFailure = (reason: number, qualification: number): Outcome =>
  outcome(OUTCOME.ENTRY_FAILURE, reason, qualification);

/** Where another implementation does not do what the SDM says. */
export interface Deviation {
  /** Its function. */
  readonly where: string;
  readonly why: string;
  /** What comes out there; absent: do not run the case there. */
  readonly outcome?: Outcome;
}

/** One VMCS for one rule. */
export interface EntryVariant {
  readonly writes: readonly Write[];
  /** VMLAUNCH is the instruction after a MOV SS. */
  readonly afterMovSs?: true;
  /** KVM's nested VMX, Bochs. */
  readonly kvm?: Deviation;
  readonly bochs?: Deviation;
}

/** A rule with a VMCS that just keeps it and one that just breaks it. */
export interface EntryRow {
  /** Section of the SDM, volume 3, by name. */
  readonly section: string;
  readonly rule: string;
  readonly needs?: readonly Need[];
  /** Absent: every valid VMCS keeps it, the baseline is one. */
  readonly valid?: EntryVariant;
  /** Absent: nothing breaks it. */
  readonly invalid?: EntryVariant;
  /** How the one that breaks it ends. */
  readonly expected: Outcome;
}

/** The variant that makes these writes. */
export const by = (...writes: readonly Write[]): EntryVariant => ({ writes });

/** Controls that others need. */
export const TPR_SHADOW = [
  cpuBased(CPU_BASED.TPR_SHADOW),
  set(VMCS_CTRL.VIRTUAL_APIC_PAGE_ADDR, page('data')),
] as const;
export const EPT = [
  secondary(SECONDARY_EXEC.ENABLE_EPT),
  set(VMCS_CTRL.EPT_POINTER, page('ept', 0x1e)),
] as const;
export const NEEDS_EPT: readonly Need[] = [
  hasSecondary(SECONDARY_EXEC.ENABLE_EPT),
  has(VMX_MSR.IA32_VMX_EPT_VPID_CAP, 0x2_4040), // 4 levels, write-back, 1-GByte pages
];
/** The VMX-preemption timer expires at once: the way out of a guest that executes nothing. */
export const TIMER = [pin(PIN_BASED.VMX_PREEMPTION_TIMER)] as const;
export const NEEDS_TIMER: Need = hasPin(PIN_BASED.VMX_PREEMPTION_TIMER);
