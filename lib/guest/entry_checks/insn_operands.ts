// SPDX-License-Identifier: GPL-2.0-only
/** What the instruction cases with a physical address as their operand share: addresses, and faults of the operand. */
import { PFERR, VECTOR } from '../../x86/exceptions.ts';
import { VMCS_CTRL } from '../../x86/vmx/vmcs_ctrl.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { imm } from '../dsl/expr.ts';
import type { Operand } from '../dsl/rvalue.ts';
import { u64 } from '../dsl/types.ts';
import {
  execute,
  faultWith,
  type InsnCase,
  NOT_CANONICAL_ADDRESS,
  type Out,
  UNMAPPED_ADDRESS,
  withOperand,
} from './insn_case.ts';
import { beyondWidth, checkPagePhysical as pa } from './program.ts';
import { type CheckPage } from './row.ts';

export const UD = faultWith(VECTOR.UD);
export const GP = faultWith(VECTOR.GP);
/** An address that L1 computes. */
export type Address = (g: GuestCode) => Operand;
export const at =
  (page: CheckPage, plus = 0): Address =>
  () =>
    pa(page).add(plus);
export const wide =
  (page: CheckPage): Address =>
  () =>
    pa(page).add(beyondWidth);
export const bit63 =
  (page: CheckPage): Address =>
  () =>
    pa(page).or(imm(u64, 1n << 63n));
/** The highest page that the width allows: no memory. */
export const nowhere: Address = () => beyondWidth.sub(0x1000);
export const literal =
  (address: bigint): Address =>
  () =>
    imm(u64, address);

/** What all instructions with a pointer operand have in common. */
export function operandFaults(
  section: string,
  insn: 'vmxon' | 'vmclear' | 'vmptrld' | 'vmptrst',
  state: number,
): InsnCase[] {
  const code = insn === 'vmptrst' ? PFERR.WRITE : 0;
  const one = (name: string, address: bigint, expected: InsnCase['expected']): InsnCase => ({
    section,
    name: `${section}: ${name}`,
    state,
    expected,
    code: withOperand(insn, literal(address)),
  });
  return [
    one('an operand that is not canonical', NOT_CANONICAL_ADDRESS, GP),
    one('an operand that is not mapped', UNMAPPED_ADDRESS, faultWith(VECTOR.PF, code)),
  ];
}

/** VMREAD of a field that every VMCS has. */
export function readField(g: GuestCode, out: Out): void {
  execute(g, out, {
    in: { field: imm(u64, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL), value: g.local(u64, 0) },
    emit: (a, r) => a.emit('vmread', r.reg64('value'), r.reg64('field')),
  });
}
