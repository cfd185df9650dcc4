// SPDX-License-Identifier: GPL-2.0-only
/** Instruction cases: VMREAD and VMWRITE. SDM, "VMX Instruction Reference" and appendix "Field Encoding in VMCS". */
import { mem } from '../../asm/operands.ts';
import { PFERR, VECTOR } from '../../x86/exceptions.ts';
import { VMX_MISC, VMX_MSR } from '../../x86/vmx/capability_msrs.ts';
import { VMXERR } from '../../x86/vmx/insn_errors.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../x86/vmx/vmcs_info.ts';
import { imm } from '../dsl/expr.ts';
import { u64 } from '../dsl/types.ts';
import {
  execute,
  FAIL_INVALID,
  failValidWith,
  faultWith,
  type InsnCase,
  NOT_CANONICAL_ADDRESS,
  SUCCEED,
  UNMAPPED_ADDRESS,
  VMX_STATE as STATE,
} from './insn_case.ts';
import { has, lacks } from './row.ts';

const UD = faultWith(VECTOR.UD);
const UNSUPPORTED = failValidWith(VMXERR.UNSUPPORTED_VMCS_COMPONENT);
const PIN = VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL;

/** VMREAD or VMWRITE of an encoding between registers. */
const access =
  (insn: 'vmread' | 'vmwrite', field: number | bigint): InsnCase['code'] =>
  (g, out) =>
    execute(g, out, {
      in: { field: imm(u64, field), value: g.local(u64, 0) },
      emit: (a, r) =>
        insn === 'vmread'
          ? a.emit(insn, r.reg64('value'), r.reg64('field'))
          : a.emit(insn, r.reg64('field'), r.reg64('value')),
    });
/** The same with a memory operand. */
const accessMemory =
  (insn: 'vmread' | 'vmwrite', field: number, address: bigint): InsnCase['code'] =>
  (g, out) =>
    execute(g, out, {
      in: { field: imm(u64, field), address: imm(u64, address) },
      emit: (a, r) => {
        const operand = mem(64, { base: r.reg64('address') });
        if (insn === 'vmread') a.emit(insn, operand, r.reg64('field'));
        else a.emit(insn, r.reg64('field'), operand);
      },
    });

/** Encodings, and whether the processor has them. */
const ENCODINGS: readonly (readonly [name: string, field: number | bigint, exists: boolean])[] = [
  ['a 32-bit field', PIN, true],
  ['a 64-bit field', VMCS_CTRL.TSC_OFFSET, true],
  ['the upper half of a 64-bit field', VMCS_CTRL.TSC_OFFSET | 1, true],
  ['a natural-width field', VMCS_GUEST.RIP, true],
  ['a 16-bit field', VMCS_GUEST.ES_SELECTOR, true],
  ['the upper half of a 32-bit field', PIN | 1, false],
  ['the upper half of a 16-bit field', VMCS_GUEST.ES_SELECTOR | 1, false],
  ['the upper half of a natural-width field', VMCS_GUEST.RIP | 1, false],
  ['an encoding that no component has', 0x4dfe, false],
  ['an encoding with bit 12 set', PIN | 0x1000, false],
  ['an encoding with bit 15 set', PIN | 0x8000, false],
  ['an encoding with bit 31 set', BigInt(PIN) | 0x8000_0000n, false],
  ['an encoding with bit 32 set', BigInt(PIN) | (1n << 32n), false],
];

function accessCases(section: 'VMREAD' | 'VMWRITE'): readonly InsnCase[] {
  const insn = section === 'VMREAD' ? 'vmread' : 'vmwrite';
  const faultCode = insn === 'vmread' ? PFERR.WRITE : 0;
  const one = (
    name: string,
    state: number,
    expected: InsnCase['expected'],
    code: InsnCase['code'],
  ): InsnCase => ({
    section,
    name: `${section}: ${name}`,
    state,
    expected,
    code,
  });
  return [
    one('outside of VMX operation', STATE.OFF, UD, access(insn, PIN)),
    one('without a current VMCS', STATE.ROOT, FAIL_INVALID, access(insn, PIN)),
    one('an unsupported component without a current VMCS', STATE.ROOT, FAIL_INVALID, access(insn, 0x4dfe)),
    ...ENCODINGS.map(([name, field, exists]) =>
      one(name, STATE.CURRENT, exists ? SUCCEED : UNSUPPORTED, access(insn, field)),
    ),
    one(
      'an operand that is not mapped',
      STATE.CURRENT,
      faultWith(VECTOR.PF, faultCode),
      accessMemory(insn, PIN, UNMAPPED_ADDRESS),
    ),
    one(
      'an operand that is not canonical',
      STATE.CURRENT,
      faultWith(VECTOR.GP),
      accessMemory(insn, PIN, NOT_CANONICAL_ADDRESS),
    ),
    one(
      'without a current VMCS the operand is not used',
      STATE.ROOT,
      FAIL_INVALID,
      accessMemory(insn, PIN, UNMAPPED_ADDRESS),
    ),
  ];
}

const INFO_WRITABLE = has(VMX_MSR.IA32_VMX_MISC, VMX_MISC.VMWRITE_SHADOW_RO_FIELDS);
const INFO_READ_ONLY = lacks(VMX_MSR.IA32_VMX_MISC, VMX_MISC.VMWRITE_SHADOW_RO_FIELDS);
const INFO_CASES: readonly InsnCase[] = [
  {
    section: 'VMREAD',
    name: 'VMREAD: an unsupported component is told before its operand is used',
    state: STATE.CURRENT,
    expected: UNSUPPORTED,
    code: accessMemory('vmread', 0x4dfe, UNMAPPED_ADDRESS),
  },
  {
    section: 'VMREAD',
    name: 'VMREAD: a VM-exit information field',
    state: STATE.CURRENT,
    expected: SUCCEED,
    code: access('vmread', VMCS_INFO.VM_EXIT_REASON),
  },
  {
    section: 'VMWRITE',
    name: 'VMWRITE: a VM-exit information field, by IA32_VMX_MISC bit 29',
    state: STATE.CURRENT,
    needs: [INFO_WRITABLE],
    expected: SUCCEED,
    code: access('vmwrite', VMCS_INFO.EXIT_QUALIFICATION),
  },
  {
    section: 'VMWRITE',
    name: 'VMWRITE: a VM-exit information field, without IA32_VMX_MISC bit 29',
    state: STATE.CURRENT,
    needs: [INFO_READ_ONLY],
    expected: failValidWith(VMXERR.VMWRITE_READ_ONLY_VMCS_COMPONENT),
    code: access('vmwrite', VMCS_INFO.EXIT_QUALIFICATION),
  },
];

/** Cases of this file. */
export const ACCESS_CASES: readonly InsnCase[] = [
  ...accessCases('VMREAD'),
  ...accessCases('VMWRITE'),
  ...INFO_CASES,
];
