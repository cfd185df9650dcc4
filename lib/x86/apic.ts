// SPDX-License-Identifier: GPL-2.0-only
/**
 * The local APIC: register offsets in the xAPIC page and the bits of its registers. An x2APIC MSR is
 * 0x800 + (offset >> 4). SDM, "Advanced Programmable Interrupt Controller (APIC)"; names as in apicdef.h.
 */

/** Offsets of the registers in the xAPIC page. */
// prettier-ignore
export const APIC_REG = {
  ID:       0x020,
  LVR:      0x030, // Version
  TASKPRI:  0x080,
  ARBPRI:   0x090,
  PROCPRI:  0x0a0,
  EOI:      0x0b0,
  RRR:      0x0c0, // Remote read
  LDR:      0x0d0, // Logical destination
  DFR:      0x0e0, // Destination format
  SPIV:     0x0f0, // Spurious interrupt vector
  ISR:      0x100, // eight registers, 0x10 apart
  TMR:      0x180, // eight
  IRR:      0x200, // eight
  ESR:      0x280, // Error status
  LVTCMCI:  0x2f0,
  ICR:      0x300, // Interrupt command
  ICR2:     0x310, // its destination half
  LVTT:     0x320, // Timer
  LVTTHMR:  0x330, // Thermal sensor
  LVTPC:    0x340, // Performance counters
  LVT0:     0x350, // LINT0
  LVT1:     0x360, // LINT1
  LVTERR:   0x370,
  TMICT:    0x380, // Timer initial count
  TMCCT:    0x390, // Timer current count
  TDCR:     0x3e0, // Timer divide configuration
  SELF_IPI: 0x3f0, // x2APIC only
} as const;

/** Interrupt command register, low word. */
// prettier-ignore
export const APIC_ICR = {
  VECTOR_MASK:  0x0000_00ff,
  DM_MASK:      0x0000_0700, // Delivery mode, see APIC_DM
  DEST_LOGICAL: 0x0000_0800,
  BUSY:         0x0000_1000, // Delivery status
  LEVEL_ASSERT: 0x0000_4000,
  TRIG_LEVEL:   0x0000_8000,
  DEST_MASK:    0x000c_0000, // Shorthand, see APIC_DEST
} as const;

/** Bits of the x2APIC's ICR (low word) that must be zero. */
export const X2APIC_ICR_RSVD = 0xfff3_2000;

/** Delivery modes, in the position of ICR and LVT bits 10:8. */
// prettier-ignore
export const APIC_DM = {
  FIXED: 0x000, LOWEST: 0x100, SMI: 0x200, REMRD: 0x300, NMI: 0x400, INIT: 0x500, STARTUP: 0x600, EXTINT: 0x700,
} as const;

/** Destination shorthands, ICR bits 19:18. */
// prettier-ignore
export const APIC_DEST = { NOSHORT: 0x0_0000, SELF: 0x4_0000, ALLINC: 0x8_0000, ALLBUT: 0xc_0000 } as const;

/** Local vector table entries. */
// prettier-ignore
export const APIC_LVT = {
  VECTOR_MASK:       0x0_00ff,
  SEND_PENDING:      0x0_1000,
  INPUT_POLARITY:    0x0_2000,
  REMOTE_IRR:        0x0_4000,
  LEVEL_TRIGGER:     0x0_8000,
  MASKED:            0x1_0000,
  TIMER_MODE_MASK:   0x6_0000,
  TIMER_ONESHOT:     0x0_0000,
  TIMER_PERIODIC:    0x2_0000,
  TIMER_TSCDEADLINE: 0x4_0000,
} as const;

/** Spurious interrupt vector register. */
// prettier-ignore
export const APIC_SPIV = {
  VECTOR_MASK:     0x00ff,
  APIC_ENABLED:    0x0100,
  FOCUS_DISABLED:  0x0200,
  DIRECTED_EOI:    0x1000,
} as const;

/** Version register. */
// prettier-ignore
export const APIC_LVR = { VERSION: 0x14, MAXLVT_SHIFT: 16, DIRECTED_EOI: 0x0100_0000 } as const;

/** Error status register. */
// prettier-ignore
export const APIC_ESR = { SEND_ILL: 0x20, RECV_ILL: 0x40, ILL_REG_ADDR: 0x80 } as const;

/** Destination format register, xAPIC only. */
// prettier-ignore
export const APIC_DFR = { CLUSTER: 0x0fff_ffff, FLAT: 0xffff_ffff } as const;

/** IA32_APIC_BASE. */
// prettier-ignore
export const APICBASE = {
  BSP:       0x0000_0100,
  EXTD:      0x0000_0400, // x2APIC
  ENABLE:    0x0000_0800,
  BASE_MASK: 0xffff_f000, // of the low word
} as const;

/** First MSR of the x2APIC register space. */
export const APIC_BASE_MSR = 0x800;
/** Exclusive end of the x2APIC register space. */
export const APIC_END_MSR = 0x900;
