// SPDX-License-Identifier: GPL-2.0-only
/** Entry-check rows: VM-execution controls. SDM, "VM-Execution Control Fields" of "Checks on VMX Controls". */
import { VMX_EPT_CAP, VMX_MISC_CR3_TARGET_COUNT_SHIFT, VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import {
  type AnyValue,
  beyond,
  by,
  clear,
  cpuBased,
  ENTERED,
  type EntryRow,
  EPT,
  failValid,
  has,
  hasCpuBased,
  hasPin,
  hasSecondary,
  lacks,
  type Need,
  NEEDS_EPT,
  page,
  pin,
  secondary,
  set,
  type Write,
} from './row.ts';

const section = 'VM-Execution Control Fields';
const expected = failValid(VMXERR.ENTRY_INVALID_CONTROL_FIELD);
const X = SECONDARY_EXEC;

/** An address field under a control: 4-KByte aligned and within the physical-address width, but only if the control is 1. */
export function pageField(
  name: string,
  field: number,
  on: readonly Write[],
  needs: readonly Need[],
  bit = 0x800,
): readonly EntryRow[] {
  const row = (rule: string, valid: readonly Write[], invalid: AnyValue): EntryRow => ({
    section,
    rule: `${name}: ${rule}`,
    needs,
    valid: by(...valid),
    invalid: by(...on, set(field, invalid)),
    expected,
  });
  return [
    row('bits 11:0 are 0', [...on, set(field, page('zero'))], page('zero', bit)),
    row('bit 0 is 0', [set(field, page('zero', 1))], page('zero', 1)),
    row('the bits beyond the physical-address width are 0', [set(field, beyond('zero'))], beyond('zero')),
    row('bit 63 is 0', [...on, set(field, page('zero'))], page('zero', 1n << 63n)),
  ];
}

const rule = (text: string, needs: readonly Need[], valid: Write[], invalid: Write[]): EntryRow => ({
  section,
  rule: text,
  needs,
  valid: by(...valid),
  invalid: by(...invalid),
  expected,
});

const PAGE_FIELDS: readonly EntryRow[] = [
  ...pageField(
    'I/O-bitmap address A',
    C.IO_BITMAP_A,
    [set(C.IO_BITMAP_B, page('zero')), cpuBased(CPU_BASED.USE_IO_BITMAPS)],
    [hasCpuBased(CPU_BASED.USE_IO_BITMAPS)],
  ),
  ...pageField(
    'I/O-bitmap address B',
    C.IO_BITMAP_B,
    [set(C.IO_BITMAP_A, page('zero')), cpuBased(CPU_BASED.USE_IO_BITMAPS)],
    [hasCpuBased(CPU_BASED.USE_IO_BITMAPS)],
  ),
  ...pageField(
    'MSR-bitmap address',
    C.MSR_BITMAP,
    [cpuBased(CPU_BASED.USE_MSR_BITMAPS)],
    [hasCpuBased(CPU_BASED.USE_MSR_BITMAPS)],
  ),
  ...pageField(
    'PML address',
    C.PML_ADDRESS,
    [...EPT, secondary(X.ENABLE_PML)],
    [...NEEDS_EPT, hasSecondary(X.ENABLE_PML)],
  ),
  ...pageField(
    'VMREAD-bitmap address',
    C.VMREAD_BITMAP,
    [set(C.VMWRITE_BITMAP, page('zero')), secondary(X.SHADOW_VMCS)],
    [hasSecondary(X.SHADOW_VMCS)],
  ),
  ...pageField(
    'VMWRITE-bitmap address',
    C.VMWRITE_BITMAP,
    [set(C.VMREAD_BITMAP, page('zero')), secondary(X.SHADOW_VMCS)],
    [hasSecondary(X.SHADOW_VMCS)],
  ),
  ...pageField(
    'EPTP-list address',
    C.EPTP_LIST_ADDRESS,
    [...EPT, secondary(X.ENABLE_VMFUNC), set(C.VM_FUNCTION_CONTROL, 1)],
    [...NEEDS_EPT, hasSecondary(X.ENABLE_VMFUNC), has(VMX_MSR.IA32_VMX_VMFUNC, 1)],
  ),
];

/** CR3-target counts: as many as IA32_VMX_MISC says; 4 on every processor so far. */
const CR3_TARGETS: readonly EntryRow[] = [
  rule(
    'the CR3-target count is at most that in IA32_VMX_MISC',
    [
      has(VMX_MSR.IA32_VMX_MISC, 4 << VMX_MISC_CR3_TARGET_COUNT_SHIFT),
      lacks(VMX_MSR.IA32_VMX_MISC, 0x1fb << VMX_MISC_CR3_TARGET_COUNT_SHIFT),
    ],
    [set(C.CR3_TARGET_COUNT, 4)],
    [set(C.CR3_TARGET_COUNT, 5)],
  ),
  rule(
    'the CR3-target count is not 2^32 - 1',
    [],
    [set(C.CR3_TARGET_COUNT, 0)],
    [set(C.CR3_TARGET_COUNT, 0xffff_ffff)],
  ),
];

const NMI_EXITING = pin(PIN_BASED.NMI_EXITING);
const NMIS = [
  hasPin(PIN_BASED.NMI_EXITING | PIN_BASED.VIRTUAL_NMIS),
  hasCpuBased(CPU_BASED.NMI_WINDOW_EXITING),
];
const NMI_ROWS: readonly EntryRow[] = [
  rule(
    'virtual NMIs need NMI exiting',
    NMIS,
    [NMI_EXITING, pin(PIN_BASED.VIRTUAL_NMIS)],
    [pin(PIN_BASED.VIRTUAL_NMIS)],
  ),
  rule(
    'NMI-window exiting needs virtual NMIs',
    NMIS,
    [NMI_EXITING, pin(PIN_BASED.VIRTUAL_NMIS), cpuBased(CPU_BASED.NMI_WINDOW_EXITING)],
    [NMI_EXITING, cpuBased(CPU_BASED.NMI_WINDOW_EXITING)],
  ),
];

const VPID = [hasSecondary(X.ENABLE_VPID)];
const VPID_ROWS: readonly EntryRow[] = [
  rule(
    'the VPID is not 0000H',
    VPID,
    [secondary(X.ENABLE_VPID), set(C.VIRTUAL_PROCESSOR_ID, 1)],
    [secondary(X.ENABLE_VPID)],
  ),
  rule(
    'the VPID may be FFFFH, and 0000H without "enable VPID"',
    VPID,
    [secondary(X.ENABLE_VPID), set(C.VIRTUAL_PROCESSOR_ID, 0xffff)],
    [secondary(X.ENABLE_VPID), set(C.VIRTUAL_PROCESSOR_ID, 0)],
  ),
];

const EPT_MSR = VMX_MSR.IA32_VMX_EPT_VPID_CAP;
const eptp = (low12: number, more: readonly Need[] = []): { writes: Write[]; needs: Need[] } => ({
  writes: [secondary(X.ENABLE_EPT), set(C.EPT_POINTER, page('ept', low12))],
  needs: [...NEEDS_EPT, ...more],
});
/** EPTPs with the low 12 bits `valid` and `invalid`. */
function eptpRow(text: string, valid: number, invalid: number, needs: readonly Need[] = []): EntryRow {
  return { ...rule(`EPTP: ${text}`, eptp(0, needs).needs, eptp(valid).writes, eptp(invalid).writes) };
}

const EPTP_ROWS: readonly EntryRow[] = [
  eptpRow('memory type 0 (UC) if supported', 0x18, 0x19, [has(EPT_MSR, VMX_EPT_CAP.UC_BIT)]),
  eptpRow('memory type 0 (UC) only if supported', 0x1e, 0x18, [lacks(EPT_MSR, VMX_EPT_CAP.UC_BIT)]),
  ...[1, 2, 3, 4, 5, 7].map((type) => eptpRow(`memory type ${type} is refused`, 0x1e, 0x18 | type)),
  eptpRow('page-walk length 5 only if supported', 0x1e, 0x26, [lacks(EPT_MSR, VMX_EPT_CAP.PAGE_WALK_5_BIT)]),
  ...[1, 2, 3, 6, 7, 8].map((length) =>
    eptpRow(`page-walk length ${length} is refused`, 0x1e, 6 | ((length - 1) << 3)),
  ),
  eptpRow('accessed and dirty flags if supported', 0x5e, 0x25e, [has(EPT_MSR, VMX_EPT_CAP.AD_BIT)]),
  eptpRow('accessed and dirty flags only if supported', 0x1e, 0x5e, [lacks(EPT_MSR, VMX_EPT_CAP.AD_BIT)]),
  eptpRow('bit 7 only with supervisor shadow stacks', 0x1e, 0x9e, [lacks(EPT_MSR, VMX_EPT_CAP.SSS_BIT)]),
  ...[8, 9, 10, 11].map((bit) => eptpRow(`bit ${bit} is reserved`, 0x1e, 0x1e | (1 << bit))),
  rule(
    'EPTP: the bits beyond the physical-address width are 0',
    NEEDS_EPT,
    [set(C.EPT_POINTER, beyond('ept'))],
    [secondary(X.ENABLE_EPT), set(C.EPT_POINTER, { page: 'ept', beyond: true, plus: 0x1e })],
  ),
];

const needsEpt = (name: string, control: number, extra: readonly Write[] = []): EntryRow =>
  rule(
    `"${name}" needs EPT`,
    [...NEEDS_EPT, hasSecondary(control)],
    [...EPT, ...extra, secondary(control)],
    [...extra, secondary(control)],
  );

const EPT_USERS: readonly EntryRow[] = [
  needsEpt('unrestricted guest', X.UNRESTRICTED_GUEST),
  needsEpt('mode-based execute control for EPT', X.MODE_BASED_EPT_EXEC),
  needsEpt('enable PML', X.ENABLE_PML, [set(C.PML_ADDRESS, page('zero')), set(G.PML_INDEX, 511)]),
];

const VMFUNC = [hasSecondary(X.ENABLE_VMFUNC), lacks(VMX_MSR.IA32_VMX_VMFUNC, 2)];
const ON_VMFUNC = secondary(X.ENABLE_VMFUNC);
const VMFUNC_ROWS: readonly EntryRow[] = [
  rule(
    'VM-function controls: unsupported bits are 0',
    VMFUNC,
    [set(C.VM_FUNCTION_CONTROL, 2)],
    [ON_VMFUNC, set(C.VM_FUNCTION_CONTROL, 2)],
  ),
  rule(
    'VM-function controls: bit 63 is 0',
    VMFUNC,
    [ON_VMFUNC],
    [ON_VMFUNC, set(C.VM_FUNCTION_CONTROL, 1n << 63n)],
  ),
  rule(
    'EPTP switching needs EPT',
    [...VMFUNC, ...NEEDS_EPT, has(VMX_MSR.IA32_VMX_VMFUNC, 1)],
    [...EPT, ON_VMFUNC, set(C.VM_FUNCTION_CONTROL, 1), set(C.EPTP_LIST_ADDRESS, page('zero'))],
    [ON_VMFUNC, set(C.VM_FUNCTION_CONTROL, 1), set(C.EPTP_LIST_ADDRESS, page('zero'))],
  ),
];

const SCALING = [hasSecondary(X.TSC_SCALING), hasCpuBased(CPU_BASED.USE_TSC_OFFSETTING)];
const OFFSETTING = cpuBased(CPU_BASED.USE_TSC_OFFSETTING);
const multiplier = (value: AnyValue): readonly Write[] => [
  secondary(X.TSC_SCALING),
  set(C.TSC_MULTIPLIER, value),
];
const TSC_ROWS: readonly EntryRow[] = [
  rule(
    'the TSC multiplier is not 0',
    SCALING,
    [OFFSETTING, ...multiplier(1n << 48n)],
    [OFFSETTING, ...multiplier(0)],
  ),
  rule(
    'the TSC multiplier may be 0 without TSC scaling',
    SCALING,
    [OFFSETTING, set(C.TSC_MULTIPLIER, 0)],
    [OFFSETTING, ...multiplier(0)],
  ),
  {
    ...rule('the TSC multiplier is not 0, also without TSC offsetting', SCALING, [...multiplier(1)], []),
    invalid: {
      ...by(...multiplier(0)),
      kvm: {
        where: 'vmx_get_l2_tsc_multiplier()',
        why: "L1's multiplier is used with TSC offsetting only, and not checked",
        outcome: ENTERED,
      },
    },
  },
];

/** Secondary controls that are not activated are as if 0. */
const INACTIVE: readonly EntryRow[] = [
  rule(
    'secondary controls count only if they are activated',
    VPID,
    [secondary(X.ENABLE_VPID), clear(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS)],
    [secondary(X.ENABLE_VPID)],
  ),
];

/** Rows of this file. */
export const CONTROL_ROWS: readonly EntryRow[] = [
  ...CR3_TARGETS,
  ...PAGE_FIELDS,
  ...NMI_ROWS,
  ...VPID_ROWS,
  ...EPTP_ROWS,
  ...EPT_USERS,
  ...VMFUNC_ROWS,
  ...TSC_ROWS,
  ...INACTIVE,
];
