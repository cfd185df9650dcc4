// SPDX-License-Identifier: GPL-2.0-only
/** All instruction cases, and the guest program that runs them. Set up by entry_check_set_up(), as the entry checks are. */
import type { GuestCode } from '../dsl/builder.ts';
import { imm } from '../dsl/expr.ts';
import { type GuestFn, guestUnit } from '../dsl/function.ts';
import { type GuestGlobal, guestGlobal } from '../dsl/global.ts';
import { array, type ArrayType, u64, type VoidType } from '../dsl/types.ts';
import { rdmsr } from '../processor.ts';
import { ACCESS_CASES } from './insn_access.ts';
import { enter_vmx_state, type InsnCase, OUT, VMX_STATE } from './insn_case.ts';
import { INVALIDATE_CASES } from './insn_invalidate.ts';
import { OTHER_CASES } from './insn_others.ts';
import { PRIVILEGE_CASES } from './insn_privilege.ts';
import { POINTER_CASES } from './insn_pointers.ts';
import { VMXON_ALL } from './insn_vmxon.ts';
import { type Outcome, OUTCOME, OutcomeRecord } from './outcome.ts';
import { record } from './program.ts';

const L1 = guestUnit('L1').fn;

/** Every case. */
export const INSN_CASES: readonly InsnCase[] = [
  ...VMXON_ALL,
  ...POINTER_CASES,
  ...ACCESS_CASES,
  ...OTHER_CASES,
  ...PRIVILEGE_CASES,
  ...INVALIDATE_CASES,
];

/** Symbol of the results. */
export const INSN_RESULTS = 'insn_check_results';

/** A program: a function of L1 that runs all cases, and where it leaves the outcomes. */
export interface InsnCheckProgram {
  readonly run: GuestFn<readonly [], VoidType>;
  readonly results: GuestGlobal<ArrayType<typeof OutcomeRecord>>;
}

/** Returns from the function if a capability is missing. */
function skipWithout(g: GuestCode, one: InsnCase, skip: () => void): void {
  for (const { msr, mask, want } of one.needs ?? []) {
    g.if(rdmsr(g, msr).and(imm(u64, mask)).ne(imm(u64, want)), () => {
      skip();
      g.return();
    });
  }
}

/** The program of these cases; at its end L1 is in VMX root operation with a valid VMCS. */
export function insnCheckProgram(cases: readonly InsnCase[]): InsnCheckProgram {
  const results = guestGlobal(INSN_RESULTS, array(OutcomeRecord, cases.length));
  const functions = cases.map((one, n) =>
    L1(`insn_check_${n}`, [OUT], (g, out) => {
      skipWithout(g, one, () => record(g, out, OUTCOME.SKIPPED));
      enter_vmx_state(g, one.state);
      one.code(g, out);
    }),
  );
  const run = L1('insn_check_run', [], (g) => {
    functions.forEach((fn, n) => fn(g, results.at(n).addr()));
    enter_vmx_state(g, VMX_STATE.CURRENT);
  });
  return { run, results };
}

/** Without those that Bochs is known to end otherwise. */
export const bochsInsnCases = (): readonly InsnCase[] =>
  INSN_CASES.filter(({ bochs }) => bochs === undefined);

/** How a case ends under KVM's nested VMX; undefined: it cannot be run there. */
export const kvmInsnExpected = ({ kvm, expected }: InsnCase): Outcome | undefined =>
  kvm === undefined ? expected : kvm.outcome;
