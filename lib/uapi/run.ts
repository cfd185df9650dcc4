// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct kvm_run, the page that a vCPU shares with userspace. Mirrors include/uapi/linux/kvm.h, 6.12. The members of
 * its union are separate objects here: only the one that `exit_reason` names is meaningful.
 */
import { kvmRegs, kvmSregs, type KvmRegs, type KvmSregs } from './regs.ts';
import { kvmVcpuEvents, type KvmVcpuEvents } from './vcpu_state.ts';

/** kvm_run.exit_reason. */
// prettier-ignore
export const KVM_EXIT = {
  UNKNOWN:         0,
  EXCEPTION:       1,
  IO:              2,
  HYPERCALL:       3,
  DEBUG:           4,
  HLT:             5,
  MMIO:            6,
  IRQ_WINDOW_OPEN: 7,
  SHUTDOWN:        8,
  FAIL_ENTRY:      9,
  INTR:            10,
  SET_TPR:         11,
  TPR_ACCESS:      12,
  NMI:             16,
  INTERNAL_ERROR:  17,
  SYSTEM_EVENT:    24,
  IOAPIC_EOI:      26,
  HYPERV:          27,
  X86_RDMSR:       29,
  X86_WRMSR:       30,
  DIRTY_RING_FULL: 31,
  AP_RESET_HOLD:   32,
  X86_BUS_LOCK:    33,
  XEN:             34,
  NOTIFY:          37,
  MEMORY_FAULT:    39,
} as const;

export const KVM_EXIT_IO = { IN: 0, OUT: 1 } as const;

/** kvm_run.internal.suberror. */
// prettier-ignore
export const KVM_INTERNAL_ERROR = {
  EMULATION:              1,
  SIMUL_EX:               2,
  DELIVERY_EV:            3,
  UNEXPECTED_EXIT_REASON: 4,
} as const;

/** kvm_run.emulation_failure.flags. */
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1;

/** kvm_run.flags. */
// prettier-ignore
export const KVM_RUN_X86 = {
  SMM:        0x1,
  BUS_LOCK:   0x2,
  GUEST_MODE: 0x4,
} as const;

/** Register classes of kvm_valid_regs and kvm_dirty_regs. */
// prettier-ignore
export const KVM_SYNC_X86 = {
  REGS:   0x1,
  SREGS:  0x2,
  EVENTS: 0x4,
} as const;

/** Bytes of the PIO data page; `io.data_offset` points at it, one page behind kvm_run. */
export const KVM_PIO_PAGE_OFFSET = 1;
/** KVM_GET_VCPU_MMAP_SIZE: kvm_run, the PIO page and the coalesced MMIO page. */
export const KVM_VCPU_MMAP_SIZE = 3 * 4096;

/** struct kvm_run. */
export interface KvmRun {
  request_interrupt_window: number;
  immediate_exit: number;

  exit_reason: number;
  ready_for_interrupt_injection: number;
  if_flag: number;
  flags: number;
  cr8: bigint;
  apic_base: bigint;

  hw: { hardware_exit_reason: bigint };
  fail_entry: { hardware_entry_failure_reason: bigint; cpu: number };
  ex: { exception: number; error_code: number };
  io: { direction: number; size: number; port: number; count: number; data_offset: number };
  debug: { exception: number; pc: bigint; dr6: bigint; dr7: bigint };
  /** `phys_addr` is exact as a number: at most 52 bits. */
  mmio: { phys_addr: number; data: Uint8Array; len: number; is_write: number };
  hypercall: { nr: bigint; args: bigint[]; ret: bigint; flags: bigint };
  internal: { suberror: number; ndata: number; data: bigint[] };
  emulation_failure: {
    suberror: number;
    ndata: number;
    flags: bigint;
    insn_size: number;
    insn_bytes: Uint8Array;
  };
  system_event: { type: number; ndata: number; data: bigint[] };
  eoi: { vector: number };
  msr: { error: number; reason: number; index: number; data: bigint };
  memory_fault: { flags: bigint; gpa: bigint; size: bigint };

  kvm_valid_regs: number;
  kvm_dirty_regs: number;
  s: { regs: { regs: KvmRegs; sregs: KvmSregs; events: KvmVcpuEvents } };

  /** The PIO data page at `io.data_offset`. */
  pio_data: Uint8Array;
}

/** struct kvm_run of zeroes. */
export function kvmRun(): KvmRun {
  return {
    request_interrupt_window: 0,
    immediate_exit: 0,
    exit_reason: 0,
    ready_for_interrupt_injection: 0,
    if_flag: 0,
    flags: 0,
    cr8: 0n,
    apic_base: 0n,
    hw: { hardware_exit_reason: 0n },
    fail_entry: { hardware_entry_failure_reason: 0n, cpu: 0 },
    ex: { exception: 0, error_code: 0 },
    io: { direction: 0, size: 0, port: 0, count: 0, data_offset: 0 },
    debug: { exception: 0, pc: 0n, dr6: 0n, dr7: 0n },
    mmio: { phys_addr: 0, data: new Uint8Array(8), len: 0, is_write: 0 },
    hypercall: { nr: 0n, args: [0n, 0n, 0n, 0n, 0n, 0n], ret: 0n, flags: 0n },
    internal: { suberror: 0, ndata: 0, data: new Array<bigint>(16).fill(0n) },
    emulation_failure: { suberror: 0, ndata: 0, flags: 0n, insn_size: 0, insn_bytes: new Uint8Array(15) },
    system_event: { type: 0, ndata: 0, data: new Array<bigint>(16).fill(0n) },
    eoi: { vector: 0 },
    msr: { error: 0, reason: 0, index: 0, data: 0n },
    memory_fault: { flags: 0n, gpa: 0n, size: 0n },
    kvm_valid_regs: 0,
    kvm_dirty_regs: 0,
    s: { regs: { regs: kvmRegs(), sregs: kvmSregs(), events: kvmVcpuEvents() } },
    pio_data: new Uint8Array(4096),
  };
}
