// SPDX-License-Identifier: GPL-2.0-only
/** The comparison of two texts, the table of Bochs's faults, and what is taken from Bochs's output. */
import { describe, expect, it } from 'vitest';
import { GUEST_BEGINS } from './boot/entry_code.ts';
import { guestText } from './bochs.ts';
import { BOCHS_FAULTS } from './bochs_faults.ts';
import { checkExpected, compareTexts, expectedText } from './compare.ts';
import { KVM_FACTS } from './kvm_facts.ts';
import { CORPUS } from './corpus.ts';

const SOME = { program: 'some_program', side: 'machine' } as const;

describe('two texts', () => {
  const verdicts = (here: string, there: string): string[] =>
    compareTexts(SOME, here, there).map(({ verdict }) => verdict);

  it('are equal line by line, or differ where they do', () => {
    expect(verdicts('a\nb\n', 'a\nb\n')).toEqual(['equal', 'equal']);
    expect(verdicts('a\nb\n', 'a\nc\n')).toEqual(['equal', 'differs']);
  });

  it('differ where one ends early', () => {
    expect(compareTexts(SOME, 'a\n', 'a\nb\n')[1]).toEqual({
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
      compareTexts(SOME, here, 'x: 1\ny: 1\n'),
    );
    expect(expectedText(sides)).toBe('x: 1\n~y:\n');
  });

  it('leave an expectation only where they agree', () => {
    const kept = expectedText([compareTexts(SOME, 'a\nx: absent\nb\n', 'a\nx: 1\nb\n')]);
    expect(kept).toBe('a\n~x:\nb\n');
    expect(checkExpected(SOME, kept, 'a\nx: absent\nb\n')).toEqual([]);
    expect(checkExpected(SOME, kept, 'a\nx: 2\nc\n')).toEqual(["expected 'b', got 'c'"]);
    expect(checkExpected(SOME, kept, 'a\n')).toHaveLength(2);
    expect(checkExpected(SOME, 'x: 1\n', 'x: absent\n')).toEqual([]);
    expect(checkExpected(SOME, kept, 'a\nx\nb\nmore\n')).toEqual(["expected '(no line)', got 'more'"]);
  });
});

describe('the tables of exceptions', () => {
  it.each([
    ['Bochs’s faults', 'machine', BOCHS_FAULTS],
    ['KVM’s own ways', 'L0', KVM_FACTS],
  ] as const)('%s name programs of the corpus that run on that side', (_, side, table) => {
    for (const { program, reason } of table) {
      expect(CORPUS.find(({ name }) => name === program)?.on, program).toContain(side);
      expect(reason.length).toBeGreaterThan(7);
    }
  });

  it('hold for their side only', () => {
    const l0 = { program: 'vmx_events', side: 'L0' } as const;
    const line = 'inject_int1_then_gp: exit 0 intr=80000b0d:b';
    const [here, there] = [`${line} rip=0\n`, `${line} idt=80000501 len=1 rip=0\n`];
    expect(compareTexts(l0, here, there)[0]!.verdict).toBe('listed');
    expect(compareTexts({ ...l0, side: 'machine' }, here, there)[0]!.verdict).toBe('differs');
    expect(checkExpected(l0, there, here)).toEqual([]);
    expect(checkExpected({ ...l0, side: 'machine' }, there, here)).toHaveLength(1);
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
