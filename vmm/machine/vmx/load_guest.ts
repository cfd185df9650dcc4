// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM entry's loading of guest state into the processor. SDM, "Loading Guest State". PDPTEs do not exist (PAE paging is
 * not modelled); the MSR-load area is msr_areas.ts.
 */
import { CR0, DR7, EFER } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC, VM_ENTRY } from '../../../lib/x86/vmx/controls.ts';
import { PENDING_DBG, VMX_AR, VMX_AR_DPL_SHIFT } from '../../../lib/x86/vmx/guest_state.ts';
import { VMX_EPTP } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { setRflags } from '../cpu/flags.ts';
import { S, SEG_WORDS, SEGF, SEGN } from '../cpu/state.ts';
import { SYSCALL_MSR } from '../cpu/system/system_unit.ts';
import { vmxTransitionFlush } from '../mmu/invalidate.ts';
import { mmuContextChanged } from '../mmu/context.ts';
import { addressIn } from './check_util.ts';
import { TABLE_WORDS, VMCS_TABLES } from './vmcs_layout.ts';
import * as W from './words.ts';

/** CR0 bits that VM entry and VM exit leave alone: ET, CD, NW and the reserved ones. */
export const CR0_UNCHANGED = 0x7ffa_ffd0;
const SS_AR = S.SEG + SEGN.SS * SEG_WORDS + SEGF.AR;
const RSP = S.GPR + 2 * 4;
const DR7_WORD = S.DR + 2 * 7;
/** DR7 bits 12, 14 and 15 are always 0. */
const DR7_FIXED_0 = 0xd000;

/** All of it, the translation context included. */
export function loadGuestState(cpu: Cpu, secondary: number): void {
  loadRegisters(cpu);
  loadMsrs(cpu);
  loadNonRegisterState(cpu);
  loadTranslation(cpu, secondary);
}

function loadRegisters(cpu: Cpu): void {
  const {
    s,
    mem: { i32 },
    vmx: { base, stateWord },
  } = cpu;
  // The state words are in the same memory, and both sides have the same layout.
  i32.copyWithin(stateWord + S.GDTR_BASE, base + VMCS_TABLES, base + VMCS_TABLES + TABLE_WORDS);
  s[S.CPL] = (s[SS_AR]! & VMX_AR.DPL_MASK) >>> VMX_AR_DPL_SHIFT;
  s[S.CR0] = (s[S.CR0]! & CR0_UNCHANGED) | (i32[base + W.GUEST_CR0]! & ~CR0_UNCHANGED);
  s[S.CR3] = i32[base + W.GUEST_CR3]!;
  s[S.CR3 + 1] = i32[base + W.GUEST_CR3 + 1]!;
  s[S.CR4] = i32[base + W.GUEST_CR4]!;
  s[S.RIP] = i32[base + W.GUEST_RIP]!;
  s[S.RIP + 1] = i32[base + W.GUEST_RIP + 1]!;
  s[RSP] = i32[base + W.GUEST_RSP]!;
  s[RSP + 1] = i32[base + W.GUEST_RSP + 1]!;
  setRflags(cpu, i32[base + W.GUEST_RFLAGS]!);
}

function loadMsrs(cpu: Cpu): void {
  const {
    s,
    sys,
    mem: { i32 },
    vmx: { base, debugctl, pat },
  } = cpu;
  const entry = i32[base + W.ENTRY_CONTROLS]!;
  if ((entry & VM_ENTRY.LOAD_DEBUG_CONTROLS) !== 0) {
    s[DR7_WORD] = (i32[base + W.GUEST_DR7]! & ~DR7_FIXED_0) | DR7.FIXED_1;
    // The checks on guest state have seen the values of this MSR and of the PAT.
    debugctl[0] = i32[base + W.GUEST_DEBUGCTL]!;
    debugctl[1] = i32[base + W.GUEST_DEBUGCTL + 1]!;
  }
  loadSysenter(
    sys.syscall,
    i32,
    base + W.GUEST_SYSENTER_CS,
    base + W.GUEST_SYSENTER_ESP,
    base + W.GUEST_SYSENTER_EIP,
  );
  const long = (entry & VM_ENTRY.IA32E_MODE) !== 0 ? EFER.LMA : 0;
  if ((entry & VM_ENTRY.LOAD_IA32_EFER) !== 0) s[S.EFER] = i32[base + W.GUEST_EFER]!;
  else s[S.EFER] = (s[S.EFER]! & ~(EFER.LMA | EFER.LME)) | long | (longEnable(s, long) ? EFER.LME : 0);
  if ((entry & VM_ENTRY.LOAD_IA32_PAT) !== 0) {
    pat[0] = i32[base + W.GUEST_PAT]!;
    pat[1] = i32[base + W.GUEST_PAT + 1]!;
  }
}

/** Without "load IA32_EFER", LME follows LMA if paging is on, else it keeps its value. */
function longEnable(s: Int32Array, lma: number): boolean {
  return (s[S.CR0]! & CR0.PG) !== 0 ? lma !== 0 : (s[S.EFER]! & EFER.LME) !== 0;
}

/** IA32_SYSENTER_* from the words of their fields: CS is a 32-bit field. */
export function loadSysenter(
  syscall: Int32Array,
  i32: Int32Array,
  cs: number,
  esp: number,
  eip: number,
): void {
  syscall[SYSCALL_MSR.SYSENTER_CS] = i32[cs]!;
  syscall[SYSCALL_MSR.SYSENTER_CS + 1] = 0;
  syscall[SYSCALL_MSR.SYSENTER_ESP] = i32[esp]!;
  syscall[SYSCALL_MSR.SYSENTER_ESP + 1] = i32[esp + 1]!;
  syscall[SYSCALL_MSR.SYSENTER_EIP] = i32[eip]!;
  syscall[SYSCALL_MSR.SYSENTER_EIP + 1] = i32[eip + 1]!;
}

function loadNonRegisterState(cpu: Cpu): void {
  const {
    s,
    sys,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  s[S.BLOCKING] = i32[base + W.GUEST_INTERRUPTIBILITY]!;
  s[S.ACTIVITY] = i32[base + W.GUEST_ACTIVITY]!;
  // SDM, "Delivery of Pending Debug Exceptions after VM Entry": only these two bits make them valid.
  const pending = i32[base + W.GUEST_PENDING_DBG]!;
  sys.pendingDebug = (pending & VALID_PENDING_DEBUG) === 0 ? 0 : pending;
}

const VALID_PENDING_DEBUG = PENDING_DBG.BS | PENDING_DBG.ENABLED_BREAKPOINT;

/** The EPTP of the VMCS takes force; mmuContextChanged() is the caller's. */
export function loadEptp({ mmu, mem: { i32 }, vmx: { base } }: Cpu): void {
  const eptp = i32[base + W.EPTP]!;
  mmu.eptp = i32[base + W.EPTP + 1]! * 0x1_0000_0000 + (eptp >>> 0);
  mmu.eptAd = (eptp & VMX_EPTP.AD_ENABLE_BIT) !== 0 ? 1 : 0;
}

/** Tags of the translations that the guest uses, and the log of its writes; without VPID, entry drops what VPID 0 has. */
function loadTranslation(cpu: Cpu, secondary: number): void {
  const {
    mmu,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  if ((secondary & SECONDARY_EXEC.ENABLE_EPT) !== 0) loadEptp(cpu);
  mmu.mbec = (secondary & SECONDARY_EXEC.MODE_BASED_EPT_EXEC) !== 0 ? 1 : 0;
  if ((secondary & SECONDARY_EXEC.ENABLE_PML) !== 0) {
    mmu.pmlPage = addressIn(cpu, W.PML_ADDRESS);
    mmu.pmlIndexWord = base + W.GUEST_PML_INDEX;
  }
  const tagged = (secondary & SECONDARY_EXEC.ENABLE_VPID) !== 0;
  mmu.vpid = tagged ? i32[base + W.VPID]! : 0;
  mmuContextChanged(cpu);
  if (!tagged) vmxTransitionFlush(cpu);
}
