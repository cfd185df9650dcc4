// SPDX-License-Identifier: GPL-2.0-only
/**
 * Who could go on next, for a schedule explorer: every task that is free to run, and the interrupts of pCPUs that have no
 * such task. Timers in the future are offered only when nothing else can happen.
 */
import { IRQ } from './hrtimer.ts';
import { onCpu, type PCpu } from './pcpu.ts';
import { TASK, type Task } from './task.ts';

/** Somebody who could go on: a task on its pCPU, or (task null) the interrupts of a pCPU. */
export interface Candidate {
  readonly pcpu: PCpu;
  readonly task: Task | null;
  readonly at: number;
}

/** A schedule explorer: who goes on, as an index into the candidates. */
export type Chooser = (candidates: readonly Candidate[]) => number;

/** All candidates of this moment, in order of pCPU. */
export function candidates(pcpus: readonly PCpu[]): Candidate[] {
  const all = pcpus.flatMap(candidatesOf);
  const live = all.filter((c) => c.task !== null || c.pcpu.irqs.first?.kind === IRQ.IPI);
  if (live.length > 0) return live;
  return all.sort((a, b) => a.at - b.at).slice(0, 1);
}

function candidatesOf(pcpu: PCpu): Candidate[] {
  const now = pcpu.now;
  const out: Candidate[] = [];
  const add = (task: Task): void => void out.push({ pcpu, task, at: Math.max(now, task.availableAt) });
  const current = pcpu.current;
  if (current !== null && onCpu(current)) add(current);
  const free = current === null || current.state === TASK.POLLING;
  if (free || (onCpu(current) && current.preemptCount === 0 && current.availableAt <= now)) {
    for (const task of pcpu.queue) if (task.state === TASK.RUNNING) add(task);
  }
  if (out.length === 0 && pcpu.irqsOff === 0 && pcpu.irqs.length !== 0) {
    out.push({ pcpu, task: null, at: Math.max(now, pcpu.irqs.nextAt) });
  }
  return out;
}
