// SPDX-License-Identifier: GPL-2.0-only
/** VM exit's saving of guest state. SDM, "Saving Guest State". Who causes the exit has set RFLAGS.RF as it is to be saved. */
import { EFER } from '../../../lib/x86/registers.ts';
import { VM_ENTRY, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { getRflags } from '../cpu/flags.ts';
import { S } from '../cpu/state.ts';
import { SYSCALL_MSR } from '../cpu/system/system_unit.ts';
import { timerTicksLeft } from './preemption_timer.ts';
import { TABLE_WORDS, VMCS_TABLES } from './vmcs_layout.ts';
import * as W from './words.ts';

const RSP = S.GPR + 2 * 4;
const DR7_WORD = S.DR + 2 * 7;

/** Everything but the MSR-store area. */
export function saveGuestState(cpu: Cpu): void {
  saveRegisters(cpu);
  saveMsrs(cpu);
  const {
    s,
    sys,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  i32[base + W.GUEST_INTERRUPTIBILITY] = s[S.BLOCKING]!;
  i32[base + W.GUEST_ACTIVITY] = s[S.ACTIVITY]!;
  i32[base + W.GUEST_PENDING_DBG] = sys.pendingDebug;
  i32[base + W.GUEST_PENDING_DBG + 1] = 0;
}

function saveRegisters(cpu: Cpu): void {
  const {
    s,
    mem: { i32 },
    vmx: { base, stateWord },
  } = cpu;
  const tables = stateWord + S.GDTR_BASE;
  i32.copyWithin(base + VMCS_TABLES, tables, tables + TABLE_WORDS);
  i32[base + W.GUEST_CR0] = s[S.CR0]!;
  i32[base + W.GUEST_CR3] = s[S.CR3]!;
  i32[base + W.GUEST_CR3 + 1] = s[S.CR3 + 1]!;
  i32[base + W.GUEST_CR4] = s[S.CR4]!;
  i32[base + W.GUEST_RIP] = s[S.RIP]!;
  i32[base + W.GUEST_RIP + 1] = s[S.RIP + 1]!;
  i32[base + W.GUEST_RSP] = s[RSP]!;
  i32[base + W.GUEST_RSP + 1] = s[RSP + 1]!;
  i32[base + W.GUEST_RFLAGS] = getRflags(cpu);
  i32[base + W.GUEST_RFLAGS + 1] = 0;
}

function saveMsrs(cpu: Cpu): void {
  const {
    s,
    sys: { syscall },
    mem: { i32 },
    vmx: { base, debugctl, pat },
  } = cpu;
  const exit = i32[base + W.EXIT_CONTROLS]!;
  if ((exit & VM_EXIT.SAVE_DEBUG_CONTROLS) !== 0) {
    i32[base + W.GUEST_DR7] = s[DR7_WORD]!;
    i32[base + W.GUEST_DR7 + 1] = 0;
    i32[base + W.GUEST_DEBUGCTL] = debugctl[0]!;
    i32[base + W.GUEST_DEBUGCTL + 1] = debugctl[1]!;
  }
  i32[base + W.GUEST_SYSENTER_CS] = syscall[SYSCALL_MSR.SYSENTER_CS]!;
  i32[base + W.GUEST_SYSENTER_ESP] = syscall[SYSCALL_MSR.SYSENTER_ESP]!;
  i32[base + W.GUEST_SYSENTER_ESP + 1] = syscall[SYSCALL_MSR.SYSENTER_ESP + 1]!;
  i32[base + W.GUEST_SYSENTER_EIP] = syscall[SYSCALL_MSR.SYSENTER_EIP]!;
  i32[base + W.GUEST_SYSENTER_EIP + 1] = syscall[SYSCALL_MSR.SYSENTER_EIP + 1]!;
  if ((exit & VM_EXIT.SAVE_IA32_EFER) !== 0) {
    i32[base + W.GUEST_EFER] = s[S.EFER]!;
    i32[base + W.GUEST_EFER + 1] = s[S.EFER + 1]!;
  }
  if ((exit & VM_EXIT.SAVE_IA32_PAT) !== 0) {
    i32[base + W.GUEST_PAT] = pat[0]!;
    i32[base + W.GUEST_PAT + 1] = pat[1]!;
  }
  if ((exit & VM_EXIT.SAVE_VMX_PREEMPTION_TIMER) !== 0) i32[base + W.GUEST_TIMER] = timerTicksLeft(cpu);
  // IA32_VMX_MISC bit 5: the IA-32e mode guest control follows EFER.LMA.
  const long = (s[S.EFER]! & EFER.LMA) !== 0 ? VM_ENTRY.IA32E_MODE : 0;
  i32[base + W.ENTRY_CONTROLS] = (i32[base + W.ENTRY_CONTROLS]! & ~VM_ENTRY.IA32E_MODE) | long;
}
