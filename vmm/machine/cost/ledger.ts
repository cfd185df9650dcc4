// SPDX-License-Identifier: GPL-2.0-only
/** Counts per cost point, and the clock that they drive. */
import type { CostPoint } from './points.ts';

/** Prices in cycles by cost point. */
export type Prices = Float64Array;

export interface Spender {
  /** Cycle counter: word 0. */
  readonly clock: Float64Array;
  /** How often each cost point was hit on this CPU. */
  readonly counts: Float64Array;
  readonly prices: Prices;
}

/** Let time pass on `cpu` for `n` occurrences of `point`. The only way to spend cycles outside the interpreter's loop. */
export function spend(cpu: Spender, point: CostPoint, n = 1): void {
  cpu.counts[point] = cpu.counts[point]! + n;
  cpu.clock[0] = cpu.clock[0]! + cpu.prices[point]! * n;
}
