// SPDX-License-Identifier: GPL-2.0-only
/**
 * `npm run bench [-- --json] [-- --only NAME] [-- --runs N]`: the project's figures in plain Node, each as min, median and
 * max of several runs, with its goal and a reference loop of the same machine in the same run.
 */
import process from 'node:process';
import { parseArgs } from 'node:util';
import { BENCHMARKS } from './benchmarks.ts';
import { measure, type Benchmark, type Figure } from './measure.ts';

const options = {
  json: { type: 'boolean', default: false },
  only: { type: 'string', multiple: true },
  runs: { type: 'string', default: '5' },
} as const;

function parse(): { json: boolean; only: readonly string[]; runs: number } | string {
  try {
    const { values } = parseArgs({ options, strict: true, allowPositionals: false });
    const runs = /^[1-9]\d*$/.test(values.runs) ? Number(values.runs) : 0;
    if (runs === 0) return `--runs takes a positive number, not '${values.runs}'`;
    const unknown = values.only?.find((name) => !BENCHMARKS.some((b) => b.name.startsWith(name)));
    return unknown === undefined
      ? { json: values.json, only: values.only ?? [], runs }
      : `no benchmark is called '${unknown}'`;
  } catch (error) {
    return (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? '';
  }
}

const round = (n: number): string => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(3));

/** Whether the median reaches the goal; undefined without a goal. */
function reached(b: Benchmark, f: Figure): boolean | undefined {
  if (b.goal === undefined) return undefined;
  return b.goal.better === 'higher' ? f.median >= b.goal.value : f.median <= b.goal.value;
}

function line(b: Benchmark, f: Figure): string {
  const ok = reached(b, f);
  const goal = b.goal === undefined ? '' : `${b.goal.better === 'higher' ? '>=' : '<='} ${b.goal.value}`;
  const verdict = ok === undefined ? '' : ok ? ' ok' : ' MISSED';
  const cells = [f.min, f.median, f.max].map((n) => round(n).padStart(12));
  return `${b.name.padEnd(28)}${cells.join('')} ${b.unit.padEnd(10)} ${goal}${verdict}`;
}

function main(): number {
  const args = parse();
  if (typeof args === 'string') {
    process.stderr.write(`bench: ${args}\n`);
    return 2;
  }
  const chosen = BENCHMARKS.filter(
    (b) => args.only.length === 0 || args.only.some((name) => b.name.startsWith(name)),
  );
  const figures: Record<string, Figure> = {};
  if (!args.json)
    process.stdout.write(
      `${'benchmark'.padEnd(28)}${['min', 'median', 'max'].map((h) => h.padStart(12)).join('')} unit       goal\n`,
    );
  for (const b of chosen) {
    const figure = measure(b, args.runs);
    figures[b.name] = figure;
    if (!args.json) process.stdout.write(`${line(b, figure)}\n`);
  }
  if (args.json) process.stdout.write(`${JSON.stringify(figures, null, 2)}\n`);
  return 0;
}

process.exitCode = main();
