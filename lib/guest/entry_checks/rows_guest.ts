// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: guest registers, descriptor tables and the VMCS link pointer. SDM, "Checks on Guest Control Registers,
 * Debug Registers, and MSRs", "Checks on Guest Descriptor-Table Registers", "Checks on Guest Non-Register State".
 */
import { CR0, CR4, EFER } from '../../x86/registers.ts';
import { VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC, VM_ENTRY } from '../../x86/vmx/controls.ts';
import { ENTRY_FAIL, EXIT_REASON } from '../../x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import {
  type AnyValue,
  by,
  clear,
  ENTERED,
  entry,
  entryFailure,
  type EntryRow,
  EPT,
  has,
  hasEntry,
  hasSecondary,
  lacks,
  may0,
  type Need,
  NEEDS_EPT,
  or,
  page,
  secondary,
  set,
  type Write,
} from './row.ts';
import { CANONICAL, LONG_EFER, NOT_CANONICAL, PAT_CASES } from './rows_host.ts';

/** How invalid guest state ends. */
export const INVALID_GUEST = entryFailure(EXIT_REASON.INVALID_STATE, ENTRY_FAIL.DEFAULT);
const REGISTERS = 'Checks on Guest Control Registers, Debug Registers, and MSRs';
const TABLES = 'Checks on Guest Descriptor-Table Registers';
const STATE = 'Checks on Guest Non-Register State';

/** A row about guest state. */
export const guestRow = (
  section: string,
  rule: string,
  valid: readonly Write[],
  invalid: readonly Write[],
  needs: readonly Need[] = [],
): EntryRow => ({
  section,
  rule: `guest ${rule}`,
  needs,
  valid: by(...valid),
  invalid: by(...invalid),
  expected: INVALID_GUEST,
});

/** A row whose broken VMCS Bochs does not notice. */
const notInBochs = (row: EntryRow, why: string): EntryRow => ({
  ...row,
  invalid: { ...row.invalid!, bochs: { where: 'VMenterLoadCheckGuestState()', why } },
});

const UNRESTRICTED: readonly Write[] = [...EPT, secondary(SECONDARY_EXEC.UNRESTRICTED_GUEST)];
const NEEDS_UNRESTRICTED = [...NEEDS_EPT, hasSecondary(SECONDARY_EXEC.UNRESTRICTED_GUEST)];
const IA32E = VM_ENTRY.IA32E_MODE;
const NOT_LONG = [may0(VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, IA32E)];

const CR_ROWS: readonly EntryRow[] = [
  ...(['PE', 'NE', 'PG'] as const).map((bit) =>
    guestRow(
      REGISTERS,
      `CR0.${bit} is 1`,
      [],
      [clear(G.CR0, CR0[bit] >>> 0)],
      [has(VMX_MSR.IA32_VMX_CR0_FIXED0, CR0[bit])],
    ),
  ),
  guestRow(REGISTERS, 'CR0: bits that are not fixed are free', [or(G.CR0, CR0.TS)], [clear(G.CR0, CR0.NE)]),
  guestRow(REGISTERS, 'CR0: bits 63:32 are 0', [], [or(G.CR0, 1n << 32n)]),
  guestRow(REGISTERS, 'CR0: bit 63 is 0', [], [or(G.CR0, 1n << 63n)]),
  guestRow(
    REGISTERS,
    'CR0.NE is 1 also for unrestricted guests',
    [...UNRESTRICTED],
    [...UNRESTRICTED, clear(G.CR0, CR0.NE)],
    NEEDS_UNRESTRICTED,
  ),
  guestRow(
    REGISTERS,
    'CR0.PG needs PE',
    [...UNRESTRICTED],
    [...UNRESTRICTED, clear(G.CR0, CR0.PE)],
    NEEDS_UNRESTRICTED,
  ),
  notInBochs(
    guestRow(
      REGISTERS,
      'CR0.PG is 1 in IA-32e mode',
      [...UNRESTRICTED],
      [...UNRESTRICTED, clear(G.CR0, CR0.PG >>> 0)],
      NEEDS_UNRESTRICTED,
    ),
    'CR0.PG is not checked against "IA-32e mode guest"',
  ),
  guestRow(REGISTERS, 'CR4.VMXE is 1', [], [clear(G.CR4, CR4.VMXE)]),
  guestRow(
    REGISTERS,
    'CR4: bits that IA32_VMX_CR4_FIXED1 has may be 1',
    [or(G.CR4, CR4.DE)],
    [or(G.CR4, 1 << 30)],
    [has(VMX_MSR.IA32_VMX_CR4_FIXED1, CR4.DE), lacks(VMX_MSR.IA32_VMX_CR4_FIXED1, 1 << 30)],
  ),
  guestRow(REGISTERS, 'CR4: bit 15 is reserved', [], [or(G.CR4, 1 << 15)]),
  guestRow(REGISTERS, 'CR4: bits 63:32 are 0', [], [or(G.CR4, 1n << 32n)]),
  guestRow(REGISTERS, 'CR4.PAE is 1 in IA-32e mode', [], [clear(G.CR4, CR4.PAE)]),
  guestRow(
    REGISTERS,
    'CR4.PCIDE is 0 outside of IA-32e mode',
    [or(G.CR4, CR4.PCIDE)],
    [or(G.CR4, CR4.PCIDE), clear(C.VM_ENTRY_CONTROLS, IA32E)],
    [...NOT_LONG, has(VMX_MSR.IA32_VMX_CR4_FIXED1, CR4.PCIDE)],
  ),
  guestRow(
    REGISTERS,
    'CR3 is within the physical-address width',
    [or(G.CR3, 0x18)],
    [or(G.CR3, { beyond: true })],
  ),
  guestRow(REGISTERS, 'CR3: bit 62 is 0', [or(G.CR3, 0x8)], [or(G.CR3, 1n << 62n)]),
];

const DEBUG = entry(VM_ENTRY.LOAD_DEBUG_CONTROLS);
const NO_DEBUG = clear(C.VM_ENTRY_CONTROLS, VM_ENTRY.LOAD_DEBUG_CONTROLS);
const FREE_DEBUG = [may0(VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, VM_ENTRY.LOAD_DEBUG_CONTROLS)];
const NO_DEBUGCTL = 'IA32_DEBUGCTL is not checked';
const DEBUG_ROWS: readonly EntryRow[] = [
  ...[2, 3, 4, 5, 16].map((bit) =>
    notInBochs(
      guestRow(
        REGISTERS,
        `IA32_DEBUGCTL: bit ${bit} is reserved`,
        [DEBUG, set(G.IA32_DEBUGCTL, 1)],
        [DEBUG, set(G.IA32_DEBUGCTL, 1 << bit)],
      ),
      NO_DEBUGCTL,
    ),
  ),
  notInBochs(
    guestRow(
      REGISTERS,
      'IA32_DEBUGCTL: bit 63 is reserved',
      [DEBUG, set(G.IA32_DEBUGCTL, 2)],
      [DEBUG, set(G.IA32_DEBUGCTL, 1n << 63n)],
    ),
    NO_DEBUGCTL,
  ),
  notInBochs(
    guestRow(
      REGISTERS,
      'IA32_DEBUGCTL is not checked unless it is loaded',
      [NO_DEBUG, set(G.IA32_DEBUGCTL, 4)],
      [DEBUG, set(G.IA32_DEBUGCTL, 4)],
      FREE_DEBUG,
    ),
    NO_DEBUGCTL,
  ),
  guestRow(
    REGISTERS,
    'DR7: bits 63:32 are 0',
    [DEBUG, set(G.DR7, 0x400)],
    [DEBUG, set(G.DR7, (1n << 32n) | 0x400n)],
  ),
  guestRow(
    REGISTERS,
    'DR7: bit 63 is 0',
    [DEBUG, set(G.DR7, 0x400)],
    [DEBUG, set(G.DR7, (1n << 63n) | 0x400n)],
  ),
  guestRow(
    REGISTERS,
    'DR7 is not checked unless it is loaded',
    [NO_DEBUG, set(G.DR7, 1n << 32n)],
    [DEBUG, set(G.DR7, 1n << 32n)],
    FREE_DEBUG,
  ),
];

const HALVES = ['lower', 'upper'] as const;
/** Rows for an address that must be canonical. */
export const canonicalRows = (
  section: string,
  name: string,
  field: number,
  needs: readonly Need[] = [],
): readonly EntryRow[] =>
  HALVES.map((half, n) =>
    guestRow(
      section,
      `${name} is canonical (${half} half)`,
      [set(field, CANONICAL[n]!)],
      [set(field, NOT_CANONICAL[n]!)],
      needs,
    ),
  );

const PAT_ON = entry(VM_ENTRY.LOAD_IA32_PAT);
const NEEDS_PAT = [hasEntry(VM_ENTRY.LOAD_IA32_PAT)];
const MSR_ROWS: readonly EntryRow[] = [
  ...canonicalRows(REGISTERS, 'IA32_SYSENTER_ESP', G.SYSENTER_ESP),
  ...canonicalRows(REGISTERS, 'IA32_SYSENTER_EIP', G.SYSENTER_EIP),
  ...PAT_CASES.map(([rule, valid, invalid]) =>
    guestRow(
      REGISTERS,
      `IA32_PAT: ${rule}`,
      [PAT_ON, set(G.IA32_PAT, valid)],
      [PAT_ON, set(G.IA32_PAT, invalid)],
      NEEDS_PAT,
    ),
  ),
  guestRow(
    REGISTERS,
    'IA32_PAT is not checked unless it is loaded',
    [set(G.IA32_PAT, 3)],
    [PAT_ON, set(G.IA32_PAT, 3)],
    NEEDS_PAT,
  ),
];

const EFER_ON = entry(VM_ENTRY.LOAD_IA32_EFER);
const NEEDS_EFER = [hasEntry(VM_ENTRY.LOAD_IA32_EFER)];
const efer = (rule: string, invalid: AnyValue, valid: AnyValue = LONG_EFER): EntryRow =>
  guestRow(
    REGISTERS,
    `IA32_EFER: ${rule}`,
    [EFER_ON, set(G.IA32_EFER, valid)],
    [EFER_ON, set(G.IA32_EFER, invalid)],
    NEEDS_EFER,
  );
const EFER_ROWS: readonly EntryRow[] = [
  efer('bit 1 is reserved', LONG_EFER | 2),
  efer('bit 9 is reserved', LONG_EFER | 0x200),
  efer('bit 63 is reserved', (1n << 63n) | BigInt(LONG_EFER)),
  efer('LMA equals "IA-32e mode guest"', LONG_EFER & ~EFER.LMA, LONG_EFER & ~EFER.SCE),
  efer('LME equals LMA with paging', LONG_EFER & ~EFER.LME),
  efer('LMA and LME are not 0 in IA-32e mode', EFER.NXE),
  guestRow(
    REGISTERS,
    'IA32_EFER is not checked unless it is loaded',
    [set(G.IA32_EFER, 2)],
    [EFER_ON, set(G.IA32_EFER, 2)],
    NEEDS_EFER,
  ),
];

const LIMIT_BITS = [16, 31] as const;
const TABLE_ROWS: readonly EntryRow[] = (['GDTR', 'IDTR'] as const).flatMap((name) => [
  ...canonicalRows(TABLES, `${name} base`, G[`${name}_BASE`]),
  ...LIMIT_BITS.map((bit) =>
    guestRow(
      TABLES,
      `${name} limit: bit ${bit} is 0`,
      [set(G[`${name}_LIMIT`], 0xffff)],
      [set(G[`${name}_LIMIT`], (1 << bit) >>> 0)],
    ),
  ),
]);

const SHADOWING = [hasSecondary(SECONDARY_EXEC.SHADOW_VMCS)];
const ON_SHADOWING: readonly Write[] = [
  secondary(SECONDARY_EXEC.SHADOW_VMCS),
  set(C.VMREAD_BITMAP, page('zero')),
  set(C.VMWRITE_BITMAP, page('zero')),
];
const link = (
  rule: string,
  valid: readonly Write[],
  invalid: readonly Write[],
  needs: readonly Need[] = [],
): EntryRow => ({
  ...guestRow(STATE, `VMCS link pointer: ${rule}`, valid, invalid, needs),
  expected: entryFailure(EXIT_REASON.INVALID_STATE, ENTRY_FAIL.VMCS_LINK_PTR),
});
const pointTo = (value: AnyValue): Write => set(G.VMCS_LINK_POINTER, value);
const TO_VMCS2 = pointTo(page('vmcs2'));
const ALL_ONES = (1n << 64n) - 1n;

const LINK_ROWS: readonly EntryRow[] = [
  link('bits 11:0 are 0', [TO_VMCS2], [pointTo(page('vmcs2', 0x800))]),
  link('bit 0 is 0 also in an all-ones pointer', [pointTo(ALL_ONES)], [pointTo(ALL_ONES - 1n)]),
  link(
    'the bits beyond the physical-address width are 0',
    [TO_VMCS2],
    [pointTo({ page: 'vmcs2', beyond: true })],
  ),
  link('bit 63 is 0', [TO_VMCS2], [pointTo(page('vmcs2', 1n << 63n))]),
  link('the region has the revision identifier', [TO_VMCS2], [pointTo(page('zero'))]),
  link('no shadow VMCS without VMCS shadowing', [TO_VMCS2], [pointTo(page('shadow'))], SHADOWING),
  link(
    'a shadow VMCS with VMCS shadowing',
    [...ON_SHADOWING, pointTo(page('shadow'))],
    [...ON_SHADOWING, TO_VMCS2],
    SHADOWING,
  ),
  link(
    'all ones also with VMCS shadowing',
    [...ON_SHADOWING],
    [...ON_SHADOWING, pointTo(page('zero'))],
    SHADOWING,
  ),
  {
    ...link('not the current-VMCS pointer', [TO_VMCS2], []),
    invalid: {
      ...by(pointTo(page('vmcs'))),
      kvm: {
        where: 'nested_vmx_check_vmcs_link_ptr()',
        why: 'KVM does not compare the pointers',
        outcome: ENTERED,
      },
    },
  },
];

/** Rows of this file. */
export const GUEST_ROWS: readonly EntryRow[] = [
  ...CR_ROWS,
  ...DEBUG_ROWS,
  ...MSR_ROWS,
  ...EFER_ROWS,
  ...TABLE_ROWS,
  ...LINK_ROWS,
];
