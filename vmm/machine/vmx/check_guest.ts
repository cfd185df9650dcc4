// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on the guest-state area at VM entry that stay valid until a field is written: control registers, MSRs,
 * descriptor tables; and on the link pointer, at each entry. A failure is exit reason 33. SDM, "Checks on Guest Control
 * Registers, Debug Registers, and MSRs", "Checks on Guest Descriptor-Table Registers", "Checks on Guest Non-Register
 * State".
 */
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { DEBUGCTL } from '../../../lib/x86/msr.ts';
import { SECONDARY_EXEC, VM_ENTRY } from '../../../lib/x86/vmx/controls.ts';
import { VMX_AR } from '../../../lib/x86/vmx/guest_state.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import { secondaryControls } from './check_controls.ts';
import { EFER_DEFINED } from './check_host.ts';
import { type Broken, isCanonical48, isPat, isPhysAddr } from './check_util.ts';
import { VMCS_REVISION, VMCS_SEGS } from './vmcs_layout.ts';
import * as W from './words.ts';

/** Bits of IA32_DEBUGCTL that this processor has. */
const DEBUGCTL_DEFINED = DEBUGCTL.LBR | DEBUGCTL.BTF;

/** Control registers, debug registers and MSRs. */
export function checkGuestRegisters(cpu: Cpu): Broken {
  return checkGuestCr(cpu) ?? checkGuestMode(cpu) ?? checkGuestMsrs(cpu) ?? checkGuestTables(cpu);
}

function checkGuestCr(cpu: Cpu): Broken {
  const { caps, base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const unrestricted = (secondaryControls(cpu) & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0;
  const fixed0 = unrestricted ? caps.cr0Fixed0 & ~(CR0.PE | CR0.PG) : caps.cr0Fixed0;
  const cr0 = i32[base + W.GUEST_CR0]!;
  if ((cr0 & fixed0) !== fixed0 || i32[base + W.GUEST_CR0 + 1] !== 0) return 'guest CR0: fixed bits';
  if ((cr0 & CR0.PG) !== 0 && (cr0 & CR0.PE) === 0) return 'guest CR0: PG without PE';
  const cr4 = i32[base + W.GUEST_CR4]!;
  const cr4Ok = (cr4 & caps.cr4Fixed0) === caps.cr4Fixed0 && (cr4 & ~caps.cr4Fixed1) === 0;
  if (!cr4Ok || i32[base + W.GUEST_CR4 + 1] !== 0) return 'guest CR4: fixed bits';
  return isPhysAddr(cpu, i32[base + W.GUEST_CR3]!, i32[base + W.GUEST_CR3 + 1]!, 0)
    ? null
    : 'guest CR3: physical-address width';
}

function checkGuestMode(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const cr4 = i32[base + W.GUEST_CR4]!;
  if ((i32[base + W.ENTRY_CONTROLS]! & VM_ENTRY.IA32E_MODE) === 0) {
    return (cr4 & CR4.PCIDE) !== 0 ? 'guest CR4.PCIDE outside of IA-32e mode' : null;
  }
  if ((i32[base + W.GUEST_CR0]! & CR0.PG) === 0) return 'IA-32e mode guest: CR0.PG';
  return (cr4 & CR4.PAE) === 0 ? 'IA-32e mode guest: CR4.PAE' : null;
}

function checkGuestMsrs(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const entry = i32[base + W.ENTRY_CONTROLS]!;
  if ((entry & VM_ENTRY.LOAD_DEBUG_CONTROLS) !== 0) {
    if (((i32[base + W.GUEST_DEBUGCTL]! & ~DEBUGCTL_DEFINED) | i32[base + W.GUEST_DEBUGCTL + 1]!) !== 0)
      return 'guest IA32_DEBUGCTL';
    if (i32[base + W.GUEST_DR7 + 1] !== 0) return 'guest DR7: bits 63:32';
  }
  if (!isCanonical48(i32[base + W.GUEST_SYSENTER_ESP + 1]!)) return 'guest IA32_SYSENTER_ESP: canonical';
  if (!isCanonical48(i32[base + W.GUEST_SYSENTER_EIP + 1]!)) return 'guest IA32_SYSENTER_EIP: canonical';
  if (
    (entry & VM_ENTRY.LOAD_IA32_PAT) !== 0 &&
    !isPat(i32[base + W.GUEST_PAT]!, i32[base + W.GUEST_PAT + 1]!)
  ) {
    return 'guest IA32_PAT';
  }
  return (entry & VM_ENTRY.LOAD_IA32_EFER) !== 0 ? checkGuestEfer(cpu, entry) : null;
}

function checkGuestEfer(cpu: Cpu, entry: number): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const efer = i32[base + W.GUEST_EFER]!;
  if ((efer & ~EFER_DEFINED) !== 0 || i32[base + W.GUEST_EFER + 1] !== 0)
    return 'guest IA32_EFER: reserved bits';
  const lma = (efer & EFER.LMA) !== 0;
  if (lma !== ((entry & VM_ENTRY.IA32E_MODE) !== 0)) return 'guest IA32_EFER: LMA against IA-32e mode guest';
  const paging = (i32[base + W.GUEST_CR0]! & CR0.PG) !== 0;
  return paging && lma !== ((efer & EFER.LME) !== 0) ? 'guest IA32_EFER: LMA against LME' : null;
}

function checkGuestTables(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  if (!isCanonical48(i32[base + W.GUEST_GDTR_BASE + 1]!)) return 'guest GDTR base: canonical';
  if (!isCanonical48(i32[base + W.GUEST_IDTR_BASE + 1]!)) return 'guest IDTR base: canonical';
  if (i32[base + W.GUEST_GDTR_LIMIT]! >>> 16 !== 0) return 'guest GDTR limit: bits 31:16';
  return i32[base + W.GUEST_IDTR_LIMIT]! >>> 16 !== 0 ? 'guest IDTR limit: bits 31:16' : null;
}

/** The VMCS link pointer; a failure has a qualification of its own. */
export function checkLinkPointer(cpu: Cpu): Broken {
  const { base, caps } = cpu.vmx;
  const { i32 } = cpu.mem;
  const lo = i32[base + W.GUEST_LINK_POINTER]!;
  const hi = i32[base + W.GUEST_LINK_POINTER + 1]!;
  if (lo === -1 && hi === -1) return null;
  if (!isPhysAddr(cpu, lo, hi, 0xfff)) return 'VMCS link pointer: address';
  // Memory that anybody may change, as the TPR threshold's, so checked at each entry.
  const word = hi === 0 && lo >>> 0 < cpu.mem.size ? i32[lo >>> 2]! : -1;
  if ((word & VMCS_REVISION.ID_MASK) !== caps.revision) return 'VMCS link pointer: revision identifier';
  const shadowing = (secondaryControls(cpu) & SECONDARY_EXEC.SHADOW_VMCS) !== 0;
  if (shadowing !== ((word & VMCS_REVISION.SHADOW) !== 0)) return 'VMCS link pointer: shadow-VMCS indicator';
  return lo >>> 2 === base ? 'VMCS link pointer: current VMCS' : null;
}

/**
 * The last of the checks: the modes that this processor does not have.
 * DEVIATION: a guest that is not in 64-bit mode (outside of IA-32e mode, or CS.L is 0) fails as one with invalid state.
 */
export function checkSupportedMode(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  if ((i32[base + W.ENTRY_CONTROLS]! & VM_ENTRY.IA32E_MODE) === 0)
    return 'not modelled: guest outside of IA-32e mode';
  const rights = i32[base + VMCS_SEGS + SEGN.CS * SEG_WORDS + SEGF.AR]!;
  return (rights & VMX_AR.L_MASK) === 0 ? 'not modelled: guest in compatibility mode' : null;
}
