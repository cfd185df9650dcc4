// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entry-check rows: what comes first if two rules are broken. SDM, "VM Entries" and "VMLAUNCH/VMRESUME". The manual leaves the
 * order of controls and host state to the processor: the one modelled here, KVM and Bochs begin with the controls.
 */
import { ENTRY_FAIL, EXIT_REASON } from '../../x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../x86/vmx/vmcs_host.ts';
import { by, entryFailure, type EntryRow, failValid, or, page, poke, set, type Write } from './row.ts';
import type { Outcome } from './outcome.ts';
import { INVALID_GUEST } from './rows_guest.ts';

const ORDER = 'VM Entries';
const order = (rule: string, expected: Outcome, ...writes: readonly Write[]): EntryRow => ({
  section: ORDER,
  rule,
  invalid: by(...writes),
  expected,
});
const CONTROL = set(C.CR3_TARGET_COUNT, 0xffff_ffff);
const HOST = or(H.CR0, 1n << 32n);
const GUEST = set(G.RFLAGS, 0);
const LINK = set(G.VMCS_LINK_POINTER, 1);
const MSR_LIST: readonly Write[] = [
  poke('data', 0, 0xc000_0100),
  set(C.VM_ENTRY_MSR_LOAD_ADDR, page('data')),
  set(C.VM_ENTRY_MSR_LOAD_COUNT, 1),
];
const CONTROL_ERROR = failValid(VMXERR.ENTRY_INVALID_CONTROL_FIELD);
const HOST_ERROR = failValid(VMXERR.ENTRY_INVALID_HOST_STATE_FIELD);

/** Rows of this file. */
export const ORDER_ROWS: readonly EntryRow[] = [
  order('controls come before host state', CONTROL_ERROR, CONTROL, HOST),
  order('controls come before guest state', CONTROL_ERROR, CONTROL, GUEST),
  order('controls come before the MSR list', CONTROL_ERROR, CONTROL, ...MSR_LIST),
  order('host state comes before guest state', HOST_ERROR, HOST, GUEST),
  order('host state comes before the link pointer', HOST_ERROR, HOST, LINK),
  order('host state comes before the MSR list', HOST_ERROR, HOST, ...MSR_LIST),
  order('guest CR0 comes before the MSR list', INVALID_GUEST, or(G.CR0, 1n << 32n), ...MSR_LIST),
  {
    section: ORDER,
    rule: 'guest RFLAGS comes before the MSR list',
    invalid: {
      ...by(GUEST, ...MSR_LIST),
      kvm: {
        where: 'nested_vmx_enter_non_root_mode()',
        why: 'KVM loads the MSRs before the processor checks vmcs02',
        outcome: entryFailure(EXIT_REASON.MSR_LOAD_FAIL, 1),
      },
    },
    expected: INVALID_GUEST,
  },
  order(
    'the link pointer comes before the MSR list',
    entryFailure(EXIT_REASON.INVALID_STATE, ENTRY_FAIL.VMCS_LINK_PTR),
    LINK,
    ...MSR_LIST,
  ),
  {
    section: 'VMLAUNCH/VMRESUME',
    rule: 'blocking by MOV SS comes before the controls',
    invalid: { ...by(CONTROL), afterMovSs: true },
    expected: failValid(VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS),
  },
  {
    section: 'VMLAUNCH/VMRESUME',
    rule: 'no blocking by MOV SS',
    valid: by(),
    invalid: { ...by(), afterMovSs: true },
    expected: failValid(VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS),
  },
];
