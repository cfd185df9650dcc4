// SPDX-License-Identifier: GPL-2.0-only
/** How a figure is taken: several runs of one kernel, and their minimum, median and maximum. */

export interface Figure {
  readonly min: number;
  readonly median: number;
  readonly max: number;
  readonly unit: string;
}

/** One benchmark: `run` returns the figure of one run in `unit`. */
export interface Benchmark {
  readonly name: string;
  readonly unit: string;
  /** What must be reached, as issue text states it; the direction says which side is good. */
  readonly goal?: { readonly value: number; readonly better: 'higher' | 'lower' };
  run(): number;
}

export function summarize(values: readonly number[], unit: string): Figure {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { min: sorted[0]!, median, max: sorted.at(-1)!, unit };
}

/** One run to warm up, then `runs` that count. */
export function measure(benchmark: Benchmark, runs: number): Figure {
  benchmark.run();
  return summarize(
    Array.from({ length: runs }, () => benchmark.run()),
    benchmark.unit,
  );
}

/** Seconds that `work` takes. */
export function seconds(work: () => void): number {
  const began = performance.now();
  work();
  return (performance.now() - began) / 1000;
}
