// SPDX-License-Identifier: GPL-2.0-only
/** Entry-check rows: event injection. SDM, "VM-Entry Control Fields" of "Checks on VMX Controls". */
import { hasErrorCode, VECTOR } from '../../x86/exceptions.ts';
import { RFLAGS } from '../../x86/registers.ts';
import { VMX_BASIC_HI, VMX_MISC, VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { CPU_BASED } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { INTR_INFO, INTR_TYPE } from '../../x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import {
  by,
  type EntryRow,
  failValid,
  has,
  hasCpuBased,
  lacks,
  type Need,
  never1,
  set,
  type Write,
} from './row.ts';

const section = 'VM-Entry Control Fields';
const expected = failValid(VMXERR.ENTRY_INVALID_CONTROL_FIELD);
const DELIVER = INTR_INFO.DELIVER_CODE_MASK;

/** Inject `info`, valid bit added, with interrupts enabled. */
export const inject = (info: number, errorCode = 0, length = 0): readonly Write[] => [
  set(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF),
  set(C.VM_ENTRY_INTR_INFO_FIELD, (info | INTR_INFO.VALID_MASK) >>> 0),
  set(C.VM_ENTRY_EXCEPTION_ERROR_CODE, errorCode),
  set(C.VM_ENTRY_INSTRUCTION_LEN, length),
];

const rule = (
  text: string,
  valid: readonly Write[],
  invalid: readonly Write[],
  needs: readonly Need[] = [],
): EntryRow => ({
  section,
  rule: `injection: ${text}`,
  needs,
  valid: by(...valid),
  invalid: by(...invalid),
  expected,
});

const {
  EXT_INTR,
  NMI_INTR,
  HARD_EXCEPTION,
  SOFT_INTR,
  PRIV_SW_EXCEPTION,
  SOFT_EXCEPTION,
  OTHER_EVENT,
  RESERVED,
} = INTR_TYPE;
/** An MTF exit cannot be made pending there. */
export const NO_OTHER_EVENTS = {
  where: 'VMenterInjectEvents()',
  why: 'Bochs 2.7 stops at an injected event of type 7',
} as const;
/** Without the monitor trap flag no MTF exit can be pending. */
export const NEEDS_MTF = hasCpuBased(CPU_BASED.MONITOR_TRAP_FLAG);
const NO_MTF = never1(VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, CPU_BASED.MONITOR_TRAP_FLAG);

const TYPES: readonly EntryRow[] = [
  rule('type 1 is reserved', inject(EXT_INTR | 0x30), inject(RESERVED | 0x30)),
  rule(
    'type 1 without the valid bit does not matter',
    [set(C.VM_ENTRY_INTR_INFO_FIELD, RESERVED | 0x30)],
    inject(RESERVED),
  ),
  rule('an NMI has vector 2', inject(NMI_INTR | 2), inject(NMI_INTR | 3)),
  rule('an NMI has not vector 0', inject(NMI_INTR | 2), inject(NMI_INTR)),
  rule(
    'a hardware exception has a vector of at most 31',
    inject(HARD_EXCEPTION | 31),
    inject(HARD_EXCEPTION | 32),
  ),
  rule('a hardware exception has not vector 255', inject(EXT_INTR | 255), inject(HARD_EXCEPTION | 255)),
  {
    ...rule('other events have vector 0', [], [], [NEEDS_MTF]),
    valid: { ...by(...inject(OTHER_EVENT)), bochs: NO_OTHER_EVENTS },
    invalid: { ...by(...inject(OTHER_EVENT | 1)), bochs: NO_OTHER_EVENTS },
  },
  {
    ...rule('other events need the monitor trap flag', [], [], [NO_MTF]),
    invalid: { ...by(...inject(OTHER_EVENT)), bochs: NO_OTHER_EVENTS },
  },
];

const RESERVED_BITS: readonly EntryRow[] = [12, 13, 16, 29, 30].map((bit) =>
  rule(`bit ${bit} is reserved`, inject(EXT_INTR | 0x30), inject(EXT_INTR | 0x30 | (1 << bit))),
);

const BASIC = VMX_MSR.IA32_VMX_BASIC;
/** The check of the error-code bit is in force. */
const STRICT: Need = { msr: BASIC, mask: BigInt(VMX_BASIC_HI.NO_HW_ERROR_CODE_CC) << 32n, want: 0n };
/** Exceptions that deliver an error code, and some that do not; CP does on processors that do not make the check. */
const VECTORS = [
  ...([
    'DE',
    'DB',
    'NMI',
    'BP',
    'OF',
    'UD',
    'NM',
    'DF',
    'TS',
    'NP',
    'SS',
    'GP',
    'PF',
    'MF',
    'AC',
    'MC',
    'XM',
  ] as const),
];
const ERROR_CODES: readonly EntryRow[] = VECTORS.map((name) => {
  const vector = VECTOR[name];
  const right = hasErrorCode(vector) ? DELIVER : 0;
  return rule(
    `${name} delivers ${right === 0 ? 'no' : 'an'} error code`,
    inject(HARD_EXCEPTION | vector | right),
    inject(HARD_EXCEPTION | vector | (DELIVER ^ right)),
    [STRICT],
  );
});

const OTHER_CODES: readonly EntryRow[] = (
  [
    ['an external interrupt', EXT_INTR | 13, 0],
    ['an NMI', NMI_INTR | 2, 0],
    ['a software interrupt', SOFT_INTR | 13, 2],
    ['a privileged software exception', PRIV_SW_EXCEPTION | 1, 1],
    ['a software exception', SOFT_EXCEPTION | 3, 1],
  ] as const
).map(([name, info, length]) =>
  rule(`${name} delivers no error code`, inject(info, 0, length), inject(info | DELIVER, 0, length), [
    STRICT,
  ]),
);

const CODE_BITS: readonly EntryRow[] = [16, 31].map((bit) =>
  rule(
    `bit ${bit} of the error code is 0`,
    inject(HARD_EXCEPTION | DELIVER | 13, 0x7fff),
    inject(HARD_EXCEPTION | DELIVER | 13, (1 << bit) >>> 0),
  ),
);
const UNUSED_CODE = rule(
  'an error code that is not delivered may have any bits',
  inject(HARD_EXCEPTION | 6, 0xffff_ffff),
  inject(HARD_EXCEPTION | DELIVER | 13, 0xffff_ffff),
);

const ZERO_LENGTH = has(VMX_MSR.IA32_VMX_MISC, VMX_MISC.ZERO_LEN_INS);
const NO_ZERO_LENGTH = lacks(VMX_MSR.IA32_VMX_MISC, VMX_MISC.ZERO_LEN_INS);
const LENGTHS: readonly EntryRow[] = (
  [
    ['a software interrupt', SOFT_INTR | 0x30],
    ['a privileged software exception', PRIV_SW_EXCEPTION | 1],
    ['a software exception', SOFT_EXCEPTION | 3],
  ] as const
).flatMap(([name, info]) => [
  rule(`${name} has a length of at most 15`, inject(info, 0, 15), inject(info, 0, 16)),
  rule(`${name} may have length 0 by IA32_VMX_MISC`, inject(info, 0, 0), inject(info, 0, 0xffff_ffff), [
    ZERO_LENGTH,
  ]),
  rule(
    `${name} must not have length 0 without IA32_VMX_MISC bit 30`,
    inject(info, 0, 1),
    inject(info, 0, 0),
    [NO_ZERO_LENGTH],
  ),
]);
const UNUSED_LENGTH = rule(
  'the length matters for software events only',
  inject(EXT_INTR | 0x30, 0, 16),
  inject(SOFT_INTR | 0x30, 0, 16),
);

/** Rows of this file. */
export const INJECT_ROWS: readonly EntryRow[] = [
  ...TYPES,
  ...RESERVED_BITS,
  ...ERROR_CODES,
  ...OTHER_CODES,
  ...CODE_BITS,
  UNUSED_CODE,
  ...LENGTHS,
  UNUSED_LENGTH,
];
