// SPDX-License-Identifier: GPL-2.0-only
/** RDMSR and WRMSR of x2APIC registers that the processor virtualizes. SDM, "Virtualizing MSR-Based APIC Accesses". */
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import type { Cpu } from '../cpu/cpu.ts';
import {
  eoiVirtualization,
  pendApicWrite,
  readVirtualApic,
  selfIpiVirtualization,
  tprVirtualization,
  writeVirtualApic,
} from './virtual_interrupts.ts';

/** What became of a WRMSR. */
// prettier-ignore
export const X2APIC_WRITE = {
  PLAIN: 0, // not virtualized
  DONE:  1,
  GP:    2, // a reserved bit is set
} as const;

/** Lowest vector that an interrupt may have. */
const FIRST_VECTOR = 16;

const offsetOf = (msr: number): number => (msr & 0xff) << 4;
const isX2apicMsr = (msr: number): boolean => msr >>> 8 === 8;

/** RDMSR: false, or the 64 bits at the register's place in the virtual-APIC page, whatever is there. */
export function vmxReadX2apic(cpu: Cpu, msr: number, out: Int32Array): boolean {
  const { secondary } = cpu.vmx;
  if ((secondary & SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE) === 0 || !isX2apicMsr(msr)) return false;
  const offset = offsetOf(msr);
  if ((secondary & SECONDARY_EXEC.APIC_REGISTER_VIRT) === 0 && offset !== APIC_REG.TASKPRI) return false;
  out[0] = readVirtualApic(cpu, offset);
  out[1] = readVirtualApic(cpu, offset + 4);
  return true;
}

/** WRMSR: X2APIC_WRITE. An exit that it causes is trap-like. */
export function vmxWriteX2apic(cpu: Cpu, msr: number, lo: number, hi: number): number {
  const { secondary } = cpu.vmx;
  if ((secondary & SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE) === 0 || !isX2apicMsr(msr))
    return X2APIC_WRITE.PLAIN;
  const offset = offsetOf(msr);
  const delivery = (secondary & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0;
  const isVirtual = offset === APIC_REG.EOI || offset === APIC_REG.SELF_IPI;
  if (offset !== APIC_REG.TASKPRI && !(delivery && isVirtual)) return X2APIC_WRITE.PLAIN;
  const reserved = offset === APIC_REG.EOI ? lo : lo >>> 8;
  if (hi !== 0 || reserved !== 0) return X2APIC_WRITE.GP;
  writeVirtualApic(cpu, offset, lo);
  writeVirtualApic(cpu, offset + 4, 0);
  if (offset === APIC_REG.TASKPRI) tprVirtualization(cpu);
  else if (offset === APIC_REG.EOI) eoiVirtualization(cpu);
  else if (lo < FIRST_VECTOR) pendApicWrite(cpu, offset);
  else selfIpiVirtualization(cpu, lo);
  return X2APIC_WRITE.DONE;
}
