// SPDX-License-Identifier: GPL-2.0-only
/** Names against encodings: the table that a field stands in must agree with the type bits of its encoding. */
import { describe, expect, it } from 'vitest';
import {
  VMCS_ENCODING_RESERVED,
  VMCS_TYPE,
  VMCS_WIDTH,
  vmcsFieldIndex,
  vmcsFieldIs64,
  vmcsFieldType,
  vmcsFieldWidth,
} from './field.ts';
import { VMCS_CTRL } from './vmcs_ctrl.ts';
import { VMCS_GUEST } from './vmcs_guest.ts';
import { VMCS_HOST } from './vmcs_host.ts';
import { VMCS_INFO } from './vmcs_info.ts';

const TABLES = [
  { name: 'VMCS_CTRL', table: VMCS_CTRL, type: VMCS_TYPE.CONTROL },
  { name: 'VMCS_INFO', table: VMCS_INFO, type: VMCS_TYPE.INFO },
  { name: 'VMCS_GUEST', table: VMCS_GUEST, type: VMCS_TYPE.GUEST },
  { name: 'VMCS_HOST', table: VMCS_HOST, type: VMCS_TYPE.HOST },
] as const;

describe('VMCS field encodings', () => {
  it.each(TABLES)('$name holds only fields of its type', ({ table, type }) => {
    for (const [name, field] of Object.entries(table)) expect(vmcsFieldType(field), name).toBe(type);
  });

  it('no two names share an encoding, none sets a reserved bit or the access-type bit', () => {
    const all = TABLES.flatMap(({ table }) => Object.values(table));
    expect(new Set(all).size).toBe(all.length);
    for (const field of all) expect(field & (VMCS_ENCODING_RESERVED | 1)).toBe(0);
  });

  it('selectors are 16 bits wide, bases natural, limits 32, as SDM appendix "Field Encoding in VMCS" has them', () => {
    for (const [name, field] of [...Object.entries(VMCS_GUEST), ...Object.entries(VMCS_HOST)]) {
      if (name.endsWith('_SELECTOR')) expect(vmcsFieldWidth(field), name).toBe(VMCS_WIDTH.U16);
      if (name.endsWith('_BASE')) expect(vmcsFieldWidth(field), name).toBe(VMCS_WIDTH.NATURAL);
      if (/_LIMIT$|_AR_BYTES$/.test(name)) expect(vmcsFieldWidth(field), name).toBe(VMCS_WIDTH.U32);
    }
    expect(vmcsFieldWidth(VMCS_CTRL.TSC_OFFSET)).toBe(VMCS_WIDTH.U64);
  });

  it('the index counts within width and type', () => {
    // SDM: "VMX-preemption timer value" is 0000_1011_1b of the 32-bit guest-state fields, that is 23.
    expect(vmcsFieldIndex(VMCS_GUEST.VMX_PREEMPTION_TIMER_VALUE)).toBe(23);
    expect(vmcsFieldIndex(VMCS_CTRL.VIRTUAL_PROCESSOR_ID)).toBe(0);
    expect(vmcsFieldIs64(VMCS_GUEST.RIP)).toBe(true);
    expect(vmcsFieldIs64(VMCS_GUEST.CS_LIMIT)).toBe(false);
  });
});
