// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMCS host-state fields by KVM's names, without the HOST_ prefix that the table's name supplies. SDM, appendix
 * "Field Encoding in VMCS": the host-state fields of all four widths.
 */

// prettier-ignore
export const VMCS_HOST = {
  ES_SELECTOR:           0x0c00,
  CS_SELECTOR:           0x0c02,
  SS_SELECTOR:           0x0c04,
  DS_SELECTOR:           0x0c06,
  FS_SELECTOR:           0x0c08,
  GS_SELECTOR:           0x0c0a,
  TR_SELECTOR:           0x0c0c,
  IA32_PAT:              0x2c00,
  IA32_EFER:             0x2c02,
  IA32_PERF_GLOBAL_CTRL: 0x2c04,
  IA32_PKRS:             0x2c06,
  IA32_FRED_CONFIG:      0x2c08,
  IA32_FRED_RSP1:        0x2c0a,
  IA32_FRED_RSP2:        0x2c0c,
  IA32_FRED_RSP3:        0x2c0e,
  IA32_FRED_STKLVLS:     0x2c10,
  IA32_FRED_SSP1:        0x2c12,
  IA32_FRED_SSP2:        0x2c14,
  IA32_FRED_SSP3:        0x2c16,
  IA32_SYSENTER_CS:      0x4c00,
  CR0:                   0x6c00,
  CR3:                   0x6c02,
  CR4:                   0x6c04,
  FS_BASE:               0x6c06,
  GS_BASE:               0x6c08,
  TR_BASE:               0x6c0a,
  GDTR_BASE:             0x6c0c,
  IDTR_BASE:             0x6c0e,
  IA32_SYSENTER_ESP:     0x6c10,
  IA32_SYSENTER_EIP:     0x6c12,
  RSP:                   0x6c14,
  RIP:                   0x6c16,
  S_CET:                 0x6c18,
  SSP:                   0x6c1a,
  INTR_SSP_TABLE:        0x6c1c,
} as const;
