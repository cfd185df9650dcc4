// SPDX-License-Identifier: GPL-2.0-only
/**
 * The structure of a VMCS field's encoding: width, type and index are bit fields of it. SDM, "VMCS Fields" and the
 * appendix "Field Encoding in VMCS".
 */

/** Bits 14:13 of an encoding. */
// prettier-ignore
export const VMCS_WIDTH = { U16: 0, U64: 1, U32: 2, NATURAL: 3 } as const;

/** Bits 11:10 of an encoding. INFO fields are the VM-exit information fields, read-only on some processors. */
// prettier-ignore
export const VMCS_TYPE = { CONTROL: 0, INFO: 1, GUEST: 2, HOST: 3 } as const;

/** Bit 0: the access is to bits 63:32 of a 64-bit field. */
export const VMCS_ACCESS_HIGH = 0x1;
/** Bits that must be zero in an encoding: bit 12 and everything from bit 15 up. */
export const VMCS_ENCODING_RESERVED = 0xffff_9000;
/** Encodings are below this number. */
export const VMCS_ENCODING_LIMIT = 0x8000;

/** Width of a field, one of VMCS_WIDTH. */
export const vmcsFieldWidth = (field: number): number => (field >>> 13) & 3;
/** Type of a field, one of VMCS_TYPE. */
export const vmcsFieldType = (field: number): number => (field >>> 10) & 3;
/** Index of a field among those of its width and type. */
export const vmcsFieldIndex = (field: number): number => (field >>> 1) & 0x1ff;
/** Whether the field takes 64 bits: a 64-bit field or, in 64-bit mode, one of natural width. */
export const vmcsFieldIs64 = (field: number): boolean => (vmcsFieldWidth(field) & 1) === 1;
