// SPDX-License-Identifier: GPL-2.0-only
/** Signs of life on standard error: one line per test that takes longer than a moment, and a beat every few seconds. */

export interface Progress {
  begin(name: string, index: number): void;
  /** Called often by the simulation; prints at most every few seconds. */
  beat(): void;
  /** The latest line of the test's output, shown with the next beat. */
  note(line: string): void;
  end(): void;
}

const FIRST_BEAT_MS = 2000;
const BEAT_MS = 5000;

/** `now` is the wall clock in milliseconds. */
export function createProgress(
  out: { write(text: string): unknown },
  total: number,
  now: () => number = () => performance.now(),
): Progress {
  let label = '';
  let began = 0;
  let next = 0;
  let last = '';
  return {
    begin(name, index) {
      label = `[${index + 1}/${total}] ${name}`;
      began = now();
      next = began + FIRST_BEAT_MS;
      last = '';
    },
    beat() {
      const t = now();
      if (t < next) return;
      next = t + BEAT_MS;
      out.write(
        `${label}: running, ${((t - began) / 1000).toFixed(0)} s${last === '' ? '' : `; last: ${last}`}\n`,
      );
    },
    note(line) {
      last = line.trim();
    },
    end() {
      label = '';
    },
  };
}
