// SPDX-License-Identifier: GPL-2.0-only
/** Checks on guest registers, MSRs, descriptor tables and the link pointer, one just-valid and one just-invalid VMCS each. */
import { describe, expect, it } from 'vitest';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC, VM_ENTRY } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { type CheckRow, type EntryOutcome, tryEntry } from './testing/rows.ts';
import { vmwrite32 } from './vmcs_access.ts';

const G = VMCS_GUEST;
const REGISTERS = 'Checks on Guest Control Registers, Debug Registers, and MSRs';
const TABLES = 'Checks on Guest Descriptor-Table Registers';
const NON_REGISTER = 'Checks on Guest Non-Register State';
const CANONICAL = 0x7fff_ffff_ffff;
const NOT_CANONICAL = 0x8000_0000_0000;

const field = (name: number, value: number) => (box: VmxBox) => box.write(name, value);
const entry =
  (set: number, clear = 0) =>
  (box: VmxBox) =>
    box.change(VMCS_CTRL.VM_ENTRY_CONTROLS, set, clear);
const both =
  (...steps: ((box: VmxBox) => unknown)[]) =>
  (box: VmxBox) =>
    steps.forEach((step) => step(box));
const link = (pa: number) => (box: VmxBox) => {
  vmwrite32(box.cpu, G.VMCS_LINK_POINTER, pa);
  vmwrite32(box.cpu, G.VMCS_LINK_POINTER + 1, 0);
};
const shadowing = (box: VmxBox) =>
  box.change(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
const BASE_CR0 = (CR0.PE | CR0.NE | CR0.WP | CR0.ET | CR0.PG) >>> 0;
const BASE_CR4 = CR4.PAE | CR4.VMXE;
const DEFAULT = 'exit 33/0';

interface GuestRow extends CheckRow {
  readonly outcome?: string;
}

// prettier-ignore
const ROWS: readonly GuestRow[] = [
  { section: REGISTERS, rule: 'CR0.NE is fixed to 1', expected: 'guest CR0: fixed bits',
    valid: field(G.CR0, BASE_CR0), invalid: field(G.CR0, BASE_CR0 - CR0.NE) },
  { section: REGISTERS, rule: 'CR0.PG is fixed to 1 without unrestricted guest', expected: 'guest CR0: fixed bits',
    valid: field(G.CR0, BASE_CR0), invalid: field(G.CR0, BASE_CR0 - 0x8000_0000) },
  { section: REGISTERS, rule: 'CR0.PG needs CR0.PE', expected: 'guest CR0: PG without PE',
    valid: (box) => box.change(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.UNRESTRICTED_GUEST),
    invalid: both((box) => box.change(VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.UNRESTRICTED_GUEST),
      field(G.CR0, BASE_CR0 - CR0.PE)) },
  { section: REGISTERS, rule: 'CR4.VMXE is fixed to 1', expected: 'guest CR4: fixed bits',
    valid: field(G.CR4, BASE_CR4 | CR4.SMAP), invalid: field(G.CR4, CR4.PAE) },
  { section: REGISTERS, rule: 'CR4.UMIP is fixed to 0 on this processor', expected: 'guest CR4: fixed bits',
    valid: field(G.CR4, BASE_CR4 | CR4.PCIDE), invalid: field(G.CR4, BASE_CR4 | CR4.UMIP) },
  { section: REGISTERS, rule: 'an IA-32e mode guest has CR4.PAE', expected: 'IA-32e mode guest: CR4.PAE',
    valid: field(G.CR4, BASE_CR4), invalid: field(G.CR4, CR4.VMXE) },
  { section: REGISTERS, rule: 'CR3 is within the physical-address width', expected: 'guest CR3: physical-address width',
    valid: field(G.CR3, 2 ** 45), invalid: field(G.CR3, 2 ** 46) },
  { section: REGISTERS, rule: 'reserved IA32_DEBUGCTL bits', expected: 'guest IA32_DEBUGCTL',
    valid: both(field(G.IA32_DEBUGCTL, 3), entry(VM_ENTRY.LOAD_DEBUG_CONTROLS)),
    invalid: both(field(G.IA32_DEBUGCTL, 4), entry(VM_ENTRY.LOAD_DEBUG_CONTROLS)) },
  { section: REGISTERS, rule: 'bits 63:32 of DR7', expected: 'guest DR7: bits 63:32',
    valid: field(G.DR7, 2 ** 32), invalid: both(field(G.DR7, 2 ** 32), entry(VM_ENTRY.LOAD_DEBUG_CONTROLS)) },
  { section: REGISTERS, rule: 'IA32_SYSENTER_ESP is canonical', expected: 'guest IA32_SYSENTER_ESP: canonical',
    valid: field(G.SYSENTER_ESP, CANONICAL), invalid: field(G.SYSENTER_ESP, NOT_CANONICAL) },
  { section: REGISTERS, rule: 'IA32_SYSENTER_EIP is canonical', expected: 'guest IA32_SYSENTER_EIP: canonical',
    valid: field(G.SYSENTER_EIP, CANONICAL), invalid: field(G.SYSENTER_EIP, NOT_CANONICAL) },
  { section: REGISTERS, rule: 'IA32_PAT holds memory types', expected: 'guest IA32_PAT',
    valid: both(field(G.IA32_PAT, 0x0606_0606), entry(VM_ENTRY.LOAD_IA32_PAT)),
    invalid: both(field(G.IA32_PAT, 0x0606_0603), entry(VM_ENTRY.LOAD_IA32_PAT)) },
  { section: REGISTERS, rule: 'reserved IA32_EFER bits', expected: 'guest IA32_EFER: reserved bits',
    valid: field(G.IA32_EFER, EFER.LME | EFER.LMA), invalid: field(G.IA32_EFER, EFER.LME | EFER.LMA | EFER.SVME) },
  { section: REGISTERS, rule: 'EFER.LMA equals the IA-32e mode control', expected: 'guest IA32_EFER: LMA against IA-32e mode guest',
    valid: field(G.IA32_EFER, EFER.LME | EFER.LMA), invalid: field(G.IA32_EFER, EFER.LME) },
  { section: REGISTERS, rule: 'EFER.LMA equals LME with paging', expected: 'guest IA32_EFER: LMA against LME',
    valid: field(G.IA32_EFER, EFER.LME | EFER.LMA), invalid: field(G.IA32_EFER, EFER.LMA) },
  { section: REGISTERS, rule: 'CR4.PCIDE needs IA-32e mode', expected: 'guest CR4.PCIDE outside of IA-32e mode',
    valid: field(G.CR4, BASE_CR4 | CR4.PCIDE),
    invalid: both(field(G.CR4, BASE_CR4 | CR4.PCIDE), entry(0, VM_ENTRY.IA32E_MODE)) },
  { section: TABLES, rule: 'the GDTR base is canonical', expected: 'guest GDTR base: canonical',
    valid: field(G.GDTR_BASE, CANONICAL), invalid: field(G.GDTR_BASE, NOT_CANONICAL) },
  { section: TABLES, rule: 'the IDTR base is canonical', expected: 'guest IDTR base: canonical',
    valid: field(G.IDTR_BASE, CANONICAL), invalid: field(G.IDTR_BASE, NOT_CANONICAL) },
  { section: TABLES, rule: 'bits 31:16 of the GDTR limit', expected: 'guest GDTR limit: bits 31:16',
    valid: field(G.GDTR_LIMIT, 0xffff), invalid: field(G.GDTR_LIMIT, 0x1_0000) },
  { section: TABLES, rule: 'bits 31:16 of the IDTR limit', expected: 'guest IDTR limit: bits 31:16',
    valid: field(G.IDTR_LIMIT, 0xffff), invalid: field(G.IDTR_LIMIT, 0x1_0000) },
  { section: NON_REGISTER, rule: 'the link pointer is 4-KByte aligned', expected: 'VMCS link pointer: address',
    outcome: 'exit 33/4', valid: link(AT.VMCS2), invalid: link(AT.VMCS2 + 0x800) },
  { section: NON_REGISTER, rule: 'the link pointer leads to the revision identifier', outcome: 'exit 33/4',
    expected: 'VMCS link pointer: revision identifier', valid: link(AT.VMCS2), invalid: link(AT.SPARE) },
  { section: NON_REGISTER, rule: 'the link pointer is within the physical-address width', outcome: 'exit 33/4',
    expected: 'VMCS link pointer: address', valid: link(AT.VMCS2),
    invalid: both(link(AT.VMCS2), (box) => { vmwrite32(box.cpu, G.VMCS_LINK_POINTER + 1, 1 << 14); }) },
  { section: NON_REGISTER, rule: 'the linked VMCS is ordinary without VMCS shadowing', outcome: 'exit 33/4',
    expected: 'VMCS link pointer: shadow-VMCS indicator', valid: link(AT.VMCS2), invalid: link(AT.SHADOW) },
  { section: NON_REGISTER, rule: 'the linked VMCS is a shadow VMCS with VMCS shadowing', outcome: 'exit 33/4',
    expected: 'VMCS link pointer: shadow-VMCS indicator', valid: both(shadowing, link(AT.SHADOW)),
    invalid: both(shadowing, link(AT.VMCS2)) },
  { section: NON_REGISTER, rule: 'the link pointer may be all ones with VMCS shadowing', outcome: 'exit 33/4',
    expected: 'VMCS link pointer: address', valid: shadowing,
    invalid: both(shadowing, (box) => { vmwrite32(box.cpu, G.VMCS_LINK_POINTER, -2); }) },
  { section: NON_REGISTER, rule: 'the link pointer is not the current-VMCS pointer', outcome: 'exit 33/4',
    expected: 'VMCS link pointer: current VMCS', valid: link(AT.VMCS2), invalid: link(AT.VMCS) },
];

describe('checks on guest registers', () => {
  const box = new VmxBox().begin();

  it.each(ROWS)('$section: $rule', ({ valid, invalid, expected, outcome = DEFAULT }) => {
    expect(tryEntry(box, valid)).toEqual({ outcome: 'entered', rule: '' });
    expect(tryEntry(box, invalid)).toEqual({ outcome, rule: expected });
  });

  it('IA32_DEBUGCTL, IA32_PAT and IA32_EFER are not checked unless they are loaded', () => {
    const free = both(
      entry(0, VM_ENTRY.LOAD_IA32_EFER),
      field(G.IA32_DEBUGCTL, 0xffff),
      field(G.IA32_PAT, 0x0303_0303),
      field(G.IA32_EFER, 2),
    );
    expect(tryEntry(box, free).outcome).toBe('entered');
  });

  it('guests that are not in 64-bit mode are refused after all other checks', () => {
    const compatibility = field(G.CS_AR_BYTES, 0xc09b);
    const legacy = both(entry(0, VM_ENTRY.IA32E_MODE | VM_ENTRY.LOAD_IA32_EFER), compatibility);
    const refused = (rule: string): EntryOutcome => ({ outcome: DEFAULT, rule });
    expect(tryEntry(box, legacy)).toEqual(refused('not modelled: guest outside of IA-32e mode'));
    expect(tryEntry(box, compatibility)).toEqual(refused('not modelled: guest in compatibility mode'));
    expect(tryEntry(box, both(legacy, link(AT.VMCS))).outcome).toBe('exit 33/4');
  });

  it('the linked VMCS is looked at in each entry', () => {
    const second = new VmxBox().begin().code([0x0f, 0x01, 0xc1]);
    link(AT.VMCS2)(second);
    second.launch();
    second.word(AT.VMCS2, 0);
    expect(second.resume()).toBe(0x8000_0021);
  });

  it('a guest check that passed is made again after a guest field is written', () => {
    const second = new VmxBox().begin().code([0x0f, 0x01, 0xc1]);
    second.launch();
    second.write(G.GDTR_BASE, NOT_CANONICAL);
    expect(second.resume()).toBe(0x8000_0021);
  });
});
