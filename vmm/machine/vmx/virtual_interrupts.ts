// SPDX-License-Identifier: GPL-2.0-only
/**
 * Virtual interrupts: what the processor does by itself with the virtual-APIC page and the guest interrupt status (RVI,
 * SVI). SDM, "Virtual APIC State", "Evaluation and Delivery of Virtual Interrupts", "Posted-Interrupt Processing". RVI
 * and SVI live in the VMCS field while the guest runs, too.
 */
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { highestVector } from '../apic/apic_vectors.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { addressIn } from './check_util.ts';
import { VMX_PENDING } from './vmx_unit.ts';
import * as W from './words.ts';

/** The 256-bit registers are eight words, so many bytes apart. */
const VECTOR_STRIDE = 0x10;
/** Bit 0 of this byte of the posted-interrupt descriptor: outstanding notification. SDM, "Posted-Interrupt Processing". */
const PID_ON = 0x20;

const rviOf = (cpu: Cpu): number => cpu.mem.i32[cpu.vmx.base + W.GUEST_INTR_STATUS]! & 0xff;
const sviOf = (cpu: Cpu): number => (cpu.mem.i32[cpu.vmx.base + W.GUEST_INTR_STATUS]! >>> 8) & 0xff;

function setStatus(cpu: Cpu, rvi: number, svi: number): void {
  cpu.mem.i32[cpu.vmx.base + W.GUEST_INTR_STATUS] = (svi << 8) | rvi;
}

/** A register of the virtual-APIC page; all ones where there is no memory. */
export function readVirtualApic(cpu: Cpu, offset: number): number {
  return cpu.mem.i32[(addressIn(cpu, W.VIRTUAL_APIC) + offset) / 4] ?? -1;
}

export function writeVirtualApic(cpu: Cpu, offset: number, value: number): void {
  cpu.mem.i32[(addressIn(cpu, W.VIRTUAL_APIC) + offset) / 4] = value;
}

function changeVector(cpu: Cpu, register: number, vector: number, value: 0 | 1): void {
  const offset = register + (vector >>> 5) * VECTOR_STRIDE;
  const bit = 1 << (vector & 31);
  const old = readVirtualApic(cpu, offset);
  writeVirtualApic(cpu, offset, value === 1 ? old | bit : old & ~bit);
}

/** The highest vector of VIRR or VISR; 0 if there is none. */
function highestOf(cpu: Cpu, register: number): number {
  return Math.max(highestVector(cpu.mem.i32, (addressIn(cpu, W.VIRTUAL_APIC) + register) / 4), 0);
}

/** Something to do at the next instruction boundary; `qualification`: of the trap-like exits. */
function pend(cpu: Cpu, what: number, qualification = 0): void {
  cpu.vmx.pending |= what;
  cpu.vmx.trapQualification = qualification;
  cpu.s[S.PENDING] = 1;
}

/** An APIC-write VM exit after the instruction. */
export function pendApicWrite(cpu: Cpu, offset: number): void {
  pend(cpu, VMX_PENDING.APIC_WRITE, offset);
}

/** After a write of VTPR. SDM, "TPR Virtualization". */
export function tprVirtualization(cpu: Cpu): void {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  if ((vmx.secondary & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0) {
    pprVirtualization(cpu);
    evaluateVirtualInterrupts(cpu);
    return;
  }
  const threshold = i32[vmx.base + W.TPR_THRESHOLD]! & 0xf;
  if ((readVirtualApic(cpu, APIC_REG.TASKPRI) & 0xff) >>> 4 < threshold) pend(cpu, VMX_PENDING.TPR);
}

/** SDM, "PPR Virtualization". */
export function pprVirtualization(cpu: Cpu): void {
  const vtpr = readVirtualApic(cpu, APIC_REG.TASKPRI) & 0xff;
  const svi = sviOf(cpu);
  writeVirtualApic(cpu, APIC_REG.PROCPRI, vtpr >>> 4 >= svi >>> 4 ? vtpr : svi & 0xf0);
}

/** Whether a virtual interrupt is pending. SDM, "Evaluation of Pending Virtual Interrupts". */
export function evaluateVirtualInterrupts(cpu: Cpu): void {
  const { vmx } = cpu;
  const window = (vmx.cpuBased & CPU_BASED.INTR_WINDOW_EXITING) !== 0;
  const vppr = readVirtualApic(cpu, APIC_REG.PROCPRI) & 0xff;
  if (!window && rviOf(cpu) >>> 4 > vppr >>> 4) {
    vmx.pending |= VMX_PENDING.VIRTUAL_INTR;
    cpu.s[S.PENDING] = 1;
  } else vmx.pending &= ~VMX_PENDING.VIRTUAL_INTR;
}

/** SDM, "EOI Virtualization". */
export function eoiVirtualization(cpu: Cpu): void {
  const {
    vmx,
    mem: { i32 },
  } = cpu;
  const vector = sviOf(cpu);
  changeVector(cpu, APIC_REG.ISR, vector, 0);
  setStatus(cpu, rviOf(cpu), highestOf(cpu, APIC_REG.ISR));
  pprVirtualization(cpu);
  // The four 64-bit fields have their words in the order of the vectors, but each field where the layout puts it.
  const word = W.EOI_EXIT_BITMAPS[vector >>> 6]! + ((vector >>> 5) & 1);
  if ((i32[vmx.base + word]! & (1 << (vector & 31))) !== 0) pend(cpu, VMX_PENDING.EOI, vector);
  else evaluateVirtualInterrupts(cpu);
}

/** SDM, "Self-IPI Virtualization". */
export function selfIpiVirtualization(cpu: Cpu, vector: number): void {
  changeVector(cpu, APIC_REG.IRR, vector, 1);
  setStatus(cpu, Math.max(rviOf(cpu), vector), sviOf(cpu));
  evaluateVirtualInterrupts(cpu);
}

/** The pending virtual interrupt is being delivered: its vector. SDM, "Virtual-Interrupt Delivery". */
export function takeVirtualInterrupt(cpu: Cpu): number {
  const vector = rviOf(cpu);
  changeVector(cpu, APIC_REG.ISR, vector, 1);
  writeVirtualApic(cpu, APIC_REG.PROCPRI, vector & 0xf0);
  changeVector(cpu, APIC_REG.IRR, vector, 0);
  setStatus(cpu, highestOf(cpu, APIC_REG.IRR), vector);
  cpu.vmx.pending &= ~VMX_PENDING.VIRTUAL_INTR;
  return vector;
}

/**
 * External interrupt `vector` has been acknowledged: if it is the posted-interrupt notification, take what the descriptor
 * holds, and true. SDM, "Posted-Interrupt Processing".
 */
export function processPostedInterrupts(cpu: Cpu, vector: number): boolean {
  const {
    vmx,
    apic,
    mem: { i32, u8 },
  } = cpu;
  if ((vmx.pin & PIN_BASED.POSTED_INTR) === 0) return false;
  if (vector !== (i32[vmx.base + W.POSTED_INTR_NV]! & 0xff)) return false;
  const descriptor = addressIn(cpu, W.POSTED_INTR_DESC);
  u8[descriptor + PID_ON] = (u8[descriptor + PID_ON] ?? 0) & ~1;
  apic.endOfInterrupt();
  let highest = 0;
  for (let n = 0; n < 8; n++) {
    const at = descriptor / 4 + n;
    const requests = i32[at] ?? 0; // nothing is requested where there is no memory
    i32[at] = 0;
    if (requests === 0) continue;
    const offset = APIC_REG.IRR + n * VECTOR_STRIDE;
    writeVirtualApic(cpu, offset, readVirtualApic(cpu, offset) | requests);
    highest = n * 32 + 31 - Math.clz32(requests);
  }
  setStatus(cpu, Math.max(rviOf(cpu), highest), sviOf(cpu));
  evaluateVirtualInterrupts(cpu);
  return true;
}
