// SPDX-License-Identifier: GPL-2.0-only
/** Entry-check rows: APIC virtualization and posted interrupts. SDM, "VM-Execution Control Fields" of "Checks on VMX Controls". */
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_EXIT } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import {
  beyond,
  by,
  clear,
  cpuBased,
  type EntryRow,
  exit,
  failValid,
  hasCpuBased,
  hasExit,
  hasPin,
  hasSecondary,
  type Need,
  page,
  pin,
  poke,
  secondary,
  set,
  TPR_SHADOW,
  type Write,
} from './row.ts';
import { pageField } from './rows_controls.ts';

const section = 'VM-Execution Control Fields';
const expected = failValid(VMXERR.ENTRY_INVALID_CONTROL_FIELD);
const X = SECONDARY_EXEC;
const NO_BOCHS = { where: 'VMX_VM_EXEC_CTRL1', why: 'Bochs 2.7 has no posted interrupts' } as const;

const rule = (text: string, needs: readonly Need[], valid: Write[], invalid: Write[]): EntryRow => ({
  section,
  rule: text,
  needs,
  valid: by(...valid),
  invalid: by(...invalid),
  expected,
});

const SHADOW = [hasCpuBased(CPU_BASED.TPR_SHADOW)];
const ON = cpuBased(CPU_BASED.TPR_SHADOW);
/** TPR bits 7:4 are 3. */
const VTPR_3 = poke('data', 0x80, 0x3f);

const TPR_ROWS: readonly EntryRow[] = [
  ...pageField('virtual-APIC address', C.VIRTUAL_APIC_PAGE_ADDR, [ON], SHADOW),
  ...[4, 8, 31].map((bit) =>
    rule(
      `bit ${bit} of the TPR threshold is 0`,
      SHADOW,
      [set(C.TPR_THRESHOLD, (1 << bit) >>> 0)],
      [...TPR_SHADOW, poke('data', 0x80, 0xff), set(C.TPR_THRESHOLD, (1 << bit) >>> 0)],
    ),
  ),
  rule(
    'bits 3:0 of the TPR threshold are at most bits 7:4 of VTPR',
    SHADOW,
    [...TPR_SHADOW, VTPR_3, set(C.TPR_THRESHOLD, 3)],
    [...TPR_SHADOW, VTPR_3, set(C.TPR_THRESHOLD, 4)],
  ),
  rule(
    'the TPR threshold 0 is below every VTPR',
    SHADOW,
    [...TPR_SHADOW, set(C.TPR_THRESHOLD, 0)],
    [...TPR_SHADOW, set(C.TPR_THRESHOLD, 1)],
  ),
];

const needsShadow = (name: string, control: number, more: readonly Write[] = []): EntryRow =>
  rule(
    `"${name}" needs the TPR shadow`,
    [...SHADOW, hasSecondary(control)],
    [...TPR_SHADOW, ...more, secondary(control)],
    [...more, secondary(control)],
  );

const EXTERNAL = pin(PIN_BASED.EXT_INTR_MASK);
const SHADOW_USERS: readonly EntryRow[] = [
  needsShadow('virtualize x2APIC mode', X.VIRTUALIZE_X2APIC_MODE),
  needsShadow('APIC-register virtualization', X.APIC_REGISTER_VIRT),
  needsShadow('virtual-interrupt delivery', X.VIRTUAL_INTR_DELIVERY, [EXTERNAL]),
];

const ACCESSES = [hasSecondary(X.VIRTUALIZE_APIC_ACCESSES)];
const ACCESS_ROWS: readonly EntryRow[] = [
  rule(
    'bits 11:0 of the APIC-access address are 0',
    ACCESSES,
    [secondary(X.VIRTUALIZE_APIC_ACCESSES), set(C.APIC_ACCESS_ADDR, page('apic'))],
    [secondary(X.VIRTUALIZE_APIC_ACCESSES), set(C.APIC_ACCESS_ADDR, page('apic', 0x800))],
  ),
  rule(
    'the bits of the APIC-access address beyond the physical-address width are 0',
    ACCESSES,
    [set(C.APIC_ACCESS_ADDR, beyond('apic'))],
    [secondary(X.VIRTUALIZE_APIC_ACCESSES), set(C.APIC_ACCESS_ADDR, beyond('apic'))],
  ),
  rule(
    'x2APIC mode and APIC accesses are not virtualized together',
    [...SHADOW, ...ACCESSES, hasSecondary(X.VIRTUALIZE_X2APIC_MODE)],
    [...TPR_SHADOW, secondary(X.VIRTUALIZE_X2APIC_MODE)],
    [
      ...TPR_SHADOW,
      secondary(X.VIRTUALIZE_X2APIC_MODE | X.VIRTUALIZE_APIC_ACCESSES),
      set(C.APIC_ACCESS_ADDR, page('apic')),
    ],
  ),
  rule(
    'x2APIC mode and APIC accesses are not virtualized together (2)',
    [...SHADOW, ...ACCESSES, hasSecondary(X.VIRTUALIZE_X2APIC_MODE)],
    [...TPR_SHADOW, secondary(X.VIRTUALIZE_APIC_ACCESSES), set(C.APIC_ACCESS_ADDR, page('apic'))],
    [
      ...TPR_SHADOW,
      secondary(X.VIRTUALIZE_X2APIC_MODE | X.VIRTUALIZE_APIC_ACCESSES),
      set(C.APIC_ACCESS_ADDR, page('apic')),
    ],
  ),
];

const DELIVERY = [...SHADOW, hasSecondary(X.VIRTUAL_INTR_DELIVERY)];
const ON_DELIVERY: readonly Write[] = [...TPR_SHADOW, secondary(X.VIRTUAL_INTR_DELIVERY)];
const DELIVERY_ROWS: readonly EntryRow[] = [
  rule(
    'virtual-interrupt delivery needs external-interrupt exiting',
    DELIVERY,
    [...ON_DELIVERY, EXTERNAL],
    [...ON_DELIVERY],
  ),
  rule(
    'with virtual-interrupt delivery the TPR threshold is not checked',
    DELIVERY,
    [...ON_DELIVERY, EXTERNAL, set(C.TPR_THRESHOLD, 0xff)],
    [...TPR_SHADOW, EXTERNAL, set(C.TPR_THRESHOLD, 0xff)],
  ),
];

const POSTED = [...DELIVERY, hasPin(PIN_BASED.POSTED_INTR), hasExit(VM_EXIT.ACK_INTR_ON_EXIT)];
const ON_POSTED: readonly Write[] = [
  ...ON_DELIVERY,
  pin(PIN_BASED.POSTED_INTR | PIN_BASED.EXT_INTR_MASK),
  exit(VM_EXIT.ACK_INTR_ON_EXIT),
  set(C.POSTED_INTR_NV, 0xf2),
  set(C.POSTED_INTR_DESC_ADDR, page('apic')),
];
const posted = (text: string, valid: Write[], invalid: Write[]): EntryRow => ({
  ...rule(text, POSTED, [...ON_POSTED, ...valid], [...ON_POSTED, ...invalid]),
  valid: { ...by(...ON_POSTED, ...valid), bochs: NO_BOCHS },
  invalid: { ...by(...ON_POSTED, ...invalid), bochs: NO_BOCHS },
});
const DESC = C.POSTED_INTR_DESC_ADDR;

const POSTED_ROWS: readonly EntryRow[] = [
  posted(
    'posted interrupts need virtual-interrupt delivery',
    [],
    [clear(C.SECONDARY_VM_EXEC_CONTROL, X.VIRTUAL_INTR_DELIVERY)],
  ),
  posted(
    'posted interrupts need "acknowledge interrupt on exit"',
    [],
    [clear(C.VM_EXIT_CONTROLS, VM_EXIT.ACK_INTR_ON_EXIT)],
  ),
  posted(
    'bits 15:8 of the notification vector are 0',
    [set(C.POSTED_INTR_NV, 0xff)],
    [set(C.POSTED_INTR_NV, 0x100)],
  ),
  posted(
    'bits 5:0 of the descriptor address are 0',
    [set(DESC, page('apic', 0x40))],
    [set(DESC, page('apic', 0x20))],
  ),
  posted(
    'the bits of the descriptor address beyond the physical-address width are 0',
    [set(DESC, page('apic', 0xfc0))],
    [set(DESC, beyond('apic'))],
  ),
];

/** Rows of this file. */
export const APIC_ROWS: readonly EntryRow[] = [
  ...TPR_ROWS,
  ...SHADOW_USERS,
  ...ACCESS_ROWS,
  ...DELIVERY_ROWS,
  ...POSTED_ROWS,
];
