// SPDX-License-Identifier: GPL-2.0-only
/** Timers and interrupts: when they fire, what holds them off, and how they bring a vCPU out of guest mode. */
import { describe, expect, it } from 'vitest';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Host } from '../host.ts';
import type { Steps } from '../steps.ts';
import { testHost } from '../testing/test_host.ts';
import { work } from '../testing/work.ts';
import { HrTimer } from './hrtimer.ts';
import { WaitQueue } from './wait_queue.ts';

describe('interrupts', () => {
  it('fire a timer at its time, once, unless it is cancelled', () => {
    const host = testHost({ price: 0, prices: { [COST.INSN]: 1 } });
    const fired: number[] = [];
    const timer = new HrTimer('t', () => void fired.push(host.sched.now()));
    const cancelled = new HrTimer('c', () => void fired.push(-1));
    host.sched.drive(
      'task',
      (function* (): Steps<void> {
        host.sched.hrtimerStart(timer, 300);
        host.sched.hrtimerStart(cancelled, 200);
        expect(host.sched.sliceEnd()).toBe(200);
        expect(host.sched.hrtimerCancel(cancelled)).toBe(true);
        expect(host.sched.hrtimerCancel(cancelled)).toBe(false);
        yield* work(host, [], 'task', { turns: 10, cycles: 50 });
      })(),
    );
    expect(fired).toEqual([300]);
    expect(timer.armed).toBe(false);
    expect(host.counters.timerInterrupts).toBe(1);
  });

  it('wait while interrupts are off, and are seen as pending', () => {
    const host = testHost({ price: 0, prices: { [COST.INSN]: 1 } });
    const fired: number[] = [];
    const timer = new HrTimer('t', () => void fired.push(host.sched.now()));
    host.sched.drive(
      'vcpu',
      (function* (): Steps<void> {
        host.sched.localIrqDisable();
        host.sched.hrtimerStart(timer, 100);
        expect(host.sched.irqPending()).toBe(false);
        spend(host.cpu, COST.INSN, 150);
        yield;
        expect(host.sched.irqPending()).toBe(true);
        expect(fired).toEqual([]);
        expect(() => host.sched.mightSleep({ describe: () => 'x' })).toThrow('interrupts off');
        host.sched.localIrqEnable();
        expect(fired).toEqual([150]);
        expect(() => host.sched.localIrqEnable()).toThrow(BugError);
        expect(() => host.sched.preemptEnable()).toThrow(BugError);
      })(),
    );
  });

  it('refuse a handler that waits, a time that is none, and a pCPU that is not there', () => {
    const host = testHost();
    const queue = new WaitQueue(host.sched, 'q');
    const bad = new HrTimer('bad', () => queue.prepareToWait());
    expect(() =>
      host.sched.drive(
        'task',
        (function* (): Steps<void> {
          host.sched.hrtimerStart(bad, 0);
          yield;
        })(),
      ),
    ).toThrow('only a task can wait');
    expect(() => host.sched.hrtimerStart(bad, NaN)).toThrow('has no time');
    expect(() => host.sched.raise(7, bad)).toThrow('no pCPU 7');
  });
});

describe('a vCPU in guest mode', () => {
  /** A run loop as KVM's: interrupts off, in guest mode until the deadline or an interrupt. */
  function* guest(host: Host, exits: string[], name: string): Steps<void> {
    const { sched } = host;
    for (let exit = 0; exit < 3; exit++) {
      sched.preemptDisable();
      sched.localIrqDisable();
      while (!sched.irqPending()) {
        const deadline = sched.sliceEnd();
        expect(deadline).toBeGreaterThan(sched.now());
        spend(host.cpu, COST.INSN, Math.min(deadline - sched.now(), 1000));
        if (sched.now() >= deadline) yield;
      }
      exits.push(name);
      sched.localIrqEnable();
      sched.preemptEnable();
      if (sched.needResched()) yield;
    }
  }

  it('exits for a tick when another task of its pCPU has waited for a time slice', () => {
    const host = testHost({ price: 0, prices: { [COST.INSN]: 1 }, sched: { timeslice: 10_000 } });
    const exits: string[] = [];
    for (const name of ['a', 'b']) host.sched.spawn(name, guest(host, exits, name));
    host.sched.spawn(
      'end',
      host.sched.spinUntil(() => exits.length === 6, 'six exits'),
      { daemon: true },
    );
    host.sched.run(() => exits.length >= 5);
    expect(exits.slice(0, 5)).toEqual(['a', 'b', 'a', 'b', 'a']);
    expect(host.cpu.clock[0]).toBeLessThanOrEqual(51_000);
  });

  it('exits for a signal from another pCPU', () => {
    const host = testHost({ nrCpus: 2, price: 0, prices: { [COST.INSN]: 1 } });
    const exits: string[] = [];
    const vcpu = host.sched.spawn('vcpu', guest(host, exits, 'vcpu'), { cpu: 1 });
    const killer = function* (): Steps<void> {
      for (let i = 1; i <= 3; i++) {
        yield* host.sched.sleepUntil(i * 100_000);
        host.sched.sendSignal(vcpu);
        host.sched.sendSignal(host.sched.current!);
      }
      yield* host.sched.join(vcpu);
      host.sched.sendSignal(vcpu);
    };
    host.sched.spawn('killer', killer(), { cpu: 0 });
    host.sched.run();
    expect(exits).toHaveLength(3);
    expect(host.counters.ipis).toBe(3);
    expect(vcpu.signalPending).toBe(true);
  });
});
