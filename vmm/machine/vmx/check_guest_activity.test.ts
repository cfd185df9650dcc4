// SPDX-License-Identifier: GPL-2.0-only
/** Checks on RIP, RFLAGS and non-register state, one just-valid and one just-invalid VMCS per rule. */
import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { PIN_BASED } from '../../../lib/x86/vmx/controls.ts';
import { GUEST_ACTIVITY, GUEST_INTR_STATE, PENDING_DBG } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { type CheckRow, tryEntry } from './testing/rows.ts';

const G = VMCS_GUEST;
const RIP = 'Checks on Guest RIP, RFLAGS, and SSP';
const STATE = 'Checks on Guest Non-Register State';
const ON = RFLAGS.FIXED | RFLAGS.IF;
const STEP = RFLAGS.FIXED | RFLAGS.IF | RFLAGS.TF;
const field =
  (...pairs: [number, number][]) =>
  (box: VmxBox) => {
    for (const [name, value] of pairs) box.write(name, value);
  };
const inject =
  (info: number, ...pairs: [number, number][]) =>
  (box: VmxBox) => {
    for (let vector = 0; vector < 256; vector++) box.gate(vector, AT.HANDLER);
    box.write(VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, (info | 0x8000_0000) >>> 0);
    for (const [name, value] of pairs) box.write(name, value);
  };
const ACT = G.ACTIVITY_STATE;
const INT = G.INTERRUPTIBILITY_INFO;
const { STI, MOV_SS, SMI, NMI, ENCLAVE_INTR } = GUEST_INTR_STATE;
const { HLT, SHUTDOWN, WAIT_SIPI } = GUEST_ACTIVITY;
const EXT = INTR_TYPE.EXT_INTR | 0x30;
const NMI_EVENT = INTR_TYPE.NMI_INTR | 2;
const DB_EVENT = INTR_TYPE.HARD_EXCEPTION | 1;
const UD_EVENT = INTR_TYPE.HARD_EXCEPTION | 6;
const MC_EVENT = INTR_TYPE.HARD_EXCEPTION | 18;

// prettier-ignore
const ROWS: readonly CheckRow[] = [
  { section: RIP, rule: 'bits 63:48 of RIP are identical', expected: 'guest RIP: bits 63:48',
    valid: field([G.RIP, 0xffff_ffff_ffff]), invalid: field([G.RIP, 0x1_0000_0000_0000]) },
  { section: RIP, rule: 'bits 63:32 of RIP are 0 unless CS.L is 1', expected: 'guest RIP: bits 63:48',
    valid: field([G.RIP, 2 ** 32]), invalid: field([G.CS_AR_BYTES, 0xc09b], [G.RIP, 2 ** 32]) },
  { section: RIP, rule: 'bit 1 of RFLAGS is 1', expected: 'guest RFLAGS: reserved bits',
    valid: field([G.RFLAGS, 2]), invalid: field([G.RFLAGS, 0]) },
  { section: RIP, rule: 'reserved bits of RFLAGS are 0', expected: 'guest RFLAGS: reserved bits',
    valid: field([G.RFLAGS, 0x0020_0002]), invalid: field([G.RFLAGS, 0x0040_0002]) },
  { section: RIP, rule: 'an IA-32e mode guest is not in virtual-8086 mode', expected: 'guest RFLAGS: VM',
    valid: field([G.RFLAGS, RFLAGS.FIXED]), invalid: field([G.RFLAGS, RFLAGS.FIXED | RFLAGS.VM]) },
  { section: RIP, rule: 'an external interrupt needs RFLAGS.IF', expected: 'guest RFLAGS: IF is 0 with an external interrupt',
    valid: inject(EXT, [G.RFLAGS, ON]), invalid: inject(EXT, [G.RFLAGS, RFLAGS.FIXED]) },
  { section: STATE, rule: 'the activity state is supported', expected: 'guest activity state: not supported',
    valid: field([ACT, SHUTDOWN]), invalid: field([ACT, WAIT_SIPI]) },
  { section: STATE, rule: 'the activity state is at most 3', expected: 'guest activity state: not supported',
    valid: field([ACT, HLT]), invalid: field([ACT, 4]) },
  { section: STATE, rule: 'HLT needs SS.DPL 0', expected: 'guest activity state: HLT with SS.DPL above 0',
    valid: field([ACT, HLT]),
    invalid: field([ACT, HLT], [G.SS_SELECTOR, 0x13], [G.CS_SELECTOR, 0x0b], [G.SS_AR_BYTES, 0xc0f3], [G.CS_AR_BYTES, 0xa0fb]) },
  { section: STATE, rule: 'blocking by STI needs the active state', expected: 'guest activity state: not active with blocking by STI or MOV SS',
    valid: field([INT, STI], [G.RFLAGS, ON]), invalid: field([INT, STI], [G.RFLAGS, ON], [ACT, HLT]) },
  { section: STATE, rule: 'DB can be injected in HLT, UD not', expected: 'guest activity state: the event cannot be injected',
    valid: inject(DB_EVENT, [ACT, HLT]), invalid: inject(UD_EVENT, [ACT, HLT]) },
  { section: STATE, rule: 'an NMI can be injected in shutdown, an interrupt not', expected: 'guest activity state: the event cannot be injected',
    valid: inject(NMI_EVENT, [ACT, SHUTDOWN]), invalid: inject(EXT, [ACT, SHUTDOWN], [G.RFLAGS, ON]) },
  { section: STATE, rule: 'MC can be injected in shutdown, DB not', expected: 'guest activity state: the event cannot be injected',
    valid: inject(MC_EVENT, [ACT, SHUTDOWN]), invalid: inject(DB_EVENT, [ACT, SHUTDOWN]) },
  { section: STATE, rule: 'reserved bits of interruptibility', expected: 'guest interruptibility: reserved bits',
    valid: field([INT, NMI]), invalid: field([INT, 0x20]) },
  { section: STATE, rule: 'not blocked by both STI and MOV SS', expected: 'guest interruptibility: STI and MOV SS',
    valid: field([INT, MOV_SS], [G.RFLAGS, ON]), invalid: field([INT, MOV_SS | STI], [G.RFLAGS, ON]) },
  { section: STATE, rule: 'blocking by STI needs RFLAGS.IF', expected: 'guest interruptibility: STI with IF 0',
    valid: field([INT, STI], [G.RFLAGS, ON]), invalid: field([INT, STI]) },
  { section: STATE, rule: 'no blocking by SMI outside of SMM', expected: 'guest interruptibility: SMI outside of SMM',
    valid: field([INT, 0]), invalid: field([INT, SMI]) },
  { section: STATE, rule: 'no enclave interruption without SGX', expected: 'guest interruptibility: enclave interruption',
    valid: field([INT, 0]), invalid: field([INT, ENCLAVE_INTR]) },
  { section: STATE, rule: 'no external interrupt while blocked by STI', expected: 'guest interruptibility: external interrupt while blocked',
    valid: inject(EXT, [G.RFLAGS, ON]), invalid: inject(EXT, [G.RFLAGS, ON], [INT, STI]) },
  { section: STATE, rule: 'no NMI while blocked by MOV SS', expected: 'guest interruptibility: NMI while blocked by MOV SS',
    valid: inject(NMI_EVENT, [INT, STI], [G.RFLAGS, ON]), invalid: inject(NMI_EVENT, [INT, MOV_SS]) },
  { section: STATE, rule: 'no virtual NMI while they are blocked', expected: 'guest interruptibility: NMI while virtual NMIs are blocked',
    valid: inject(NMI_EVENT, [INT, NMI]),
    invalid: (box) => { box.change(VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VIRTUAL_NMIS); inject(NMI_EVENT, [INT, NMI])(box); } },
  { section: STATE, rule: 'reserved bits of pending debug exceptions', expected: 'guest pending debug exceptions: reserved bits',
    valid: field([G.PENDING_DBG_EXCEPTIONS, PENDING_DBG.ENABLED_BREAKPOINT | 1]), invalid: field([G.PENDING_DBG_EXCEPTIONS, 0x10]) },
  { section: STATE, rule: 'RTM is not supported', expected: 'guest pending debug exceptions: reserved bits',
    valid: field([G.PENDING_DBG_EXCEPTIONS, 0]), invalid: field([G.PENDING_DBG_EXCEPTIONS, PENDING_DBG.RTM]) },
  { section: STATE, rule: 'BS is 1 with TF while blocked by STI', expected: 'guest pending debug exceptions: BS against TF',
    valid: field([INT, STI], [G.RFLAGS, STEP], [G.PENDING_DBG_EXCEPTIONS, PENDING_DBG.BS]), invalid: field([INT, STI], [G.RFLAGS, STEP]) },
  { section: STATE, rule: 'BS is 0 without TF in HLT', expected: 'guest pending debug exceptions: BS against TF',
    valid: field([ACT, HLT]), invalid: field([ACT, HLT], [G.PENDING_DBG_EXCEPTIONS, PENDING_DBG.BS]) },
  { section: STATE, rule: 'BS is 0 with TF and IA32_DEBUGCTL.BTF while blocked', expected: 'guest pending debug exceptions: BS against TF',
    valid: field([INT, MOV_SS], [G.RFLAGS, STEP], [G.IA32_DEBUGCTL, 2]),
    invalid: field([INT, MOV_SS], [G.RFLAGS, STEP], [G.IA32_DEBUGCTL, 2], [G.PENDING_DBG_EXCEPTIONS, PENDING_DBG.BS]) },
];

describe('checks on guest RIP, RFLAGS and non-register state', () => {
  const box = new VmxBox().begin();

  it.each(ROWS)('$section: $rule', ({ valid, invalid, expected }) => {
    expect(tryEntry(box, valid)).toEqual({ outcome: 'entered', rule: '' });
    expect(tryEntry(box, invalid)).toEqual({ outcome: 'exit 33/0', rule: expected });
  });
});
