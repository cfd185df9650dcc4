// SPDX-License-Identifier: GPL-2.0-only
/**
 * The entry-check matrix and the instruction cases as programs of the corpus: L1 prints what it recorded, a line for each case:
 * `name: outcome`. Cases that Bochs is known to end otherwise are left out; the tables give the reasons.
 */
import { bochsEntryCases, kvmExpected } from '../../../lib/guest/entry_checks/cases.ts';
import { bochsInsnCases, insnCheckProgram } from '../../../lib/guest/entry_checks/insn_cases.ts';
import { OUTCOME, OutcomeRecord } from '../../../lib/guest/entry_checks/outcome.ts';
import { entry_check_set_up, entryCheckProgram } from '../../../lib/guest/entry_checks/program.ts';
import type { GuestGlobal } from '../../../lib/guest/dsl/global.ts';
import {
  array,
  type ArrayType,
  type GuestCode,
  guestFn,
  guestGlobal,
  type GuestImage,
  linkGuest,
  ptr,
  u32,
  u8,
} from '../../../lib/guest/index.ts';
import { locateCheckPages } from '../../../lib/kvm_util/x86/entry_checks.ts';
import { e9_printf, e9_shutdown } from '../e9.ts';
import type { DifferentialProgram } from '../program.ts';

type Results = GuestGlobal<ArrayType<typeof OutcomeRecord>>;

/** Formats by kind of outcome; the values are number and qualification. */
const FORMATS: readonly (readonly [kind: number, format: string])[] = [
  [OUTCOME.SKIPPED, 'absent'],
  [OUTCOME.ENTERED, 'entered'],
  [OUTCOME.VMFAIL_INVALID, 'VMfailInvalid'],
  [OUTCOME.VMFAIL_VALID, 'VMfailValid %lu'],
  [OUTCOME.ENTRY_FAILURE, 'entry failure %lu qualification %lu'],
  [OUTCOME.FAULT, 'fault %lu error code 0x%lx'],
  [OUTCOME.SUCCEED, 'VMsucceed'],
  [OUTCOME.EXIT, 'VM exit %lu'],
];

/** Prints all outcomes. */
function printResults(g: GuestCode, names: readonly string[], results: Results): void {
  const texts = guestGlobal(
    'entry_check_names',
    array(ptr(u8), names.length),
    names.map((name) => ({ linkKind: 'string', symbol: name }) as const),
  );
  const i = g.local(u32);
  g.forRange(i, 0, names.length, 1, () => {
    const { kind, number, qualification } = results.at(i).f;
    e9_printf(g, '%s: ', texts.at(i));
    g.switch(
      kind,
      FORMATS.map(([value, format]) => [value, () => e9_printf(g, `${format}\n`, number, qualification)]),
      () => e9_printf(g, 'not run\n'),
    );
  });
}

function imageOf(run: (g: GuestCode) => void, names: readonly string[], results: Results): GuestImage {
  const guestCode = guestFn('guest_code', [], (g) => {
    entry_check_set_up(g);
    run(g);
    printResults(g, names, results);
    e9_shutdown(g);
  });
  return linkGuest(guestCode);
}

const entries: DifferentialProgram = {
  name: 'vmx_entry_checks',
  summary: "VM entry's checks on controls, host state and guest state, each rule just kept and just broken",
  on: ['machine', 'L0'],
  image: () => {
    // Where KVM deviates from the manual, there is nothing to agree on.
    const cases = bochsEntryCases().filter((one) => kvmExpected(one) === one.expected);
    const program = entryCheckProgram(cases);
    return imageOf(
      (g) => program.run(g),
      cases.map(({ name }) => name),
      program.tables.results,
    );
  },
  *prepare(vm) {
    locateCheckPages(vm);
  },
};

const instructions: DifferentialProgram = {
  name: 'vmx_instructions',
  summary: 'every VMX instruction in every state of VMX operation: faults, error numbers, exits',
  on: ['machine', 'L0'],
  image: () => {
    const cases = bochsInsnCases().filter(({ kvm }) => kvm === undefined);
    const program = insnCheckProgram(cases);
    return imageOf(
      (g) => program.run(g),
      cases.map(({ name }) => name),
      program.results,
    );
  },
  *prepare(vm) {
    locateCheckPages(vm);
  },
};

/** The programs of this file. */
export const ENTRY_CHECK_PROGRAMS: readonly DifferentialProgram[] = [entries, instructions];
