// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on the guest state that changes from entry to entry and so is checked at each: RIP, RFLAGS, activity,
 * interruptibility, pending debug exceptions, and how they go with the event to be injected. A failure is exit reason 33.
 * SDM, "Checks on Guest RIP, RFLAGS, and SSP" and "Checks on Guest Non-Register State".
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { DEBUGCTL } from '../../../lib/x86/msr.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { VMX_MISC } from '../../../lib/x86/vmx/capability_msrs.ts';
import { PIN_BASED, VM_ENTRY } from '../../../lib/x86/vmx/controls.ts';
import { GUEST_ACTIVITY, GUEST_INTR_STATE, PENDING_DBG, VMX_AR } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import type { Broken } from './check_util.ts';
import { VMCS_SEGS } from './vmcs_layout.ts';
import * as W from './words.ts';

const RFLAGS_RESERVED = 0xffc0_8028;
const PENDING_DBG_RESERVED = ~(PENDING_DBG.B0_B3 | PENDING_DBG.ENABLED_BREAKPOINT | PENDING_DBG.BS);
const INTR_STATE_RESERVED = ~0x1f;
const BY_STI_OR_MOV_SS = GUEST_INTR_STATE.STI | GUEST_INTR_STATE.MOV_SS;

/** All of them. */
export function checkGuestActivity(cpu: Cpu): Broken {
  return checkRipRflags(cpu) ?? (isPlain(cpu) ? null : checkNonRegisterState(cpu));
}

/** Active, nothing blocked, no debug exception pending: no other rule has a say. */
function isPlain(cpu: Cpu): boolean {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const debug = i32[base + W.GUEST_PENDING_DBG]! | i32[base + W.GUEST_PENDING_DBG + 1]!;
  return (i32[base + W.GUEST_ACTIVITY]! | i32[base + W.GUEST_INTERRUPTIBILITY]! | debug) === 0;
}

function checkNonRegisterState(cpu: Cpu): Broken {
  return checkActivityState(cpu) ?? checkInterruptibility(cpu) ?? checkPendingDebug(cpu);
}

/** Type of the event to be injected, or -1. */
function injectedType(cpu: Cpu): number {
  const info = cpu.mem.i32[cpu.vmx.base + W.ENTRY_INTR_INFO]!;
  return info < 0 ? info & INTR_INFO.TYPE_MASK : -1;
}

function checkRipRflags(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const csRights = i32[base + VMCS_SEGS + SEGN.CS * SEG_WORDS + SEGF.AR]!;
  const entry = i32[base + W.ENTRY_CONTROLS]!;
  const ripHi = i32[base + W.GUEST_RIP + 1]!;
  const long = (entry & VM_ENTRY.IA32E_MODE) !== 0 && (csRights & VMX_AR.L_MASK) !== 0;
  // Bits 63:48 must be identical, but not with bit 47: execution can run off the end of the lower half.
  const top = ripHi >> 16;
  if (long ? top !== 0 && top !== -1 : ripHi !== 0) return 'guest RIP: bits 63:48';
  const rflags = i32[base + W.GUEST_RFLAGS]!;
  if (
    (rflags & RFLAGS_RESERVED) !== 0 ||
    i32[base + W.GUEST_RFLAGS + 1] !== 0 ||
    (rflags & RFLAGS.FIXED) === 0
  ) {
    return 'guest RFLAGS: reserved bits';
  }
  if ((entry & VM_ENTRY.IA32E_MODE) !== 0 && (rflags & RFLAGS.VM) !== 0) return 'guest RFLAGS: VM';
  return injectedType(cpu) === INTR_TYPE.EXT_INTR && (rflags & RFLAGS.IF) === 0
    ? 'guest RFLAGS: IF is 0 with an external interrupt'
    : null;
}

function checkActivityState(cpu: Cpu): Broken {
  const { base, caps } = cpu.vmx;
  const { i32 } = cpu.mem;
  const activity = i32[base + W.GUEST_ACTIVITY]!;
  if (activity === GUEST_ACTIVITY.ACTIVE) return null;
  const supported = caps.misc & (VMX_MISC.ACTIVITY_HLT << (activity - 1));
  if (activity < 0 || activity > GUEST_ACTIVITY.WAIT_SIPI || supported === 0)
    return 'guest activity state: not supported';
  const ssRights = i32[base + VMCS_SEGS + SEGN.SS * SEG_WORDS + SEGF.AR]!;
  if (activity === GUEST_ACTIVITY.HLT && (ssRights & VMX_AR.DPL_MASK) !== 0)
    return 'guest activity state: HLT with SS.DPL above 0';
  if ((i32[base + W.GUEST_INTERRUPTIBILITY]! & BY_STI_OR_MOV_SS) !== 0)
    return 'guest activity state: not active with blocking by STI or MOV SS';
  return canInject(cpu, activity) ? null : 'guest activity state: the event cannot be injected';
}

function canInject(cpu: Cpu, activity: number): boolean {
  const type = injectedType(cpu);
  if (type === -1) return true;
  const vector = cpu.mem.i32[cpu.vmx.base + W.ENTRY_INTR_INFO]! & INTR_INFO.VECTOR_MASK;
  const machineCheck = type === INTR_TYPE.HARD_EXCEPTION && vector === VECTOR.MC;
  if (activity === GUEST_ACTIVITY.SHUTDOWN) return type === INTR_TYPE.NMI_INTR || machineCheck;
  if (activity !== GUEST_ACTIVITY.HLT) return false;
  const debug = type === INTR_TYPE.HARD_EXCEPTION && vector === VECTOR.DB;
  return (
    type === INTR_TYPE.EXT_INTR ||
    type === INTR_TYPE.NMI_INTR ||
    type === INTR_TYPE.OTHER_EVENT ||
    machineCheck ||
    debug
  );
}

function checkInterruptibility(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const state = i32[base + W.GUEST_INTERRUPTIBILITY]!;
  if ((state & INTR_STATE_RESERVED) !== 0) return 'guest interruptibility: reserved bits';
  if ((state & BY_STI_OR_MOV_SS) === BY_STI_OR_MOV_SS) return 'guest interruptibility: STI and MOV SS';
  const ifSet = (i32[base + W.GUEST_RFLAGS]! & RFLAGS.IF) !== 0;
  if (!ifSet && (state & GUEST_INTR_STATE.STI) !== 0) return 'guest interruptibility: STI with IF 0';
  if ((state & GUEST_INTR_STATE.SMI) !== 0) return 'guest interruptibility: SMI outside of SMM';
  if ((state & GUEST_INTR_STATE.ENCLAVE_INTR) !== 0) return 'guest interruptibility: enclave interruption';
  const type = injectedType(cpu);
  if (type === INTR_TYPE.EXT_INTR && (state & BY_STI_OR_MOV_SS) !== 0)
    return 'guest interruptibility: external interrupt while blocked';
  if (type !== INTR_TYPE.NMI_INTR) return null;
  // The SDM lets processors also require no blocking by STI; this one does not.
  if ((state & GUEST_INTR_STATE.MOV_SS) !== 0) return 'guest interruptibility: NMI while blocked by MOV SS';
  const virtualNmis = (i32[base + W.PIN]! & PIN_BASED.VIRTUAL_NMIS) !== 0;
  return virtualNmis && (state & GUEST_INTR_STATE.NMI) !== 0
    ? 'guest interruptibility: NMI while virtual NMIs are blocked'
    : null;
}

function checkPendingDebug(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const pending = i32[base + W.GUEST_PENDING_DBG]!;
  if ((pending & PENDING_DBG_RESERVED) !== 0 || i32[base + W.GUEST_PENDING_DBG + 1] !== 0) {
    return 'guest pending debug exceptions: reserved bits';
  }
  const blocked =
    (i32[base + W.GUEST_INTERRUPTIBILITY]! & BY_STI_OR_MOV_SS) !== 0 ||
    i32[base + W.GUEST_ACTIVITY] === GUEST_ACTIVITY.HLT;
  if (!blocked) return null;
  const stepping =
    (i32[base + W.GUEST_RFLAGS]! & RFLAGS.TF) !== 0 && (i32[base + W.GUEST_DEBUGCTL]! & DEBUGCTL.BTF) === 0;
  return stepping !== ((pending & PENDING_DBG.BS) !== 0)
    ? 'guest pending debug exceptions: BS against TF'
    : null;
}
