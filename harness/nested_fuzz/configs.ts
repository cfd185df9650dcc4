// SPDX-License-Identifier: GPL-2.0-only
/** The configurations that the nested fuzzer runs, and what share of the cases each gets. */

export interface FuzzConfig {
  readonly name: string;
  readonly params: readonly string[];
  /** In percent. */
  readonly share: number;
}

export const FUZZ_CONFIGS: readonly FuzzConfig[] = [
  { name: 'default parameters', params: [], share: 60 },
  { name: 'no unrestricted guest', params: ['kvm_intel.unrestricted_guest=0'], share: 10 },
  { name: 'no shadow VMCS', params: ['kvm_intel.enable_shadow_vmcs=0'], share: 10 },
  { name: 'no VPIDs', params: ['kvm_intel.vpid=0'], share: 10 },
  { name: 'no accessed and dirty bits', params: ['kvm_intel.eptad=0'], share: 10 },
];
