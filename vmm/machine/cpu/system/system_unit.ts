// SPDX-License-Identifier: GPL-2.0-only
/**
 * The part of one CPU that is neither interpreter nor MMU nor VMX: CPUID and MSR tables, TSC offsets, I/O, pending
 * events. Data with few operations; the behaviour is in the files beside it.
 */
import { APICBASE } from '../../../../lib/x86/apic.ts';
import { FEAT_CTL } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import type { LocalApic } from '../../apic/local_apic.ts';
import type { CpuidTable } from './cpuid.ts';
import type { IoBus } from './io_bus.ts';
import { MsrFile } from './msr_file.ts';
import type { Rng } from './rng.ts';

/** Construction parameters of a SystemUnit. */
export interface SystemOptions {
  readonly cpuid: CpuidTable;
  readonly io: IoBus;
  readonly apic: LocalApic;
  readonly rng: Rng;
  /** Bits of a physical address that exist. */
  readonly maxPhyAddr: number;
}

/** Word indices into `SystemUnit.syscall`; each takes two words. */
// prettier-ignore
export const SYSCALL_MSR = {
  STAR: 0, LSTAR: 2, CSTAR: 4, SYSCALL_MASK: 6, SYSENTER_CS: 8, SYSENTER_ESP: 10, SYSENTER_EIP: 12,
} as const;

export class SystemUnit {
  readonly cpuid: CpuidTable;
  readonly io: IoBus;
  readonly apic: LocalApic;
  readonly rng: Rng;
  readonly maxPhyAddr: number;
  readonly msrs = new MsrFile();

  /** TSC = clock + tscOffset: IA32_TSC and IA32_TSC_ADJUST writes. lo, hi. */
  readonly tscOffset = new Int32Array(2);
  /** IA32_TSC_ADJUST. lo, hi. */
  readonly tscAdjust = new Int32Array(2);
  /** What RDTSC adds in VMX non-root operation with TSC offsetting; zero otherwise. Set by the VMX unit. lo, hi. */
  readonly vmxTscOffset = new Int32Array(2);
  /** What RDTSC multiplies with before, in units of 2^-48, under TSC scaling; 0 otherwise: no multiplier can be 0. lo, hi. */
  readonly vmxTscMultiplier = new Int32Array(2);
  /** IA32_FEATURE_CONTROL, low word: as firmware leaves it, locked with VMX enabled outside of SMX. */
  featCtl = FEAT_CTL.LOCKED | FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX;
  /** SYSCALL and SYSENTER MSRs, lo/hi pairs by index SYSCALL_MSR. */
  readonly syscall = new Int32Array(14);
  /** Scratch: a descriptor or gate that was read, and the linear address that it came from. */
  readonly desc = new Int32Array(4);
  readonly address = new Int32Array(2);
  /** Scratch: what IRET pops, five lo/hi pairs. */
  readonly frame = new Int32Array(10);
  /** Scratch of loads and register reads. */
  readonly value = new Int32Array(4);
  /** IA32_TSC_AUX. */
  tscAux = 0;

  /**
   * The event whose delivery is going on, in the format of the VM-entry interruption-information field (bit 31: there is
   * one); a VM exit that happens meanwhile reports it as IDT-vectoring information.
   */
  idtVectoring = 0;
  idtVectoringError = 0;
  idtVectoringLength = 0;
  /** IRET had unblocked NMIs when the fault now being handled came: bit 12 of the exit's interruption information. */
  iretUnblockedNmi = 0;
  /** Type (INTR_TYPE) of the exception being raised: SOFT_EXCEPTION for INT3, PRIV_SW_EXCEPTION for INT1. */
  exceptionType: number = INTR_TYPE.HARD_EXCEPTION;

  nmiPending = 0;
  initPending = 0;
  /** Vector of a startup IPI that waits, or -1. */
  sipiPending = -1;
  /** Debug exceptions that wait, as in the VMCS's pending-debug-exceptions field (BS is bit 14). */
  pendingDebug = 0;
  constructor(options: SystemOptions) {
    this.cpuid = options.cpuid;
    this.io = options.io;
    this.apic = options.apic;
    this.rng = options.rng;
    this.maxPhyAddr = options.maxPhyAddr;
  }

  /** A load of `size` (1, 2, 4, 8) bytes from a physical address outside of RAM, into out[0], out[1]. */
  mmioRead(hpa: number, size: number, out: Int32Array): void {
    const offset = this.#apicOffset(hpa);
    if (offset < 0) {
      this.io.mmio.read(hpa, size, out);
      return;
    }
    const shift = (hpa & 3) * 8;
    out[0] = (this.apic.read(offset & ~3) >>> shift) & (size >= 4 ? -1 : (1 << (size * 8)) - 1);
    out[1] = size === 8 && (offset & 0xf) === 0 ? this.apic.register(offset + 4) : 0;
  }

  mmioWrite(hpa: number, size: number, lo: number, hi: number): void {
    const offset = this.#apicOffset(hpa);
    if (offset < 0) {
      this.io.mmio.write(hpa, size, lo, hi);
      return;
    }
    // SDM, "APIC Register Address Space": registers take aligned 32-bit accesses; others do nothing here, as in KVM.
    if (size >= 4 && (offset & 0xf) === 0) this.apic.write(offset, lo);
  }

  /** Offset in this CPU's xAPIC page, or -1 if the address is not in it. */
  #apicOffset(hpa: number): number {
    const { apic } = this;
    if (!apic.isEnabled() || apic.isX2apic()) return -1;
    const offset = hpa - ((apic.baseLo & APICBASE.BASE_MASK) >>> 0) - apic.baseHi * 0x1_0000_0000;
    return offset >= 0 && offset < 0x1000 ? offset : -1;
  }
}
