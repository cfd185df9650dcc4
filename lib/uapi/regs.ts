// SPDX-License-Identifier: GPL-2.0-only
/** Register structures of the vCPU ioctls. Mirrors arch/x86/include/uapi/asm/kvm.h, 6.12. */

/** struct kvm_regs. */
export interface KvmRegs {
  rax: bigint;
  rbx: bigint;
  rcx: bigint;
  rdx: bigint;
  rsi: bigint;
  rdi: bigint;
  rsp: bigint;
  rbp: bigint;
  r8: bigint;
  r9: bigint;
  r10: bigint;
  r11: bigint;
  r12: bigint;
  r13: bigint;
  r14: bigint;
  r15: bigint;
  rip: bigint;
  rflags: bigint;
}

/** struct kvm_segment. */
export interface KvmSegment {
  base: bigint;
  limit: number;
  selector: number;
  type: number;
  present: number;
  dpl: number;
  db: number;
  s: number;
  l: number;
  g: number;
  avl: number;
  unusable: number;
}

/** struct kvm_dtable. */
export interface KvmDtable {
  base: bigint;
  limit: number;
}

/** What kvm_sregs and kvm_sregs2 share. */
export interface KvmSregsCommon {
  cs: KvmSegment;
  ds: KvmSegment;
  es: KvmSegment;
  fs: KvmSegment;
  gs: KvmSegment;
  ss: KvmSegment;
  tr: KvmSegment;
  ldt: KvmSegment;
  gdt: KvmDtable;
  idt: KvmDtable;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
  apic_base: bigint;
}

/** struct kvm_sregs. */
export interface KvmSregs extends KvmSregsCommon {
  /** At most one bit set: the interrupt being injected. Four words, low vectors first. */
  interrupt_bitmap: [bigint, bigint, bigint, bigint];
}

/** struct kvm_sregs2. */
export interface KvmSregs2 extends KvmSregsCommon {
  flags: bigint;
  pdptrs: [bigint, bigint, bigint, bigint];
}
export const KVM_SREGS2_FLAGS_PDPTRS_VALID = 1n;

/** struct kvm_debugregs. */
export interface KvmDebugregs {
  db: [bigint, bigint, bigint, bigint];
  dr6: bigint;
  dr7: bigint;
  flags: bigint;
}

/** struct kvm_xcr. */
export interface KvmXcr {
  xcr: number;
  value: bigint;
}

/** struct kvm_xcrs; at most 16 registers. */
export interface KvmXcrs {
  flags: number;
  xcrs: KvmXcr[];
}
export const KVM_MAX_XCRS = 16;

/** Every register zero. */
export function kvmRegs(): KvmRegs {
  return {
    rax: 0n,
    rbx: 0n,
    rcx: 0n,
    rdx: 0n,
    rsi: 0n,
    rdi: 0n,
    rsp: 0n,
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    rip: 0n,
    rflags: 0n,
  };
}

/** A segment of zeroes. */
export function kvmSegment(): KvmSegment {
  return {
    base: 0n,
    limit: 0,
    selector: 0,
    type: 0,
    present: 0,
    dpl: 0,
    db: 0,
    s: 0,
    l: 0,
    g: 0,
    avl: 0,
    unusable: 0,
  };
}

/** struct kvm_sregs of zeroes. */
export function kvmSregs(): KvmSregs {
  return {
    cs: kvmSegment(),
    ds: kvmSegment(),
    es: kvmSegment(),
    fs: kvmSegment(),
    gs: kvmSegment(),
    ss: kvmSegment(),
    tr: kvmSegment(),
    ldt: kvmSegment(),
    gdt: { base: 0n, limit: 0 },
    idt: { base: 0n, limit: 0 },
    cr0: 0n,
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    cr8: 0n,
    efer: 0n,
    apic_base: 0n,
    interrupt_bitmap: [0n, 0n, 0n, 0n],
  };
}
