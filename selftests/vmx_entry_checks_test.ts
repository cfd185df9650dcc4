// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM entry's checks and the VMX instructions' error numbers under nested VMX: for every rule of the SDM on controls, host state
 * and guest state a VMCS that just keeps it and one that just breaks it, and each VMX instruction in each state of VMX operation.
 * The tables are lib/guest/entry_checks; where KVM is known to deviate from the SDM, they say so with KVM's function.
 */
import type { Selftest, SelftestContext } from '../harness/api.ts';
import { type EntryCase, ENTRY_CASES, kvmExpected } from '../lib/guest/entry_checks/cases.ts';
import {
  INSN_CASES,
  INSN_RESULTS,
  insnCheckProgram,
  kvmInsnExpected,
} from '../lib/guest/entry_checks/insn_cases.ts';
import { type Outcome, outcomeText } from '../lib/guest/entry_checks/outcome.ts';
import { entry_check_set_up, entryCheckProgram } from '../lib/guest/entry_checks/program.ts';
import { ENTRY_RESULTS } from '../lib/guest/entry_checks/tables.ts';
import { GUEST_DONE, type GuestCode, guestFn, linkGuest, UCALL } from '../lib/guest/index.ts';
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { kvmVmFree } from '../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ, UsageError } from '../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { locateCheckPages, readOutcomes } from '../lib/kvm_util/x86/entry_checks.ts';

/** A case as this test sees it. */
interface Case {
  readonly name: string;
  readonly section: string;
  readonly expected: Outcome;
}

/** How many cases must run, lest missing capabilities hollow the test out. */
const LEAST = { entries: 1000, instructions: 225 } as const;
const SHOWN = 10;

/** Runs all cases in one VM. */
function* outcomesOf(
  backend: Backend,
  run: (g: GuestCode) => void,
  symbol: string,
  count: number,
): Steps<Outcome[]> {
  const guestCode = guestFn('guest_code', [], (g) => {
    entry_check_set_up(g);
    run(g);
    GUEST_DONE(g);
  });
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image: linkGuest(guestCode) });
  locateCheckPages(vm);
  const uc = yield* runUntilUcall(vcpu);
  TEST_ASSERT_EQ(uc.cmd, UCALL.DONE, 'ucall');
  const outcomes = readOutcomes(vm, symbol, count);
  yield* kvmVmFree(vm);
  return outcomes;
}

/** Compares; gives the number of cases that ran. */
function check(cases: readonly Case[], outcomes: readonly Outcome[]): number {
  const lines = cases.map(({ name, section, expected }, n) => ({
    text: `${section}: ${name}: got ${outcomeText(outcomes[n]!)}, expected ${outcomeText(expected)}`,
    ran: outcomeText(outcomes[n]!) !== 'skipped',
    right: outcomeText(outcomes[n]!) === outcomeText(expected),
  }));
  const wrong = lines.filter(({ ran, right }) => ran && !right);
  TEST_ASSERT(wrong.length === 0, () =>
    [
      `${wrong.length} of ${cases.length} cases end otherwise:`,
      ...wrong.slice(0, SHOWN).map(({ text }) => text),
    ].join('\n'),
  );
  return lines.filter(({ ran }) => ran).length;
}

/** Cases that can be run on KVM, with what KVM makes of them. */
const entryCases = (): readonly (EntryCase & Case)[] =>
  ENTRY_CASES.flatMap((one) => {
    const expected = kvmExpected(one);
    return expected === undefined ? [] : [{ ...one, section: one.row.section, expected }];
  });

function* run({ backend, args, print }: SelftestContext): Steps<void> {
  if (args.length > 0) throw new UsageError(`unexpected argument '${args[0]!}'; this test takes none`);
  const entries = entryCases();
  const entryProgram = entryCheckProgram(entries);
  const ends = yield* outcomesOf(backend, (g) => entryProgram.run(g), ENTRY_RESULTS, entries.length);
  const ran = check(entries, ends);
  print(`VM entries: ${ran} cases, ${entries.length - ran} skipped`);
  TEST_ASSERT(ran >= LEAST.entries, () => `only ${ran} entry cases can run`);

  const insns = INSN_CASES.filter((one) => kvmInsnExpected(one) !== undefined);
  const insnProgram = insnCheckProgram(insns);
  const results = yield* outcomesOf(backend, (g) => insnProgram.run(g), INSN_RESULTS, insns.length);
  const executed = check(
    insns.map((one) => ({ ...one, expected: kvmInsnExpected(one)! })),
    results,
  );
  print(`VMX instructions: ${executed} cases, ${insns.length - executed} skipped`);
  TEST_ASSERT(executed >= LEAST.instructions, () => `only ${executed} instruction cases can run`);
}

export const selftest: Selftest = {
  name: 'vmx_entry_checks_test',
  summary: 'VM-entry checks and VMX instruction errors of nested VMX, each rule just kept and just broken',
  upstream: 'nestbed',
  run,
};
