// SPDX-License-Identifier: GPL-2.0-only
/** Locks know their holders and order; those that sleep refuse atomic context. Expectations: kernel locking documentation. */
import { describe, expect, it } from 'vitest';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Host } from '../host.ts';
import { DeadlockError } from '../sched/errors.ts';
import type { Steps } from '../steps.ts';
import { drive, testHost } from '../testing/test_host.ts';
import { Completion } from './completion.ts';
import { Mutex } from './mutex.ts';
import { RwLock } from './rwlock.ts';
import { RwSem } from './rwsem.ts';
import { SpinLock } from './spinlock.ts';

/** Spawn a task whose body is plain or steps. */
function task(host: Host, name: string, cpu: number, body: () => Steps<void>): void {
  host.sched.spawn(name, body(), { cpu });
}

describe('a spinlock', () => {
  it('excludes, and its waiter burns its pCPU until the release', () => {
    const host = testHost({ nrCpus: 2, price: 0, prices: { [COST.INSN]: 1 } });
    const lock = new SpinLock(host.sched, 'l');
    const log: string[] = [];
    task(host, 'a', 0, function* () {
      expect(lock.fastLock()).toBe(true);
      yield;
      spend(host.cpu, COST.INSN, 900);
      yield;
      log.push(`a unlocks at ${host.sched.now()}`);
      lock.unlock();
    });
    task(host, 'b', 1, function* () {
      yield* lock.lock();
      log.push(`b locks at ${host.sched.now()}`);
      lock.assertHeld();
      lock.unlock();
    });
    host.sched.run();
    expect(log).toEqual(['a unlocks at 900', 'b locks at 900']);
    expect(host.sched.pcpus[1]!.spinCycles).toBe(900);
    expect(host.counters.lockContentions).toBe(1);
  });

  it('is bought at one price and puts its holder into atomic context', () => {
    const host = testHost();
    const lock = new SpinLock(host.sched, 'l');
    expect(lock.tryLock()).toBe(true);
    expect(lock.tryLock()).toBe(false);
    expect(host.sched.context.preemptCount).toBe(1);
    expect(host.cpu.counts[COST.SPINLOCK]).toBe(1);
    lock.unlock();
    expect(host.sched.context.preemptCount).toBe(0);
    expect(lock.owner).toBeNull();
  });

  it('refuses its holder a second time and anybody else the unlock', () => {
    const host = testHost({ nrCpus: 2 });
    const lock = new SpinLock(host.sched, 'mmu_lock');
    expect(() => lock.unlock()).toThrow('held by nobody');
    lock.fastLock();
    expect(() => lock.fastLock()).toThrow('recursive lock: "boot" holding mmu_lock takes mmu_lock again');
    task(host, 'thief', 1, function* () {
      expect(() => lock.assertHeld()).toThrow(BugError);
      lock.unlock();
    });
    expect(() => host.sched.run()).toThrow(
      '"thief" unlocks mmu_lock, which is held by "boot" holding mmu_lock',
    );
  });
});

describe('a rwlock', () => {
  it('lets readers in together, in atomic context', () => {
    const host = testHost({ nrCpus: 2 });
    const lock = new RwLock(host.sched, 'mmu_lock');
    let together = 0;
    for (const cpu of [0, 1]) {
      task(host, `r${cpu}`, cpu, function* () {
        yield* lock.readLock();
        yield;
        lock.assertHeld();
        together = Math.max(together, lock.readers.length);
        expect(() => host.sched.mightSleep({ describe: () => 'x' })).toThrow('sleeping in atomic context');
        yield;
        lock.readUnlock();
      });
    }
    host.sched.run();
    expect(together).toBe(2);
  });

  it('makes a writer wait for all readers, and readers for the writer', () => {
    const host = testHost({ nrCpus: 3, price: 0, prices: { [COST.INSN]: 1 } });
    const lock = new RwLock(host.sched, 'mmu_lock');
    const log: string[] = [];
    for (const cpu of [0, 1]) {
      task(host, `r${cpu}`, cpu, function* () {
        yield* lock.readLock();
        yield;
        spend(host.cpu, COST.INSN, 100 * (cpu + 1));
        yield;
        log.push(`r${cpu}`);
        lock.readUnlock();
      });
    }
    task(host, 'w', 2, function* () {
      yield* lock.writeLock();
      log.push(`w at ${host.sched.now()}`);
      expect(lock.readTryLock()).toBe(false);
      expect(lock.writeTryLock()).toBe(false);
      lock.writeUnlock();
      expect(lock.readTryLock()).toBe(true);
      expect(lock.writeFastLock.bind(lock)).toThrow('recursive');
      lock.readUnlock();
      expect(lock.writeTryLock()).toBe(true);
      lock.writeUnlock();
    });
    host.sched.run();
    expect(log).toEqual(['r0', 'r1', 'w at 200']);
    expect(lock.writer).toBeNull();
  });

  it('knows who holds it', () => {
    const host = testHost();
    const lock = new RwLock(host.sched, 'mmu_lock');
    expect(() => lock.readUnlock()).toThrow('held by nobody');
    expect(() => lock.writeUnlock()).toThrow('held by nobody');
    expect(() => lock.assertHeld()).toThrow(BugError);
    expect(() => lock.assertHeldWrite()).toThrow(BugError);
    lock.readFastLock();
    expect(() => lock.readFastLock()).toThrow('held for reading by "boot"');
    expect(() => lock.assertHeldWrite()).toThrow(BugError);
    lock.readUnlock();
    lock.writeFastLock();
    lock.assertHeld();
    expect(() => lock.readUnlock()).toThrow('held for writing by "boot"');
    expect(() => lock.writeFastLock()).toThrow('recursive');
    lock.writeUnlock();
  });
});

describe('a mutex', () => {
  it('puts waiters to sleep and wakes them one by one', () => {
    const host = testHost({ nrCpus: 2 });
    const mutex = new Mutex(host.sched, 'slots_lock');
    const log: string[] = [];
    for (const [i, name] of ['a', 'b', 'c'].entries()) {
      task(host, name, i & 1, function* () {
        if (!mutex.fastLock()) yield* mutex.lock();
        log.push(`${name} in`);
        yield* host.sched.sleepCycles(1000);
        mutex.assertHeld();
        log.push(`${name} out`);
        mutex.unlock();
      });
    }
    host.sched.run();
    expect(log.map((entry) => entry.split(' ')[1])).toEqual(['in', 'out', 'in', 'out', 'in', 'out']);
    expect(mutex.owner).toBeNull();
  });

  it('is refused in atomic context even if it is free, but may be tried', () => {
    const host = testHost();
    const spin = new SpinLock(host.sched, 'gpc_lock');
    const mutex = new Mutex(host.sched, 'refresh_lock');
    spin.fastLock();
    expect(() => mutex.fastLock()).toThrow(
      'sleeping in atomic context: "boot" holding gpc_lock would wait for mutex refresh_lock, held by nobody',
    );
    expect(mutex.tryLock()).toBe(true);
    expect(mutex.tryLock()).toBe(false);
    mutex.unlock();
    spin.unlock();
  });

  it('refuses recursion and an unlock by a stranger', () => {
    const host = testHost();
    const mutex = new Mutex(host.sched, 'm');
    expect(() => mutex.unlock()).toThrow('held by nobody');
    expect(() => mutex.assertHeld()).toThrow(BugError);
    mutex.fastLock();
    expect(() => mutex.fastLock()).toThrow('recursive lock');
    expect(() =>
      drive(
        host,
        (function* (): Steps<void> {
          mutex.unlock();
        })(),
      ),
    ).toThrow('held by "boot"');
  });

  it('is a deadlock report when two tasks take two in opposite order', () => {
    const host = testHost({ nrCpus: 2 });
    const a = new Mutex(host.sched, 'a');
    const b = new Mutex(host.sched, 'b');
    const both = (first: Mutex, second: Mutex) =>
      function* (): Steps<void> {
        yield* first.lock();
        yield* host.sched.sleepCycles(10);
        yield* second.lock();
      };
    task(host, 'x', 0, both(a, b));
    task(host, 'y', 1, both(b, a));
    expect(() => host.sched.run()).toThrow(DeadlockError);
  });
});

describe('the lock order', () => {
  it('is found violated without a deadlock happening, across several locks', () => {
    const host = testHost();
    const locks = ['a', 'b', 'c'].map((name) => new SpinLock(host.sched, name));
    const pair = (i: number, j: number): void => {
      locks[i]!.fastLock();
      locks[j]!.fastLock();
      locks[i]!.unlock();
      locks[j]!.unlock();
    };
    pair(0, 1);
    pair(1, 2);
    pair(0, 1);
    expect(() => pair(2, 0)).toThrow(
      'lock order: "boot" holding c takes a, but elsewhere the order is a -> b -> c',
    );
  });

  it('is not learnt from a trylock, and not within one class', () => {
    const host = testHost();
    const [a, b, b2] = ['a', 'b', 'b'].map((name) => new SpinLock(host.sched, name)) as [
      SpinLock,
      SpinLock,
      SpinLock,
    ];
    a.fastLock();
    b.tryLock();
    b.unlock();
    a.unlock();
    b.fastLock();
    b2.fastLock();
    a.fastLock();
    for (const lock of [a, b, b2]) lock.unlock();
    expect(host.sched.context.held).toEqual([]);
  });

  it('has room for 4096 classes', () => {
    const host = testHost();
    for (let i = 0; i < 4096; i++) host.sched.lockdep.classOf(`lock ${i}`);
    expect(() => new SpinLock(host.sched, 'one more')).toThrow('more than 4096 lock classes');
    expect(() => host.sched.lockdep.release(host.sched.context, { name: 'x', classId: 0 })).toThrow(
      'does not hold',
    );
  });
});

describe('a rwsem', () => {
  it('keeps new readers out while a writer waits, and lets them in on downgrade', () => {
    const host = testHost({ nrCpus: 3, price: 0 });
    const sem = new RwSem(host.sched, 'mmap_lock');
    const log: string[] = [];
    task(host, 'r1', 0, function* () {
      yield* sem.readLock();
      yield* host.sched.sleepCycles(1000);
      log.push('r1 out');
      sem.readUnlock();
    });
    task(host, 'w', 1, function* () {
      yield* host.sched.sleepCycles(100);
      yield* sem.writeLock();
      log.push('w in');
      sem.assertHeld();
      yield* host.sched.sleepCycles(100);
      sem.downgrade();
      yield* host.sched.sleepCycles(100);
      log.push('w out');
      sem.readUnlock();
    });
    task(host, 'r2', 2, function* () {
      yield* host.sched.sleepCycles(200);
      expect(sem.readable).toBe(false);
      yield* sem.readLock();
      log.push('r2 in');
      sem.readUnlock();
    });
    host.sched.run();
    expect(log).toEqual(['r1 out', 'w in', 'r2 in', 'w out']);
  });

  it('refuses recursion, strangers and atomic context', () => {
    const host = testHost();
    const sem = new RwSem(host.sched, 'mmap_lock');
    const spin = new SpinLock(host.sched, 's');
    expect(() => sem.readUnlock()).toThrow('held by nobody');
    expect(() => sem.writeUnlock()).toThrow('held by nobody');
    expect(() => sem.downgrade()).toThrow(BugError);
    expect(() => sem.assertHeld()).toThrow(BugError);
    expect(sem.readFastLock()).toBe(true);
    expect(() => sem.writeFastLock()).toThrow('held for reading by "boot"');
    sem.readUnlock();
    expect(sem.writeFastLock()).toBe(true);
    expect(() => sem.readFastLock()).toThrow('held for writing by "boot"');
    sem.writeUnlock();
    spin.fastLock();
    expect(() => sem.readFastLock()).toThrow('sleeping in atomic context');
  });
});

describe('a completion', () => {
  it('lets one waiter through for each complete, before or after', () => {
    const host = testHost();
    const completion = new Completion(host.sched, 'ready');
    const log: string[] = [];
    completion.complete();
    task(host, 'a', 0, function* () {
      yield* completion.wait();
      log.push('a');
    });
    task(host, 'b', 0, function* () {
      expect(yield* completion.waitInterruptible()).toBe(true);
      log.push('b');
    });
    task(host, 'c', 0, function* () {
      expect(completion.completed).toBe(false);
      yield* host.sched.sleepCycles(10);
      completion.complete();
      yield* host.sched.sleepCycles(10);
      completion.completeAll();
      yield* completion.wait();
      completion.reinit();
      expect(completion.completed).toBe(false);
    });
    host.sched.run();
    expect(log).toEqual(['a', 'b']);
  });

  it('can be waited for until a signal', () => {
    const host = testHost();
    const completion = new Completion(host.sched, 'never');
    const waiter = host.sched.spawn(
      'waiter',
      (function* (): Steps<void> {
        expect(yield* completion.waitInterruptible()).toBe(false);
      })(),
    );
    task(host, 'killer', 0, function* () {
      host.sched.sendSignal(waiter);
    });
    host.sched.run();
    expect(waiter.alive).toBe(false);
  });
});
