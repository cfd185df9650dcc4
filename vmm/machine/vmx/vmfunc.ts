// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMFUNC: what a guest may do at any CPL, without an exit. SDM, "VM Functions": "General Operation of the VMFUNC
 * Instruction" and "EPTP Switching".
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { SECONDARY_EXEC, VMFUNC_EPTP_ENTRIES } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { RUN, S } from '../cpu/state.ts';
import { raise } from '../cpu/system/fault.ts';
import { complete } from '../cpu/system/operands.ts';
import { mmuContextChanged } from '../mmu/context.ts';
import { vmxTransitionFlush } from '../mmu/invalidate.ts';
import { checkEptp } from './check_controls.ts';
import { addressIn } from './check_util.ts';
import { insnExit } from './intercepts.ts';
import { loadEptp } from './load_guest.ts';
import { vmcsStore } from './vmcs_access.ts';
import * as W from './words.ts';

const EAX = S.GPR;
const ECX = S.GPR + 2;
const NR_FUNCTIONS = 64;

/** VMFUNC in cpu.insn; results as of executeVmxInsn(). */
export function executeVmfunc(cpu: Cpu): number {
  const { s, vmx } = cpu;
  const fn = s[EAX]! >>> 0;
  // In root operation and outside of VMX no control is in force.
  if ((vmx.secondary & SECONDARY_EXEC.ENABLE_VMFUNC) === 0 || fn >= NR_FUNCTIONS)
    return raise(cpu, VECTOR.UD);
  // VM entry lets no other function be enabled.
  return isEnabled(cpu, fn) && switchEptp(cpu, s[ECX]! >>> 0) ? complete(cpu) : vmfuncExit(cpu);
}

function isEnabled(cpu: Cpu, fn: number): boolean {
  const word = cpu.mem.i32[cpu.vmx.base + W.VM_FUNCTION_CONTROL + (fn >>> 5)]!;
  return ((word >>> (fn & 31)) & 1) !== 0;
}

function vmfuncExit(cpu: Cpu): number {
  insnExit(cpu, EXIT_REASON.VMFUNC, 0, 0);
  return RUN.VMEXIT;
}

/**
 * VM function 0. False: VM exit. Mappings of both EPTPs stay where they are, told apart by EP4TA; only without VPID are
 * combined mappings dropped, as in VM entries. The EPTP-index field exists with EPT-violation #VE only.
 */
function switchEptp(cpu: Cpu, index: number): boolean {
  if (index >= VMFUNC_EPTP_ENTRIES) return false;
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  spend(cpu, COST.VMFUNC);
  const at = addressIn(cpu, W.EPTP_LIST) / 4 + 2 * index;
  // Ones where there is no memory: no valid EPTP.
  const lo = i32[at] ?? -1;
  const hi = i32[at + 1] ?? -1;
  if (checkEptp(cpu, lo, hi, vmx.caps.eptCap) !== null) return false;
  vmcsStore(cpu, VMCS_CTRL.EPT_POINTER, lo, hi);
  loadEptp(cpu);
  mmuContextChanged(cpu);
  if ((vmx.secondary & SECONDARY_EXEC.ENABLE_VPID) === 0) vmxTransitionFlush(cpu);
  return true;
}
