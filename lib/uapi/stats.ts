// SPDX-License-Identifier: GPL-2.0-only
/**
 * The binary statistics format of KVM_GET_STATS_FD, and the upstream names. Mirrors include/uapi/linux/kvm.h, the
 * generic stats of include/linux/kvm_host.h and arch/x86/kvm/x86.c, 6.12.
 */

/** kvm_stats_desc.flags, bits 3:0. */
// prettier-ignore
export const KVM_STATS_TYPE = {
  CUMULATIVE:  0x0,
  INSTANT:     0x1,
  PEAK:        0x2,
  LINEAR_HIST: 0x3,
  LOG_HIST:    0x4,
} as const;
export const KVM_STATS_TYPE_MASK = 0x0f;

/** kvm_stats_desc.flags, bits 7:4. */
// prettier-ignore
export const KVM_STATS_UNIT = {
  NONE:    0x00,
  BYTES:   0x10,
  SECONDS: 0x20,
  CYCLES:  0x30,
  BOOLEAN: 0x40,
} as const;
export const KVM_STATS_UNIT_MASK = 0xf0;

/** kvm_stats_desc.flags, bits 11:8: what the exponent is a power of. */
// prettier-ignore
export const KVM_STATS_BASE = {
  POW10: 0x000,
  POW2:  0x100,
} as const;
export const KVM_STATS_BASE_MASK = 0xf00;

/** Bytes of a name, terminating zero included. */
export const KVM_STATS_NAME_SIZE = 48;
/** sizeof(struct kvm_stats_header) and of struct kvm_stats_desc with its name. */
export const KVM_STATS_HEADER_SIZE = 24;
export const KVM_STATS_DESC_SIZE = 16 + KVM_STATS_NAME_SIZE;

/** struct kvm_stats_header. */
export interface KvmStatsHeader {
  flags: number;
  name_size: number;
  num_desc: number;
  id_offset: number;
  desc_offset: number;
  data_offset: number;
}

/** struct kvm_stats_desc. */
export interface KvmStatsDesc {
  flags: number;
  exponent: number;
  /** Number of u64 values. */
  size: number;
  /** Of the first value, from `data_offset`. */
  offset: number;
  bucket_size: number;
  name: string;
}

/** Buckets of the halt-polling histograms. */
export const HALT_POLL_HIST_COUNT = 32;

/** VM statistics in upstream's order. */
export const KVM_VM_STATS = [
  'remote_tlb_flush',
  'remote_tlb_flush_requests',
  'mmu_shadow_zapped',
  'mmu_pte_write',
  'mmu_pde_zapped',
  'mmu_flooded',
  'mmu_recycled',
  'mmu_cache_miss',
  'mmu_unsync',
  'pages_4k',
  'pages_2m',
  'pages_1g',
  'nx_lpage_splits',
  'max_mmu_rmap_size',
  'max_mmu_page_hash_collisions',
] as const;
export type KvmVmStatName = (typeof KVM_VM_STATS)[number];

/** vCPU statistics in upstream's order. */
export const KVM_VCPU_STATS = [
  'halt_successful_poll',
  'halt_attempted_poll',
  'halt_poll_invalid',
  'halt_wakeup',
  'halt_poll_success_ns',
  'halt_poll_fail_ns',
  'halt_wait_ns',
  'halt_poll_success_hist',
  'halt_poll_fail_hist',
  'halt_wait_hist',
  'blocking',
  'pf_taken',
  'pf_fixed',
  'pf_emulate',
  'pf_spurious',
  'pf_fast',
  'pf_mmio_spte_created',
  'pf_guest',
  'tlb_flush',
  'invlpg',
  'exits',
  'io_exits',
  'mmio_exits',
  'signal_exits',
  'irq_window_exits',
  'nmi_window_exits',
  'l1d_flush',
  'halt_exits',
  'request_irq_exits',
  'irq_exits',
  'host_state_reload',
  'fpu_reload',
  'insn_emulation',
  'insn_emulation_fail',
  'hypercalls',
  'irq_injections',
  'nmi_injections',
  'req_event',
  'nested_run',
  'directed_yield_attempted',
  'directed_yield_successful',
  'preemption_reported',
  'preemption_other',
  'guest_mode',
  'notify_window_exits',
] as const;
export type KvmVcpuStatName = (typeof KVM_VCPU_STATS)[number];
