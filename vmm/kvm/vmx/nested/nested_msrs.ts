// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct nested_vmx_msrs: the VMX capability MSRs that L1 sees. Mirrors arch/x86/kvm/vmx/capabilities.h, 6.12. For each group
 * of controls `low` are the bits that must be 1 and `high` those that may be 1.
 */
import type { VmxCaps } from '../../../machine/vmx/caps.ts';
import { VMCS12_REVISION, VMCS12_SIZE } from './vmcs12_layout.ts';

/** Bits that must be 1 (low) and that may be 1 (high), unsigned. */
export interface NestedControlCaps {
  low: number;
  high: number;
}

/** Words are unsigned; pairs are [bits 31:0, bits 63:32]. */
export interface NestedVmxMsrs {
  /** True MSRs: the default1 bits that KVM lets L1 clear are clear in `low`. */
  procbased: NestedControlCaps;
  secondary: NestedControlCaps;
  pinbased: NestedControlCaps;
  exit: NestedControlCaps;
  entry: NestedControlCaps;
  misc: [number, number];
  eptCaps: number;
  vpidCaps: number;
  basic: [number, number];
  cr0Fixed0: [number, number];
  cr0Fixed1: [number, number];
  cr4Fixed0: [number, number];
  cr4Fixed1: [number, number];
  vmcsEnum: [number, number];
  /** Of 64 bits only bits 31:0 are in use. */
  vmfuncControls: number;
}

/** A copy for one vCPU: userspace may restrict it. */
export const copyNestedVmxMsrs = (msrs: NestedVmxMsrs): NestedVmxMsrs => structuredClone(msrs);

const controls = (low: number, high: number): NestedControlCaps => ({ low: low >>> 0, high: high >>> 0 });

/** nested_vmx_setup_ctls_msrs(): what the processor has and L0 can emulate. */
export function nestedVmxSetupCtlsMsrs(caps: VmxCaps): NestedVmxMsrs {
  const word = (value: number): [number, number] => [value >>> 0, 0];
  return {
    procbased: controls(caps.cpuBased.must1, caps.cpuBased.may1),
    secondary: controls(0, caps.secondary.may1),
    pinbased: controls(caps.pin.must1, caps.pin.may1),
    exit: controls(caps.exit.must1, caps.exit.may1),
    entry: controls(caps.entry.must1, caps.entry.may1),
    misc: [caps.misc >>> 0, 0],
    eptCaps: caps.eptCap >>> 0,
    vpidCaps: caps.vpidCapHi >>> 0,
    basic: [VMCS12_REVISION, VMCS12_SIZE],
    cr0Fixed0: word(caps.cr0Fixed0),
    cr0Fixed1: word(caps.cr0Fixed1),
    cr4Fixed0: word(caps.cr4Fixed0),
    cr4Fixed1: word(caps.cr4Fixed1),
    vmcsEnum: word(0),
    vmfuncControls: caps.vmfunc >>> 0,
  };
}
