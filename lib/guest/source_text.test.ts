// SPDX-License-Identifier: GPL-2.0-only
/** Texts of macro arguments: what the C preprocessor's # operator would give, white space reduced to single spaces. */
import { describe, expect, it } from 'vitest';
import { argumentTexts, macroArguments } from './source_text.ts';

describe('argument texts', () => {
  it('are split at the commas of the outermost level', () => {
    const source = '  GUEST_ASSERT_EQ(g, f(a, b)[i], { x: 1, y: [2, 3] });';
    expect(argumentTexts(source, 1, 'GUEST_ASSERT_EQ')).toEqual(['g', 'f(a, b)[i]', '{ x: 1, y: [2, 3] }']);
  });

  it('may span lines and end with a comma', () => {
    const source = ['', 'GUEST_ASSERT(', '  g,', '  a.eq(b)', '    .land(c),', ');'].join('\n');
    expect(argumentTexts(source, 2, 'GUEST_ASSERT')).toEqual(['g', 'a.eq(b) .land(c)']);
  });

  it('do not end within a string', () => {
    expect(argumentTexts('M(g, \'a, b)\', "c\\"),", `d`)', 1, 'M')).toEqual([
      'g',
      "'a, b)'",
      '"c\\"),"',
      '`d`',
    ]);
  });

  it('are unknown if the macro is not on the line or never ends', () => {
    expect(argumentTexts('M(g, 1)', 1, 'N')).toBeUndefined();
    expect(argumentTexts('M(g, 1', 1, 'M')).toBeUndefined();
    expect(argumentTexts('M(g, 1)', 9, 'M')).toBeUndefined();
  });

  it('come from the source file, without g', () => {
    const line = sourceLine();
    expect(macroArguments({ file: 'lib/guest/source_text.test.ts', line }, 'probe')).toEqual(['one', 'two']);
    expect(macroArguments({ file: 'lib/guest/no_such_file.ts', line: 1 }, 'probe')).toEqual([]);
    expect(macroArguments({ file: '/no/such/file.ts', line: 1 }, 'probe')).toEqual([]);
    expect(macroArguments({ file: 'lib/guest/source_text.test.ts', line: 1 }, 'probe')).toEqual([]);
  });
});

/** The line of the probe below. */
function sourceLine(): number {
  const probe = (...args: number[]): Error => new Error(`here ${args.length}`);
  const [g, one, two] = [0, 1, 2];
  const here = probe(g, one, two).stack?.split('\n') ?? [];
  return Number(/:(\d+):\d+\)?$/.exec(here[2] ?? '')?.[1]);
}
