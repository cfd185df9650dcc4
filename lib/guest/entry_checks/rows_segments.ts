// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: guest segment registers. SDM, "Checks on Guest Segment Registers". L2 is in 64-bit mode, so the rules for
 * virtual-8086 mode are left out. SS is tried at CPL 3, where Bochs looks at it.
 */
import { SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { VMX_AR } from '../../x86/vmx/guest_state.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import {
  ENTERED,
  type EntryRow,
  EPT,
  hasSecondary,
  type Need,
  NEEDS_EPT,
  or,
  secondary,
  set,
  type Write,
} from './row.ts';
import { canonicalRows, guestRow } from './rows_guest.ts';

const SECTION = 'Checks on Guest Segment Registers';
const row = (
  rule: string,
  valid: readonly Write[],
  invalid: readonly Write[],
  needs: readonly Need[] = [],
): EntryRow => guestRow(SECTION, rule, valid, invalid, needs);

const CODE = 0xa09b;
const DATA = 0xc093;
const LDT = 0x0082;
const TSS = 0x008b;
const DPL3 = 3 << 5;
const { UNUSABLE_MASK, P_MASK, S_MASK, G_MASK, DB_MASK } = VMX_AR;

const DATA_SEGMENTS = ['ES', 'DS', 'FS', 'GS'] as const;
type Segment = 'ES' | 'CS' | 'SS' | 'DS' | 'FS' | 'GS' | 'LDTR' | 'TR';

/** L2 at CPL 3. */
const USER: readonly Write[] = [
  or(G.CS_SELECTOR, 3),
  or(G.SS_SELECTOR, 3),
  set(G.CS_AR_BYTES, CODE | DPL3),
  set(G.SS_AR_BYTES, DATA | DPL3),
];
/** A register in use, with access rights that are right; beside the writes, those rights. */
function usable(name: Segment): { writes: readonly Write[]; ar: number } {
  switch (name) {
    case 'CS':
      return { writes: [set(G.CS_AR_BYTES, CODE)], ar: CODE };
    case 'SS':
      return { writes: USER, ar: DATA | DPL3 };
    case 'LDTR':
      return {
        writes: [set(G.LDTR_SELECTOR, 0x18), set(G.LDTR_LIMIT, 0xffff), set(G.LDTR_AR_BYTES, LDT)],
        ar: LDT,
      };
    case 'TR':
      return { writes: [set(G.TR_AR_BYTES, TSS)], ar: TSS };
    default:
      return { writes: [set(G[`${name}_SELECTOR`], 0x10), set(G[`${name}_AR_BYTES`], DATA)], ar: DATA };
  }
}

/** As some processors do, KVM keeps only the bits of access rights that have a meaning. */
const droppedByKvm = (one: EntryRow): EntryRow => ({
  ...one,
  invalid: {
    ...one.invalid!,
    kvm: { where: 'handle_vmwrite()', why: 'VMWRITE drops reserved bits of access rights', outcome: ENTERED },
  },
});

const isSystem = (name: Segment): boolean => name === 'LDTR' || name === 'TR';

/** Present, S, reserved bits and granularity: the same rules for every register in use. */
function commonRows(name: Segment): readonly EntryRow[] {
  const { writes, ar } = usable(name);
  const arField = G[`${name}_AR_BYTES`];
  const limit = (value: number, rights: number): readonly Write[] => [
    set(G[`${name}_LIMIT`], value),
    set(arField, rights >>> 0),
  ];
  const rights = (rule: string, bad: number): EntryRow =>
    row(`${name} access rights: ${rule}`, writes, [...writes, set(arField, bad >>> 0)]);
  const coarse = ar | G_MASK;
  const fine = ar & ~G_MASK;
  return [
    rights(isSystem(name) ? 'S is 0' : 'S is 1', ar ^ S_MASK),
    rights('P is 1', ar & ~P_MASK),
    ...[8, 11, 17, 31].map((bit) => droppedByKvm(rights(`bit ${bit} is reserved`, ar | (1 << bit)))),
    row(
      `${name}: limit bits 31:20 need G`,
      [...writes, ...limit(0xf_ffff, fine)],
      [...writes, ...limit(0x10_0000, fine)],
    ),
    row(
      `${name}: G needs limit bits 11:0 to be ones`,
      [...writes, ...limit(0xfff, coarse)],
      [...writes, ...limit(0xffe, coarse)],
    ),
  ];
}

const SELECTOR_ROWS: readonly EntryRow[] = [
  row('TR selector: TI is 0', [], [or(G.TR_SELECTOR, 4)]),
  row(
    'LDTR selector: TI is 0 if it is in use',
    [set(G.LDTR_SELECTOR, 0x1c)],
    [...usable('LDTR').writes, set(G.LDTR_SELECTOR, 0x1c)],
  ),
  row('SS selector: RPL equals that of CS', USER, [...USER, set(G.SS_SELECTOR, 0x10)]),
  row('CS selector: RPL equals that of SS', [], [or(G.CS_SELECTOR, 3)]),
];

const BASE_ROWS: readonly EntryRow[] = [
  ...canonicalRows(SECTION, 'TR base', G.TR_BASE),
  ...canonicalRows(SECTION, 'FS base', G.FS_BASE),
  ...canonicalRows(SECTION, 'GS base', G.GS_BASE),
  row(
    'LDTR base is canonical if it is in use',
    [set(G.LDTR_BASE, 1n << 47n)],
    [...usable('LDTR').writes, set(G.LDTR_BASE, 1n << 47n)],
  ),
  row('CS base: bits 63:32 are 0', [set(G.CS_BASE, 0)], [set(G.CS_BASE, 1n << 32n)]),
  row(
    'SS base: bits 63:32 are 0 if it is in use',
    [...USER, set(G.SS_BASE, 0xffff_ffff)],
    [...USER, set(G.SS_BASE, 1n << 32n)],
  ),
  ...(['DS', 'ES'] as const).map((name) =>
    row(
      `${name} base: bits 63:32 are 0 if it is in use`,
      [set(G[`${name}_AR_BYTES`], UNUSABLE_MASK), set(G[`${name}_BASE`], 1n << 32n)],
      [...usable(name).writes, set(G[`${name}_BASE`], 1n << 32n)],
    ),
  ),
];

const cs = (rule: string, bad: number, good: number = CODE): EntryRow =>
  row(`CS access rights: ${rule}`, [set(G.CS_AR_BYTES, good)], [set(G.CS_AR_BYTES, bad >>> 0)]);
const typed = (ar: number, type: number): number => (ar & ~0xf) | type;
const UNRESTRICTED: readonly Write[] = [...EPT, secondary(SECONDARY_EXEC.UNRESTRICTED_GUEST)];
const NEEDS_UNRESTRICTED = [...NEEDS_EPT, hasSecondary(SECONDARY_EXEC.UNRESTRICTED_GUEST)];

const CS_ROWS: readonly EntryRow[] = [
  cs('type 9 exists, 8 is not accessed', typed(CODE, 8), typed(CODE, 9)),
  cs('type 11 exists, 10 is not accessed', typed(CODE, 10)),
  cs('type 13 exists, 12 is not accessed', typed(CODE, 12), typed(CODE, 13)),
  cs('type 15 exists, 14 is not accessed', typed(CODE, 14), typed(CODE, 15)),
  cs('type 3 needs an unrestricted guest', typed(CODE, 3)),
  cs('type 1 does not exist', typed(CODE, 1)),
  row(
    'CS access rights: type 3 needs DPL 0',
    [...UNRESTRICTED],
    [...UNRESTRICTED, set(G.CS_AR_BYTES, typed(CODE, 3) | DPL3)],
    NEEDS_UNRESTRICTED,
  ),
  cs('DPL equals SS.DPL if non-conforming', CODE | DPL3),
  row('CS access rights: DPL equals SS.DPL if non-conforming (CPL 3)', USER, [
    ...USER,
    set(G.CS_AR_BYTES, CODE),
  ]),
  row(
    'CS access rights: DPL is at most SS.DPL if conforming',
    [...USER, set(G.CS_AR_BYTES, typed(CODE, 15))],
    [set(G.CS_AR_BYTES, typed(CODE, 15) | DPL3)],
  ),
  cs('D/B is 0 with L', CODE | DB_MASK),
  cs('CS cannot be unusable: P is 1', UNUSABLE_MASK),
];

const ss = (rule: string, bad: number, good: number = DATA | DPL3): EntryRow =>
  row(`SS access rights: ${rule}`, [...USER, set(G.SS_AR_BYTES, good)], [...USER, set(G.SS_AR_BYTES, bad)]);
const SS_ROWS: readonly EntryRow[] = [
  ...[0, 1, 2, 5].map((type) => ss(`type ${type} is not accessed or not writable`, typed(DATA | DPL3, type))),
  ss('type 7 exists, a code segment does not do', typed(DATA | DPL3, 11), typed(DATA | DPL3, 7)),
  ss('DPL equals RPL', DATA),
  ss('DPL equals RPL also if it is not in use', UNUSABLE_MASK, UNUSABLE_MASK | DPL3),
];

const DATA_ROWS: readonly EntryRow[] = DATA_SEGMENTS.flatMap((name) => {
  const { writes } = usable(name);
  const data = (rule: string, bad: readonly Write[], good: number = DATA): EntryRow =>
    row(`${name} ${rule}`, [...writes, set(G[`${name}_AR_BYTES`], good)], [...writes, ...bad]);
  const ar = (value: number): readonly Write[] => [set(G[`${name}_AR_BYTES`], value)];
  return [
    data('access rights: type is accessed', ar(typed(DATA, 2)), typed(DATA, 1)),
    data('access rights: type of a code segment is readable', ar(typed(DATA, 9)), typed(DATA, 11)),
    data('access rights: DPL is at least RPL', [set(G[`${name}_SELECTOR`], 0x13)]),
    row(
      `${name}: what is not in use is not checked`,
      [set(G[`${name}_AR_BYTES`], UNUSABLE_MASK | 0xf00)],
      [...writes, ...ar(0)],
    ),
  ];
});

const TR_ROWS: readonly EntryRow[] = [
  ...[1, 2, 3, 9].map((type) =>
    row(
      `TR access rights: type is 11 in IA-32e mode, not ${type}`,
      [],
      [set(G.TR_AR_BYTES, typed(TSS, type))],
    ),
  ),
  row('TR access rights: TR is in use', [], [set(G.TR_AR_BYTES, TSS | UNUSABLE_MASK)]),
];
const LDTR_ROWS: readonly EntryRow[] = [
  ...[0, 3, 11].map((type) =>
    row(`LDTR access rights: type is 2, not ${type}`, usable('LDTR').writes, [
      ...usable('LDTR').writes,
      set(G.LDTR_AR_BYTES, typed(LDT, type)),
    ]),
  ),
];

/** Rows of this file. */
export const SEGMENT_ROWS: readonly EntryRow[] = [
  ...SELECTOR_ROWS,
  ...BASE_ROWS,
  ...CS_ROWS,
  ...SS_ROWS,
  ...DATA_ROWS,
  ...TR_ROWS,
  ...LDTR_ROWS,
  ...(['CS', 'SS', ...DATA_SEGMENTS, 'TR', 'LDTR'] as const).flatMap(commonRows),
];
