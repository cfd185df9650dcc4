// SPDX-License-Identifier: GPL-2.0-only
/** Checks on guest segment registers, one just-valid and one just-invalid VMCS per rule of SDM "Checks on Guest Segment Registers". */
import { describe, expect, it } from 'vitest';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VmxBox } from './testing/fixture.ts';
import { type CheckRow, tryEntry } from './testing/rows.ts';

const G = VMCS_GUEST;
const CANONICAL = 0x7fff_ffff_ffff;
const NOT_CANONICAL = 0x8000_0000_0000;
const UNUSABLE = 0x1_0000;
const field =
  (...pairs: [number, number][]) =>
  (box: VmxBox) => {
    for (const [name, value] of pairs) box.write(name, value);
  };
const unrestricted = (then: (box: VmxBox) => unknown) => (box: VmxBox) => {
  box.change(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.UNRESTRICTED_GUEST);
  then(box);
};
const ldtr = (ar: number): [number, number] => [G.LDTR_AR_BYTES, ar];
type Row = Omit<CheckRow, 'section'>;

// prettier-ignore
const ROWS: readonly Row[] = [
  { rule: 'TR.TI is 0', expected: 'guest TR selector: TI', valid: field([G.TR_SELECTOR, 0x28]), invalid: field([G.TR_SELECTOR, 0x2c]) },
  { rule: 'LDTR.TI is 0 if LDTR is usable', expected: 'guest LDTR selector: TI',
    valid: field([G.LDTR_SELECTOR, 4]), invalid: field([G.LDTR_SELECTOR, 4], ldtr(0x82)) },
  { rule: 'SS.RPL is CS.RPL', expected: 'guest SS selector: RPL is not that of CS',
    valid: unrestricted(field([G.CS_SELECTOR, 0x09])), invalid: field([G.CS_SELECTOR, 0x09]) },
  { rule: 'the TR base is canonical', expected: 'guest TR base: canonical',
    valid: field([G.TR_BASE, CANONICAL]), invalid: field([G.TR_BASE, NOT_CANONICAL]) },
  { rule: 'the FS base is canonical', expected: 'guest FS base: canonical',
    valid: field([G.FS_BASE, CANONICAL]), invalid: field([G.FS_BASE, NOT_CANONICAL]) },
  { rule: 'the GS base is canonical, usable or not', expected: 'guest GS base: canonical',
    valid: field([G.GS_BASE, CANONICAL]), invalid: field([G.GS_BASE, NOT_CANONICAL], [G.GS_AR_BYTES, UNUSABLE]) },
  { rule: 'the LDTR base is canonical if LDTR is usable', expected: 'guest LDTR base: canonical',
    valid: field([G.LDTR_BASE, NOT_CANONICAL]), invalid: field([G.LDTR_BASE, NOT_CANONICAL], ldtr(0x82)) },
  { rule: 'bits 63:32 of the CS base are 0', expected: 'guest CS base: bits 63:32',
    valid: field([G.CS_BASE, 0xffff_ffff]), invalid: field([G.CS_BASE, 2 ** 32]) },
  { rule: 'bits 63:32 of the DS base are 0 if DS is usable', expected: 'guest DS base: bits 63:32',
    valid: field([G.DS_BASE, 2 ** 32], [G.DS_AR_BYTES, UNUSABLE]), invalid: field([G.DS_BASE, 2 ** 32]) },
  { rule: 'CS is an accessed code segment', expected: 'guest CS access rights: type',
    valid: field([G.CS_AR_BYTES, 0xa099]), invalid: field([G.CS_AR_BYTES, 0xa098]) },
  { rule: 'CS of type 3 needs unrestricted guest', expected: 'guest CS access rights: type',
    valid: unrestricted(field([G.CS_AR_BYTES, 0xa093])), invalid: field([G.CS_AR_BYTES, 0xa093]) },
  { rule: 'CS of type 3 has DPL 0', expected: 'guest CS access rights: DPL',
    valid: unrestricted(field([G.CS_AR_BYTES, 0xa093])), invalid: unrestricted(field([G.CS_AR_BYTES, 0xa0b3])) },
  { rule: 'CS has S set', expected: 'guest CS access rights: S',
    valid: field([G.CS_AR_BYTES, 0xa09b]), invalid: field([G.CS_AR_BYTES, 0xa08b]) },
  { rule: 'DPL of nonconforming CS is that of SS', expected: 'guest CS access rights: DPL',
    valid: field([G.CS_AR_BYTES, 0xa09b]), invalid: field([G.CS_AR_BYTES, 0xa0bb]) },
  { rule: 'DPL of conforming CS is at most that of SS', expected: 'guest CS access rights: DPL',
    valid: field([G.CS_AR_BYTES, 0xa09f]), invalid: field([G.CS_AR_BYTES, 0xa0bf]) },
  { rule: 'CS.L excludes CS.D/B', expected: 'guest CS access rights: D/B',
    valid: field([G.CS_AR_BYTES, 0xa09b]), invalid: field([G.CS_AR_BYTES, 0xe09b]) },
  { rule: 'CS is present', expected: 'guest CS access rights: P',
    valid: field([G.CS_AR_BYTES, 0xa09b]), invalid: field([G.CS_AR_BYTES, 0xa01b]) },
  { rule: 'reserved bits of CS', expected: 'guest CS access rights: reserved bits',
    valid: field([G.CS_AR_BYTES, 0xb09b]), invalid: field([G.CS_AR_BYTES, 0xa19b]) },
  { rule: 'G needs limit bits 11:0 set', expected: 'guest CS access rights: G',
    valid: field([G.CS_LIMIT, 0xfff]), invalid: field([G.CS_LIMIT, 0xffe]) },
  { rule: 'limit bits 31:20 need G', expected: 'guest DS access rights: G',
    valid: field([G.DS_LIMIT, 0xf_ffff], [G.DS_AR_BYTES, 0x4093]), invalid: field([G.DS_LIMIT, 0x10_0fff], [G.DS_AR_BYTES, 0x4093]) },
  { rule: 'SS.DPL is SS.RPL', expected: 'guest SS access rights: DPL',
    valid: field([G.SS_SELECTOR, 0x13], [G.CS_SELECTOR, 0x0b], [G.SS_AR_BYTES, 0xc0f3], [G.CS_AR_BYTES, 0xa0fb]),
    invalid: field([G.SS_SELECTOR, 0x13], [G.CS_SELECTOR, 0x0b]) },
  { rule: 'SS.DPL is 0 with CS of type 3', expected: 'guest SS access rights: DPL',
    valid: unrestricted(field([G.CS_AR_BYTES, 0xa093])),
    invalid: unrestricted(field([G.CS_AR_BYTES, 0xa093], [G.SS_AR_BYTES, 0xc0f3])) },
  { rule: 'SS is writable data', expected: 'guest SS access rights: type',
    valid: field([G.SS_AR_BYTES, 0xc097]), invalid: field([G.SS_AR_BYTES, 0xc091]) },
  { rule: 'an unusable SS has no type', expected: 'guest SS access rights: type',
    valid: field([G.SS_AR_BYTES, UNUSABLE]), invalid: field([G.SS_AR_BYTES, 0xc090]) },
  { rule: 'SS has S set', expected: 'guest SS access rights: S',
    valid: field([G.SS_AR_BYTES, 0xc093]), invalid: field([G.SS_AR_BYTES, 0xc083]) },
  { rule: 'SS is present', expected: 'guest SS access rights: P',
    valid: field([G.SS_AR_BYTES, 0xc093]), invalid: field([G.SS_AR_BYTES, 0xc013]) },
  { rule: 'DS is accessed', expected: 'guest DS access rights: type',
    valid: field([G.DS_AR_BYTES, 0xc091]), invalid: field([G.DS_AR_BYTES, 0xc090]) },
  { rule: 'a code segment in ES is readable', expected: 'guest ES access rights: type',
    valid: field([G.ES_AR_BYTES, 0xc09b]), invalid: field([G.ES_AR_BYTES, 0xc099]) },
  { rule: 'FS has S set', expected: 'guest FS access rights: S',
    valid: field([G.FS_AR_BYTES, 0xc093]), invalid: field([G.FS_AR_BYTES, 0xc083]) },
  { rule: 'DPL of GS is at least its RPL', expected: 'guest GS access rights: DPL',
    valid: field([G.GS_SELECTOR, 0x13], [G.GS_AR_BYTES, 0xc0f3]), invalid: field([G.GS_SELECTOR, 0x13]) },
  { rule: 'DPL of a conforming code segment in ES does not matter', expected: 'guest ES access rights: DPL',
    valid: field([G.ES_SELECTOR, 0x0b], [G.ES_AR_BYTES, 0xc09f]), invalid: field([G.ES_SELECTOR, 0x0b], [G.ES_AR_BYTES, 0xc09b]) },
  { rule: 'an unusable DS has no rights', expected: 'guest DS access rights: P',
    valid: field([G.DS_AR_BYTES, UNUSABLE]), invalid: field([G.DS_AR_BYTES, 0xc013]) },
  { rule: 'TR is a busy 64-bit TSS', expected: 'guest TR access rights: type',
    valid: field([G.TR_AR_BYTES, 0x8b]), invalid: field([G.TR_AR_BYTES, 0x89]) },
  { rule: 'TR is a system segment', expected: 'guest TR access rights: S',
    valid: field([G.TR_AR_BYTES, 0x8b]), invalid: field([G.TR_AR_BYTES, 0x9b]) },
  { rule: 'TR is usable', expected: 'guest TR access rights: unusable',
    valid: field([G.TR_AR_BYTES, 0x8b]), invalid: field([G.TR_AR_BYTES, 0x1_008b]) },
  { rule: 'TR is present', expected: 'guest TR access rights: P',
    valid: field([G.TR_AR_BYTES, 0x8b]), invalid: field([G.TR_AR_BYTES, 0x0b]) },
  { rule: 'a usable LDTR is an LDT', expected: 'guest LDTR access rights: type', valid: field(ldtr(0x82)), invalid: field(ldtr(0x83)) },
  { rule: 'a usable LDTR is a system segment', expected: 'guest LDTR access rights: S', valid: field(ldtr(0x82)), invalid: field(ldtr(0x92)) },
  { rule: 'a usable LDTR is present', expected: 'guest LDTR access rights: P', valid: field(ldtr(0x82)), invalid: field(ldtr(0x02)) },
];

describe('checks on guest segment registers', () => {
  const box = new VmxBox().begin();

  it.each(ROWS)('$rule', ({ valid, invalid, expected }) => {
    expect(tryEntry(box, valid)).toEqual({ outcome: 'entered', rule: '' });
    expect(tryEntry(box, invalid)).toEqual({ outcome: 'exit 33/0', rule: expected });
  });
});
