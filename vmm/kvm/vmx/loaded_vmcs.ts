// SPDX-License-Identifier: GPL-2.0-only
/** struct loaded_vmcs: a VMCS that L0 runs a guest on (vmcs01 or vmcs02), with copies of its control words. Mirrors vmx/vmcs.h, 6.12. */
import type { Hpa } from '../../../lib/x86/addr.ts';

/** struct vmcs_controls_shadow: the words as they are in the VMCS, so that one that does not change is not written. */
export interface VmcsControlsShadow {
  pin: number;
  exec: number;
  secondary: number;
  entry: number;
  exit: number;
}

export class LoadedVmcs {
  readonly vmcs: Hpa;
  readonly msrBitmap: Hpa;
  /** pCPU on which it is active, or -1. */
  cpu = -1;
  launched = false;
  /** L1's VMREADs and VMWRITEs go to this one, if not -1. */
  shadowVmcs = -1 as Hpa;
  readonly controls: VmcsControlsShadow = { pin: 0, exec: 0, secondary: 0, entry: 0, exit: 0 };
  exceptionBitmap = 0;

  constructor(vmcs: Hpa, msrBitmap: Hpa) {
    this.vmcs = vmcs;
    this.msrBitmap = msrBitmap;
  }
}
