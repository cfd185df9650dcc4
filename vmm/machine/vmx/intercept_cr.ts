// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits due to control-register and debug-register accesses. SDM, "Instructions That Cause VM Exits Conditionally" and
 * the exit qualifications for control-register and debug-register accesses.
 */
import { CR0 } from '../../../lib/x86/registers.ts';
import { CPU_BASED } from '../../../lib/x86/vmx/controls.ts';
import {
  CR_QUAL,
  CR_QUAL_LMSW_SOURCE_SHIFT,
  CR_QUAL_REG_SHIFT,
  DR_QUAL,
  DR_QUAL_REG_SHIFT,
} from '../../../lib/x86/vmx/exit_quals.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { SYSOP } from '../cpu/sys_insn.ts';
import * as W from './words.ts';

/** Exit qualification, or -1: no exit. */
export function crAccessQual(cpu: Cpu): number {
  const { insn } = cpu;
  switch (insn.op) {
    case SYSOP.MOV_TO_CR:
      return movToCrExits(cpu) ? insn.reg | CR_QUAL.TYPE_MOV_TO_CR | (insn.rm << CR_QUAL_REG_SHIFT) : -1;
    case SYSOP.MOV_FROM_CR:
      return movFromCrExits(cpu) ? insn.reg | CR_QUAL.TYPE_MOV_FROM_CR | (insn.rm << CR_QUAL_REG_SHIFT) : -1;
    case SYSOP.CLTS:
      return maskedShadow(cpu, W.CR0_MASK, W.CR0_SHADOW, CR0.TS) !== 0 ? CR_QUAL.TYPE_CLTS : -1;
    default:
      return lmswQual(cpu);
  }
}

/** Bits of `which` that are owned by the host and 1 in the read shadow. */
function maskedShadow(cpu: Cpu, mask: number, shadow: number, which: number): number {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  return i32[base + mask]! & i32[base + shadow]! & which;
}

function movToCrExits(cpu: Cpu): boolean {
  const { insn, s, vmx } = cpu;
  const lo = s[S.GPR + 2 * insn.rm]!;
  const hi = s[S.GPR + 2 * insn.rm + 1]!;
  switch (insn.reg) {
    case 0:
      return differs(cpu, W.CR0_MASK, W.CR0_SHADOW, lo, hi);
    case 4:
      return differs(cpu, W.CR4_MASK, W.CR4_SHADOW, lo, hi);
    case 3:
      return (vmx.cpuBased & CPU_BASED.CR3_LOAD_EXITING) !== 0 && !isCr3Target(cpu, lo, hi);
    case 8:
      return (vmx.cpuBased & CPU_BASED.CR8_LOAD_EXITING) !== 0;
    default:
      return false;
  }
}

/** A masked bit of the value is not that of the read shadow. */
function differs(cpu: Cpu, mask: number, shadow: number, lo: number, hi: number): boolean {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  return (
    ((lo ^ i32[base + shadow]!) & i32[base + mask]!) !== 0 ||
    ((hi ^ i32[base + shadow + 1]!) & i32[base + mask + 1]!) !== 0
  );
}

function isCr3Target(cpu: Cpu, lo: number, hi: number): boolean {
  const {
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const count = i32[base + W.CR3_TARGET_COUNT]!;
  for (let n = 0; n < count; n++) {
    const at = base + W.CR3_TARGET_VALUE0 + 2 * n;
    if (i32[at] === lo && i32[at + 1] === hi) return true;
  }
  return false;
}

function movFromCrExits(cpu: Cpu): boolean {
  const { insn, vmx } = cpu;
  if (insn.reg === 3) return (vmx.cpuBased & CPU_BASED.CR3_STORE_EXITING) !== 0;
  return insn.reg === 8 && (vmx.cpuBased & CPU_BASED.CR8_STORE_EXITING) !== 0;
}

/** LMSW: the source is in sys.value[0]; it can set PE but not clear it. */
function lmswQual(cpu: Cpu): number {
  const {
    insn,
    sys,
    mem: { i32 },
    vmx: { base },
  } = cpu;
  const source = sys.value[0]! & 0xffff;
  const shadow = i32[base + W.CR0_SHADOW]!;
  const changed = (source ^ shadow) & i32[base + W.CR0_MASK]! & 0xf;
  const exits = (changed & ~CR0.PE) !== 0 || (changed & source & CR0.PE) !== 0;
  if (!exits) return -1;
  if (insn.rm < 0) {
    i32[base + W.GUEST_LINEAR_ADDRESS] = insn.eaLo;
    i32[base + W.GUEST_LINEAR_ADDRESS + 1] = insn.eaHi;
  }
  return CR_QUAL.TYPE_LMSW | (insn.rm < 0 ? CR_QUAL.LMSW_MEMORY : 0) | (source << CR_QUAL_LMSW_SOURCE_SHIFT);
}

/** Exit qualification of MOV DR; the control decides alone. */
export function drAccessQual(cpu: Cpu): number {
  const { insn } = cpu;
  return (
    insn.reg | (insn.op === SYSOP.MOV_FROM_DR ? DR_QUAL.MOV_FROM_DR : 0) | (insn.rm << DR_QUAL_REG_SHIFT)
  );
}
