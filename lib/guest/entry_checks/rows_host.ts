// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: host state. SDM, "Checks on Host Control Registers, MSRs, and SSP", "Checks on Host Segment and
 * Descriptor-Table Registers", "Checks Related to Address-Space Size". L1 is in 64-bit mode, and valid values are such
 * that it goes on with them until the next VM exit.
 */
import { CR0, CR4, EFER } from '../../x86/registers.ts';
import { VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { VM_EXIT } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_HOST as H } from '../../x86/vmx/vmcs_host.ts';
import {
  by,
  clear,
  type EntryRow,
  exit,
  failValid,
  has,
  hasExit,
  lacks,
  late,
  may0,
  type Need,
  or,
  set,
  type Write,
} from './row.ts';

const expected = failValid(VMXERR.ENTRY_INVALID_HOST_STATE_FIELD);
const REGISTERS = 'Checks on Host Control Registers, MSRs, and SSP';
const SEGMENTS = 'Checks on Host Segment and Descriptor-Table Registers';
const SIZE = 'Checks Related to Address-Space Size';

const row = (
  section: string,
  rule: string,
  valid: readonly Write[],
  invalid: readonly Write[],
  needs: readonly Need[] = [],
): EntryRow => ({
  section,
  rule: `host ${rule}`,
  needs,
  valid: by(...valid),
  invalid: by(...invalid),
  expected,
});

/** The ends of the two halves of 48-bit canonical addresses, and their neighbours. */
export const CANONICAL = [0x7fff_ffff_ffffn, 0xffff_8000_0000_0000n] as const;
export const NOT_CANONICAL = [0x8000_0000_0000n, 0xffff_7fff_ffff_ffffn] as const;

const HALVES = ['lower', 'upper'] as const;
const canonical = (section: string, name: string, field: number): readonly EntryRow[] =>
  HALVES.map((half, n) =>
    row(
      section,
      `${name} is canonical (${half} half)`,
      [set(field, CANONICAL[n]!)],
      [set(field, NOT_CANONICAL[n]!)],
    ),
  );

const CR0_FIXED: readonly EntryRow[] = (['PE', 'NE', 'PG'] as const).map((bit) =>
  row(
    REGISTERS,
    `CR0.${bit} is 1`,
    [],
    [clear(H.CR0, CR0[bit] >>> 0)],
    [has(VMX_MSR.IA32_VMX_CR0_FIXED0, CR0[bit])],
  ),
);
const CR_ROWS: readonly EntryRow[] = [
  ...CR0_FIXED,
  row(REGISTERS, 'CR0: bits that are not fixed are free', [or(H.CR0, CR0.MP)], [clear(H.CR0, CR0.NE)]),
  row(REGISTERS, 'CR0: bits 63:32 are 0', [], [or(H.CR0, 1n << 32n)]),
  row(REGISTERS, 'CR0: bit 63 is 0', [], [or(H.CR0, 1n << 63n)]),
  row(REGISTERS, 'CR4.VMXE is 1', [], [clear(H.CR4, CR4.VMXE)]),
  row(
    REGISTERS,
    'CR4: bits that IA32_VMX_CR4_FIXED1 has may be 1',
    [or(H.CR4, CR4.DE)],
    [or(H.CR4, 1 << 30)],
    [has(VMX_MSR.IA32_VMX_CR4_FIXED1, CR4.DE), lacks(VMX_MSR.IA32_VMX_CR4_FIXED1, 1 << 30)],
  ),
  row(REGISTERS, 'CR4: bit 15 is reserved', [], [or(H.CR4, 1 << 15)]),
  row(REGISTERS, 'CR4: bits 63:32 are 0', [], [or(H.CR4, 1n << 32n)]),
  row(REGISTERS, 'CR4: bit 63 is 0', [], [or(H.CR4, 1n << 63n)]),
  row(
    REGISTERS,
    'CR3 is within the physical-address width',
    [or(H.CR3, 0x18)],
    [or(H.CR3, { beyond: true })],
  ),
  row(REGISTERS, 'CR3: bit 62 is 0', [or(H.CR3, 0x8)], [or(H.CR3, 1n << 62n)]),
];

const PAT_ON = exit(VM_EXIT.LOAD_IA32_PAT);
const NEEDS_PAT = [hasExit(VM_EXIT.LOAD_IA32_PAT)];
const pat = (rule: string, valid: bigint, invalid: bigint): EntryRow =>
  row(
    REGISTERS,
    `IA32_PAT: ${rule}`,
    [PAT_ON, set(H.IA32_PAT, valid)],
    [PAT_ON, set(H.IA32_PAT, invalid)],
    NEEDS_PAT,
  );

/** Values of IA32_PAT: what is valid in one entry beside types that are, and what is not. For host and guest. */
export const PAT_CASES: readonly (readonly [rule: string, valid: bigint, invalid: bigint])[] = [
  ['memory types 0, 1, 4 and 5 exist, 2 does not', 0x0504_0100_0006_0606n, 0x0504_0200_0006_0606n],
  ['memory types 6 and 7 exist, 3 does not', 0x0606_0606_0706_0606n, 0x0606_0606_0306_0606n],
  ['8 is no memory type', 0x0606_0606_0606_0607n, 0x0606_0606_0606_0608n],
  ['bit 63 is 0', 0x0706_0606_0606_0606n, 0x8706_0606_0606_0606n],
];

const MSR_ROWS: readonly EntryRow[] = [
  ...canonical(REGISTERS, 'IA32_SYSENTER_ESP', H.IA32_SYSENTER_ESP),
  ...canonical(REGISTERS, 'IA32_SYSENTER_EIP', H.IA32_SYSENTER_EIP),
  ...PAT_CASES.map((values) => pat(...values)),
  row(
    REGISTERS,
    'IA32_PAT is not checked unless it is loaded',
    [set(H.IA32_PAT, 3)],
    [PAT_ON, set(H.IA32_PAT, 3)],
    NEEDS_PAT,
  ),
];

/** 64-bit mode, NX and SYSCALL. */
export const LONG_EFER = EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE;
const EFER_ON = exit(VM_EXIT.LOAD_IA32_EFER);
const NEEDS_EFER = [hasExit(VM_EXIT.LOAD_IA32_EFER)];
const efer = (rule: string, invalid: number | bigint, valid: number = LONG_EFER): EntryRow =>
  row(
    REGISTERS,
    `IA32_EFER: ${rule}`,
    [EFER_ON, set(H.IA32_EFER, valid)],
    [EFER_ON, set(H.IA32_EFER, invalid)],
    NEEDS_EFER,
  );

const EFER_ROWS: readonly EntryRow[] = [
  efer('bit 1 is reserved', LONG_EFER | 2),
  efer('bit 9 is reserved', LONG_EFER | 0x200),
  efer('bit 16 is reserved', LONG_EFER | 0x1_0000),
  efer('bit 63 is reserved', (1n << 63n) | BigInt(LONG_EFER)),
  efer('SCE is free, LMA is 1', LONG_EFER & ~EFER.LMA, LONG_EFER & ~EFER.SCE),
  efer('LME is 1', LONG_EFER & ~EFER.LME),
  efer('LMA and LME are 1', EFER.NXE),
  row(
    REGISTERS,
    'IA32_EFER is not checked unless it is loaded',
    [set(H.IA32_EFER, 2)],
    [EFER_ON, set(H.IA32_EFER, 2)],
    NEEDS_EFER,
  ),
];

const SELECTORS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'TR'] as const;
const mayBeNull = (name: string): boolean => name !== 'CS' && name !== 'TR';
const SELECTOR_ROWS: readonly EntryRow[] = [
  ...SELECTORS.flatMap((name) => {
    const field = H[`${name}_SELECTOR`];
    const valid = mayBeNull(name) ? [set(field, 0)] : [];
    return [
      row(SEGMENTS, `${name} selector: RPL is 0`, valid, [or(field, 1)]),
      row(SEGMENTS, `${name} selector: RPL bit 1 is 0`, valid, [or(field, 2)]),
      row(SEGMENTS, `${name} selector: TI is 0`, valid, [or(field, 4)]),
    ];
  }),
  row(SEGMENTS, 'CS selector is not 0000H', [], [set(H.CS_SELECTOR, 0)]),
  row(SEGMENTS, 'TR selector is not 0000H', [], [set(H.TR_SELECTOR, 0)]),
];

const BASE_ROWS: readonly EntryRow[] = [
  ...canonical(SEGMENTS, 'FS base', H.FS_BASE),
  ...canonical(SEGMENTS, 'GS base', H.GS_BASE),
  ...canonical(SEGMENTS, 'GDTR base', H.GDTR_BASE),
  ...canonical(SEGMENTS, 'IDTR base', H.IDTR_BASE),
  ...canonical(SEGMENTS, 'TR base', H.TR_BASE),
];

const SIZE_ROWS: readonly EntryRow[] = [
  row(
    SIZE,
    'address-space size is 1 in IA-32e mode',
    [],
    [clear(C.VM_EXIT_CONTROLS, VM_EXIT.HOST_ADDR_SPACE_SIZE)],
    [may0(VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, VM_EXIT.HOST_ADDR_SPACE_SIZE)],
  ),
  row(SIZE, 'CR4.PAE is 1', [], [clear(H.CR4, CR4.PAE)]),
  row(SIZE, 'RIP is canonical (lower half)', [], [late(H.RIP, NOT_CANONICAL[0])]),
  row(SIZE, 'RIP is canonical (upper half)', [], [late(H.RIP, NOT_CANONICAL[1])]),
];

/** Rows of this file. */
export const HOST_ROWS: readonly EntryRow[] = [
  ...CR_ROWS,
  ...MSR_ROWS,
  ...EFER_ROWS,
  ...SELECTOR_ROWS,
  ...BASE_ROWS,
  ...SIZE_ROWS,
];
