// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which registers a local APIC has and what may be written to them. SDM, "Local APIC Register Address Map" and "x2APIC
 * Register Address Space".
 */
import { APIC_LVT, APIC_REG } from '../../../lib/x86/apic.ts';

/** Local vector table entries, LVTCMCI included. */
export const NR_LVT = 7;
/** LVT entries and the bits that can be written. */
// prettier-ignore
export const LVT_MASKS: Readonly<Record<number, number>> = {
  [APIC_REG.LVTCMCI]: 0x1_07ff, [APIC_REG.LVTT]: 0x7_00ff, [APIC_REG.LVTTHMR]: 0x1_07ff, [APIC_REG.LVTPC]: 0x1_07ff,
  [APIC_REG.LVT0]: 0x1_a7ff, [APIC_REG.LVT1]: 0x1_a7ff, [APIC_REG.LVTERR]: 0x1_00ff,
};
/** Offsets of the LVT entries. */
export const LVT_REGS = Object.keys(LVT_MASKS).map(Number);

/** The logical ID of an x2APIC: cluster and bit. SDM, "Deriving Logical x2APIC ID from the Local x2APIC ID". */
export const x2apicLdr = (id: number): number => ((id >>> 4) << 16) | (1 << (id & 0xf));

/** Whether the low word may be written to the x2APIC register; the ICR has its own path. */
export function x2apicWriteAllowed(offset: number, lo: number): boolean {
  switch (offset) {
    case APIC_REG.EOI:
    case APIC_REG.ESR:
      return lo === 0;
    case APIC_REG.TASKPRI:
    case APIC_REG.SELF_IPI:
      return (lo & ~0xff) === 0;
    case APIC_REG.TDCR:
      return (lo & ~0xb) === 0;
    case APIC_REG.SPIV:
      return (lo & ~0x13ff) === 0;
    case APIC_REG.TMICT:
      return true;
    default: {
      const mask = LVT_MASKS[offset];
      return mask !== undefined && (lo & ~(mask | APIC_LVT.SEND_PENDING | APIC_LVT.REMOTE_IRR)) === 0;
    }
  }
}

/** Whether a register can be read at the offset, in either mode; those with effects are the caller's. */
export function isApicReadable(offset: number): boolean {
  if ((offset & 0xf) !== 0) return false;
  if (offset >= APIC_REG.ISR && offset < APIC_REG.ESR) return true;
  if (LVT_MASKS[offset] !== undefined) return true;
  switch (offset) {
    case APIC_REG.ID:
    case APIC_REG.LVR:
    case APIC_REG.TASKPRI:
    case APIC_REG.LDR:
    case APIC_REG.DFR:
    case APIC_REG.SPIV:
    case APIC_REG.ESR:
    case APIC_REG.ICR:
    case APIC_REG.ICR2:
    case APIC_REG.TMICT:
    case APIC_REG.TDCR:
      return true;
    default:
      return false;
  }
}
