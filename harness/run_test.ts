// SPDX-License-Identifier: GPL-2.0-only
/** Runs one selftest on a fresh emulated host and judges how it ended. */
import type { Selftest } from './api.ts';
import type { Status, TestResult } from './result.ts';
import { TestFailure, TestSkip, UsageError } from '../lib/kvm_util/test_util.ts';
import { createEmulatedHost, type EmulatedHostOptions } from '../vmm/emulated.ts';
import { traceLine } from '../vmm/kvm/trace.ts';
import { SanitizerError } from '../vmm/machine/errors.ts';

export interface RunConfig {
  readonly seed: number;
  /** Module parameters as given: `kvm_intel.ept=0`. */
  readonly params: readonly string[];
  readonly args: readonly string[];
  /** A sign of life: called now and then while the simulation runs. */
  readonly heartbeat?: () => void;
  /** Wall-clock seconds after which the run is given up; default: the test's own, or 120. */
  readonly timeoutSeconds?: number;
  /** Receives each line as the test prints it. */
  readonly onPrint?: (line: string) => void;
  /** Receives KVM's trace events as ftrace prints them; without it nothing is recorded. */
  readonly onTrace?: (line: string) => void;
  readonly host?: Partial<EmulatedHostOptions>;
}

const quote = (word: string): string =>
  /^[\w.=/:,+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

const DEFAULT_TIMEOUT_SECONDS = 120;

/** The command line that runs the same case again. */
export function rerunLine(name: string, config: RunConfig): string {
  const params = config.params.flatMap((p) => ['-P', p]);
  const args = config.args.length > 0 ? ['--', ...config.args] : [];
  const limit = config.timeoutSeconds;
  const timeout = limit === undefined ? [] : ['--timeout', String(limit)];
  return ['npx nestbed run', '-t', name, ...params, '--seed', String(config.seed), ...timeout, ...args]
    .map((w, i) => (i === 0 ? w : quote(w)))
    .join(' ');
}

/** Where in this tree an error was thrown: ` at selftests/x_test.ts:12`; empty if that is not known. */
function thrownAt(error: Error): string {
  const frame =
    /(?:file:\/\/)?[^\s()]*?\/((?:selftests|lib|vmm|harness)\/[^\s():]+):(\d+)(?::\d+)?\)?$/m.exec(
      error.stack ?? '',
    );
  return frame === null ? '' : `\n  at ${frame[1]!}:${frame[2]!}`;
}

/** A test failure or a sanitizer's finding is the system's fault; anything else thrown is ours. */
function judge(error: unknown): { status: Status; message: string } {
  if (error instanceof TestSkip) return { status: 'skip', message: error.message };
  if (error instanceof TestFailure) return { status: 'fail', message: error.message };
  if (error instanceof SanitizerError) return { status: 'fail', message: `${error.name}: ${error.message}` };
  if (error instanceof Error)
    return { status: 'error', message: `${error.name}: ${error.message}${thrownAt(error)}` };
  return { status: 'error', message: String(error) };
}

/** Run one selftest. UsageError is the caller's: bad options are no result. */
export function runSelftest(test: Selftest, config: RunConfig): TestResult {
  const output: string[] = [];
  const print = (line: string): void => {
    output.push(line);
    config.onPrint?.(line);
  };
  const began = performance.now();
  const limit = config.timeoutSeconds ?? test.timeoutSeconds ?? DEFAULT_TIMEOUT_SECONDS;
  const heartbeat = (): void => {
    config.heartbeat?.();
    if (performance.now() - began > limit * 1000) throw new TestFailure(`TIMEOUT ${limit} seconds`);
  };
  let verdict: { status: Status; message: string } = { status: 'pass', message: '' };
  try {
    const backend = createEmulatedHost({
      seed: config.seed,
      params: [...(test.params ?? []), ...config.params],
      ...(test.nrCpus === undefined ? {} : { nrCpus: test.nrCpus }),
      ...(test.ramBytes === undefined ? {} : { ramBytes: test.ramBytes }),
      heartbeat,
      ...config.host,
    });
    const { onTrace } = config;
    if (onTrace !== undefined) {
      backend.module.trace.enable();
      backend.module.trace.listener = (record) => onTrace(traceLine(record));
    }
    backend.runMain(() => test.run({ backend, args: config.args, print }));
  } catch (error) {
    if (error instanceof UsageError) throw error;
    verdict = judge(error);
  }
  const seconds = (performance.now() - began) / 1000;
  return { name: test.name, ...verdict, output, seconds, rerun: rerunLine(test.name, config) };
}
