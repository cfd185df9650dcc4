// SPDX-License-Identifier: GPL-2.0-only
/** A task that spun for a lock goes on at the cycle at which the lock came free, also when others want its pCPU. */
import { describe, expect, it } from 'vitest';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { SpinLock } from '../locking/spinlock.ts';
import type { Steps } from '../steps.ts';
import { testHost } from '../testing/test_host.ts';

describe('a waiter of a lock that comes free in its future', () => {
  it('goes on although its pCPU has another task to run', () => {
    const host = testHost({ nrCpus: 2, sched: { quantum: 1000, timeslice: 50, maxTurns: 1000 } });
    const lock = new SpinLock(host.sched, 'lock');
    const log: string[] = [];
    const holder = function* (): Steps<void> {
      yield* lock.lock();
      spend(host.cpu, COST.INSN, 10);
      yield;
      // Runs ahead of the waiter's clock, up to the quantum.
      spend(host.cpu, COST.INSN, 900);
      lock.unlock();
      log.push('released');
    };
    const waiter = function* (): Steps<void> {
      spend(host.cpu, COST.INSN, 5);
      yield;
      yield* lock.lock();
      lock.unlock();
      log.push('waiter');
    };
    const other = function* (): Steps<void> {
      log.push('other');
      yield;
    };
    host.sched.spawn('holder', holder(), { cpu: 0 });
    host.sched.spawn('waiter', waiter(), { cpu: 1 });
    host.sched.spawn('other', other(), { cpu: 1 });
    host.sched.run();
    expect(log.toSorted()).toEqual(['other', 'released', 'waiter']);
    expect(host.sched.cpus[1]!.clock[0]!).toBeGreaterThanOrEqual(910);
  });
});
