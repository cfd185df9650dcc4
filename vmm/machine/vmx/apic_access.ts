// SPDX-License-Identifier: GPL-2.0-only
/**
 * Linear accesses to the APIC-access page: what goes to the virtual-APIC page instead, what exits, and what the processor
 * does after a write. SDM, "Virtualizing Memory-Mapped APIC Accesses". The fast TLB never has the page.
 * DEVIATION: accesses by guest-physical and physical addresses (page walks) go to the page itself.
 * DEVIATION: an instruction that reads and writes is judged by the write, and a second access of one instruction by itself.
 */
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { APIC_ACCESS_QUAL } from '../../../lib/x86/vmx/exit_quals.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { FAULT, S } from '../cpu/state.ts';
import { ACCESS } from '../mmu/access.ts';
import { addressIn } from './check_util.ts';
import { VMX_PENDING } from './vmx_unit.ts';
import {
  eoiVirtualization,
  pendApicWrite,
  readVirtualApic,
  selfIpiVirtualization,
  tprVirtualization,
  writeVirtualApic,
} from './virtual_interrupts.ts';
import * as W from './words.ts';

const { TASKPRI, EOI, ICR, ICR2, TMICT, TDCR } = APIC_REG;
const REGISTER_BYTES = 0x10;

/** Offsets of registers, from `first` to `last`. */
const range = (first: number, last: number): number[] =>
  Array.from({ length: (last - first) / REGISTER_BYTES + 1 }, (_, n) => first + n * REGISTER_BYTES);

/** What APIC-register virtualization lets a guest write and, in addition, read. */
const WRITABLE: ReadonlySet<number> = new Set([
  ...[APIC_REG.ID, TASKPRI, EOI, APIC_REG.LDR, APIC_REG.DFR, APIC_REG.SPIV, APIC_REG.ESR, ICR, ICR2, TMICT],
  ...[TDCR, ...range(APIC_REG.LVTT, APIC_REG.LVTERR)],
]);
const READABLE: ReadonlySet<number> = new Set([
  ...WRITABLE,
  ...[APIC_REG.LVR, ...range(APIC_REG.ISR, APIC_REG.IRR + 7 * REGISTER_BYTES)],
]);

/** ICR bits that must be 0 for a self-IPI: reserved ones, delivery status, trigger mode, delivery mode. */
const SELF_IPI_ZEROS = 0xfff3_b700;
const DEST_SHORTHAND = 0x000c_0000;
const DEST_SELF = 0x0004_0000;
const FIRST_VECTOR = 16;

/** Whether a host physical address is in the APIC-access page, and accesses to that are virtualized. */
export function isApicAccessPage(cpu: Cpu, hpa: number): boolean {
  return hpa - (hpa & 0xfff) === cpu.mmu.apicAccessPage;
}

/**
 * `size` bytes at `hpa`, in the APIC-access page, are read, written or fetched (`access`): where they are instead, or -1
 * with cpu.fault filled.
 */
export function apicAccess(cpu: Cpu, hpa: number, size: number, access: number): number {
  const kind = access & ACCESS.KIND;
  const offset = hpa & 0xfff;
  if (!isVirtualized(cpu, offset, size, kind)) return apicAccessFault(cpu, offset, kind);
  if (kind === ACCESS.WRITE) {
    cpu.vmx.pending |= VMX_PENDING.APIC_EMULATION;
    cpu.vmx.apicWrite = offset;
    cpu.s[S.PENDING] = 1;
  }
  return addressIn(cpu, W.VIRTUAL_APIC) + offset;
}

function apicAccessFault(cpu: Cpu, offset: number, kind: number): number {
  const { TYPE_READ, TYPE_WRITE, TYPE_FETCH, TYPE_EVENT } = APIC_ACCESS_QUAL;
  const type = kind === ACCESS.READ ? TYPE_READ : kind === ACCESS.WRITE ? TYPE_WRITE : TYPE_FETCH;
  cpu.fault.kind = FAULT.APIC_ACCESS;
  cpu.fault.qualification = offset | (cpu.sys.idtVectoring === 0 ? type : TYPE_EVENT);
  return -1;
}

/** SDM, "Determining Whether a Read Access is Virtualized" and the same of a write access. */
function isVirtualized(cpu: Cpu, offset: number, size: number, kind: number): boolean {
  const { vmx } = cpu;
  if ((vmx.cpuBased & CPU_BASED.TPR_SHADOW) === 0 || kind === ACCESS.EXEC) return false;
  // In the low four bytes of sixteen.
  if ((offset & 0xf) + size > 4) return false;
  if ((vmx.secondary & SECONDARY_EXEC.APIC_REGISTER_VIRT) !== 0)
    return (kind === ACCESS.WRITE ? WRITABLE : READABLE).has(offset & 0xff0);
  if (offset === TASKPRI) return true;
  const delivery = (vmx.secondary & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0;
  return kind === ACCESS.WRITE && delivery && (offset === EOI || offset === ICR);
}

/** After the instruction that wrote. SDM, "APIC-Write Emulation". */
export function emulateApicWrite(cpu: Cpu): void {
  const { vmx } = cpu;
  const offset = vmx.apicWrite;
  vmx.pending &= ~VMX_PENDING.APIC_EMULATION;
  const delivery = (vmx.secondary & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0;
  if (offset === TASKPRI) {
    writeVirtualApic(cpu, TASKPRI, readVirtualApic(cpu, TASKPRI) & 0xff);
    tprVirtualization(cpu);
  } else if (offset === EOI && delivery) {
    writeVirtualApic(cpu, EOI, 0);
    eoiVirtualization(cpu);
  } else if (offset === ICR && delivery && isSelfIpi(readVirtualApic(cpu, ICR))) {
    selfIpiVirtualization(cpu, readVirtualApic(cpu, ICR) & 0xff);
  } else if ((offset & 0xff0) === ICR2) {
    writeVirtualApic(cpu, ICR2, readVirtualApic(cpu, ICR2) & 0xff00_0000);
  } else pendApicWrite(cpu, offset);
}

const isSelfIpi = (icr: number): boolean =>
  (icr & SELF_IPI_ZEROS) === 0 && (icr & DEST_SHORTHAND) === DEST_SELF && (icr & 0xff) >= FIRST_VECTOR;
