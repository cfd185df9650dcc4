// SPDX-License-Identifier: GPL-2.0-only
/** The scheduler's promises: order by clock, determinism, fairness, reports of deadlock and livelock. */
import { describe, expect, it } from 'vitest';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Host } from '../host.ts';
import { SpinLock } from '../locking/spinlock.ts';
import type { Steps } from '../steps.ts';
import { testHost } from '../testing/test_host.ts';
import { work } from '../testing/work.ts';
import { DeadlockError, LivelockError } from './errors.ts';
import { WaitQueue } from './wait_queue.ts';

describe('the order of pCPUs', () => {
  it('lets the smallest clock go on, at most a quantum beyond the next', () => {
    const host = testHost({ nrCpus: 2, sched: { quantum: 100 } });
    let worst = 0;
    const body = function* (): Steps<void> {
      for (let i = 0; i < 200; i++) {
        spend(host.cpu, COST.INSN, 7);
        worst = Math.max(worst, Math.abs(host.machine.cpus[0]!.clock[0]! - host.machine.cpus[1]!.clock[0]!));
        if (host.sched.shouldYield()) yield;
      }
    };
    host.sched.spawn('a', body(), { cpu: 0 });
    host.sched.spawn('b', body(), { cpu: 1 });
    host.sched.run();
    expect(worst).toBeGreaterThan(50);
    expect(worst).toBeLessThanOrEqual(100 + 7 + 1);
  });

  it('gives equal clocks to the lower number first', () => {
    const host = testHost({ nrCpus: 3, price: 0 });
    const log: string[] = [];
    for (const cpu of [2, 1, 0])
      host.sched.spawn(`t${cpu}`, work(host, log, `t${cpu}`, { turns: 1, cycles: 1 }), { cpu });
    host.sched.run();
    expect(log).toEqual(['t0@0', 't1@0', 't2@0']);
  });

  it('gives the same order and the same clocks for the same program', () => {
    const once = (): string[] => {
      const host = testHost({ nrCpus: 3, sched: { quantum: 50, timeslice: 120 } });
      const log: string[] = [];
      for (let i = 0; i < 7; i++)
        host.sched.spawn(`t${i}`, work(host, log, `t${i}`, { turns: 20, cycles: 11 + i }));
      host.sched.run();
      return log;
    };
    const first = once();
    expect(first).toHaveLength(140);
    expect(once()).toEqual(first);
  });

  it('runs tasks of one pCPU in turns of a time slice', () => {
    const host = testHost({ sched: { timeslice: 1000 } });
    const log: string[] = [];
    for (const name of ['a', 'b']) host.sched.spawn(name, work(host, log, name, { turns: 100, cycles: 100 }));
    host.sched.run();
    const switches = log.filter((entry, i) => i > 0 && entry[0] !== log[i - 1]![0]).length;
    expect(switches).toBe(19);
    // Twenty slices, and each task once more to find that it is at its end.
    expect(host.counters.contextSwitches).toBe(22);
  });

  it('does not preempt a task with preemption disabled', () => {
    const host = testHost({ sched: { timeslice: 10 } });
    const log: string[] = [];
    host.sched.spawn(
      'a',
      (function* (): Steps<void> {
        host.sched.preemptDisable();
        yield* work(host, log, 'a', { turns: 5, cycles: 100 });
        expect(host.sched.needResched()).toBe(true);
        host.sched.preemptEnable();
        yield;
        log.push('a again');
      })(),
    );
    host.sched.spawn('b', work(host, log, 'b', { turns: 1, cycles: 1 }));
    host.sched.run();
    expect(log.map((entry) => entry.split('@')[0])).toEqual(['a', 'a', 'a', 'a', 'a', 'b', 'a again']);
  });

  it('refuses to run inside itself, without pCPUs, and on a pCPU that is not there', () => {
    const host = testHost();
    expect(() =>
      host.sched.drive(
        'outer',
        (function* (): Steps<void> {
          host.sched.run();
        })(),
      ),
    ).toThrow('running already');
    expect(() => host.sched.spawn('t', work(host, [], 't', { turns: 1, cycles: 1 }), { cpu: 5 })).toThrow(
      'no pCPU 5',
    );
    expect(() => testHost({ nrCpus: 0 })).toThrow(BugError);
  });
});

describe('reports', () => {
  it('name every blocked task, its reason and its locks in a deadlock', () => {
    const host = testHost({ nrCpus: 2 });
    const lock = new SpinLock(host.sched, 'mmu_lock');
    const queue = new WaitQueue(host.sched, 'mn_active_invalidate_count');
    host.sched.spawn(
      'holder',
      (function* (): Steps<void> {
        yield* lock.lock();
        yield* queue.spin();
      })(),
      { cpu: 0 },
    );
    host.sched.spawn('other', lock.lock(), { cpu: 1 });
    const run = (): void => host.sched.run();
    expect(run).toThrow(DeadlockError);
    expect(() => run()).toThrow(
      /"holder" holding mmu_lock spins for mn_active_invalidate_count[^]*"other" spins for spinlock mmu_lock, held by "holder"/,
    );
  });

  it('end a run that is over its budget of turns or cycles', () => {
    const endless = (host: Host): Steps<void> => work(host, [], 'endless', { turns: Infinity, cycles: 100 });
    const byTurns = testHost({ sched: { maxTurns: 10, maxSlice: 50 } });
    expect(() => byTurns.sched.drive('endless', endless(byTurns))).toThrow(LivelockError);
    expect(byTurns.sched.turns).toBe(11);
    const byCycles = testHost({ sched: { maxCycles: 5000, maxSlice: 50 } });
    expect(() => byCycles.sched.drive('endless', endless(byCycles))).toThrow(/livelock[^]*"endless"/);
  });

  it('refuse a task that ends in atomic context', () => {
    const host = testHost();
    const lock = new SpinLock(host.sched, 'leaked');
    expect(() => host.sched.drive('sloppy', lock.lock())).toThrow(
      '"sloppy" holding leaked ended in atomic context',
    );
  });
});

describe('affinity', () => {
  it('moves a running task at its next yield and tells its preempt notifier', () => {
    const host = testHost({ nrCpus: 2, price: 0, prices: { [COST.INSN]: 1 } });
    const log: string[] = [];
    const notifier = {
      schedIn: (cpu: { id: number }) => void log.push(`in ${cpu.id}`),
      schedOut: (cpu: { id: number }) => void log.push(`out ${cpu.id}`),
    };
    const body = function* (): Steps<void> {
      const self = host.sched.current!;
      host.sched.preemptNotifierRegister(self, notifier);
      spend(host.cpu, COST.INSN, 700);
      host.sched.setAffinity(self, 1);
      expect(host.sched.shouldYield()).toBe(true);
      expect(host.sched.needResched()).toBe(true);
      yield;
      log.push(`on ${host.cpu.id} at ${host.sched.now()}`);
      host.sched.preemptNotifierUnregister(self, notifier);
      host.sched.preemptNotifierUnregister(self, notifier);
    };
    host.sched.spawn('vcpu', body());
    host.sched.run();
    expect(log).toEqual(['out 0', 'in 1', 'on 1 at 700']);
    expect(host.counters.taskMigrations).toBe(1);
    expect(host.sched.needResched()).toBe(false);
  });

  it('moves sleeping and queued tasks at once, and kicks a task that runs elsewhere', () => {
    const host = testHost({ nrCpus: 2 });
    const where: string[] = [];
    const note = (name: string): void => void where.push(`${name} on ${host.cpu.id}`);
    const sleeper = host.sched.spawn(
      'sleeper',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(1000);
        note('sleeper');
      })(),
      { cpu: 0 },
    );
    const runner = host.sched.spawn(
      'runner',
      (function* (): Steps<void> {
        while (host.cpu.id === 0) {
          spend(host.cpu, COST.INSN, 10);
          yield;
        }
        note('runner');
      })(),
      { cpu: 0 },
    );
    host.sched.spawn(
      'mover',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(100);
        host.sched.setAffinity(sleeper, 1);
        host.sched.setAffinity(runner, 1);
        expect(() => host.sched.setAffinity(runner, 9)).toThrow('no pCPU 9');
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(where.sort()).toEqual(['runner on 1', 'sleeper on 1']);
    expect(host.counters.ipis).toBe(1);
  });

  it('wakes a task on an idle pCPU when its own is busy', () => {
    const host = testHost({ nrCpus: 2 });
    const where: number[] = [];
    host.sched.spawn(
      'sleeper',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(500);
        where.push(host.cpu.id);
      })(),
    );
    host.sched.spawn('hog', work(host, [], 'hog', { turns: 100, cycles: 100 }), { cpu: 0 });
    host.sched.run();
    expect(where).toEqual([1]);
  });
});

describe('a schedule explorer', () => {
  it('decides every step, over tasks of all pCPUs', () => {
    const orders = new Set<string>();
    for (let seed = 0; seed < 8; seed++) {
      const host = testHost({ nrCpus: 2 });
      const log: string[] = [];
      let bits = seed;
      host.sched.exploring = true;
      host.sched.choose = (candidates) => {
        const index = candidates.length === 1 ? 0 : bits & 1;
        if (candidates.length > 1) bits >>= 1;
        return index;
      };
      for (const cpu of [0, 1]) {
        host.sched.spawn(
          `t${cpu}`,
          (function* (): Steps<void> {
            for (let i = 0; i < 2; i++) {
              log.push(`${cpu}`);
              if (host.sched.shouldYield()) yield;
            }
          })(),
          { cpu },
        );
      }
      host.sched.run();
      orders.add(log.join(''));
    }
    expect([...orders].sort()).toEqual(['0011', '0101', '0110', '1001', '1010', '1100']);
  });

  it('switches between tasks of one pCPU, and offers timers only when nothing else can happen', () => {
    const host = testHost();
    const log: string[] = [];
    host.sched.exploring = true;
    host.sched.choose = (candidates) => candidates.length - 1;
    host.sched.spawn(
      'sleeper',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(1e6);
        log.push('slept');
      })(),
    );
    for (const name of ['a', 'b']) host.sched.spawn(name, work(host, log, name, { turns: 2, cycles: 1 }));
    host.sched.run();
    expect(log.map((entry) => entry.split('@')[0])).toEqual(['b', 'a', 'b', 'a', 'slept']);
  });

  it('must choose one of the candidates', () => {
    const host = testHost();
    host.sched.exploring = true;
    host.sched.choose = () => 3;
    expect(() => host.sched.drive('t', work(host, [], 't', { turns: 1, cycles: 1 }))).toThrow(
      'none of 1 candidates',
    );
  });
});
