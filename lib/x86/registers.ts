// SPDX-License-Identifier: GPL-2.0-only
/** General-purpose, flag and control registers. */

/** General-purpose registers by their encoding in ModRM, SIB and REX. SDM, "Instruction Format". */
// prettier-ignore
export const GPR = {
  RAX: 0, RCX: 1, RDX: 2, RBX: 3, RSP: 4, RBP: 5, RSI: 6, RDI: 7,
  R8: 8, R9: 9, R10: 10, R11: 11, R12: 12, R13: 13, R14: 14, R15: 15,
} as const;

/** Segment registers by their encoding. */
// prettier-ignore
export const SEG = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5 } as const;

/** EFLAGS. SDM, "EFLAGS Register". */
// prettier-ignore
export const RFLAGS = {
  CF:   0x0000_0001, // Carry
  FIXED: 0x0000_0002, // Always one
  PF:   0x0000_0004, // Parity of the low byte
  AF:   0x0000_0010, // Auxiliary carry
  ZF:   0x0000_0040, // Zero
  SF:   0x0000_0080, // Sign
  TF:   0x0000_0100, // Trap
  IF:   0x0000_0200, // Interrupt enable
  DF:   0x0000_0400, // Direction
  OF:   0x0000_0800, // Overflow
  IOPL: 0x0000_3000, // I/O privilege level (two bits)
  NT:   0x0000_4000, // Nested task
  RF:   0x0001_0000, // Resume
  VM:   0x0002_0000, // Virtual-8086 mode
  AC:   0x0004_0000, // Alignment check; SMAP override
  VIF:  0x0008_0000, // Virtual interrupt
  VIP:  0x0010_0000, // Virtual interrupt pending
  ID:   0x0020_0000, // CPUID is there
} as const;

/** CR0. SDM, "Control Registers". */
// prettier-ignore
export const CR0 = {
  PE: 0x0000_0001, // Protection enable
  MP: 0x0000_0002, // Monitor coprocessor
  EM: 0x0000_0004, // Emulation
  TS: 0x0000_0008, // Task switched
  ET: 0x0000_0010, // Extension type, always one
  NE: 0x0000_0020, // Numeric error
  WP: 0x0001_0000, // Write protect
  AM: 0x0004_0000, // Alignment mask
  NW: 0x2000_0000, // Not write-through
  CD: 0x4000_0000, // Cache disable
  PG: 0x8000_0000, // Paging
} as const;

/** CR4. SDM, "Control Registers". */
// prettier-ignore
export const CR4 = {
  VME:        0x0000_0001, // Virtual-8086 mode extensions
  PVI:        0x0000_0002, // Protected-mode virtual interrupts
  TSD:        0x0000_0004, // Time stamp disable
  DE:         0x0000_0008, // Debugging extensions
  PSE:        0x0000_0010, // Page size extensions
  PAE:        0x0000_0020, // Physical address extension
  MCE:        0x0000_0040, // Machine-check enable
  PGE:        0x0000_0080, // Page global enable
  PCE:        0x0000_0100, // RDPMC at any level
  OSFXSR:     0x0000_0200, // FXSAVE and SSE
  OSXMMEXCPT: 0x0000_0400, // Unmasked SIMD exceptions
  UMIP:       0x0000_0800, // User-mode instruction prevention
  LA57:       0x0000_1000, // 5-level paging
  VMXE:       0x0000_2000, // VMX enable
  SMXE:       0x0000_4000, // SMX enable
  FSGSBASE:   0x0001_0000, // RDFSBASE and friends
  PCIDE:      0x0002_0000, // Process-context identifiers
  OSXSAVE:    0x0004_0000, // XSAVE
  SMEP:       0x0010_0000, // Supervisor-mode execution prevention
  SMAP:       0x0020_0000, // Supervisor-mode access prevention
  PKE:        0x0040_0000, // Protection keys for user pages
  CET:        0x0080_0000, // Control-flow enforcement
  PKS:        0x0100_0000, // Protection keys for supervisor pages
} as const;

/** IA32_EFER. SDM, "Extended Feature Enable Register"; SVME from the APM. */
// prettier-ignore
export const EFER = {
  SCE:  0x0000_0001, // SYSCALL enable
  LME:  0x0000_0100, // Long mode enable
  LMA:  0x0000_0400, // Long mode active
  NXE:  0x0000_0800, // No-execute enable
  SVME: 0x0000_1000, // Secure virtual machine enable (AMD)
} as const;

/** DR6. SDM, "Debug Status Register". */
// prettier-ignore
export const DR6 = {
  B0: 0x0000_0001, B1: 0x0000_0002, B2: 0x0000_0004, B3: 0x0000_0008,
  BD: 0x0000_2000, // Debug register access
  BS: 0x0000_4000, // Single step
  BT: 0x0000_8000, // Task switch
  FIXED_1: 0xffff_0ff0, // Bits that read as one
} as const;

/** DR7. SDM, "Debug Control Register". */
// prettier-ignore
export const DR7 = {
  FIXED_1: 0x0000_0400, // Bit that reads as one
  GD:      0x0000_2000, // General detect
} as const;

/** XCR0. SDM, "Extended Control Registers". */
// prettier-ignore
export const XCR0 = {
  X87:    0x0000_0001,
  SSE:    0x0000_0002,
  AVX:    0x0000_0004,
  PKRU:   0x0000_0200,
} as const;
