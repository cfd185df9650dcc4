// SPDX-License-Identifier: GPL-2.0-only
/** The transcript in README.md and the worked trace in docs/architecture.md come out of the commands that stand beside them. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadSelftest } from './registry.ts';
import { runSelftest } from './run_test.ts';

const read = (file: string): string => readFileSync(new URL(`../${file}`, import.meta.url), 'utf8');
const quick = { seed: 1, params: [] } as const;

describe('documents', () => {
  it('the README shows what memslot_perf_test prints', async () => {
    const test = await loadSelftest('memslot_perf_test');
    const args = ['-s', '8192', '-f', '0', '-e', '0', '-l', '0.05'];
    const readme = read('README.md');
    expect(readme).toContain(`npx nestbed run -t memslot_perf_test -- ${args.join(' ')}`);
    const { output } = runSelftest(test!, { ...quick, args });
    expect(output.length).toBeGreaterThan(3);
    for (const line of output) expect(readme).toContain(`      ${line}\n`);
  });

  it('docs/architecture.md shows the trace of the first EPT violation', async () => {
    const test = await loadSelftest('ucall_smoke_test');
    const trace: string[] = [];
    runSelftest(test!, { ...quick, args: [], onTrace: (line) => trace.push(line) });
    const shown = [...read('docs/architecture.md').matchAll(/^ {4}(\d+: kvm_.*)$/gm)].map((m) => m[1]!);
    expect(shown.length).toBeGreaterThan(5);
    for (const line of shown) expect(trace.filter((t) => t.includes(line))).toHaveLength(1);
  });
});
