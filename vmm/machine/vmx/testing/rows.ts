// SPDX-License-Identifier: GPL-2.0-only
/**
 * Runner of entry-check tables: each row names a rule of the manual, a VMCS that just keeps it and one that just breaks
 * it. Leaves out what an entry does besides succeeding or failing.
 */
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { vmlaunch } from '../entry.ts';
import { VMX_RESULT } from '../vmx_unit.ts';
import { VmxBox } from './fixture.ts';

/** `expected`: the broken rule as VmxUnit.failedCheck tells it. */
export interface CheckRow {
  readonly section: string;
  readonly expected: string;
  readonly rule: string;
  readonly valid: (box: VmxBox) => unknown;
  readonly invalid: (box: VmxBox) => unknown;
}

/** How an entry ended: 'entered', 'error N' or 'exit N/qualification', and the broken rule. */
export interface EntryOutcome {
  readonly outcome: string;
  readonly rule: string;
}

/** Enter with a fresh VMCS to which `change` was applied. */
export function tryEntry(box: VmxBox, change: (box: VmxBox) => unknown): EntryOutcome {
  box.renew();
  change(box);
  box.cpu.vmx.failedCheck = '';
  const result = vmlaunch(box.cpu);
  const rule = box.cpu.vmx.failedCheck;
  if (result === VMX_RESULT.SUCCEED) return { outcome: 'entered', rule };
  if (result === VMX_RESULT.FAIL_VALID) return { outcome: `error ${box.error()}`, rule };
  const reason = box.read(VMCS_INFO.VM_EXIT_REASON);
  if (reason === (VMX_EXIT_REASONS.FAILED_VMENTRY | EXIT_REASON.INVALID_STATE) >>> 0) {
    return { outcome: `exit 33/${box.read(VMCS_INFO.EXIT_QUALIFICATION)}`, rule };
  }
  return { outcome: `exit ${reason}`, rule };
}
