// SPDX-License-Identifier: GPL-2.0-only
/** Limits of one VM. Mirrors arch/x86/include/asm/kvm_host.h, 6.12, with CONFIG_KVM_MAX_NR_VCPUS=1024. */
export const KVM_MAX_VCPUS = 1024;
/** APIC IDs encode topology, hence more of them. */
export const KVM_MAX_VCPU_IDS = 4096;
