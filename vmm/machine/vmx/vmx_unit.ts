// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VMX state of one logical processor: VMX operation, root or non-root, the current VMCS, and what of it the
 * processor keeps while a guest runs. SDM, "Introduction to VMX Operation" and "Virtual Machine Control Structures".
 */
import type { VmxCaps } from './caps.ts';

/** How a VMX instruction ended. SDM, "Conventions" of the VMX instruction reference. */
// prettier-ignore
export const VMX_RESULT = {
  SUCCEED:      0, // VMsucceed; of VMLAUNCH and VMRESUME: the guest runs, call cpuRun()
  FAIL_INVALID: 1, // VMfailInvalid: CF
  FAIL_VALID:   2, // VMfailValid: ZF, the VM-instruction error field holds the number
  EXITED:       3, // VMLAUNCH, VMRESUME only: a VM exit took place before the guest's first instruction; host state is
                   // loaded, the exit reason tells why (bit 31: the entry failed)
} as const;

/** Pending work of VMX non-root operation that is not in the VMCS, bits of `VmxUnit.pending`. */
// prettier-ignore
export const VMX_PENDING = {
  MTF: 0x01, // an MTF VM exit is due at the next instruction boundary
  TPR: 0x02, // VTPR fell below the TPR threshold
  VIRTUAL_INTR: 0x04, // a virtual interrupt waits to be delivered
  EOI: 0x08, // an EOI-induced VM exit is due
  APIC_WRITE: 0x10, // an APIC-write VM exit is due
  APIC_EMULATION: 0x20, // the instruction wrote to the virtual-APIC page, at VmxUnit.apicWrite
} as const;

export class VmxUnit {
  readonly caps: VmxCaps;
  /** In VMX operation: between VMXON and VMXOFF. */
  vmxon = false;
  /** Physical address of the VMXON region, or -1. */
  vmxonPtr = -1;
  /** In VMX non-root operation. */
  nonRoot = false;
  /** Physical address of the current VMCS, or -1. */
  currentVmcs = -1;
  /** Word index of the current VMCS in the memory; meaningless when there is none. */
  base = 0;
  /** Epoch of the current VMCS's frame when it became current. */
  vmcsEpoch = 0;

  // What the processor keeps from VM entry to VM exit; in root operation all of it is neutral.
  /** Execution controls in force: zero in root operation, so that a test of a bit needs no test of nonRoot. */
  pin = 0;
  cpuBased = 0;
  secondary = 0;
  /** Cycle at which the VMX-preemption timer reaches zero. */
  timerDeadline = Infinity;
  /**
   * Under PAUSE-loop exiting: clock of the last PAUSE at CPL 0 since VM entry, -Infinity before it, and of the first
   * one of its loop.
   */
  lastPause = -Infinity;
  firstPause = 0;
  /** Clock after which the monitor trap flag causes its VM exit; Infinity if it is 0. */
  mtfAfter = Infinity;
  /** VMX_PENDING bits. */
  pending = 0;
  /** Exit qualification of VMX_PENDING.EOI or APIC_WRITE. */
  trapQualification = 0;
  /** Page offset of VMX_PENDING.APIC_EMULATION. */
  apicWrite = 0;
  /** The rule that the last failed VM entry broke: what the hardware does not tell. */
  failedCheck = '';
  /** For MSR values in transit. */
  readonly scratch = new Int32Array(2);

  // What VMXON looks up once, so that entry and exit need not.
  /** The CPU's state words as an index into the memory's words. */
  stateWord = 0;
  /** The values of IA32_DEBUGCTL and IA32_PAT. */
  debugctl: Int32Array = this.scratch;
  pat: Int32Array = this.scratch;

  constructor(caps: VmxCaps) {
    this.caps = caps;
  }
}

/** A capability MSR as [bits 31:0, bits 63:32], or undefined if the processor has none of that number. */
export function vmxCapabilityMsr(unit: VmxUnit, msr: number): readonly [number, number] | undefined {
  return unit.caps.msrs.get(msr);
}
