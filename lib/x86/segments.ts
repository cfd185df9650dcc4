// SPDX-License-Identifier: GPL-2.0-only
/**
 * Segment selectors, descriptors and gates, and the access-rights format that the processor state and the VMCS share.
 * SDM, "Segment Descriptors", "System Descriptor Types", "64-Bit Mode IDT", "Task Management in 64-bit Mode".
 */

/** Selector. */
// prettier-ignore
export const SELECTOR = { RPL_MASK: 0x3, TI: 0x4, INDEX_MASK: 0xfff8 } as const;

/** Access rights, as in the VMCS: descriptor bits 47:40 and 55:52, and the unusable bit. */
// prettier-ignore
export const AR = {
  TYPE_MASK: 0x000f,
  S:         0x0010, // Code or data; 0: system
  DPL_MASK:  0x0060,
  P:         0x0080,
  AVL:       0x1000,
  L:         0x2000, // 64-bit code
  DB:        0x4000, // Default operand size
  G:         0x8000, // Limit in 4 KiB units
  UNUSABLE:  0x1_0000,
} as const;
export const AR_DPL_SHIFT = 5;

/** Type bits of code and data segments. */
// prettier-ignore
export const SEG_TYPE = {
  ACCESSED: 0x1, WRITABLE: 0x2, EXPAND_DOWN: 0x4, // of data segments
  READABLE: 0x2, CONFORMING: 0x4,                 // of code segments
  CODE: 0x8,
} as const;

/** Types of system segments and gates in IA-32e mode. */
// prettier-ignore
export const SYS_TYPE = {
  LDT: 0x2, TSS64_AVAILABLE: 0x9, TSS64_BUSY: 0xb, CALL_GATE64: 0xc, INTERRUPT_GATE64: 0xe, TRAP_GATE64: 0xf,
} as const;

/** Offsets in the 64-bit TSS. */
// prettier-ignore
export const TSS64 = { RSP0: 4, RSP1: 12, RSP2: 20, IST1: 36, IO_MAP_BASE: 102, LIMIT: 103 } as const;

/** A segment descriptor of 8 bytes as two words; `limit` in bytes, G is derived: above 1 MiB. */
export function encodeDescriptor(base: number, limit: number, ar: number): readonly [lo: number, hi: number] {
  const granular = limit > 0xf_ffff;
  const units = granular ? limit >>> 12 : limit;
  const lo = ((base & 0xffff) << 16) | (units & 0xffff);
  const flags = (ar & (AR.AVL | AR.L | AR.DB)) | (granular ? AR.G : 0);
  const hi =
    (base & 0xff00_0000) |
    ((base >>> 16) & 0xff) |
    ((ar & 0xff) << 8) |
    (units & 0xf_0000) |
    ((flags & 0xf000) << 8);
  return [lo | 0, hi | 0];
}

/** Limit in bytes of a descriptor's two words. */
export function descriptorLimit(lo: number, hi: number): number {
  const units = (lo & 0xffff) | (hi & 0xf_0000);
  return (hi & 0x0080_0000) !== 0 ? ((units << 12) | 0xfff) >>> 0 : units;
}

/** Base bits 31:0 of a descriptor's two words. */
export function descriptorBase(lo: number, hi: number): number {
  return (lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff00_0000);
}

/** Access rights of a descriptor's high word. */
export function descriptorAr(hi: number): number {
  return ((hi >>> 8) & 0xff) | ((hi >>> 8) & 0xf000);
}

/** A 64-bit interrupt or trap gate as four words. */
export function encodeGate64(
  type: number,
  selector: number,
  offset: bigint,
  dpl: number,
  ist = 0,
): readonly [number, number, number, number] {
  const low = Number(offset & 0xffff_ffffn);
  const w0 = ((selector & 0xffff) << 16) | (low & 0xffff);
  const w1 = (low & 0xffff_0000) | (AR.P << 8) | (dpl << 13) | (type << 8) | ist;
  return [w0 | 0, w1 | 0, Number((offset >> 32n) & 0xffff_ffffn) | 0, 0];
}
