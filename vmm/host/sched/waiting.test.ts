// SPDX-License-Identifier: GPL-2.0-only
/** Sleeping, waking and polling: no wake-up is lost, nobody runs before it was woken. */
import { describe, expect, it } from 'vitest';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Steps } from '../steps.ts';
import { testHost } from '../testing/test_host.ts';
import { work } from '../testing/work.ts';
import { DeadlockError } from './errors.ts';
import { WaitQueue } from './wait_queue.ts';

describe('sleeping and waking', () => {
  it('jumps the clock of an idle pCPU to the end of a sleep', () => {
    const host = testHost({ price: 0 });
    const times: number[] = [];
    host.sched.drive(
      'sleeper',
      (function* (): Steps<void> {
        yield* host.sched.sleepUntil(5000);
        times.push(host.sched.now());
        yield* host.sched.sleepCycles(250);
        times.push(host.sched.now());
      })(),
    );
    expect(times).toEqual([5000, 5250]);
    expect(host.sched.pcpus[0]!.idleCycles).toBe(5250);
  });

  it('lets a task never run before the time at which it was woken', () => {
    const host = testHost({ nrCpus: 2, prices: { [COST.INSN]: 1 }, price: 0 });
    const queue = new WaitQueue(host.sched, 'event');
    let flag = false;
    let woken = -1;
    host.sched.spawn(
      'waiter',
      (function* (): Steps<void> {
        yield* queue.wait(() => flag);
        woken = host.sched.now();
      })(),
      { cpu: 0 },
    );
    host.sched.spawn(
      'waker',
      (function* (): Steps<void> {
        spend(host.cpu, COST.INSN, 12345);
        flag = true;
        expect(queue.wakeAll()).toBe(1);
        yield;
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(woken).toBe(12345);
  });

  it('remembers a wake-up between prepareToWait and schedule', () => {
    const host = testHost({ nrCpus: 2 });
    const queue = new WaitQueue(host.sched, 'event');
    const log: string[] = [];
    host.sched.spawn(
      'waiter',
      (function* (): Steps<void> {
        queue.prepareToWait();
        log.push('prepared');
        yield;
        yield* queue.schedule();
        log.push('through');
      })(),
      { cpu: 0 },
    );
    host.sched.spawn(
      'waker',
      (function* (): Steps<void> {
        log.push(`woke ${queue.wakeOne()}`);
      })(),
      { cpu: 1 },
    );
    const order = ['waiter', 'waker', 'waiter'];
    host.sched.exploring = true;
    host.sched.choose = (candidates) => {
      const name = order.shift();
      return candidates.findIndex((candidate) => candidate.task?.name === name);
    };
    host.sched.run();
    expect(log).toEqual(['prepared', 'woke true', 'through']);
    expect(queue.waiters).toHaveLength(0);
  });

  it('loses a wake-up that comes before prepareToWait: a deadlock', () => {
    const host = testHost();
    const queue = new WaitQueue(host.sched, 'event');
    expect(() =>
      host.sched.drive(
        'late',
        (function* (): Steps<void> {
          queue.wakeAll();
          queue.prepareToWait();
          yield* queue.schedule();
        })(),
      ),
    ).toThrow(DeadlockError);
  });

  it('ends interruptible sleep by a signal, and uninterruptible sleep not', () => {
    const host = testHost();
    const queue = new WaitQueue(host.sched, 'never');
    const results: unknown[] = [];
    let open = false;
    const interruptible = host.sched.spawn(
      'interruptible',
      (function* (): Steps<void> {
        results.push(yield* queue.waitInterruptible(() => open));
        results.push(yield* host.sched.sleepInterruptibleUntil(1e9));
      })(),
    );
    const stubborn = host.sched.spawn(
      'stubborn',
      (function* (): Steps<void> {
        yield* queue.wait(() => open);
        results.push('opened');
      })(),
    );
    host.sched.spawn(
      'killer',
      (function* (): Steps<void> {
        host.sched.sendSignal(interruptible);
        host.sched.sendSignal(stubborn);
        yield* host.sched.sleepCycles(100);
        open = true;
        queue.wakeAll();
      })(),
    );
    host.sched.run();
    expect(results).toEqual([false, false, 'opened']);
    expect(host.cpu.clock[0]).toBeLessThan(1e6);
  });

  it('wakes one waiter at a time, in order of arrival', () => {
    const host = testHost();
    const queue = new WaitQueue(host.sched, 'ticket');
    const log: string[] = [];
    let tickets = 0;
    for (const name of ['a', 'b']) {
      host.sched.spawn(
        name,
        (function* (): Steps<void> {
          yield* queue.wait(() => tickets > 0);
          tickets--;
          log.push(name);
        })(),
      );
    }
    host.sched.spawn(
      'clerk',
      (function* (): Steps<void> {
        for (let i = 0; i < 2; i++) {
          tickets++;
          expect(queue.wakeOne()).toBe(true);
          yield* host.sched.sleepCycles(10);
        }
        expect(queue.wakeOne()).toBe(false);
      })(),
    );
    host.sched.run();
    expect(log).toEqual(['a', 'b']);
  });

  it('ends a wait with a timeout at the event or at the time, whichever comes first', () => {
    const host = testHost({ nrCpus: 2, price: 0 });
    const queue = new WaitQueue(host.sched, 'semaphore');
    let posted = false;
    const log: string[] = [];
    const waiter = function* (): Steps<void> {
      log.push(`${yield* queue.waitUntil(300, () => posted)} at ${host.sched.now()}`);
      log.push(`${yield* queue.waitUntil(5000, () => posted)} at ${host.sched.now()}`);
      log.push(`${yield* queue.waitUntil(9000, () => posted)} at ${host.sched.now()}`);
    };
    const poster = function* (): Steps<void> {
      yield* host.sched.sleepUntil(1000);
      posted = true;
      queue.wakeAll();
    };
    host.sched.spawn('waiter', waiter());
    host.sched.spawn('poster', poster());
    host.sched.run();
    expect(log).toEqual(['false at 300', 'true at 1000', 'true at 1000']);
    expect(host.sched.pcpus.every((pcpu) => pcpu.irqs.length === 0)).toBe(true);
  });

  it('joins a task, also one that has ended', () => {
    const host = testHost();
    const log: string[] = [];
    const child = host.sched.spawn('child', work(host, log, 'child', { turns: 2, cycles: 10 }));
    host.sched.drive(
      'parent',
      (function* (): Steps<void> {
        yield* host.sched.join(child);
        log.push('joined');
        yield* host.sched.join(child);
        log.push('again');
      })(),
    );
    expect(log.slice(-2)).toEqual(['joined', 'again']);
  });

  it('does not wait for daemons', () => {
    const host = testHost();
    const queue = new WaitQueue(host.sched, 'work');
    host.sched.spawn(
      'kthread',
      queue.wait(() => false),
      { daemon: true },
    );
    host.sched.spawn('task', work(host, [], 'task', { turns: 1, cycles: 1 }));
    host.sched.run();
    expect(host.sched.tasks.map((task) => task.name)).toEqual(['kthread']);
  });

  it('passes the error of a task on', () => {
    const host = testHost();
    const failing = (function* (): Steps<void> {
      yield;
      throw new RangeError('assertion');
    })();
    expect(() => host.sched.drive('failing', failing)).toThrow(RangeError);
    expect(host.sched.tasks).toHaveLength(0);
  });
});

describe('polling userspace', () => {
  it('advances the clock by whole turns to the event it waits for', () => {
    const host = testHost({ nrCpus: 2, prices: { [COST.USER_SPIN]: 10 }, sched: { quantum: 1000 } });
    let flag = false;
    host.sched.spawn(
      'setter',
      (function* (): Steps<void> {
        for (let i = 0; i < 50; i++) {
          spend(host.cpu, COST.INSN, 100);
          if (host.sched.shouldYield()) yield;
        }
        flag = true;
      })(),
      { cpu: 0 },
    );
    let seen = 0;
    host.sched.spawn(
      'poller',
      (function* (): Steps<void> {
        yield* host.sched.spinUntil(() => flag, 'the flag');
        seen = host.sched.now();
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(seen).toBeGreaterThanOrEqual(5000);
    expect(seen).toBeLessThan(5100);
    expect(host.machine.cpus[1]!.counts[COST.USER_SPIN]).toBeGreaterThan(450);
    expect(host.sched.turns).toBeLessThan(20);
  });

  it('gives way to other tasks of its pCPU', () => {
    const host = testHost();
    let flag = false;
    host.sched.spawn(
      'poller',
      host.sched.spinUntil(() => flag, 'the flag'),
    );
    host.sched.spawn(
      'setter',
      (function* (): Steps<void> {
        yield;
        flag = true;
      })(),
    );
    host.sched.run();
    expect(host.sched.tasks).toHaveLength(0);
  });

  it('is a deadlock when nobody can change what is polled', () => {
    const host = testHost();
    expect(() =>
      host.sched.drive(
        'poller',
        host.sched.spinUntil(() => false, 'sync_flag'),
      ),
    ).toThrow(/"poller" polls for sync_flag/);
  });
});
