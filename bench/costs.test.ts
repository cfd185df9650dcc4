// SPDX-License-Identifier: GPL-2.0-only
/** The cycles in docs/costs.md come out of the command that stands beside them. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { BENCHMARKS } from './benchmarks.ts';

const text = readFileSync(new URL('../docs/costs.md', import.meta.url), 'utf8');
const shown = [...text.matchAll(/^\| (\S+\.cycles) +\| ([\d.]+) +\|/gm)].map(([, name, cycles]) => ({
  name,
  cycles,
}));

describe('docs/costs.md', () => {
  it('has a table', () => {
    expect(shown.length).toBeGreaterThan(8);
  });

  it.each(shown)('shows what npm run bench prints for $name', ({ name, cycles = '' }) => {
    const benchmark = BENCHMARKS.find((b) => b.name === name);
    expect(benchmark?.run().toFixed(cycles.includes('.') ? 1 : 0)).toBe(cycles);
  });
});
