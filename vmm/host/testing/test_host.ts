// SPDX-License-Identifier: GPL-2.0-only
/** A small host for unit tests: real memory, frames and CPUs, but no execution units, since no guest code runs. */
import { RAM_BASE } from '../../machine/layout.ts';
import { NR_COST_POINTS } from '../../machine/cost/points.ts';
import { Cpu } from '../../machine/cpu/cpu.ts';
import { FrameTable } from '../../machine/memory/frames.ts';
import { PhysMem } from '../../machine/memory/phys_mem.ts';
import { createHost, type Host } from '../host.ts';
import type { SchedOptions } from '../sched/dispatcher.ts';
import type { Steps } from '../steps.ts';

export interface TestHostOptions {
  readonly nrCpus?: number;
  readonly ramBytes?: number;
  readonly unmanagedBytes?: number;
  readonly sched?: SchedOptions;
  /** Price of each cost point that `prices` does not name. Default 1 cycle. */
  readonly price?: number;
  /** Prices by cost point. */
  readonly prices?: Readonly<Record<number, number>>;
}

/** First frame of RAM. */
export const FIRST_FRAME = RAM_BASE / 4096;

/** A host on a fresh machine; stores that the kernel reports are recorded in `stores`. */
export function testHost(options: TestHostOptions = {}): Host & { readonly stores: number[] } {
  const mem = new PhysMem(options.ramBytes ?? 4 << 20);
  const frames = new FrameTable(mem.size);
  const prices = new Float64Array(NR_COST_POINTS).fill(options.price ?? 1);
  for (const [point, value] of Object.entries(options.prices ?? {})) prices[Number(point)] = value;
  const cpus = Array.from({ length: options.nrCpus ?? 1 }, (_, id) => new Cpu(id, mem, frames, prices));
  const stores: number[] = [];
  const noteStore = (hpa: number): void => void stores.push(hpa);
  const { unmanagedBytes = 0, sched = {} } = options;
  return Object.assign(createHost({ machine: { mem, frames, cpus, noteStore }, unmanagedBytes, sched }), {
    stores,
  });
}

/** Run steps as the only task and return their result. */
export function drive<T>(host: Host, steps: Steps<T>): T {
  return host.sched.drive('test', steps);
}
