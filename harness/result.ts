// SPDX-License-Identifier: GPL-2.0-only
/** Results in XTF's four kinds: pass, skip, failure of the thing under test, error of the test or the emulator. */

export type Status = 'pass' | 'skip' | 'fail' | 'error';

export interface TestResult {
  readonly name: string;
  readonly status: Status;
  /** Why it was skipped, or what went wrong; empty for a pass. */
  readonly message: string;
  /** The test's own output. */
  readonly output: readonly string[];
  /** Wall-clock seconds; never part of a trace. */
  readonly seconds: number;
  /** The command that runs the case again. */
  readonly rerun: string;
}

export interface RunHeader {
  readonly version: string;
  readonly seed: number;
  readonly cpu: string;
  readonly params: readonly string[];
}

export interface Reporter {
  start(header: RunHeader, names: readonly string[]): void;
  result(result: TestResult, index: number): void;
  end(results: readonly TestResult[]): void;
}

/** Exit code in kselftest's terms: 0 pass, 1 fail, 4 when everything was skipped. */
export function exitCode(results: readonly TestResult[]): number {
  if (results.some((r) => r.status === 'fail' || r.status === 'error')) return 1;
  return results.length > 0 && results.every((r) => r.status === 'skip') ? 4 : 0;
}

/** The first run line of every report: what is needed to get the same run again. */
export function headerLine(header: RunHeader): string {
  return [`nestbed ${header.version}`, `seed=${header.seed}`, `cpu=${header.cpu}`, ...header.params].join(
    ' ',
  );
}
