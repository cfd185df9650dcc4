// SPDX-License-Identifier: GPL-2.0-only
/**
 * What a guest sees and gets of CR0, CR4 and CR8: guest/host masks, read shadows, fixed bits, TPR shadow; and whether
 * IRET unblocks NMIs. SDM, "Changes to Instruction Behavior in VMX Non-Root Operation" and "Virtualizing CR8-Based TPR
 * Accesses". In root operation and outside of VMX these are the plain registers.
 */
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { CR0 } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { readVirtualApic, tprVirtualization, writeVirtualApic } from './virtual_interrupts.ts';
import * as W from './words.ts';

/** What MOV from CR0 or SMSW (n = 0) or MOV from CR4 (n = 4) reads, low word: masked bits come from the read shadow. */
export function vmxReadCr(cpu: Cpu, n: number): number {
  const {
    vmx,
    s,
    mem: { i32 },
  } = cpu;
  const real = s[n === 0 ? S.CR0 : S.CR4]!;
  if (!vmx.nonRoot) return real;
  const mask = i32[vmx.base + (n === 0 ? W.CR0_MASK : W.CR4_MASK)]!;
  const shadow = i32[vmx.base + (n === 0 ? W.CR0_SHADOW : W.CR4_SHADOW)]!;
  return (real & ~mask) | (shadow & mask);
}

/** What a write of `lo` to CR0 or CR4 that did not exit really loads: bits owned by the host keep their value. */
export function vmxMergeCr(cpu: Cpu, n: number, lo: number): number {
  const {
    vmx,
    s,
    mem: { i32 },
  } = cpu;
  if (!vmx.nonRoot) return lo;
  const mask = i32[vmx.base + (n === 0 ? W.CR0_MASK : W.CR4_MASK)]!;
  return (lo & ~mask) | (s[n === 0 ? S.CR0 : S.CR4]! & mask);
}

/** Whether VMX operation allows the value of CR0 (n = 0) or CR4 (n = 4); true outside of VMX operation. False: GP. */
export function vmxCrAllowed(cpu: Cpu, n: number, lo: number): boolean {
  const { vmx } = cpu;
  if (!vmx.vmxon) return true;
  const { caps } = vmx;
  if (n === 4) return (lo & caps.cr4Fixed0) === caps.cr4Fixed0 && (lo & ~caps.cr4Fixed1) === 0;
  const unrestricted = (vmx.secondary & SECONDARY_EXEC.UNRESTRICTED_GUEST) !== 0;
  const fixed = unrestricted ? caps.cr0Fixed0 & ~(CR0.PE | CR0.PG) : caps.cr0Fixed0;
  return (lo & fixed) === fixed;
}

/** MOV from CR8 with the TPR shadow: VTPR bits 7:4; -1: there is no TPR shadow, use the real one. */
export function vmxReadTprShadow(cpu: Cpu): number {
  if ((cpu.vmx.cpuBased & CPU_BASED.TPR_SHADOW) === 0) return -1;
  return (readVirtualApic(cpu, APIC_REG.TASKPRI) & 0xff) >>> 4;
}

/** MOV to CR8 with the TPR shadow; false: there is none. The exit below the threshold comes by vmxPendingWork(). */
export function vmxWriteTprShadow(cpu: Cpu, cr8: number): boolean {
  if ((cpu.vmx.cpuBased & CPU_BASED.TPR_SHADOW) === 0) return false;
  // Bits 3:0 of VTPR and bits 31:8 of its field become 0.
  writeVirtualApic(cpu, APIC_REG.TASKPRI, cr8 << 4);
  tprVirtualization(cpu);
  return true;
}

/** Whether IRET ends blocking by NMI: not with NMI exiting unless NMIs are virtual. */
export function vmxIretUnblocksNmi(cpu: Cpu): boolean {
  return (cpu.vmx.pin & (PIN_BASED.NMI_EXITING | PIN_BASED.VIRTUAL_NMIS)) !== PIN_BASED.NMI_EXITING;
}
