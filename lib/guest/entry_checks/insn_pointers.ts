// SPDX-License-Identifier: GPL-2.0-only
/** Instruction cases: VMCLEAR, VMPTRLD, VMPTRST. SDM, "VMX Instruction Reference". */
import { VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../x86/vmx/controls.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { imm, type Expr } from '../dsl/expr.ts';
import type { Operand } from '../dsl/rvalue.ts';
import { type IntType, u64 } from '../dsl/types.ts';
import { GUEST_ASSERT_EQ } from '../guest_assert.ts';
import { vmclear, vmptrld, vmptrst, vmread, VMX_STATUS } from '../vmx_insns.ts';
import {
  FAIL_INVALID,
  failValidWith,
  type InsnCase,
  type Out,
  plain,
  resume,
  SUCCEED,
  VMX_STATE as STATE,
  withOperand,
  withPointer,
} from './insn_case.ts';
import { checkPagePhysical as pa, record } from './program.ts';
import { OUTCOME } from './outcome.ts';
import { hasSecondary, never1 } from './row.ts';

import { type Address, at, nowhere, operandFaults, readField, UD, wide } from './insn_operands.ts';
const SHADOWING = hasSecondary(SECONDARY_EXEC.SHADOW_VMCS);
const NO_SHADOWING = never1(VMX_MSR.IA32_VMX_PROCBASED_CTLS2, SECONDARY_EXEC.SHADOW_VMCS);

const E = VMXERR;
/** A pointer case with and without a current VMCS: the error number has nowhere to go then. */
const both = (
  section: string,
  insn: 'vmclear' | 'vmptrld',
  name: string,
  error: number,
  pointer: Address,
): InsnCase[] => [
  {
    section,
    name: `${section}: ${name}`,
    state: STATE.CURRENT,
    expected: failValidWith(error),
    code: withPointer(insn, pointer),
  },
  {
    section,
    name: `${section}: ${name}, without a current VMCS`,
    state: STATE.ROOT,
    expected: FAIL_INVALID,
    code: withPointer(insn, pointer),
  },
];

const VMCLEAR_CASES: readonly InsnCase[] = [
  {
    section: 'VMCLEAR',
    name: 'VMCLEAR: outside of VMX operation',
    state: STATE.OFF,
    expected: UD,
    code: withPointer('vmclear', at('vmcs')),
  },
  ...both(
    'VMCLEAR',
    'vmclear',
    'bits 11:0 of the pointer are not 0',
    E.VMCLEAR_INVALID_ADDRESS,
    at('vmcs', 0x10),
  ),
  ...both('VMCLEAR', 'vmclear', 'beyond the physical-address width', E.VMCLEAR_INVALID_ADDRESS, wide('vmcs')),
  ...both('VMCLEAR', 'vmclear', 'the VMXON pointer', E.VMCLEAR_VMXON_POINTER, at('vmxon')),
  ...both('VMCLEAR', 'vmclear', 'the VMXON pointer, misaligned', E.VMCLEAR_INVALID_ADDRESS, at('vmxon', 1)),
  ...operandFaults('VMCLEAR', 'vmclear', STATE.CURRENT),
  {
    section: 'VMCLEAR',
    name: 'VMCLEAR: the current VMCS',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: withPointer('vmclear', at('vmcs')),
  },
  {
    section: 'VMCLEAR',
    name: 'VMCLEAR: another VMCS',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: withPointer('vmclear', at('vmcs2')),
  },
  {
    section: 'VMCLEAR',
    name: 'VMCLEAR: the current VMCS is current no more',
    state: STATE.CURRENT,
    expected: FAIL_INVALID,
    code: (g, out) => {
      vmclear(g, pa('vmcs'));
      readField(g, out);
    },
  },
  {
    section: 'VMCLEAR',
    name: 'VMCLEAR: another VMCS leaves the current one',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: (g, out) => {
      vmclear(g, pa('vmcs2'));
      readField(g, out);
    },
  },
  {
    section: 'VMCLEAR',
    name: 'VMCLEAR: the launch state is clear',
    state: STATE.LAUNCHED,
    expected: failValidWith(E.VMRESUME_NONLAUNCHED_VMCS),
    code: (g, out) => {
      vmclear(g, pa('vmcs'));
      vmptrld(g, pa('vmcs'));
      resume(g, out);
    },
  },
];

const VMPTRLD_CASES: readonly InsnCase[] = [
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: outside of VMX operation',
    state: STATE.OFF,
    expected: UD,
    code: withPointer('vmptrld', at('vmcs')),
  },
  ...both(
    'VMPTRLD',
    'vmptrld',
    'bits 11:0 of the pointer are not 0',
    E.VMPTRLD_INVALID_ADDRESS,
    at('vmcs', 0x800),
  ),
  ...both('VMPTRLD', 'vmptrld', 'beyond the physical-address width', E.VMPTRLD_INVALID_ADDRESS, wide('vmcs')),
  ...both('VMPTRLD', 'vmptrld', 'the VMXON pointer', E.VMPTRLD_VMXON_POINTER, at('vmxon')),
  ...both(
    'VMPTRLD',
    'vmptrld',
    'another revision identifier',
    E.VMPTRLD_INCORRECT_VMCS_REVISION_ID,
    at('zero'),
  ),
  ...both('VMPTRLD', 'vmptrld', 'no memory', E.VMPTRLD_INCORRECT_VMCS_REVISION_ID, nowhere),
  ...operandFaults('VMPTRLD', 'vmptrld', STATE.CURRENT),
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: without a current VMCS',
    state: STATE.ROOT,
    expected: SUCCEED,
    code: withPointer('vmptrld', at('vmcs')),
  },
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: another VMCS',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: withPointer('vmptrld', at('vmcs2')),
  },
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: a shadow VMCS with VMCS shadowing',
    state: STATE.CURRENT,
    needs: [SHADOWING],
    expected: SUCCEED,
    code: withPointer('vmptrld', at('shadow')),
  },
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: a shadow VMCS without VMCS shadowing',
    state: STATE.CURRENT,
    needs: [NO_SHADOWING],
    expected: failValidWith(E.VMPTRLD_INCORRECT_VMCS_REVISION_ID),
    code: withPointer('vmptrld', at('shadow')),
  },
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: a failure leaves the current VMCS',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: (g, out) => {
      vmptrld(g, pa('zero'));
      recordPointer(g, out, pa('vmcs'));
    },
  },
  {
    section: 'VMPTRLD',
    name: 'VMPTRLD: the launch state belongs to the VMCS',
    state: STATE.LAUNCHED,
    expected: failValidWith(E.VMLAUNCH_NONCLEAR_VMCS),
    code: (g, out) => {
      vmclear(g, pa('vmcs2'));
      vmptrld(g, pa('vmcs2'));
      vmptrld(g, pa('vmcs'));
      plain('vmlaunch')(g, out);
    },
  },
];

/** VMsucceed if VMPTRST stores what is expected. */
function recordPointer(g: GuestCode, out: Out, expected: Operand): void {
  const value = g.local(u64, 0x5555);
  const status = vmptrst(g, value);
  const right: Expr<IntType> = status.eq(VMX_STATUS.SUCCEED).land(value.eq(expected));
  record(g, out, OUTCOME.SUCCEED);
  g.if(right.lnot(), () => record(g, out, OUTCOME.NONE));
}

const VMPTRST_CASES: readonly InsnCase[] = [
  {
    section: 'VMPTRST',
    name: 'VMPTRST: outside of VMX operation',
    state: STATE.OFF,
    expected: UD,
    code: withOperand('vmptrst', (g) => g.local(u64, 0).addr()),
  },
  ...operandFaults('VMPTRST', 'vmptrst', STATE.CURRENT),
  {
    section: 'VMPTRST',
    name: 'VMPTRST: the current VMCS',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: (g, out) => recordPointer(g, out, pa('vmcs')),
  },
  {
    section: 'VMPTRST',
    name: 'VMPTRST: all ones without a current VMCS',
    state: STATE.ROOT,
    expected: SUCCEED,
    code: (g, out) => recordPointer(g, out, imm(u64, (1n << 64n) - 1n)),
  },
  {
    section: 'VMPTRST',
    name: 'VMPTRST: it fails no VMREAD afterwards',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: (g, out) => {
      const value = g.local(u64, 0);
      vmptrst(g, value);
      GUEST_ASSERT_EQ(g, vmread(g, VMCS_CTRL.EXCEPTION_BITMAP, value), VMX_STATUS.SUCCEED);
      readField(g, out);
    },
  },
];

/** Cases of this file. */
export const POINTER_CASES: readonly InsnCase[] = [...VMCLEAR_CASES, ...VMPTRLD_CASES, ...VMPTRST_CASES];
