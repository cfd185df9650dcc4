// SPDX-License-Identifier: GPL-2.0-only
/**
 * The entry-check matrix and the instruction cases on the emulated processor itself: L1 is in VMX root operation of the machine.
 * Expected: the tables, whose rows name the sections of the SDM. vmx_entry_checks_test runs the same on KVM's nested VMX.
 */
import { describe, expect, it } from 'vitest';
import { GUEST_DONE, type GuestCode, guestFn, UCALL } from '../../lib/guest/index.ts';
import { ENTRY_CASES, ENTRY_ROWS } from '../../lib/guest/entry_checks/cases.ts';
import { INSN_CASES, INSN_RESULTS, insnCheckProgram } from '../../lib/guest/entry_checks/insn_cases.ts';
import { type Outcome, OutcomeRecord, outcomeText } from '../../lib/guest/entry_checks/outcome.ts';
import { entry_check_set_up, entryCheckProgram } from '../../lib/guest/entry_checks/program.ts';
import { ENTRY_RESULTS } from '../../lib/guest/entry_checks/tables.ts';
import { runVmx, type VmxBox } from './vmx_box.ts';

interface Case {
  readonly name: string;
  readonly expected: Outcome;
}

/** The recorded outcomes as text. */
function outcomes(box: VmxBox, symbol: string, nr: number): string[] {
  const start = Number(box.image.addressOf(symbol));
  const { view } = box.machine.mem;
  return Array.from({ length: nr }, (_, n) => {
    const at = (field: string): number => start + n * OutcomeRecord.size + OutcomeRecord.offsetof(field);
    const [kind, number] = [view.getUint32(at('kind'), true), view.getUint32(at('number'), true)];
    return outcomeText({ kind, number, qualification: box.peek64(at('qualification')) });
  });
}

/** Runs a program of L1 and gives the cases that ended otherwise than expected, and the number of those that ran. */
function runCases(
  run: (g: GuestCode) => void,
  symbol: string,
  cases: readonly Case[],
): { wrong: unknown[]; ran: number } {
  const guestCode = guestFn('guest_code', [], (g) => {
    entry_check_set_up(g);
    run(g);
    GUEST_DONE(g);
  });
  const { box } = runVmx(guestCode);
  expect(box.ucalls.map(({ cmd, buffer }) => [cmd, buffer])).toEqual([[UCALL.DONE, '']]);
  const text = outcomes(box, symbol, cases.length);
  const lines = cases.map(({ name, expected }, n) => ({
    name,
    got: text[n]!,
    expected: outcomeText(expected),
  }));
  const ran = lines.filter(({ got }) => got !== 'skipped');
  return { wrong: ran.filter(({ got, expected }) => got !== expected), ran: ran.length };
}

describe('the entry-check matrix on bare hardware', () => {
  it('every case ends as the SDM says, at least 1000 cases run', () => {
    const program = entryCheckProgram(ENTRY_CASES);
    const { wrong, ran } = runCases((g) => program.run(g), ENTRY_RESULTS, ENTRY_CASES);
    expect(wrong).toEqual([]);
    expect(ran).toBeGreaterThan(1000);
  });

  it('names are unique, and every row is complete', () => {
    expect(new Set(ENTRY_CASES.map(({ name }) => name)).size).toBe(ENTRY_CASES.length);
    expect(
      ENTRY_ROWS.filter(({ section, valid, invalid }) => section === '' || (!valid && !invalid)),
    ).toEqual([]);
  });
});

describe('the VMX instruction cases on bare hardware', () => {
  it('every case ends as the SDM says, at least 180 cases run', () => {
    const program = insnCheckProgram(INSN_CASES);
    const { wrong, ran } = runCases((g) => program.run(g), INSN_RESULTS, INSN_CASES);
    expect(wrong).toEqual([]);
    expect(ran).toBeGreaterThan(180);
  });

  it('names are unique, and every instruction is there', () => {
    expect(new Set(INSN_CASES.map(({ name }) => name)).size).toBe(INSN_CASES.length);
    expect([...new Set(INSN_CASES.map(({ section }) => section))].sort()).toEqual([
      ...['INVEPT', 'INVVPID', 'VMCALL', 'VMCLEAR', 'VMFUNC', 'VMLAUNCH', 'VMPTRLD', 'VMPTRST'],
      ...['VMREAD', 'VMRESUME', 'VMWRITE', 'VMXOFF', 'VMXON'],
    ]);
  });
});
