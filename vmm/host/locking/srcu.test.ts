// SPDX-License-Identifier: GPL-2.0-only
/** The grace period of SRCU: old readers are waited for, new ones are not. Expectation: kernel RCU documentation. */
import { describe, expect, it } from 'vitest';
import type { Steps } from '../steps.ts';
import { testHost } from '../testing/test_host.ts';
import { Srcu } from './srcu.ts';

describe('srcu', () => {
  it('synchronize waits for readers that were inside, not for those that come later', () => {
    const host = testHost({ nrCpus: 3, price: 0 });
    const srcu = new Srcu(host.sched, 'slots');
    const log: string[] = [];
    const reader = (name: string, from: number, to: number): void => {
      host.sched.spawn(
        name,
        (function* (): Steps<void> {
          yield* host.sched.sleepUntil(from);
          const index = srcu.readLock();
          yield* host.sched.sleepUntil(to);
          log.push(`${name} leaves`);
          srcu.readUnlock(index);
        })(),
      );
    };
    reader('old', 0, 1000);
    reader('new', 200, 5000);
    host.sched.spawn(
      'updater',
      (function* (): Steps<void> {
        yield* host.sched.sleepUntil(100);
        yield* srcu.synchronize();
        log.push(`synchronized at ${host.sched.now()}`);
      })(),
    );
    host.sched.run();
    expect(log).toEqual(['old leaves', 'synchronized at 1000', 'new leaves']);
  });

  it('makes a second grace period wait for the readers of the first', () => {
    const host = testHost({ nrCpus: 4, price: 0 });
    const srcu = new Srcu(host.sched, 'slots');
    const log: string[] = [];
    const at = (name: string, cycle: number, body: () => Steps<void>): void => {
      host.sched.spawn(
        name,
        (function* (): Steps<void> {
          yield* host.sched.sleepUntil(cycle);
          yield* body();
        })(),
      );
    };
    for (const [cycle, end] of [
      [0, 1000],
      [200, 3000],
    ] as const) {
      at('reader', cycle, function* () {
        const index = srcu.readLock();
        yield* host.sched.sleepUntil(end);
        srcu.readUnlock(index);
      });
    }
    for (const cycle of [100, 300]) {
      at('updater', cycle, function* () {
        yield* srcu.synchronize();
        log.push(`${cycle}: ${host.sched.now()}`);
      });
    }
    host.sched.run();
    expect(log).toEqual(['100: 1000', '300: 3000']);
    expect(host.counters.srcuSyncs).toBe(2);
  });

  it('is at once without readers, nests, and knows whether it is held', () => {
    const host = testHost();
    const srcu = new Srcu(host.sched, 'slots');
    host.sched.drive(
      't',
      (function* (): Steps<void> {
        yield* srcu.synchronize();
        const outer = srcu.readLock();
        const inner = srcu.readLock();
        srcu.readUnlock(inner);
        expect(srcu.readLockHeld).toBe(true);
        srcu.readUnlock(outer);
        expect(srcu.readLockHeld).toBe(false);
      })(),
    );
  });

  it('refuses to be synchronized by its own reader and to be left by a stranger', () => {
    const host = testHost();
    const srcu = new Srcu(host.sched, 'slots');
    expect(() => srcu.readUnlock(0)).toThrow('without having entered');
    expect(() => srcu.readUnlock(5)).toThrow('without having entered');
    const body = function* (): Steps<void> {
      srcu.readLock();
      yield* srcu.synchronize();
    };
    expect(() => host.sched.drive('t', body())).toThrow('inside its own read side');
  });

  it('names the readers that a stuck grace period waits for', () => {
    const host = testHost();
    const srcu = new Srcu(host.sched, 'slots');
    host.sched.spawn(
      'sleepy',
      (function* (): Steps<void> {
        srcu.readLock();
        yield* host.sched.spinUntil(() => false, 'nothing');
      })(),
    );
    host.sched.spawn('updater', srcu.synchronize());
    expect(() => host.sched.run()).toThrow(/"updater".*the end of srcu slots readers "sleepy"/);
  });
});
