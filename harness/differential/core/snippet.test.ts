// SPDX-License-Identifier: GPL-2.0-only
/** The snippets' generator and their file form. What they do is judged by the reference interpreter and by Bochs. */
import { describe, expect, it } from 'vitest';
import { CODE, CODE_PAGES } from '../../reference/world.ts';
import { makeSnippets } from './generate.ts';
import { loadSnippets } from './program.ts';
import { parseSnippets, snippetText } from './snippet.ts';

describe('snippets', () => {
  it('are the same from the same seeds, and survive their file form', () => {
    for (const privilege of ['user', 'supervisor'] as const) {
      const made = makeSnippets(privilege, 25);
      expect(makeSnippets(privilege, 25)).toEqual(made);
      expect(parseSnippets(`# comment\n${made.map(snippetText).join('\n')}\n`)).toEqual(made);
    }
  });

  it('fit the code pages and end with room for the UD2', () => {
    for (const { start, code } of loadSnippets('user'))
      expect(start + code.length + 2).toBeLessThanOrEqual(CODE_PAGES * 0x1000);
  });

  it('change only memory of the world, in whole lines', () => {
    const lines = loadSnippets('supervisor').flatMap((snippet) => snippet.lines);
    expect(lines.length).toBeGreaterThan(300);
    expect(lines.every((at) => at % 64n === 0n)).toBe(true);
    expect(lines.some((at) => at < 0x1000n)).toBe(true);
    expect(lines.some((at) => at >= CODE && at < CODE + 0x2000n)).toBe(true);
  });
});
