// SPDX-License-Identifier: GPL-2.0-only
/** Rows of the tables that test the consistency checks: changes of the valid vmcs12, and the rule that each breaks. */
import type { Vmcs12Fixture } from './vmcs12_fixture.ts';

export type Change = (f: Vmcs12Fixture) => void;

/** One rule with a vmcs12 that just keeps it and one that just breaks it. */
export interface CheckRow {
  readonly rule: string;
  readonly valid: Change;
  readonly invalid: Change;
}

export const row = (rule: string, valid: Change, invalid: Change): CheckRow => ({ rule, valid, invalid });
export const nothing: Change = () => undefined;

export const or =
  (field: number, bits: number): Change =>
  ({ vmcs12 }) =>
    vmcs12.set32(field, vmcs12.lo(field) | bits);

export const clear =
  (field: number, bits: number): Change =>
  ({ vmcs12 }) =>
    vmcs12.set32(field, vmcs12.lo(field) & ~bits);

export const set =
  (field: number, value: number | bigint): Change =>
  ({ vmcs12 }) =>
    vmcs12.set64(field, BigInt.asUintN(64, BigInt(value)));

export const all =
  (...changes: Change[]): Change =>
  (f) => {
    for (const change of changes) change(f);
  };
