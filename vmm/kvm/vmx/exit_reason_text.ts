// SPDX-License-Identifier: GPL-2.0-only
/** Exit reasons as KVM's trace events print them. */
import { codeName } from '../../../lib/x86/bits.ts';
import { EXIT_REASON, VMX_EXIT_REASONS } from '../../../lib/x86/vmx/exit_reasons.ts';

/** The name of an exit reason, with `FAILED_VMENTRY` appended where bit 31 says so. */
export function exitReasonText(reason: number): string {
  const name = codeName(EXIT_REASON, reason & 0xffff);
  return (reason & VMX_EXIT_REASONS.FAILED_VMENTRY) !== 0 ? `${name} FAILED_VMENTRY` : name;
}
