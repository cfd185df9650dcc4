// SPDX-License-Identifier: GPL-2.0-only
/** Interprocessor calls: who runs them, when, and that waiting means waiting. */
import { describe, expect, it } from 'vitest';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { DeadlockError } from './sched/errors.ts';
import type { Steps } from './steps.ts';
import { testHost } from './testing/test_host.ts';

describe('interprocessor calls', () => {
  it('have run everywhere else when the waiting form returns', () => {
    const host = testHost({ nrCpus: 3, price: 0, prices: { [COST.INSN]: 1, [COST.IPI_RECEIVE]: 1500 } });
    const ran: number[] = [];
    host.sched.spawn(
      'busy',
      (function* (): Steps<void> {
        for (let i = 0; i < 10; i++) {
          spend(host.cpu, COST.INSN, 100);
          if (host.sched.shouldYield()) yield;
        }
      })(),
      { cpu: 1 },
    );
    host.sched.drive(
      'caller',
      (function* (): Steps<void> {
        spend(host.cpu, COST.INSN, 400);
        yield;
        yield* host.smp.smpCallFunctionMany(host.smp.onlineMask, (cpu) => void ran.push(cpu));
        expect(ran.sort()).toEqual([1, 2]);
        expect(host.sched.now()).toBeGreaterThanOrEqual(1900);
        expect(host.sched.context.preemptCount).toBe(0);
      })(),
      { cpu: 0 },
    );
    expect(host.counters.ipis).toBe(2);
  });

  it('do not come back without the answer of a pCPU whose interrupts are off', () => {
    const host = testHost({ nrCpus: 2 });
    host.sched.spawn(
      'deaf',
      (function* (): Steps<void> {
        host.sched.localIrqDisable();
        yield;
      })(),
      { cpu: 1 },
    );
    host.sched.spawn(
      'caller',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(100);
        yield* host.smp.smpCallFunctionMany([0, 1], () => undefined, 'kick');
      })(),
      { cpu: 0 },
    );
    expect(() => host.sched.run()).toThrow(DeadlockError);
    expect(() => host.sched.run()).toThrow(/pCPU 1 to answer the interprocessor interrupt "kick"/);
  });

  it('arrive without waiting at the time of sending, and are pending until interrupts are on', () => {
    const host = testHost({ nrCpus: 2, price: 0, prices: { [COST.INSN]: 1 } });
    const log: string[] = [];
    host.sched.spawn(
      'vcpu',
      (function* (): Steps<void> {
        host.sched.localIrqDisable();
        while (!host.sched.irqPending()) {
          spend(host.cpu, COST.INSN, 10);
          if (host.sched.shouldYield()) yield;
        }
        log.push(`pending at ${host.sched.now()}`);
        host.sched.localIrqEnable();
      })(),
      { cpu: 1 },
    );
    host.sched.spawn(
      'kicker',
      (function* (): Steps<void> {
        spend(host.cpu, COST.INSN, 200);
        yield;
        host.smp.smpSendReschedule(1);
        expect(host.smp.smpCallFunctionManyNowait([0, 1], (cpu) => void log.push(`call on ${cpu}`))).toBe(1);
      })(),
      { cpu: 0 },
    );
    host.sched.run();
    expect(log[1]).toBe('call on 1');
    expect(Number(log[0]!.split(' ').at(-1))).toBeGreaterThanOrEqual(200);
    expect(host.counters.snapshot().ipis).toBe(2);
  });

  it('make a shootdown cost more with each receiver, and nothing without', () => {
    const prices = { [COST.SHOOTDOWN]: 2000, [COST.SHOOTDOWN_PER_CPU]: 500 };
    const host = testHost({ nrCpus: 4, price: 0, prices });
    host.smp.tlbShootdown([0]);
    expect(host.cpu.clock[0]).toBe(0);
    host.smp.tlbShootdown(host.smp.onlineMask);
    expect(host.cpu.clock[0]).toBe(3500);
    expect(host.counters).toMatchObject({ shootdowns: 1, ipis: 3 });
  });
});
