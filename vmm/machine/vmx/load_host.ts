// SPDX-License-Identifier: GPL-2.0-only
/** VM exit's loading of host state. SDM, "Loading Host State". The host is always in 64-bit mode. */
import { DR7, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { PIN_BASED, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { setRflags } from '../cpu/flags.ts';
import { ACTIVITY, BLOCKING, S } from '../cpu/state.ts';
import { mmuContextChanged } from '../mmu/context.ts';
import { vmxTransitionFlush } from '../mmu/invalidate.ts';
import { CR0_UNCHANGED, loadSysenter } from './load_guest.ts';
import { TABLE_WORDS, VMCS_HOST_TABLES } from './vmcs_layout.ts';
import * as W from './words.ts';

const RSP = S.GPR + 2 * 4;
const DR7_WORD = S.DR + 2 * 7;

/** All but the MSR-load area. Leaves VMX non-root operation's translations; drops VPID 0's if the guest had no VPID. */
export function loadHostState(cpu: Cpu): void {
  loadRegisters(cpu);
  loadMsrs(cpu);
  loadInterruptibility(cpu);
  const { mmu } = cpu;
  const tagged = mmu.vpid !== 0;
  mmu.eptp = 0;
  mmu.eptAd = 0;
  mmu.mbec = 0;
  mmu.vpid = 0;
  if (mmu.pmlPage >= 0) mmu.pmlPage = -1;
  mmuContextChanged(cpu);
  if (!tagged) vmxTransitionFlush(cpu);
}

function loadRegisters(cpu: Cpu): void {
  const {
    s,
    sys,
    mem: { i32 },
    vmx: { base, stateWord },
  } = cpu;
  i32.copyWithin(stateWord + S.GDTR_BASE, base + VMCS_HOST_TABLES, base + VMCS_HOST_TABLES + TABLE_WORDS);
  s[S.CR0] = (s[S.CR0]! & CR0_UNCHANGED) | (i32[base + W.HOST_CR0]! & ~CR0_UNCHANGED);
  s[S.CR3] = i32[base + W.HOST_CR3]!;
  s[S.CR3 + 1] = i32[base + W.HOST_CR3 + 1]!;
  s[S.CR4] = i32[base + W.HOST_CR4]!;
  s[S.RIP] = i32[base + W.HOST_RIP]!;
  s[S.RIP + 1] = i32[base + W.HOST_RIP + 1]!;
  s[RSP] = i32[base + W.HOST_RSP]!;
  s[RSP + 1] = i32[base + W.HOST_RSP + 1]!;
  setRflags(cpu, RFLAGS.FIXED);
  s[DR7_WORD] = DR7.FIXED_1;
  s[DR7_WORD + 1] = 0;
  s[S.ACTIVITY] = ACTIVITY.ACTIVE;
  s[S.CPL] = 0;
  sys.pendingDebug = 0;
}

function loadMsrs(cpu: Cpu): void {
  const {
    s,
    sys,
    mem: { i32 },
    vmx: { base, debugctl, pat },
  } = cpu;
  const exit = i32[base + W.EXIT_CONTROLS]!;
  debugctl[0] = 0;
  debugctl[1] = 0;
  loadSysenter(
    sys.syscall,
    i32,
    base + W.HOST_SYSENTER_CS,
    base + W.HOST_SYSENTER_ESP,
    base + W.HOST_SYSENTER_EIP,
  );
  if ((exit & VM_EXIT.LOAD_IA32_EFER) !== 0) s[S.EFER] = i32[base + W.HOST_EFER]!;
  else s[S.EFER] = s[S.EFER]! | EFER.LMA | EFER.LME;
  if ((exit & VM_EXIT.LOAD_IA32_PAT) !== 0) {
    pat[0] = i32[base + W.HOST_PAT]!;
    pat[1] = i32[base + W.HOST_PAT + 1]!;
  }
}

/** Blocking by STI and MOV SS ends; blocking of virtual NMIs was the guest's, and the processor's NMIs are not blocked. */
function loadInterruptibility(cpu: Cpu): void {
  const virtual = (cpu.vmx.pin & PIN_BASED.VIRTUAL_NMIS) !== 0;
  cpu.s[S.BLOCKING] = virtual ? 0 : cpu.s[S.BLOCKING]! & BLOCKING.NMI;
}
