// SPDX-License-Identifier: GPL-2.0-only
/** The comparison of two texts, the table of Bochs's faults, and what is taken from Bochs's output. */
import { describe, expect, it } from 'vitest';
import { GUEST_BEGINS } from './boot/entry_code.ts';
import { guestText } from './bochs.ts';
import { BOCHS_FAULTS } from './bochs_faults.ts';
import { checkExpected, compareTexts, expectedText, linesOf } from './compare.ts';
import { CORPUS, runHere } from './corpus.ts';

describe('two texts', () => {
  const verdicts = (here: string, there: string): string[] =>
    compareTexts('some_program', here, there).map(({ verdict }) => verdict);

  it('are equal line by line, or differ where they do', () => {
    expect(verdicts('a\nb\n', 'a\nb\n')).toEqual(['equal', 'equal']);
    expect(verdicts('a\nb\n', 'a\nc\n')).toEqual(['equal', 'differs']);
  });

  it('differ where one ends early', () => {
    expect(compareTexts('p', 'a\n', 'a\nb\n')[1]).toEqual({
      number: 2,
      verdict: 'differs',
      here: '(no line)',
      there: 'b',
    });
    expect(verdicts('a\nb\n', 'a\n')).toEqual(['equal', 'differs']);
  });

  it('are not compared where a side lacks what the line shows', () => {
    expect(verdicts('x: absent\n', 'x: exit 48\n')).toEqual(['skipped']);
    expect(verdicts('x: exit 48\n', 'x: absent\n')).toEqual(['skipped']);
  });

  it('of two sides leave the line that either could show', () => {
    const sides = ['x: absent\ny: 1\n', 'x: 1\ny: 2\n'].map((here) =>
      compareTexts('p', here, 'x: 1\ny: 1\n'),
    );
    expect(expectedText(sides)).toBe('x: 1\n~\n');
  });

  it('leave an expectation only where they agree', () => {
    const kept = expectedText([compareTexts('p', 'a\nx: absent\nb\n', 'a\nx: 1\nb\n')]);
    expect(kept).toBe('a\n~\nb\n');
    expect(checkExpected(kept, 'a\nx: absent\nb\n')).toEqual([]);
    expect(checkExpected(kept, 'a\nx: 2\nc\n')).toEqual(["line 3: expected 'b', got 'c'"]);
    expect(checkExpected(kept, 'a\n')).toHaveLength(2);
    expect(checkExpected('x: 1\n', 'x: absent\n')).toEqual([]);
    expect(checkExpected(kept, 'a\nx\nb\nmore\n')).toEqual(["line 4: expected '(no line)', got 'more'"]);
  });
});

describe('the known faults of Bochs', () => {
  it('name programs of the corpus, and lines that they print', () => {
    for (const name of new Set(BOCHS_FAULTS.map(({ program }) => program))) {
      const program = CORPUS.find((p) => p.name === name);
      expect(program, name).toBeDefined();
      const lines = linesOf(runHere(program!, program!.on[0]!));
      for (const fault of BOCHS_FAULTS.filter((f) => f.program === name))
        expect(lines.filter((line) => fault.line.test(line)).length, String(fault.line)).toBeGreaterThan(0);
    }
  });
});

describe('the output of Bochs', () => {
  it('holds the guest’s text between its beginning and the farewell', () => {
    const output = `Bochs\r\nBIOS text\r\n${GUEST_BEGINS}\r\n1 end\r\n2 end\r\n========\r\nBochs is exiting\r\n`;
    expect(guestText(output)).toBe('1 end\n2 end\n');
    expect(guestText(`${GUEST_BEGINS}\r\n1 end\r\n`)).toBe('1 end\n');
    const debugged = `${GUEST_BEGINS}\r\n1 end\r\n(0).[155] [0x10] 0008:10 (unk. ctxt): ud2\r\n2 end\r\n`;
    expect(guestText(debugged)).toBe('1 end\n2 end\n');
  });

  it('is nothing if the guest has not begun', () => {
    expect(guestText('Bochs\r\nno bootable device\r\n')).toBeUndefined();
  });
});
