// SPDX-License-Identifier: GPL-2.0-only
/**
 * `nestbed differential`: every program of the corpus here and on Bochs, line by line; the summary; with --update the
 * files of agreed lines. Exit codes: 0 equal, 1 a line differs, 2 bad input, 4 Bochs is not there.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { parseArgs } from 'node:util';
import { UsageError } from '../../lib/kvm_util/test_util.ts';
import { bochsInstalled, type BochsRun, HOW_TO_INSTALL, runBochs } from './bochs.ts';
import { compareTexts, expectedText, type ComparedLine, type LineVerdict } from './compare.ts';
import { CORPUS, expectedFile, runHere } from './corpus.ts';
import { buildDisk } from './guest_vm.ts';
import type { DifferentialProgram, Side } from './program.ts';

type Write = (line: string) => void;

const SKIPPED = 4;
/** A program that Bochs has not ended by then hangs there. */
const BOCHS_SECONDS = 60;
/** Differing lines shown of a program. */
const SHOWN = 10;

interface Options {
  readonly programs: readonly DifferentialProgram[];
  readonly keep: string | undefined;
  readonly update: boolean;
}

function parse(argv: readonly string[]): Options {
  const { values } = attempt(() =>
    parseArgs({
      args: [...argv],
      options: {
        only: { type: 'string', multiple: true },
        keep: { type: 'string' },
        update: { type: 'boolean', default: false },
      },
      strict: true,
      allowPositionals: false,
    }),
  );
  const names = CORPUS.map(({ name }) => name);
  for (const name of values.only ?? []) {
    if (!names.includes(name))
      throw new UsageError(`unknown program '${name}'; there are ${names.join(', ')}`);
  }
  const programs = CORPUS.filter(({ name }) => values.only?.includes(name) ?? true);
  return { programs, keep: values.keep, update: values.update };
}

function attempt<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    throw new UsageError(text.split('\n').join(' '));
  }
}

type Counts = Record<LineVerdict, number>;

interface Judgement {
  readonly text: string;
  readonly lines: readonly ComparedLine[];
  readonly counts: Counts;
}

const countOf = (lines: readonly ComparedLine[]): Counts => {
  const counts = { equal: 0, differs: 0, skipped: 0, listed: 0 };
  for (const { verdict } of lines) counts[verdict]++;
  return counts;
};

const summary = (counts: Counts): string =>
  `${counts.equal + counts.differs} lines compared, ${counts.differs} differing, ` +
  `${counts.listed} listed exceptions, ${counts.skipped} skipped`;

const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;

/** Where a program's disk, configuration and texts stay. */
function keptFolder(keep: string | undefined, name: string): string | undefined {
  if (keep === undefined) return undefined;
  const folder = join(keep, name);
  attempt(() => mkdirSync(folder, { recursive: true }));
  return folder;
}

function showDifferences(program: DifferentialProgram, lines: readonly ComparedLine[], write: Write): void {
  const differing = lines.filter(({ verdict }) => verdict === 'differs');
  for (const { number, here, there } of differing.slice(0, SHOWN)) {
    const explanation = program.explain?.(here);
    write(`  ${program.name} line ${number}${explanation === undefined ? '' : `, ${explanation}`}`);
    write(`    here  ${here}`);
    write(`    Bochs ${there}`);
  }
  if (differing.length > SHOWN) write(`  and ${differing.length - SHOWN} more`);
}

/** One side's text against that of Bochs. */
function judgeSide(program: DifferentialProgram, side: Side, bochs: BochsRun, write: Write): Judgement {
  const start = performance.now();
  const text = runHere(program, side);
  const lines = compareTexts({ program: program.name, side }, text, bochs.text);
  const counts = countOf(lines);
  // A run that was given up is a difference, whatever its text.
  if (bochs.trouble !== undefined && counts.differs === 0) counts.differs = 1;
  write(`${program.name} on ${side}: ${summary(counts)}, ${seconds(start)}`);
  showDifferences(program, lines, write);
  return { text, lines, counts };
}

/** One program on all its sides. */
async function judge(
  program: DifferentialProgram,
  options: Options,
  write: Write,
): Promise<readonly Counts[]> {
  const start = performance.now();
  const keep = keptFolder(options.keep, program.name);
  const { disk } = buildDisk(program);
  const bochs = await runBochs(disk, { seconds: BOCHS_SECONDS, ...(keep === undefined ? {} : { keep }) });
  write(`${program.name} on Bochs: ${bochs.trouble ?? 'done'}, ${seconds(start)}`);
  const judgements = program.on.map((side) => judgeSide(program, side, bochs, write));
  if (keep !== undefined) {
    writeFileSync(join(keep, 'bochs.txt'), bochs.text);
    judgements.forEach(({ text }, n) => writeFileSync(join(keep, `${program.on[n]!}.txt`), text));
  }
  const counts = judgements.map((judgement) => judgement.counts);
  if (options.update && counts.every(({ differs }) => differs === 0))
    writeFileSync(expectedFile(program.name), expectedText(judgements.map(({ lines }) => lines)));
  return counts;
}

/** `nestbed differential`. */
export async function differentialCommand(argv: readonly string[], write: Write): Promise<number> {
  const options = parse(argv);
  if (!bochsInstalled()) {
    write(HOW_TO_INSTALL);
    return SKIPPED;
  }
  const start = performance.now();
  const total: Counts = { equal: 0, differs: 0, skipped: 0, listed: 0 };
  for (const program of options.programs) {
    for (const counts of await judge(program, options, write))
      for (const key of Object.keys(total) as LineVerdict[]) total[key] += counts[key];
  }
  write(`${options.programs.length} programs: ${summary(total)}, ${seconds(start)}`);
  return total.differs === 0 ? 0 : 1;
}
