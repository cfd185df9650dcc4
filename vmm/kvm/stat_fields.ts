// SPDX-License-Identifier: GPL-2.0-only
/**
 * The statistics themselves: struct kvm_vm_stat and struct kvm_vcpu_stat. Fields bear the ABI's names, since userspace
 * reads them by name. Booleans are 0 or 1; histograms have HALT_POLL_HIST_COUNT buckets.
 */
import { HALT_POLL_HIST_COUNT, type KvmVcpuStatName, type KvmVmStatName } from '../../lib/uapi/stats.ts';

type Stat<Names extends string> = Record<Names, number | Float64Array>;

/** Statistics of a VM. */
export class VmStat implements Stat<KvmVmStatName> {
  remote_tlb_flush = 0;
  remote_tlb_flush_requests = 0;
  mmu_shadow_zapped = 0;
  mmu_pte_write = 0;
  mmu_pde_zapped = 0;
  mmu_flooded = 0;
  mmu_recycled = 0;
  mmu_cache_miss = 0;
  mmu_unsync = 0;
  pages_4k = 0;
  pages_2m = 0;
  pages_1g = 0;
  nx_lpage_splits = 0;
  max_mmu_rmap_size = 0;
  max_mmu_page_hash_collisions = 0;
}

/** Statistics of a vCPU. */
export class VcpuStat implements Stat<KvmVcpuStatName> {
  halt_successful_poll = 0;
  halt_attempted_poll = 0;
  halt_poll_invalid = 0;
  halt_wakeup = 0;
  halt_poll_success_ns = 0;
  halt_poll_fail_ns = 0;
  halt_wait_ns = 0;
  readonly halt_poll_success_hist = new Float64Array(HALT_POLL_HIST_COUNT);
  readonly halt_poll_fail_hist = new Float64Array(HALT_POLL_HIST_COUNT);
  readonly halt_wait_hist = new Float64Array(HALT_POLL_HIST_COUNT);
  blocking = 0;
  pf_taken = 0;
  pf_fixed = 0;
  pf_emulate = 0;
  pf_spurious = 0;
  pf_fast = 0;
  pf_mmio_spte_created = 0;
  pf_guest = 0;
  tlb_flush = 0;
  invlpg = 0;
  exits = 0;
  io_exits = 0;
  mmio_exits = 0;
  signal_exits = 0;
  irq_window_exits = 0;
  nmi_window_exits = 0;
  l1d_flush = 0;
  halt_exits = 0;
  request_irq_exits = 0;
  irq_exits = 0;
  host_state_reload = 0;
  fpu_reload = 0;
  insn_emulation = 0;
  insn_emulation_fail = 0;
  hypercalls = 0;
  irq_injections = 0;
  nmi_injections = 0;
  req_event = 0;
  nested_run = 0;
  directed_yield_attempted = 0;
  directed_yield_successful = 0;
  preemption_reported = 0;
  preemption_other = 0;
  guest_mode = 0;
  notify_window_exits = 0;
}
