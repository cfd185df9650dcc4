// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the processor's VMX can do: the values of the capability MSRs. SDM, appendix "VMX Capability Reporting
 * Facility". Values follow a Skylake server, of the Ice Lake profile an Ice Lake one's EPT, minus every control whose
 * behaviour is not built: an entry that asks for one fails with error 7, as on a processor without it.
 */
import { CR0, CR4 } from '../../../lib/x86/registers.ts';
import {
  VMX_BASIC_HI,
  VMX_EPT_CAP,
  VMX_MISC,
  VMX_MSR,
  VMX_VPID_CAP_HI,
} from '../../../lib/x86/vmx/capability_msrs.ts';
import {
  CPU_BASED,
  PIN_BASED,
  SECONDARY_EXEC,
  VM_ENTRY,
  VM_EXIT,
  VMX_VMFUNC,
} from '../../../lib/x86/vmx/controls.ts';
import { VMCS_ENCODING_LIMIT, vmcsFieldIndex } from '../../../lib/x86/vmx/field.ts';
import type { CpuProfile } from '../cost/profiles.ts';
import { vmcsFieldNeeds } from './field_support.ts';
import { VMCS_REGION_BYTES, vmcsWord } from './vmcs_layout.ts';

/** One control word: the bits that must be 1 (by the TRUE MSR), those that may be, and the older MSR's must-be-1. */
export interface ControlCaps {
  readonly must1: number;
  readonly may1: number;
  readonly default1: number;
}

export interface VmxCaps {
  readonly revision: number;
  readonly maxPhyAddr: number;
  /** First physical address beyond that width. */
  readonly physEnd: number;
  readonly pin: ControlCaps;
  readonly cpuBased: ControlCaps;
  readonly secondary: ControlCaps;
  readonly exit: ControlCaps;
  readonly entry: ControlCaps;
  readonly misc: number;
  readonly eptCap: number;
  readonly vpidCapHi: number;
  /** VM functions, bits 31:0. */
  readonly vmfunc: number;
  readonly cr0Fixed0: number;
  readonly cr0Fixed1: number;
  readonly cr4Fixed0: number;
  readonly cr4Fixed1: number;
  /** Preemption timer: counts one for 2^rate cycles of the TSC. */
  readonly timerRate: number;
  /** Word of each field that this processor has, by encoding; -1: no such field. */
  readonly fieldWord: Int16Array;
  /** Capability MSRs by number, as [bits 31:0, bits 63:32]. */
  readonly msrs: ReadonlyMap<number, readonly [number, number]>;
}

const allOf = (table: Readonly<Record<string, number>>, names: readonly string[]): number => {
  let bits = 0;
  for (const name of names) bits |= table[name]!;
  return bits;
};

const without = (table: Readonly<Record<string, number>>, names: readonly string[]): number =>
  allOf(
    table,
    Object.keys(table).filter((name) => !names.includes(name)),
  );

function controlCaps(default1: number, true1: number, supported: number): ControlCaps {
  return { default1: default1 | 0, must1: true1 | 0, may1: supported | default1 };
}

/** Default1 bits: SDM, "Reserved Controls and Default Settings"; TRUE MSRs allow 0 where a control has a meaning by now. */
const PIN = controlCaps(0x0000_0016, 0x0000_0016, allOf(PIN_BASED, Object.keys(PIN_BASED)));
const CPU = controlCaps(0x0401_e172, 0x0400_6172, without(CPU_BASED, ['ACTIVATE_TERTIARY_CONTROLS']));
const EXIT = controlCaps(
  0x0003_6dff,
  0x0003_6dfb,
  allOf(VM_EXIT, [
    'SAVE_DEBUG_CONTROLS',
    'HOST_ADDR_SPACE_SIZE',
    'ACK_INTR_ON_EXIT',
    'SAVE_IA32_PAT',
    'LOAD_IA32_PAT',
    'SAVE_IA32_EFER',
    'LOAD_IA32_EFER',
    'SAVE_VMX_PREEMPTION_TIMER',
  ]),
);
const ENTRY = controlCaps(
  0x0000_11ff,
  0x0000_11fb,
  allOf(VM_ENTRY, ['LOAD_DEBUG_CONTROLS', 'IA32E_MODE', 'LOAD_IA32_PAT', 'LOAD_IA32_EFER']),
);
const SECONDARY = controlCaps(
  0,
  0,
  allOf(SECONDARY_EXEC, [
    'VIRTUALIZE_APIC_ACCESSES',
    'ENABLE_EPT',
    'DESC',
    'ENABLE_RDTSCP',
    'VIRTUALIZE_X2APIC_MODE',
    'ENABLE_VPID',
    'WBINVD_EXITING',
    'UNRESTRICTED_GUEST',
    'APIC_REGISTER_VIRT',
    'VIRTUAL_INTR_DELIVERY',
    'RDRAND_EXITING',
    'ENABLE_INVPCID',
    'ENABLE_VMFUNC',
    'SHADOW_VMCS',
    'RDSEED_EXITING',
    'ENABLE_PML',
    'MODE_BASED_EPT_EXEC',
    'TSC_SCALING',
    'PAUSE_LOOP_EXITING',
  ]),
);

const REVISION = 4;
const TIMER_RATE = 7;
const MISC =
  TIMER_RATE |
  VMX_MISC.SAVE_EFER_LMA |
  VMX_MISC.ACTIVITY_HLT |
  VMX_MISC.ACTIVITY_SHUTDOWN |
  (4 << 16) |
  VMX_MISC.VMWRITE_SHADOW_RO_FIELDS |
  VMX_MISC.ZERO_LEN_INS;
const EPT_CAP = allOf(VMX_EPT_CAP, [
  'EXECUTE_ONLY_BIT',
  'PAGE_WALK_4_BIT',
  'UC_BIT',
  'WB_BIT',
  'PAGE_2MB_BIT',
  'PAGE_1GB_BIT',
  'INVEPT_BIT',
  'AD_BIT',
  'EXTENT_CONTEXT_BIT',
  'EXTENT_GLOBAL_BIT',
]);
const VPID_CAP_HI = allOf(VMX_VPID_CAP_HI, Object.keys(VMX_VPID_CAP_HI));
const VMFUNC = allOf(VMX_VMFUNC, Object.keys(VMX_VMFUNC));
const CR0_FIXED0 = CR0.PE | CR0.NE | CR0.PG;
const CR4_FIXED1 = without(CR4, ['UMIP', 'LA57', 'SMXE', 'CET', 'PKS']);

function supportedFields(): Int16Array {
  const words = new Int16Array(VMCS_ENCODING_LIMIT).fill(-1);
  for (let field = 0; field < VMCS_ENCODING_LIMIT; field++) {
    const word = vmcsWord(field);
    const needs = vmcsFieldNeeds(field);
    if (word !== -1 && (needs === null || (needs.bit & supportOf(needs.of)) !== 0)) words[field] = word;
  }
  return words;
}

function supportOf(group: 'pin' | 'cpuBased' | 'secondary' | 'exit' | 'entry' | 'never'): number {
  const groups = { pin: PIN, cpuBased: CPU, secondary: SECONDARY, exit: EXIT, entry: ENTRY };
  return group === 'never' ? 0 : groups[group].may1;
}

function highestIndex(words: Int16Array): number {
  let max = 0;
  words.forEach((word, field) => {
    if (word !== -1) max = Math.max(max, vmcsFieldIndex(field));
  });
  return max << 1;
}

function msrTable(fieldWord: Int16Array, eptCap: number): Map<number, readonly [number, number]> {
  const basicHi = VMCS_REGION_BYTES | (6 << 18) | VMX_BASIC_HI.INOUT | VMX_BASIC_HI.TRUE_CTLS;
  return new Map<number, readonly [number, number]>([
    [VMX_MSR.IA32_VMX_BASIC, [REVISION, basicHi]],
    [VMX_MSR.IA32_VMX_PINBASED_CTLS, [PIN.default1, PIN.may1]],
    [VMX_MSR.IA32_VMX_PROCBASED_CTLS, [CPU.default1, CPU.may1]],
    [VMX_MSR.IA32_VMX_EXIT_CTLS, [EXIT.default1, EXIT.may1]],
    [VMX_MSR.IA32_VMX_ENTRY_CTLS, [ENTRY.default1, ENTRY.may1]],
    [VMX_MSR.IA32_VMX_MISC, [MISC, 0]],
    [VMX_MSR.IA32_VMX_CR0_FIXED0, [CR0_FIXED0, 0]],
    [VMX_MSR.IA32_VMX_CR0_FIXED1, [-1, 0]],
    [VMX_MSR.IA32_VMX_CR4_FIXED0, [CR4.VMXE, 0]],
    [VMX_MSR.IA32_VMX_CR4_FIXED1, [CR4_FIXED1, 0]],
    [VMX_MSR.IA32_VMX_VMCS_ENUM, [highestIndex(fieldWord), 0]],
    [VMX_MSR.IA32_VMX_PROCBASED_CTLS2, [0, SECONDARY.may1]],
    [VMX_MSR.IA32_VMX_EPT_VPID_CAP, [eptCap, VPID_CAP_HI]],
    [VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, [PIN.must1, PIN.may1]],
    [VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, [CPU.must1, CPU.may1]],
    [VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, [EXIT.must1, EXIT.may1]],
    [VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, [ENTRY.must1, ENTRY.may1]],
    [VMX_MSR.IA32_VMX_VMFUNC, [VMFUNC, 0]],
  ]);
}

/** VMX of a profile. Of what the profiles could differ in, only the widths of addresses and of EPT walks are modelled. */
export function vmxCapsOf(profile: Pick<CpuProfile, 'maxPhysBits' | 'name'>): VmxCaps {
  const fieldWord = supportedFields();
  const eptCap = profile.name === 'icelake' ? EPT_CAP | VMX_EPT_CAP.PAGE_WALK_5_BIT : EPT_CAP;
  return {
    revision: REVISION,
    maxPhyAddr: profile.maxPhysBits,
    physEnd: 2 ** profile.maxPhysBits,
    pin: PIN,
    cpuBased: CPU,
    secondary: SECONDARY,
    exit: EXIT,
    entry: ENTRY,
    misc: MISC,
    eptCap,
    vpidCapHi: VPID_CAP_HI,
    vmfunc: VMFUNC,
    cr0Fixed0: CR0_FIXED0 | 0,
    cr0Fixed1: -1,
    cr4Fixed0: CR4.VMXE,
    cr4Fixed1: CR4_FIXED1,
    timerRate: TIMER_RATE,
    fieldWord,
    msrs: msrTable(fieldWord, eptCap),
  };
}
