// SPDX-License-Identifier: GPL-2.0-only
/** Looking things up in the CPUID data that userspace gave a vCPU. Mirrors arch/x86/kvm/cpuid.h, 6.12. */
import { KVM_CPUID_FLAG, type KvmCpuidEntry2 } from '../../../lib/uapi/cpuid_msr.ts';
import type { CpuidFeature } from '../../../lib/x86/cpuid.ts';
import type { Vcpu } from '../kvm_host.ts';

/** The registers of an entry in the order of CPUID_REG. */
export const CPUID_REG_NAMES = ['eax', 'ebx', 'ecx', 'edx'] as const;

/** cpuid_entry2_find(). */
export function kvmFindCpuidEntry(vcpu: Vcpu, leaf: number, index: number): KvmCpuidEntry2 | undefined {
  return vcpu.arch.cpuidEntries.find(
    (e) => e.function === leaf && ((e.flags & KVM_CPUID_FLAG.SIGNIFCANT_INDEX) === 0 || e.index === index),
  );
}

/** guest_cpuid_has(). */
export function guestHas(vcpu: Vcpu, [leaf, subleaf, reg, bit]: CpuidFeature): boolean {
  const entry = kvmFindCpuidEntry(vcpu, leaf >>> 0, Math.max(subleaf, 0));
  return entry !== undefined && ((entry[CPUID_REG_NAMES[reg]!] >>> bit) & 1) === 1;
}
