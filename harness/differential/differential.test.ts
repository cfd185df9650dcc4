// SPDX-License-Identifier: GPL-2.0-only
/**
 * The differential corpus without Bochs: what every program prints here, against the lines that Bochs 2.7 agreed to
 * (`nestbed differential --update` keeps them).
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { KVM_FACTS } from './kvm_facts.ts';
import { checkExpected, linesOf } from './compare.ts';
import { CORPUS, expectedFile, runHere } from './corpus.ts';
import { loadSnippets } from './core/program.ts';

describe('the differential corpus', () => {
  // Plain instructions never leave the guest: bare_machine.test.ts has them, and `nestbed differential` runs them here, too.
  const runs = CORPUS.filter(({ on, name }) => on.includes('L0') && !name.startsWith('core_')).map(
    (program) => [program.name, program] as const,
  );
  it.each(runs)('%s on L0 prints what Bochs printed', (name, program) => {
    const side = 'L0';
    const text = runHere(program, side);
    const kept = readFileSync(expectedFile(name), 'utf8');
    expect(checkExpected({ program: name, side }, kept, text)).toEqual([]);
    expect(linesOf(text).length).toBeGreaterThan(10);
    // No row of the table outlives what it excuses.
    for (const row of KVM_FACTS.filter(({ program }) => program === name))
      expect(linesOf(text).filter((line) => row.line.test(line)).length, String(row.line)).toBeGreaterThan(0);
  });

  it('has a file of agreed lines for each program and no other', () => {
    const files = readdirSync(new URL('expected/', import.meta.url));
    expect(files.toSorted()).toEqual(CORPUS.map(({ name }) => `${name}.txt`).toSorted());
    expect(CORPUS.every(({ name }) => existsSync(expectedFile(name)))).toBe(true);
  });

  it('has at least 2,000 snippets, with faults and undefined flags among them', () => {
    const snippets = [...loadSnippets('user'), ...loadSnippets('supervisor')];
    expect(snippets.length).toBeGreaterThanOrEqual(2000);
    expect(snippets.filter(({ undefinedFlags }) => undefinedFlags !== 0).length).toBeGreaterThan(100);
    const ends = ['core_user', 'core_supervisor'].flatMap((name) =>
      linesOf(readFileSync(expectedFile(name), 'utf8')).map((line) => /^\d+ (end|\w+)/.exec(line)?.[1]),
    );
    // Divide error, invalid opcode, stack fault, general protection, page fault, breakpoint.
    for (const vector of ['0', '6', 'c', 'd', 'e', '3']) expect(ends).toContain(vector);
    expect(ends.filter((end) => end === 'end').length).toBeGreaterThan(1000);
  });
});
