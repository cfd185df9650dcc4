// SPDX-License-Identifier: GPL-2.0-only
/** Instruction cases: VMXON and VMXOFF. SDM, "VMX Instruction Reference". */
import { CR0, CR4 } from '../../x86/registers.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { GUEST_ASSERT_EQ } from '../guest_assert.ts';
import { get_cr0, get_cr4, set_cr0, set_cr4 } from '../processor.ts';
import { vmxoff, vmxon, VMX_STATUS } from '../vmx_insns.ts';
import {
  FAIL_INVALID,
  failValidWith,
  type InsnCase,
  plain,
  SUCCEED,
  UNMAPPED_ADDRESS,
  VMX_STATE as STATE,
  withOperand,
  withPointer,
} from './insn_case.ts';
import { checkPagePhysical as pa } from './program.ts';

import {
  type Address,
  at,
  bit63,
  GP,
  literal,
  nowhere,
  operandFaults,
  readField,
  UD,
  wide,
} from './insn_operands.ts';
const vmxonCase = (
  name: string,
  state: number,
  expected: InsnCase['expected'],
  pointer: Address,
): InsnCase => ({
  section: 'VMXON',
  name: `VMXON: ${name}`,
  state,
  expected,
  code: withPointer('vmxon', pointer),
});

/** VMXON with a register changed, and the register as it was afterwards. */
function vmxonWith(
  name: string,
  expected: InsnCase['expected'],
  change: (g: GuestCode) => () => void,
): InsnCase {
  return {
    section: 'VMXON',
    name: `VMXON: ${name}`,
    state: STATE.OFF,
    expected,
    code: (g, out) => {
      const restore = change(g);
      withPointer('vmxon', at('vmxon'))(g, out);
      restore();
    },
  };
}

const VMXON_CASES: readonly InsnCase[] = [
  vmxonWith('CR4.VMXE is 0', UD, (g) => {
    const cr4 = g.let(get_cr4(g));
    set_cr4(g, cr4.and(~BigInt(CR4.VMXE)));
    return () => set_cr4(g, cr4);
  }),
  vmxonWith('CR0.NE is 0', GP, (g) => {
    const cr0 = g.let(get_cr0(g));
    set_cr0(g, cr0.and(~BigInt(CR0.NE)));
    return () => set_cr0(g, cr0);
  }),
  vmxonCase('bits 11:0 of the pointer are not 0', STATE.OFF, FAIL_INVALID, at('vmxon', 8)),
  vmxonCase('bit 11 of the pointer is not 0', STATE.OFF, FAIL_INVALID, at('vmxon', 0x800)),
  vmxonCase('the pointer is beyond the physical-address width', STATE.OFF, FAIL_INVALID, wide('vmxon')),
  vmxonCase('bit 63 of the pointer is 1', STATE.OFF, FAIL_INVALID, bit63('vmxon')),
  vmxonCase('the region has another revision identifier', STATE.OFF, FAIL_INVALID, at('zero')),
  vmxonCase('bit 31 of the revision identifier is 1', STATE.OFF, FAIL_INVALID, at('shadow')),
  vmxonCase('the pointer leads to no memory', STATE.OFF, FAIL_INVALID, nowhere),
  vmxonCase('outside of VMX operation', STATE.OFF, SUCCEED, at('vmxon')),
  ...operandFaults('VMXON', 'vmxon', STATE.OFF),
  vmxonCase('in VMX root operation without a current VMCS', STATE.ROOT, FAIL_INVALID, at('vmxon')),
  vmxonCase(
    'in VMX root operation',
    STATE.CURRENT,
    failValidWith(VMXERR.VMXON_IN_VMX_ROOT_OPERATION),
    at('vmxon'),
  ),
  vmxonCase(
    'in VMX root operation with a bad pointer',
    STATE.CURRENT,
    failValidWith(VMXERR.VMXON_IN_VMX_ROOT_OPERATION),
    at('vmxon', 8),
  ),
  {
    section: 'VMXON',
    name: 'VMXON: in VMX root operation the operand is not read',
    state: STATE.CURRENT,
    expected: failValidWith(VMXERR.VMXON_IN_VMX_ROOT_OPERATION),
    code: withOperand('vmxon', literal(UNMAPPED_ADDRESS)),
  },
];

const VMXOFF_CASES: readonly InsnCase[] = [
  {
    section: 'VMXOFF',
    name: 'VMXOFF: outside of VMX operation',
    state: STATE.OFF,
    expected: UD,
    code: plain('vmxoff'),
  },
  {
    section: 'VMXOFF',
    name: 'VMXOFF: without a current VMCS',
    state: STATE.ROOT,
    expected: SUCCEED,
    code: plain('vmxoff'),
  },
  {
    section: 'VMXOFF',
    name: 'VMXOFF: with a current VMCS',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: plain('vmxoff'),
  },
  {
    section: 'VMXOFF',
    name: 'VMXOFF: no VMCS is current after the next VMXON',
    state: STATE.CURRENT,
    expected: FAIL_INVALID,
    code: (g, out) => {
      GUEST_ASSERT_EQ(g, vmxoff(g), VMX_STATUS.SUCCEED);
      GUEST_ASSERT_EQ(g, vmxon(g, pa('vmxon')), VMX_STATUS.SUCCEED);
      readField(g, out);
    },
  },
];

/** Cases of this file. */
export const VMXON_ALL: readonly InsnCase[] = [...VMXON_CASES, ...VMXOFF_CASES];
