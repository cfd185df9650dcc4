// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: each control bit against its capability MSR. SDM, appendix "VMX Capability Reporting Facility" and
 * "Reserved Controls and Default Settings": default1 bits must be 1, unknown ones 0, known ones may be 1.
 */
import { VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { CPU_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../x86/vmx/vmcs_host.ts';
import {
  by,
  clear,
  type EntryRow,
  failValid,
  may1,
  must1,
  never1,
  or,
  page,
  set,
  type Write,
} from './row.ts';

const expected = failValid(VMXERR.ENTRY_INVALID_CONTROL_FIELD);

interface ControlWord {
  readonly name: string;
  readonly section: string;
  readonly field: number;
  readonly msr: number;
  /** Bits that must be 1 by the TRUE MSR on every processor. */
  readonly default1: readonly number[];
  /** Bits without a meaning so far, or of features that are tried without their setup. */
  readonly unknown: readonly number[];
  /** Controls that can be 1 by themselves. */
  readonly alone: Readonly<Record<string, number>>;
}

const EXEC = 'VM-Execution Control Fields';
const pick = <K extends string>(table: Readonly<Record<K, number>>, ...names: K[]): Record<string, number> =>
  Object.fromEntries(names.map((name) => [name, table[name]]));

const WORDS: readonly ControlWord[] = [
  {
    name: 'pin-based controls',
    section: EXEC,
    field: C.PIN_BASED_VM_EXEC_CONTROL,
    msr: VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS,
    default1: [1, 2, 4],
    unknown: [8, 9, 16, 31],
    alone: { EXT_INTR_MASK: 0x1, NMI_EXITING: 0x8, VMX_PREEMPTION_TIMER: 0x40 },
  },
  {
    name: 'primary processor-based controls',
    section: EXEC,
    field: C.CPU_BASED_VM_EXEC_CONTROL,
    msr: VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS,
    default1: [1, 4, 5, 6, 8, 13, 14, 26],
    unknown: [0, 17, 18],
    alone: pick(
      CPU_BASED,
      ...([
        'INTR_WINDOW_EXITING',
        'USE_TSC_OFFSETTING',
        'HLT_EXITING',
        'INVLPG_EXITING',
        'MWAIT_EXITING',
      ] as const),
      ...([
        'RDPMC_EXITING',
        'RDTSC_EXITING',
        'CR3_LOAD_EXITING',
        'CR3_STORE_EXITING',
        'CR8_LOAD_EXITING',
      ] as const),
      ...(['CR8_STORE_EXITING', 'MOV_DR_EXITING', 'UNCOND_IO_EXITING', 'MONITOR_TRAP_FLAG'] as const),
      ...(['MONITOR_EXITING', 'PAUSE_EXITING'] as const),
    ),
  },
  {
    name: 'secondary processor-based controls',
    section: EXEC,
    field: C.SECONDARY_VM_EXEC_CONTROL,
    msr: VMX_MSR.IA32_VMX_PROCBASED_CTLS2,
    default1: [],
    unknown: [21, 24, 27, 28, 29, 30, 31],
    alone: pick(
      SECONDARY_EXEC,
      ...(['DESC', 'ENABLE_RDTSCP', 'WBINVD_EXITING', 'PAUSE_LOOP_EXITING', 'RDRAND_EXITING'] as const),
      ...(['ENABLE_INVPCID', 'ENABLE_VMFUNC', 'RDSEED_EXITING'] as const),
    ),
  },
  {
    name: 'VM-exit controls',
    section: 'VM-Exit Control Fields',
    field: C.VM_EXIT_CONTROLS,
    msr: VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS,
    default1: [0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 13, 14, 16, 17],
    unknown: [23, 24, 25, 26, 27, 28, 30, 31],
    alone: pick(VM_EXIT, 'SAVE_DEBUG_CONTROLS', 'ACK_INTR_ON_EXIT', 'SAVE_IA32_PAT', 'SAVE_IA32_EFER'),
  },
  {
    name: 'VM-entry controls',
    section: 'VM-Entry Control Fields',
    field: C.VM_ENTRY_CONTROLS,
    msr: VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS,
    default1: [0, 1, 3, 4, 5, 6, 7, 8, 12],
    unknown: [16, 17, 18, 19, 20, 21, 23, 31],
    alone: pick(VM_ENTRY, 'LOAD_DEBUG_CONTROLS'),
  },
];

/** What the controls of `alone` read: real pages, and values that the checks take. */
const SETUP: readonly Write[] = [
  set(C.MSR_BITMAP, page('zero')),
  set(G.IA32_PAT, 0x0007_0406_0007_0406n),
  set(H.IA32_PAT, 0x0007_0406_0007_0406n),
];

const mask = (bit: number): number => (1 << bit) >>> 0;

function rowsOf(word: ControlWord): readonly EntryRow[] {
  const { name, section, field, msr } = word;
  return [
    ...word.default1.map((bit): EntryRow => ({
      section,
      rule: `${name}: bit ${bit} is default1`,
      needs: [must1(msr, mask(bit))],
      invalid: by(clear(field, mask(bit))),
      expected,
    })),
    ...word.unknown.map((bit): EntryRow => ({
      section,
      rule: `${name}: bit ${bit} is 0 if the MSR says so`,
      needs: [never1(msr, mask(bit))],
      invalid: by(or(field, mask(bit))),
      expected,
    })),
    ...Object.entries(word.alone).map(([control, bits]): EntryRow => ({
      section,
      rule: `${name}: ${control} may be 1`,
      needs: [may1(msr, bits)],
      valid: by(...SETUP, or(field, bits >>> 0)),
      expected,
    })),
  ];
}

/** Rows of this file. */
export const RESERVED_ROWS: readonly EntryRow[] = WORDS.flatMap(rowsOf);
