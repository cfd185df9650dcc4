// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instructions that leave the interpreter's loop for a function of their own: everything that touches system state or
 * may be intercepted. The decoder fills one reused `SysInsn`; cpu/system executes it.
 */

// prettier-ignore
export const SYSOP = {
  CPUID: 1, RDTSC: 2, RDTSCP: 3, RDPMC: 4, RDMSR: 5, WRMSR: 6, HLT: 7, IN: 8, OUT: 9, INS: 10, OUTS: 11,
  MOV_FROM_CR: 12, MOV_TO_CR: 13, MOV_FROM_DR: 14, MOV_TO_DR: 15, CLTS: 16, LMSW: 17, SMSW: 18,
  INVLPG: 19, INVPCID: 20, INVD: 21, WBINVD: 22, SWAPGS: 23, LGDT: 24, LIDT: 25, SGDT: 26, SIDT: 27,
  LLDT: 28, SLDT: 29, LTR: 30, STR: 31, MOV_TO_SREG: 32, MOV_FROM_SREG: 33, IRET: 34,
  CLI: 35, STI: 36, PUSHF: 37, POPF: 38, INT: 39, INT3: 40, PAUSE: 41, MONITOR: 42, MWAIT: 43,
  XGETBV: 44, XSETBV: 45, RDFSBASE: 46, RDGSBASE: 47, WRFSBASE: 48, WRGSBASE: 49, RDPKRU: 50, WRPKRU: 51,
  STAC: 52, CLAC: 53, SYSCALL: 54, SYSRET: 55, SYSENTER: 56, SYSEXIT: 57, RDRAND: 58, RDSEED: 59, RDPID: 60,
  PUSH_SREG: 61, POP_SREG: 62, LAR: 63, LSL: 64, VERR: 65, VERW: 66, INT1: 67,
  VMXON: 80, VMXOFF: 81, VMPTRLD: 82, VMPTRST: 83, VMCLEAR: 84, VMREAD: 85, VMWRITE: 86, VMLAUNCH: 87, VMRESUME: 88,
  VMCALL: 89, VMFUNC: 90, INVEPT: 91, INVVPID: 92,
  VMRUN: 93, VMLOAD: 94, VMSAVE: 95, VMMCALL: 96, CLGI: 97, STGI: 98, INVLPGA: 99, SKINIT: 100,
} as const;

export type SysOp = (typeof SYSOP)[keyof typeof SYSOP];

/** Operands of one decoded system instruction. */
export interface SysInsn {
  op: number;
  /** Bytes of the instruction, prefixes included. */
  length: number;
  /** Operand size in bytes: 1, 2, 4 or 8. */
  size: number;
  /** ModRM.reg with REX.R: a GPR, or the CR, DR or segment register number. */
  reg: number;
  /** ModRM.rm with REX.B if a register, else -1: memory at ea. */
  rm: number;
  /** Effective linear address (segment base included) of a memory operand. */
  eaLo: number;
  eaHi: number;
  /** Effective segment register (SEGN) of the memory operand, and the ModRM parts, for VM-exit instruction information. */
  seg: number;
  base: number; // GPR, or -1
  index: number; // GPR, or -1
  scale: number; // 0..3
  disp: number; // sign-extended 32-bit
  /** Address size in bytes: 4 or 8. */
  addressSize: number;
  /** Immediate: port, vector, ... ; for IN and OUT -1 if the port is in DX. */
  imm: number;
  /** REP prefix. */
  rep: number; // 0 or 1
}
