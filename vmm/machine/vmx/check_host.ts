// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on the host-state area at VM entry; a failure is VM-instruction error 8. SDM, "Checks on Host Control
 * Registers, MSRs, and SSP", "Checks on Host Segment and Descriptor-Table Registers", "Checks Related to Address-Space
 * Size". The processor is always in IA-32e mode here.
 */
import { CR4, EFER } from '../../../lib/x86/registers.ts';
import { VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { type Broken, isCanonical48, isPat, isPhysAddr } from './check_util.ts';
import * as W from './words.ts';

/** Bits of IA32_EFER that exist. */
export const EFER_DEFINED = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE;

/** All checks; their outcome stays until a host-state field or the VM-exit controls are written. */
export function checkHostState(cpu: Cpu): Broken {
  return checkHostRegisters(cpu) ?? checkHostMsrs(cpu) ?? checkHostSegments(cpu) ?? checkHostMode(cpu);
}

function checkHostRegisters(cpu: Cpu): Broken {
  const { caps, base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const cr0 = i32[base + W.HOST_CR0]!;
  if ((cr0 & caps.cr0Fixed0) !== caps.cr0Fixed0 || i32[base + W.HOST_CR0 + 1] !== 0)
    return 'host CR0: fixed bits';
  const cr4 = i32[base + W.HOST_CR4]!;
  const cr4Ok = (cr4 & caps.cr4Fixed0) === caps.cr4Fixed0 && (cr4 & ~caps.cr4Fixed1) === 0;
  if (!cr4Ok || i32[base + W.HOST_CR4 + 1] !== 0) return 'host CR4: fixed bits';
  return isPhysAddr(cpu, i32[base + W.HOST_CR3]!, i32[base + W.HOST_CR3 + 1]!, 0)
    ? null
    : 'host CR3: physical-address width';
}

function checkHostMsrs(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  const exit = i32[base + W.EXIT_CONTROLS]!;
  if (!isCanonical48(i32[base + W.HOST_SYSENTER_ESP + 1]!)) return 'host IA32_SYSENTER_ESP: canonical';
  if (!isCanonical48(i32[base + W.HOST_SYSENTER_EIP + 1]!)) return 'host IA32_SYSENTER_EIP: canonical';
  if ((exit & VM_EXIT.LOAD_IA32_PAT) !== 0 && !isPat(i32[base + W.HOST_PAT]!, i32[base + W.HOST_PAT + 1]!)) {
    return 'host IA32_PAT';
  }
  if ((exit & VM_EXIT.LOAD_IA32_EFER) === 0) return null;
  const efer = i32[base + W.HOST_EFER]!;
  if ((efer & ~EFER_DEFINED) !== 0 || i32[base + W.HOST_EFER + 1] !== 0)
    return 'host IA32_EFER: reserved bits';
  const long = (exit & VM_EXIT.HOST_ADDR_SPACE_SIZE) !== 0 ? EFER.LMA | EFER.LME : 0;
  return (efer & (EFER.LMA | EFER.LME)) === long
    ? null
    : 'host IA32_EFER: LMA and LME against host address-space size';
}

function checkHostSegments(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  for (let n = 0; n < 7; n++) {
    if ((i32[base + W.HOST_ES_SELECTOR + n]! & 7) !== 0) return 'host selectors: RPL and TI';
  }
  if (i32[base + W.HOST_CS_SELECTOR] === 0) return 'host CS selector is null';
  if (i32[base + W.HOST_TR_SELECTOR] === 0) return 'host TR selector is null';
  const canonical = (word: number): boolean => isCanonical48(i32[base + word + 1]!);
  if (!canonical(W.HOST_FS_BASE)) return 'host FS base: canonical';
  if (!canonical(W.HOST_GS_BASE)) return 'host GS base: canonical';
  if (!canonical(W.HOST_GDTR_BASE)) return 'host GDTR base: canonical';
  if (!canonical(W.HOST_IDTR_BASE)) return 'host IDTR base: canonical';
  return canonical(W.HOST_TR_BASE) ? null : 'host TR base: canonical';
}

function checkHostMode(cpu: Cpu): Broken {
  const { base } = cpu.vmx;
  const { i32 } = cpu.mem;
  if ((i32[base + W.EXIT_CONTROLS]! & VM_EXIT.HOST_ADDR_SPACE_SIZE) === 0)
    return 'host address-space size in IA-32e mode';
  if ((i32[base + W.HOST_CR4]! & CR4.PAE) === 0) return 'host CR4.PAE';
  return isCanonical48(i32[base + W.HOST_RIP + 1]!) ? null : 'host RIP: canonical';
}
