// SPDX-License-Identifier: GPL-2.0-only
/** The entry-check matrix: all rows, and the cases that they generate. */
import type { Outcome } from './outcome.ts';
import { ENTERED, type EntryRow, type EntryVariant } from './row.ts';
import { NON_REGISTER_ROWS } from './rows_activity.ts';
import { APIC_ROWS } from './rows_apic.ts';
import { CONTROL_ROWS } from './rows_controls.ts';
import { GUEST_ROWS } from './rows_guest.ts';
import { HOST_ROWS } from './rows_host.ts';
import { INJECT_ROWS } from './rows_inject.ts';
import { ORDER_ROWS } from './rows_order.ts';
import { RESERVED_ROWS } from './rows_reserved.ts';
import { SEGMENT_ROWS } from './rows_segments.ts';
import { TRANSITION_ROWS } from './rows_transition.ts';

/** Every row. */
export const ENTRY_ROWS: readonly EntryRow[] = [
  ...RESERVED_ROWS,
  ...CONTROL_ROWS,
  ...APIC_ROWS,
  ...TRANSITION_ROWS,
  ...INJECT_ROWS,
  ...HOST_ROWS,
  ...GUEST_ROWS,
  ...SEGMENT_ROWS,
  ...NON_REGISTER_ROWS,
  ...ORDER_ROWS,
];

/** One VMLAUNCH with its expected end by the SDM. */
export interface EntryCase {
  /** Unique: the rule, and which side of it. */
  readonly name: string;
  readonly row: EntryRow;
  readonly variant: EntryVariant;
  readonly expected: Outcome;
}

function casesOf(row: EntryRow): readonly EntryCase[] {
  const { rule, valid, invalid, expected } = row;
  const cases: EntryCase[] = [];
  if (valid !== undefined)
    cases.push({ name: `${rule}: just valid`, row, variant: valid, expected: ENTERED });
  if (invalid !== undefined) cases.push({ name: `${rule}: just invalid`, row, variant: invalid, expected });
  return cases;
}

/** Every case. */
export const ENTRY_CASES: readonly EntryCase[] = ENTRY_ROWS.flatMap(casesOf);

/** Without those that Bochs is known to end otherwise. */
export const bochsEntryCases = (): readonly EntryCase[] =>
  ENTRY_CASES.filter(({ variant }) => variant.bochs === undefined);

/** How a case ends under KVM's nested VMX; undefined: it cannot be run there. */
export function kvmExpected({ variant, expected }: EntryCase): Outcome | undefined {
  return variant.kvm === undefined ? expected : variant.kvm.outcome;
}
