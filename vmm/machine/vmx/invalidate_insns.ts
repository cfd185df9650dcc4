// SPDX-License-Identifier: GPL-2.0-only
/**
 * INVEPT and INVVPID with their operand checks. SDM, "INVEPT — Invalidate Translations Derived from EPT" and "INVVPID —
 * Invalidate Translations Based on VPID".
 */
import {
  VMX_EPT_CAP,
  VMX_EPT_EXTENT,
  VMX_VPID_CAP_HI,
  VMX_VPID_EXTENT,
} from '../../../lib/x86/vmx/capability_msrs.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { invept, invvpid } from '../mmu/invalidate.ts';
import { checkEptp } from './check_controls.ts';
import { isCanonical48 } from './check_util.ts';
import { vmFail } from './vmx_result.ts';
import { VMX_RESULT } from './vmx_unit.ts';

const TWO_32 = 0x1_0000_0000;

/** INVEPT by L0; `eptp` as the EPT-pointer field has it. VMX_RESULT. */
export function vmxInvept(cpu: Cpu, type: number, eptp: number): number {
  return inveptPair(cpu, type, eptp | 0, Math.floor(eptp / TWO_32) | 0);
}

/** Whether the processor supports this type of INVEPT. */
export function isInveptType(cpu: Cpu, type: number): boolean {
  const bit =
    type === VMX_EPT_EXTENT.CONTEXT
      ? VMX_EPT_CAP.EXTENT_CONTEXT_BIT
      : type === VMX_EPT_EXTENT.GLOBAL
        ? VMX_EPT_CAP.EXTENT_GLOBAL_BIT
        : 0;
  return (cpu.vmx.caps.eptCap & bit) !== 0;
}

/** Whether the processor supports this type of INVVPID. */
export function isInvvpidType(cpu: Cpu, type: number): boolean {
  const bit = VMX_VPID_CAP_HI.EXTENT_INDIVIDUAL_ADDR_BIT << type;
  return type >= 0 && type <= 3 && (cpu.vmx.caps.vpidCapHi & bit) !== 0;
}

/** INVEPT with the descriptor's EPTP as two words. */
export function inveptPair(cpu: Cpu, type: number, lo: number, hi: number): number {
  const { eptCap } = cpu.vmx.caps;
  const single = type === VMX_EPT_EXTENT.CONTEXT;
  if (!isInveptType(cpu, type)) return vmFail(cpu, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  if (single && checkEptp(cpu, lo, hi, eptCap) !== null)
    return vmFail(cpu, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  spend(cpu, single ? COST.INVEPT_SINGLE : COST.INVEPT_ALL);
  invept(cpu, type, hi * TWO_32 + (lo >>> 0));
  return VMX_RESULT.SUCCEED;
}

/** INVVPID; `vpid` is the descriptor's low word, whose bits 31:16 must be 0; lo and hi are the linear address. VMX_RESULT. */
export function vmxInvvpid(cpu: Cpu, type: number, vpid: number, lo = 0, hi = 0): number {
  const needsVpid = type !== VMX_VPID_EXTENT.ALL_CONTEXT;
  const address = type === VMX_VPID_EXTENT.INDIVIDUAL_ADDR;
  if (
    !isInvvpidType(cpu, type) ||
    vpid >>> 16 !== 0 ||
    (needsVpid && vpid === 0) ||
    (address && !isCanonical48(hi))
  ) {
    return vmFail(cpu, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  }
  spend(cpu, address ? COST.INVVPID_ADDR : needsVpid ? COST.INVVPID_SINGLE : COST.INVVPID_ALL);
  invvpid(cpu, type, vpid, lo, hi);
  return VMX_RESULT.SUCCEED;
}
