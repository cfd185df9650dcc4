// SPDX-License-Identifier: GPL-2.0-only
/** Checks on the host-state area, one just-valid and one just-invalid VMCS per rule. */
import { describe, expect, it } from 'vitest';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { type CheckRow, tryEntry } from './testing/rows.ts';

const H = VMCS_HOST;
const REGISTERS = 'Checks on Host Control Registers, MSRs, and SSP';
const SEGMENTS = 'Checks on Host Segment and Descriptor-Table Registers';
const SIZE = 'Checks Related to Address-Space Size';
/** The highest address of the lower canonical half, and the first that is not canonical. */
const CANONICAL = 0x7fff_ffff_ffff;
const NOT_CANONICAL = 0x8000_0000_0000;

const field = (name: number, value: number) => (box: VmxBox) => box.write(name, value);
const exit =
  (set: number, clear = 0) =>
  (box: VmxBox) =>
    box.change(VMCS_CTRL.VM_EXIT_CONTROLS, set, clear);
const both =
  (...steps: ((box: VmxBox) => unknown)[]) =>
  (box: VmxBox) =>
    steps.forEach((step) => step(box));
const pat = (lo: number) => (box: VmxBox) =>
  box.change(VMCS_CTRL.VM_EXIT_CONTROLS, VM_EXIT.LOAD_IA32_PAT).write(H.IA32_PAT, lo);
const HOST_CR0 = CR0.PE | CR0.NE | CR0.WP | CR0.ET;
const HOST_CR4 = CR4.PAE | CR4.VMXE;

// prettier-ignore
const ROWS: readonly CheckRow[] = [
  { section: REGISTERS, rule: 'CR0.NE is fixed to 1', expected: 'host CR0: fixed bits',
    valid: field(H.CR0, (HOST_CR0 | CR0.PG) >>> 0), invalid: field(H.CR0, ((HOST_CR0 & ~CR0.NE) | CR0.PG) >>> 0) },
  { section: REGISTERS, rule: 'bits 63:32 of CR0 are fixed to 0', expected: 'host CR0: fixed bits',
    valid: field(H.CR0, (HOST_CR0 | CR0.PG) >>> 0), invalid: field(H.CR0, 2 ** 32 + ((HOST_CR0 | CR0.PG) >>> 0)) },
  { section: REGISTERS, rule: 'CR4.VMXE is fixed to 1', expected: 'host CR4: fixed bits',
    valid: field(H.CR4, HOST_CR4), invalid: field(H.CR4, CR4.PAE) },
  { section: REGISTERS, rule: 'CR4.LA57 is fixed to 0 on this processor', expected: 'host CR4: fixed bits',
    valid: field(H.CR4, HOST_CR4 | CR4.SMEP), invalid: field(H.CR4, HOST_CR4 | CR4.LA57) },
  { section: REGISTERS, rule: 'CR3 is within the physical-address width', expected: 'host CR3: physical-address width',
    valid: field(H.CR3, 2 ** 45 + AT.PML4), invalid: field(H.CR3, 2 ** 46 + AT.PML4) },
  { section: REGISTERS, rule: 'IA32_SYSENTER_ESP is canonical', expected: 'host IA32_SYSENTER_ESP: canonical',
    valid: field(H.IA32_SYSENTER_ESP, CANONICAL), invalid: field(H.IA32_SYSENTER_ESP, NOT_CANONICAL) },
  { section: REGISTERS, rule: 'IA32_SYSENTER_EIP is canonical', expected: 'host IA32_SYSENTER_EIP: canonical',
    valid: field(H.IA32_SYSENTER_EIP, CANONICAL), invalid: field(H.IA32_SYSENTER_EIP, NOT_CANONICAL) },
  { section: REGISTERS, rule: 'memory type 2 is reserved in IA32_PAT', expected: 'host IA32_PAT',
    valid: pat(0x0706_0504), invalid: pat(0x0702_0504) },
  { section: REGISTERS, rule: 'a PAT byte is below 8', expected: 'host IA32_PAT',
    valid: pat(0x0101_0707), invalid: pat(0x0101_0807) },
  { section: REGISTERS, rule: 'IA32_PAT is not checked unless it is loaded', expected: 'host IA32_PAT',
    valid: field(H.IA32_PAT, 0x0202_0202), invalid: pat(0x0202_0202) },
  { section: REGISTERS, rule: 'reserved bits of IA32_EFER', expected: 'host IA32_EFER: reserved bits',
    valid: field(H.IA32_EFER, EFER.LME | EFER.LMA), invalid: field(H.IA32_EFER, EFER.LME | EFER.LMA | 2) },
  { section: REGISTERS, rule: 'EFER.LMA equals the host address-space size',
    expected: 'host IA32_EFER: LMA and LME against host address-space size',
    valid: both(exit(0, VM_EXIT.LOAD_IA32_EFER), field(H.IA32_EFER, EFER.LME)), invalid: field(H.IA32_EFER, EFER.LME) },
  { section: SEGMENTS, rule: 'RPL and TI of selectors are 0', expected: 'host selectors: RPL and TI',
    valid: field(H.ES_SELECTOR, 0x18), invalid: field(H.ES_SELECTOR, 0x1b) },
  { section: SEGMENTS, rule: 'the TI bit of TR is 0', expected: 'host selectors: RPL and TI',
    valid: field(H.TR_SELECTOR, 0x28), invalid: field(H.TR_SELECTOR, 0x2c) },
  { section: SEGMENTS, rule: 'CS is not null', expected: 'host CS selector is null',
    valid: field(H.CS_SELECTOR, 8), invalid: field(H.CS_SELECTOR, 0) },
  { section: SEGMENTS, rule: 'TR is not null', expected: 'host TR selector is null',
    valid: field(H.TR_SELECTOR, 8), invalid: field(H.TR_SELECTOR, 0) },
  { section: SEGMENTS, rule: 'the FS base is canonical', expected: 'host FS base: canonical',
    valid: field(H.FS_BASE, CANONICAL), invalid: field(H.FS_BASE, NOT_CANONICAL) },
  { section: SEGMENTS, rule: 'the GS base is canonical', expected: 'host GS base: canonical',
    valid: field(H.GS_BASE, CANONICAL), invalid: field(H.GS_BASE, NOT_CANONICAL) },
  { section: SEGMENTS, rule: 'the GDTR base is canonical', expected: 'host GDTR base: canonical',
    valid: field(H.GDTR_BASE, CANONICAL), invalid: field(H.GDTR_BASE, NOT_CANONICAL) },
  { section: SEGMENTS, rule: 'the IDTR base is canonical', expected: 'host IDTR base: canonical',
    valid: field(H.IDTR_BASE, CANONICAL), invalid: field(H.IDTR_BASE, NOT_CANONICAL) },
  { section: SEGMENTS, rule: 'the TR base is canonical', expected: 'host TR base: canonical',
    valid: field(H.TR_BASE, CANONICAL), invalid: field(H.TR_BASE, NOT_CANONICAL) },
  { section: SIZE, rule: 'host address-space size is 1 in IA-32e mode', expected: 'host address-space size in IA-32e mode',
    valid: exit(VM_EXIT.HOST_ADDR_SPACE_SIZE), invalid: exit(0, VM_EXIT.HOST_ADDR_SPACE_SIZE | VM_EXIT.LOAD_IA32_EFER) },
  { section: SIZE, rule: 'CR4.PAE is 1', expected: 'host CR4.PAE',
    valid: field(H.CR4, HOST_CR4), invalid: field(H.CR4, CR4.VMXE) },
  { section: SIZE, rule: 'RIP is canonical', expected: 'host RIP: canonical',
    valid: field(H.RIP, CANONICAL), invalid: field(H.RIP, NOT_CANONICAL) },
];

describe('checks on the host-state area', () => {
  const box = new VmxBox().begin();

  it.each(ROWS)('$section: $rule', ({ valid, invalid, expected }) => {
    expect(tryEntry(box, valid)).toEqual({ outcome: 'entered', rule: '' });
    expect(tryEntry(box, invalid)).toEqual({ outcome: 'error 8', rule: expected });
  });

  it('controls are checked before the host state', () => {
    const outcome = tryEntry(box, (b) => b.write(H.CS_SELECTOR, 0).write(VMCS_CTRL.CR3_TARGET_COUNT, 5));
    expect(outcome.outcome).toBe('error 7');
  });

  it('a host check that passed is made again after a host field is written', () => {
    const second = new VmxBox().begin().code([0x0f, 0x01, 0xc1]);
    second.launch();
    second.write(H.TR_SELECTOR, 0);
    expect(() => second.resume()).toThrow('error 8: host TR selector is null');
  });
});
