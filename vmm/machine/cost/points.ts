// SPDX-License-Identifier: GPL-2.0-only
/**
 * Names of everything that takes time. Cycles are spent only through these, so that a run's counts can be priced again
 * with another CPU profile. One table; the values are in profiles.ts.
 */
// prettier-ignore
export const COST = {
  INSN: 0,             // one instruction or one iteration of a string instruction, beyond what the points below add
  WALK_REF: 1,         // one paging-structure reference of a page walk
  TLB_MISS: 2,         // looking beyond the first-level TLB
  CPUID_INSN: 3, RDTSC_INSN: 4, RDMSR_INSN: 5, WRMSR_INSN: 6, PORT_IO: 7, PAUSE: 8, LOCKED: 9, MOV_CR: 10, MOV_CR3: 11,
  INVLPG: 12, INVPCID: 13, EVENT_DELIVERY: 14, IRET: 15, DIV: 16, FENCE: 17,
  VM_ENTRY: 18, VM_EXIT: 19, VMREAD: 20, VMWRITE: 21, VMPTRLD: 22, VMCLEAR: 23, VMXON: 24,
  INVVPID_ADDR: 25, INVVPID_SINGLE: 26, INVVPID_ALL: 27, INVEPT_SINGLE: 28, INVEPT_ALL: 29,
  IPI_SEND: 30, IPI_RECEIVE: 31,
  SYSCALL: 32,         // user to kernel and back, ioctl dispatch included
  CONTEXT_SWITCH: 33, WAKEUP: 34,
  PAGE_ALLOC: 35, PAGE_CLEAR: 36, PAGE_COPY: 37, PAGE_FREE: 38, PAGE_FAULT: 39, // host page fault, software part
  GUP_FAST: 40, GUP_SLOW: 41, PUT_PAGE: 42,
  VMA_OP: 43,          // mmap, munmap, mprotect: per VMA touched
  PTE_OP: 44,          // change of one host page-table entry
  NOTIFIER_CALL: 45,   // one mmu_notifier callback, without what it does
  KMAP: 46, KMAP_LOCAL: 47, MEMREMAP: 48, MEMUNMAP: 49, VMAP_PURGE: 50, SHOOTDOWN: 51, SHOOTDOWN_PER_CPU: 52,
  SPINLOCK: 53, RWLOCK: 54, MUTEX: 55, SRCU: 56, SRCU_SYNC: 57,
  L0_EXIT_LIGHT: 58,   // L0's handling of a simple exit (CPUID)
  L0_EXIT_FAULT: 59,   // L0's handling of an EPT violation, without the mapping itself
  L0_EMULATE: 60,      // one instruction emulated by L0
  VCPU_LOAD: 61, VCPU_RUN: 62, // entering and leaving KVM_RUN
  MEMSLOT_LOOKUP: 63, MEMSLOT_UPDATE: 64,
  TDP_MAP: 65, TDP_ZAP: 66, TDP_ROOT_ALLOC: 67, TDP_SPLIT: 68,
  REMOTE_TLB_FLUSH: 69,
  USER_SPIN: 70,       // one turn of a userspace polling loop
  USER_ACCESS: 71,     // one access of userspace to its own memory
  HYPERCALL: 72,
  VMFUNC: 73,          // EPTP switching
  L0_NESTED_ENTRY: 74, // L0's software part of VMLAUNCH and VMRESUME, without the accesses to VMCSs
  L0_NESTED_EXIT: 75,  // the same of an exit from L2 to L1
  MMU_INIT: 76,        // an MMU context is described anew
  MMU_ROLE_CHECK: 77,  // and need not be, since its role is the same
} as const;

export type CostPoint = (typeof COST)[keyof typeof COST];
export const NR_COST_POINTS = 128;
