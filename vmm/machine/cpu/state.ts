// SPDX-License-Identifier: GPL-2.0-only
/**
 * The architectural state of one logical processor, as words of the machine's memory. 64-bit registers take two words,
 * low first. Everything that a fast path reads is here; caches and devices hang off `Cpu`.
 */

/** Word indices into `cpu.s`. A register marked (2) takes two words. */
// prettier-ignore
export const S = {
  GPR:        0,   // (2) each, 16 registers by encoding
  ZERO:       32,  // (2) always zero: the register of an absent base or index
  RIP:        34,  // (2)
  FLAG_OP:    36,  // lazy flags, owned by the interpreter: use getRflags()/setRflags()
  FLAG_A:     37,  // (2)
  FLAG_B:     39,  // (2)
  FLAG_R:     41,  // (2)
  RFLAGS_SYS: 43,  // RFLAGS without CF PF AF ZF SF OF
  CPL:        44,
  CTX:        45,  // XOR mask of the fast TLB's high tag: which translations are live
  CR0:        46,  // (2)
  CR2:        48,  // (2)
  CR3:        50,  // (2)
  CR4:        52,  // (2)
  CR8:        54,  // TPR bits 7:4, when no local APIC keeps them
  EFER:       56,  // (2)
  XCR0:       58,  // (2)
  PKRU:       60,
  BLOCKING:   61,  // interruptibility: BLOCKING_STI, BLOCKING_MOV_SS, BLOCKING_NMI
  ACTIVITY:   62,  // ACTIVITY.*
  PENDING:    63,  // non-zero: something must be looked at before the next instruction
  KERNEL_GS:  64,  // (2) IA32_KERNEL_GS_BASE
  DR:         66,  // (2) each, DR0..DR7
  GDTR_BASE:  82,  // (2)
  GDTR_LIMIT: 84,
  IDTR_BASE:  86,  // (2)
  IDTR_LIMIT: 88,
  SEG:        96,  // 8 segments of SEG_WORDS each: ES CS SS DS FS GS LDTR TR
} as const;

/** Words of one segment register, from S.SEG + n * SEG_WORDS. Attributes are in the VMX access-rights format. */
export const SEG_WORDS = 5;
// prettier-ignore
export const SEGF = { BASE: 0, LIMIT: 2, SEL: 3, AR: 4 } as const; // BASE takes two words
// prettier-ignore
export const SEGN = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5, LDTR: 6, TR: 7 } as const;

/** S.BLOCKING bits: as the VMCS's guest interruptibility-state. SDM, "Guest Non-Register State". */
// prettier-ignore
export const BLOCKING = { STI: 0x1, MOV_SS: 0x2, SMI: 0x4, NMI: 0x8 } as const;
/** S.ACTIVITY values: as the VMCS's guest activity state. */
// prettier-ignore
export const ACTIVITY = { ACTIVE: 0, HLT: 1, SHUTDOWN: 2, WAIT_SIPI: 3 } as const;

/** Why the interpreter's `tier0()` or the outer `cpuRun()` came back. */
// prettier-ignore
export const RUN = {
  DEADLINE: 0, // the deadline is reached, or S.PENDING was raised; RIP is at the next instruction
  FAULT:    1, // tier0 only: `cpu.fault` is set, RIP is at the faulting instruction, nothing was written
  SYS:      2, // tier0 only: `cpu.insn` is set to a system instruction, RIP is still at it
  VMEXIT:   3, // a VM exit has been performed: host state is loaded, exit information is in the current VMCS
  HLT:      4, // halted, waiting for an event
  SHUTDOWN: 5, // triple fault outside VMX non-root operation
} as const;

/** What went wrong in an access. */
// prettier-ignore
export const FAULT = {
  NONE:          0,
  EXCEPTION:     1, // vector, errorCode; crLo/crHi for PF
  EPT_VIOLATION: 2, // qualification, gpa, linear address
  EPT_MISCONFIG: 3, // gpa
  APIC_ACCESS:   4, // qualification
  PML_FULL:      5, // the page-modification log has no room
} as const;

/** Fault of the last access or instruction; mutable and reused, so that raising one allocates nothing. */
export interface FaultInfo {
  kind: number;
  vector: number;
  errorCode: number;
  /** Linear address of a PF or an EPT violation. */
  linLo: number;
  linHi: number;
  /** Guest physical address of an EPT violation or misconfiguration. */
  gpa: number;
  /** EPT-violation exit qualification. */
  qualification: number;
}
