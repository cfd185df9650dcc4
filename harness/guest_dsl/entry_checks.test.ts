// SPDX-License-Identifier: GPL-2.0-only
/**
 * The entry-check matrix on the emulated processor itself: L1 is in VMX root operation of the machine. Expected: the table, whose
 * rows name the sections of the SDM. The same program runs on KVM's nested VMX (vmx_entry_checks_test).
 */
import { describe, expect, it } from 'vitest';
import { GUEST_DONE, guestFn, UCALL } from '../../lib/guest/index.ts';
import { ENTRY_CASES, ENTRY_ROWS } from '../../lib/guest/entry_checks/cases.ts';
import { expectedText, OutcomeRecord, outcomeText } from '../../lib/guest/entry_checks/outcome.ts';
import { entry_check_set_up, entryCheckProgram } from '../../lib/guest/entry_checks/program.ts';
import { ENTRY_RESULTS } from '../../lib/guest/entry_checks/tables.ts';
import { runVmx, type VmxBox } from './vmx_box.ts';

/** The recorded outcomes as text. */
function outcomes(box: VmxBox, nr: number): string[] {
  const at = Number(box.image.addressOf(ENTRY_RESULTS));
  const word = (n: number, field: string): number =>
    at + n * OutcomeRecord.size + OutcomeRecord.offsetof(field);
  const u32 = (address: number): number => box.machine.mem.view.getUint32(address, true);
  return Array.from({ length: nr }, (_, n) =>
    outcomeText({
      kind: u32(word(n, 'kind')),
      number: u32(word(n, 'number')),
      qualification: box.peek64(word(n, 'qualification')),
    }),
  );
}

describe('the entry-check matrix on bare hardware', () => {
  const program = entryCheckProgram(ENTRY_CASES);
  const guestCode = guestFn('guest_code', [], (g) => {
    entry_check_set_up(g);
    program.run(g);
    GUEST_DONE(g);
  });
  const { box } = runVmx(guestCode);
  const text = outcomes(box, ENTRY_CASES.length);
  const lines = ENTRY_CASES.map(({ name, expected }, n) => ({
    name,
    got: text[n]!,
    expected: expectedText(expected),
  }));

  it('ends', () => {
    expect(box.ucalls.map(({ cmd, buffer }) => [cmd, buffer])).toEqual([[UCALL.DONE, '']]);
  });

  it('every case that can run ends as the SDM says', () => {
    expect(lines.filter(({ got, expected }) => got !== 'skipped' && got !== expected)).toEqual([]);
  });

  it('at least 240 cases run', () => {
    expect(text.filter((one) => one !== 'skipped').length).toBeGreaterThan(240);
  });

  it('names are unique, and every row is complete', () => {
    expect(new Set(ENTRY_CASES.map(({ name }) => name)).size).toBe(ENTRY_CASES.length);
    expect(
      ENTRY_ROWS.filter(({ section, valid, invalid }) => section === '' || (!valid && !invalid)),
    ).toEqual([]);
  });
});
