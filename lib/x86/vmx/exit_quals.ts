// SPDX-License-Identifier: GPL-2.0-only
/**
 * Layouts of the exit qualification and of the VM-exit instruction information, bits 31:0. SDM, "Exit Qualification"
 * (tables per exit reason) and "Information for VM Exits Due to Instruction Execution".
 */

/** Control-register accesses. */
// prettier-ignore
export const CR_QUAL = {
  CR_MASK:          0x0000_000f,
  TYPE_MASK:        0x0000_0030,
  TYPE_MOV_TO_CR:   0x0000_0000,
  TYPE_MOV_FROM_CR: 0x0000_0010,
  TYPE_CLTS:        0x0000_0020,
  TYPE_LMSW:        0x0000_0030,
  LMSW_MEMORY:      0x0000_0040, // The operand of LMSW is in memory
  REG_MASK:         0x0000_0f00,
  LMSW_SOURCE_MASK: 0xffff_0000,
} as const;
export const CR_QUAL_REG_SHIFT = 8;
export const CR_QUAL_LMSW_SOURCE_SHIFT = 16;

/** MOV DR. */
// prettier-ignore
export const DR_QUAL = {
  DR_MASK:     0x0000_0007,
  MOV_FROM_DR: 0x0000_0010,
  REG_MASK:    0x0000_0f00,
} as const;
export const DR_QUAL_REG_SHIFT = 8;

/** I/O instructions. */
// prettier-ignore
export const IO_QUAL = {
  SIZE_MASK: 0x0000_0007, // Bytes minus one: 0, 1 or 3
  IN:        0x0000_0008,
  STRING:    0x0000_0010,
  REP:       0x0000_0020,
  IMMEDIATE: 0x0000_0040, // The port is an immediate operand, else it is in DX
  PORT_MASK: 0xffff_0000,
} as const;
export const IO_QUAL_PORT_SHIFT = 16;

/** Debug exceptions: the exit qualification of an exit due to DB. */
// prettier-ignore
export const DB_QUAL = {
  B0_B3: 0x0000_000f,
  BLD:   0x0000_0800,
  BD:    0x0000_2000,
  BS:    0x0000_4000,
  RTM:   0x0001_0000,
} as const;

/** EPT violations; the names are KVM's. */
// prettier-ignore
export const EPT_VIOLATION = {
  ACC_READ:        0x0001,
  ACC_WRITE:       0x0002,
  ACC_INSTR:       0x0004,
  PROT_READ:       0x0008,
  PROT_WRITE:      0x0010,
  PROT_EXEC:       0x0020,
  PROT_USER_EXEC:  0x0040, // With mode-based execute control
  GVA_IS_VALID:    0x0080,
  GVA_TRANSLATED:  0x0100, // The access is to the final address, not to a paging-structure entry
  GVA_USER:        0x0200, // With advanced exit information, as the next two
  GVA_WRITABLE:    0x0400,
  GVA_NX:          0x0800,
  NMI_UNBLOCKING:  0x1000, // Due to IRET
  SHADOW_STACK:    0x2000,
  SUPERVISOR_SS:   0x4000,
  VERIFICATION:    0x8000, // Guest-paging verification
  ASYNCHRONOUS:    0x1_0000, // Not caused by an instruction
} as const;

/** APIC-access exits. The types are those of linear accesses. */
// prettier-ignore
export const APIC_ACCESS_QUAL = {
  OFFSET_MASK: 0x0fff,
  TYPE_MASK:   0xf000,
  TYPE_READ:   0x0000,
  TYPE_WRITE:  0x1000,
  TYPE_FETCH:  0x2000,
  TYPE_EVENT:  0x3000, // read or write during event delivery
} as const;

/** Task switches: the selector is in bits 15:0. */
// prettier-ignore
export const TASK_SWITCH_QUAL = {
  SELECTOR_MASK: 0x0000_ffff,
  SOURCE_CALL:   0x0000_0000,
  SOURCE_IRET:   0x4000_0000,
  SOURCE_JMP:    0x8000_0000,
  SOURCE_GATE:   0xc000_0000,
} as const;

/** VM-exit instruction information: the bit fields that its formats share; each format uses some of them. */
// prettier-ignore
export const INSN_INFO = {
  SCALING_SHIFT:    0,  // bits 1:0
  REG1_SHIFT:       3,  // bits 6:3, the register that stands for the memory operand
  ADDR_SIZE_SHIFT:  7,  // bits 9:7: 0 is 16 bits, 1 is 32, 2 is 64
  REG_OPERAND:      0x0000_0400, // Bit 10: the operand is a register, not memory
  OPERAND_SIZE_SHIFT: 11, // bits 12:11: 0 is 16 bits, 1 is 32, 2 is 64
  SEG_SHIFT:        15, // bits 17:15
  INDEX_SHIFT:      18, // bits 21:18
  INDEX_INVALID:    0x0040_0000,
  BASE_SHIFT:       23, // bits 26:23
  BASE_INVALID:     0x0800_0000,
  REG2_SHIFT:       28, // bits 31:28, the register operand
  IDENTITY_SHIFT:   28, // bits 29:28 for GDTR_IDTR and LDTR_TR
} as const;
