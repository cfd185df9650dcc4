// SPDX-License-Identifier: GPL-2.0-only
/** The commands behind the command line. */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { parseArgs, type ParseArgsConfig } from 'node:util';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import { validateParams } from '../vmm/emulated.ts';
import type { Selftest } from './api.ts';
import { createProgress } from './progress.ts';
import { loadAllSelftests, loadSelftest, selftestNames } from './registry.ts';
import { ktapReporter } from './reporters/ktap.ts';
import { junitReporter } from './reporters/junit.ts';
import { summaryReporter } from './reporters/summary.ts';
import { exitCode, type Reporter, type TestResult } from './result.ts';
import { runSelftest, type RunConfig } from './run_test.ts';

type Write = (line: string) => void;

const reporters: Readonly<Record<string, (write: Write) => Reporter>> = {
  summary: summaryReporter,
  ktap: ktapReporter,
  junit: junitReporter,
};

const RUN_HELP = 'nestbed --help explains the options of run';

const runOptions = {
  list: { type: 'boolean', short: 'l' },
  test: { type: 'string', short: 't', multiple: true },
  param: { type: 'string', short: 'P', multiple: true },
  seed: { type: 'string', default: '1' },
  reporter: { type: 'string', default: 'summary' },
  trace: { type: 'string' },
  timeout: { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const satisfies ParseArgsConfig['options'];

/** One selected test with the options it gets. */
interface Selection {
  readonly test: Selftest;
  readonly args: readonly string[];
}

/** parseArgs() with its errors as one clear line. */
function parseRun(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options: runOptions, strict: true, allowPositionals: false }).values;
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    throw new UsageError(text.split('\n').join(' '));
  }
}

function parseSeed(text: string): number {
  const seed = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(seed) || seed > 0xffff_ffff)
    throw new UsageError(`--seed takes a number from 0 to 4294967295, not '${text}'`);
  return seed;
}

function parseTimeout(text: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : 0;
  if (seconds === 0) throw new UsageError(`--timeout takes a positive number of seconds, not '${text}'`);
  return seconds;
}

async function findTest(name: string): Promise<Selftest> {
  const test = await loadSelftest(name);
  if (test === undefined)
    throw new UsageError(`unknown test '${name}'; nestbed list shows ${selftestNames().length} tests`);
  return test;
}

/** The tests to run: those named, each with its own words and the common options; or all, with quick options. */
async function select(named: readonly string[], extra: readonly string[]): Promise<Selection[]> {
  if (named.length === 0) {
    if (extra.length > 0) throw new UsageError('test options after -- need a test: -t TEST');
    return (await loadAllSelftests()).map((test) => ({ test, args: test.quickArgs ?? [] }));
  }
  return Promise.all(
    named.map(async (spec) => {
      const [name = '', ...own] = spec.split(/\s+/).filter((w) => w !== '');
      // The test's own words come last, so that they prevail.
      return { test: await findTest(name), args: [...extra, ...own] };
    }),
  );
}

/** `nestbed run`. */
export async function runCommand(
  argv: readonly string[],
  io: { version: string; write: Write },
): Promise<number> {
  const split = argv.indexOf('--');
  const values = parseRun(split < 0 ? argv : argv.slice(0, split));
  if (values.help === true) throw new UsageError(RUN_HELP, { help: true });
  const seed = parseSeed(values.seed);
  const makeReporter = Object.hasOwn(reporters, values.reporter) ? reporters[values.reporter] : undefined;
  if (makeReporter === undefined) {
    throw new UsageError(
      `unknown reporter '${values.reporter}'; there are ${Object.keys(reporters).join(', ')}`,
    );
  }
  const params = values.param ?? [];
  const paramError = validateParams(params);
  if (paramError !== undefined) throw new UsageError(paramError);
  const selected = await select(values.test ?? [], split < 0 ? [] : argv.slice(split + 1));
  for (const { test, args } of selected) named(test, () => test.checkArgs?.(args));
  if (values.list === true) {
    for (const { test, args } of selected) io.write([test.name, ...args].join(' '));
    return 0;
  }
  return runAll(selected, {
    seed,
    params,
    version: io.version,
    reporter: makeReporter(io.write),
    trace: values.trace,
    timeoutSeconds: values.timeout === undefined ? undefined : parseTimeout(values.timeout),
  });
}

/** Options that a test refuses are told with its name. */
function named<T>(test: Selftest, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof UsageError) || error.help) throw error;
    throw new UsageError(`${test.name}: ${error.message}`);
  }
}

interface RunAll {
  readonly seed: number;
  readonly params: readonly string[];
  readonly version: string;
  readonly reporter: Reporter;
  /** File that gets KVM's trace events. */
  readonly trace: string | undefined;
  /** As asked for; else each test's own limit holds. */
  readonly timeoutSeconds: number | undefined;
}

/** A file that takes lines; opened before anything runs, so that a bad name is bad input. */
function openTrace(file: string | undefined): {
  line: ((text: string) => void) | undefined;
  close: () => void;
} {
  if (file === undefined) return { line: undefined, close: () => undefined };
  const attempt = <T>(body: () => T): T => {
    try {
      return body();
    } catch (error) {
      throw new UsageError(`--trace: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
  const fd = attempt(() => openSync(file, 'w'));
  let pending: string[] = [];
  const flush = (): void => {
    const text = pending.length === 0 ? '' : `${pending.join('\n')}\n`;
    pending = [];
    attempt(() => writeFileSync(fd, text));
  };
  const line = (text: string): void => {
    if (pending.push(text) >= 4096) flush();
  };
  return {
    line,
    close: () => {
      flush();
      closeSync(fd);
    },
  };
}

function runAll(selected: readonly Selection[], all: RunAll): number {
  const trace = openTrace(all.trace);
  const names = selected.map((s) => s.test.name);
  const progress = createProgress(process.stderr, names.length);
  const results: TestResult[] = [];
  let started = false;
  // With the first line of output: a test that refuses its options leaves nothing but its own line.
  const start = (): void => {
    if (started) return;
    started = true;
    all.reporter.start({ version: all.version, seed: all.seed, cpu: 'skylake', params: all.params }, names);
  };
  for (const [i, { test, args }] of selected.entries()) {
    progress.begin(test.name, i);
    const config: RunConfig = {
      seed: all.seed,
      params: all.params,
      args,
      ...(all.timeoutSeconds === undefined ? {} : { timeoutSeconds: all.timeoutSeconds }),
      heartbeat: () => progress.beat(),
      onPrint: (line) => {
        start();
        progress.note(line);
      },
      ...(trace.line === undefined ? {} : { onTrace: trace.line }),
    };
    const result = named(test, () => runSelftest(test, config));
    progress.end();
    start();
    results.push(result);
    all.reporter.result(result, i);
  }
  trace.close();
  all.reporter.end(results);
  return exitCode(results);
}

/** `nestbed list`: name and summary of every test. */
export async function listCommand(argv: readonly string[], write: Write): Promise<number> {
  if (argv.length > 0) throw new UsageError(`list takes no argument, got '${argv[0] ?? ''}'`);
  const tests = await loadAllSelftests();
  const width = Math.max(...tests.map((t) => t.name.length));
  for (const t of tests) write(`${t.name.padEnd(width)}  ${t.summary}`);
  return 0;
}
