// SPDX-License-Identifier: GPL-2.0-only
/**
 * mmu_notifiers: what they are told, in which order with freeing and faulting, and the TLB flush of a change. Order:
 * zap_page_range_single() of mm/memory.c.
 */
import { describe, expect, it } from 'vitest';
import { BugError } from '../../machine/errors.ts';
import { FRAME } from '../../machine/memory/frames.ts';
import { ERRNO } from '../errno.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';
import { RecordingNotifier } from '../testing/recording_notifier.ts';
import { drive } from '../testing/test_host.ts';
import { frameAt, twoPages, type TwoPages } from '../testing/two_pages.ts';
import { doMadvise, MADV, oomReapTaskMm } from './madvise.ts';
import { doMmap, doMunmap, exitMmap } from './mmap.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { doMprotect } from './mprotect.ts';
import { PROT } from './vma.ts';

const PAGE = 4096;

/** A task on pCPU 0 that gives up the first of the two pages. */
function spawnZapper({ host, mm, at }: TwoPages): void {
  host.sched.spawn(
    'zapper',
    (function* (): Steps<void> {
      yield* doMadvise(mm, at, PAGE, MADV.DONTNEED);
    })(),
    { cpu: 0 },
  );
}

describe('the notifier', () => {
  it.each(['munmap', 'madvise'] as const)(
    'of %s runs while the page is there; afterwards the page is free',
    (how) => {
      const { host, mm, at } = twoPages();
      const frame = frameAt(mm, at);
      const seen: number[] = [];
      const look = (): void => void seen.push(host.machine.frames.state[frame]!);
      const notifier = new RecordingNotifier({
        onStart: function* () {
          yield;
          look();
          return 0;
        },
        onEnd: look,
      });
      mm.notifiers.register(notifier);
      drive(host, how === 'munmap' ? doMunmap(mm, at, PAGE) : doMadvise(mm, at, PAGE, MADV.DONTNEED));
      expect(seen).toEqual([FRAME.ALLOCATED, FRAME.ALLOCATED]);
      expect(host.machine.frames.state[frame]).toBe(FRAME.FREE);
      expect(notifier.ranges).toEqual([
        {
          start: at,
          end: at + PAGE,
          blockable: true,
          cause: how === 'munmap' ? MMU_NOTIFY.UNMAP : MMU_NOTIFY.CLEAR,
        },
      ]);
      expect(host.counters).toMatchObject({ notifierStarts: 1, notifierEnds: 1 });
    },
  );

  it('of mprotect names its cause, and is not called where nothing is mapped or nothing changes', () => {
    const { host, mm, at } = twoPages();
    const notifier = new RecordingNotifier();
    mm.notifiers.register(notifier);
    const empty = drive(host, doMmap(mm, { length: PAGE, align: 2 << 20 }));
    drive(host, doMprotect(mm, empty, PAGE, PROT.NONE));
    drive(host, doMprotect(mm, at, PAGE, PROT.READ | PROT.WRITE));
    expect(notifier.log).toEqual([]);
    drive(host, doMprotect(mm, at, PAGE, PROT.NONE));
    expect(notifier.log).toEqual(['start', 'end']);
    expect(notifier.ranges[0]!.cause).toBe(MMU_NOTIFY.PROTECTION_VMA);
  });

  it('may block: the page stays until it is done, and faults elsewhere go on', () => {
    const pages = twoPages();
    const { host, mm, user, at } = pages;
    const frame = frameAt(mm, at);
    const ack = new WaitQueue(host.sched, 'acknowledgement of a kick');
    let acked = false;
    mm.notifiers.register(
      new RecordingNotifier({
        onStart: function* () {
          yield* ack.wait(() => acked);
          return 0;
        },
      }),
    );
    spawnZapper(pages);
    host.sched.spawn(
      'other',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(1000);
        expect(host.machine.frames.state[frame]).toBe(FRAME.ALLOCATED);
        user.write8(at + PAGE, 1);
        acked = true;
        ack.wakeAll();
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(host.machine.frames.state[frame]).toBe(FRAME.FREE);
  });

  it('tells the latest registration first, and nobody after unregister', () => {
    const { host, mm, at } = twoPages();
    const order: string[] = [];
    const named = (name: string): RecordingNotifier =>
      new RecordingNotifier({ name, onEnd: () => void order.push(name) });
    const [a, b] = [named('a'), named('b')];
    mm.notifiers.register(a);
    mm.notifiers.register(b);
    expect(() => mm.notifiers.register(b)).toThrow('registered twice');
    drive(host, doMadvise(mm, at, PAGE, MADV.DONTNEED));
    expect(order).toEqual(['b', 'a']);
    drive(host, mm.notifiers.unregister(b));
    drive(host, doMadvise(mm, at, PAGE, MADV.DONTNEED));
    expect(order).toEqual(['b', 'a', 'a']);
    expect(() => drive(host, mm.notifiers.unregister(b))).toThrow('not registered');
    expect(mm.notifiers.size).toBe(1);
  });

  it('unregister waits for a callback that is running', () => {
    const pages = twoPages();
    const { host, mm } = pages;
    const log: string[] = [];
    const notifier = new RecordingNotifier({
      onStart: function* () {
        yield* host.sched.sleepCycles(5000);
        log.push('callback over');
        return 0;
      },
    });
    mm.notifiers.register(notifier);
    spawnZapper(pages);
    host.sched.spawn(
      'closer',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(100);
        yield* mm.notifiers.unregister(notifier);
        log.push('unregistered');
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(log).toEqual(['callback over', 'unregistered']);
  });

  it('hears of the end of the process before its memory goes', () => {
    const { host, mm } = twoPages();
    const notifier = new RecordingNotifier();
    mm.notifiers.register(notifier);
    drive(host, exitMmap(mm));
    expect(notifier.log).toEqual(['release', 'start', 'end']);
  });

  it('may refuse only what is not blockable, and those told before hear the end', () => {
    const { host, mm, user, at } = twoPages();
    const refuses = new RecordingNotifier({
      name: 'busy',
      onStart: function* (range) {
        return range.blockable && range.start !== at ? 0 : -ERRNO.EAGAIN;
      },
    });
    const willing = new RecordingNotifier();
    mm.notifiers.register(refuses);
    mm.notifiers.register(willing);
    drive(host, doMmap(mm, { length: PAGE, file: host.memfdCreate('f', PAGE) }));
    expect(drive(host, oomReapTaskMm(mm))).toBe(false);
    expect([willing.log, refuses.log]).toEqual([['start', 'end'], ['start']]);
    expect(user.read8(at)).toBe(0x5a);
    expect(() => drive(host, doMadvise(mm, at, PAGE, MADV.DONTNEED))).toThrow(BugError);
  });

  it('of the OOM reaper does not block, and the memory goes', () => {
    const { host, mm, user, at } = twoPages();
    const notifier = new RecordingNotifier();
    mm.notifiers.register(notifier);
    expect(drive(host, oomReapTaskMm(mm))).toBe(true);
    expect(notifier.ranges[0]!.blockable).toBe(false);
    expect(user.read8(at)).toBe(0);
    mm.mmapLock.writeFastLock();
    expect(drive(host, oomReapTaskMm(mm))).toBe(false);
  });

  it('asks for accessed bits', () => {
    const { mm } = twoPages();
    const young = Object.assign(new RecordingNotifier(), {
      clearFlushYoung: () => true,
      testYoung: () => true,
    });
    expect([mm.notifiers.clearFlushYoung(0, 1), mm.notifiers.testYoung(0, 1)]).toEqual([false, false]);
    mm.notifiers.register(young);
    mm.notifiers.register(new RecordingNotifier());
    expect([mm.notifiers.clearFlushYoung(0, 1), mm.notifiers.testYoung(0, 1)]).toEqual([true, true]);
  });
});

describe('the TLB flush of a change', () => {
  it('interrupts the other pCPUs that run the process, and nobody else', () => {
    const { host, mm, at } = twoPages({ nrCpus: 4 });
    const spin = function* (): Steps<void> {
      yield* host.sched.sleepUntil(100);
      yield* host.sched.spinUntil(() => host.counters.shootdowns > 0, 'the shootdown');
    };
    host.sched.spawn(
      'zapper',
      (function* (): Steps<void> {
        yield* host.sched.sleepUntil(1e6);
        yield* doMadvise(mm, at, PAGE, MADV.DONTNEED);
      })(),
      { cpu: 0, process: mm },
    );
    host.sched.spawn('sibling', spin(), { cpu: 1, process: mm });
    host.sched.spawn('stranger', spin(), { cpu: 2 });
    host.sched.run();
    expect(host.counters).toMatchObject({ shootdowns: 1, ipis: 1 });
  });
});
