// SPDX-License-Identifier: GPL-2.0-only
/** What a selftest sees of the harness: how it is declared, and what it is given to run. */
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';

/** One run of one selftest. */
export interface SelftestContext {
  readonly backend: Backend;
  /** The test's own options, as upstream's argv without the program name. */
  readonly args: readonly string[];
  /** One line of the test's output, as upstream's printf gives it. */
  readonly print: (line: string) => void;
}

/** A port of one upstream selftest. */
export interface Selftest {
  /** Upstream's basename without suffix. */
  readonly name: string;
  /** What it checks, in one line. */
  readonly summary: string;
  /** Where upstream has it, below tools/testing/selftests/kvm; `nestbed` for tests of our own. */
  readonly upstream: string;
  /** Options for a run of seconds rather than minutes: used by `npm start` and `npm test`. */
  readonly quickArgs?: readonly string[];
  /** Module parameters that it needs; those given for a run come after them. */
  readonly params?: readonly string[];
  /** Throws UsageError for options that the test refuses, before anything runs. */
  readonly checkArgs?: (args: readonly string[]) => void;
  /** Wall-clock seconds that it may take with any options; the default is 120, as in the selftests' settings file. */
  readonly timeoutSeconds?: number;
  /** Number of pCPUs that the host has when it runs; the default is 4. */
  readonly nrCpus?: number;
  /** Bytes of host RAM; the default is 1 GiB. */
  readonly ramBytes?: number;
  /** The main thread. Throws TestFailure, TestSkip or UsageError. */
  readonly run: (context: SelftestContext) => Steps<void>;
}
