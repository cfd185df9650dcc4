// SPDX-License-Identifier: GPL-2.0-only
/**
 * The differential corpus on the bare machine, without L0 and without Bochs: what every program prints there, against the lines
 * that Bochs 2.7 agreed to.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { BOCHS_FAULTS } from './bochs_faults.ts';
import { checkExpected, linesOf } from './compare.ts';
import { CORPUS, expectedFile, runHere } from './corpus.ts';

describe('the differential corpus', () => {
  const runs = CORPUS.filter(({ on }) => on.includes('machine')).map(
    (program) => [program.name, program] as const,
  );
  it.each(runs)('%s on the bare machine prints what Bochs printed', (name, program) => {
    const side = 'machine';
    const text = runHere(program, side);
    const kept = readFileSync(expectedFile(name), 'utf8');
    expect(checkExpected({ program: name, side }, kept, text)).toEqual([]);
    expect(linesOf(text).length).toBeGreaterThan(10);
    // No row of the table outlives what it excuses.
    for (const row of BOCHS_FAULTS.filter(({ program }) => program === name))
      expect(linesOf(text).filter((line) => row.line.test(line)).length, String(row.line)).toBeGreaterThan(0);
  });
});
