// SPDX-License-Identifier: GPL-2.0-only
/**
 * The order of notification, freeing and faulting, and page migration. Order: zap_page_range_single() of mm/memory.c and
 * migrate_folio_unmap() of mm/migrate.c.
 */
import { describe, expect, it } from 'vitest';
import { pfn, type Pfn } from '../../../lib/x86/addr.ts';
import { BugError } from '../../machine/errors.ts';
import { FRAME } from '../../machine/memory/frames.ts';
import { ERRNO } from '../errno.ts';
import type { Host } from '../host.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import type { Steps } from '../steps.ts';
import { RecordingNotifier } from '../testing/recording_notifier.ts';
import { drive, testHost } from '../testing/test_host.ts';
import { FOLL, framePfn } from './fault.ts';
import { getUserPage, getUserPageFastOnly, getUserPageNowait } from './gup.ts';
import { doMadvise, MADV, oomReapTaskMm } from './madvise.ts';
import { migratePage } from './migrate.ts';
import { doMmap, doMunmap, exitMmap } from './mmap.ts';
import type { MmStruct } from './mm_struct.ts';
import { doMprotect } from './mprotect.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { copyFromUser, copyToUser, userHpa, userHpaWait, UserMemory } from './user_access.ts';
import { PROT } from './vma.ts';

const PAGE = 4096;

interface Setup {
  readonly host: Host;
  readonly mm: MmStruct;
  readonly user: UserMemory;
  /** Two anonymous pages, touched. */
  readonly at: number;
}

function setup(options: Parameters<typeof testHost>[0] = {}): Setup {
  const host = testHost({ nrCpus: 2, ...options });
  const mm = host.createMm('test');
  const user = new UserMemory(mm);
  const at = drive(host, doMmap(mm, { length: 2 * PAGE }));
  user.fill(at, 2 * PAGE, 0x5a);
  return { host, mm, user, at };
}

const frameAt = (mm: MmStruct, at: number): Pfn => framePfn(mm.pageTable.get(at));

describe('the notifier', () => {
  it.each(['munmap', 'madvise'] as const)(
    'of %s runs while the page is there; afterwards the page is free',
    (how) => {
      const { host, mm, at } = setup();
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
    const { host, mm, at } = setup();
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
    const { host, mm, user, at } = setup();
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
    host.sched.spawn(
      'zapper',
      (function* (): Steps<void> {
        yield* doMadvise(mm, at, PAGE, MADV.DONTNEED);
      })(),
      { cpu: 0 },
    );
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
    const { host, mm, at } = setup();
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
    const { host, mm, at } = setup();
    const log: string[] = [];
    const notifier = new RecordingNotifier({
      onStart: function* () {
        yield* host.sched.sleepCycles(5000);
        log.push('callback over');
        return 0;
      },
    });
    mm.notifiers.register(notifier);
    host.sched.spawn(
      'zapper',
      (function* (): Steps<void> {
        yield* doMadvise(mm, at, PAGE, MADV.DONTNEED);
      })(),
      { cpu: 0 },
    );
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
    const { host, mm } = setup();
    const notifier = new RecordingNotifier();
    mm.notifiers.register(notifier);
    drive(host, exitMmap(mm));
    expect(notifier.log).toEqual(['release', 'start', 'end']);
  });

  it('may refuse only what is not blockable, and those told before hear the end', () => {
    const { host, mm, user, at } = setup();
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
    const { host, mm, user, at } = setup();
    const notifier = new RecordingNotifier();
    mm.notifiers.register(notifier);
    expect(drive(host, oomReapTaskMm(mm))).toBe(true);
    expect(notifier.ranges[0]!.blockable).toBe(false);
    expect(user.read8(at)).toBe(0);
    mm.mmapLock.writeFastLock();
    expect(drive(host, oomReapTaskMm(mm))).toBe(false);
  });

  it('asks for accessed bits', () => {
    const { mm } = setup();
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

describe('getting user pages', () => {
  it('takes a reference and says whether the mapping is writable', () => {
    const { host, mm, at } = setup();
    const frame = getUserPageFastOnly(mm, at, FOLL.WRITE);
    expect(frame).toBe(frameAt(mm, at));
    expect(mm.gup).toEqual({ writable: true, refcounted: true, order: 0 });
    expect(host.pages.pageCount(pfn(frame))).toBe(2);
    drive(host, doMunmap(mm, at, PAGE));
    expect(host.machine.frames.state[frame]).toBe(FRAME.ALLOCATED);
    host.pages.putPage(pfn(frame));
    expect(host.machine.frames.state[frame]).toBe(FRAME.FREE);
  });

  it('honours PROT_READ and PROT_NONE', () => {
    const { host, mm, at } = setup();
    const get = (foll: number): number => drive(host, getUserPage(mm, at, foll));
    drive(host, doMprotect(mm, at, PAGE, PROT.READ));
    expect(get(FOLL.WRITE)).toBe(-ERRNO.EFAULT);
    expect(get(FOLL.READ)).toBe(frameAt(mm, at));
    expect(mm.gup.writable).toBe(false);
    drive(host, doMprotect(mm, at, PAGE, PROT.NONE));
    expect(get(FOLL.READ)).toBe(-ERRNO.EFAULT);
    expect(getUserPageFastOnly(mm, at, FOLL.READ)).toBe(-ERRNO.EAGAIN);
    expect(drive(host, getUserPage(mm, 0x1000, FOLL.READ))).toBe(-ERRNO.EFAULT);
  });

  it('faults in what is not there', () => {
    const { host, mm } = setup();
    const at = drive(host, doMmap(mm, { length: PAGE }));
    expect(getUserPageFastOnly(mm, at, FOLL.READ)).toBe(-ERRNO.EAGAIN);
    expect(getUserPageNowait(mm, at, FOLL.READ)).toBeGreaterThan(0);
    expect(getUserPageNowait(mm, at, FOLL.READ)).toBeGreaterThan(0);
    expect(host.counters).toMatchObject({ gupFast: 1, gupSlow: 1 });
  });

  it('finds unmanaged frames the slow way, without a reference', () => {
    const { host, mm } = setup({ unmanagedBytes: 1 << 20 });
    const at = drive(host, doMmap(mm, { length: PAGE, file: host.unmanagedFile('guest', PAGE) }));
    for (let i = 0; i < 2; i++) {
      expect(host.unmanaged.owns(pfn(drive(host, getUserPage(mm, at, FOLL.WRITE))))).toBe(true);
      expect(mm.gup).toMatchObject({ refcounted: false, writable: true });
    }
    expect(host.counters).toMatchObject({ gupFast: 0, gupSlow: 2 });
  });

  it('says when a 2 MiB page is behind it, whose head has the references', () => {
    const { host, mm, user } = setup({ ramBytes: 16 << 20 });
    const at = drive(host, doMmap(mm, { length: 2 << 20 }));
    drive(host, doMadvise(mm, at, 2 << 20, MADV.HUGEPAGE));
    user.read8(at);
    const frame = pfn(getUserPageFastOnly(mm, at + 3 * PAGE, FOLL.WRITE));
    expect(frame % 512).toBe(3);
    expect(mm.gup.order).toBe(9);
    drive(host, doMadvise(mm, at, 2 << 20, MADV.DONTNEED));
    expect(host.machine.frames.state[frame]).toBe(FRAME.ALLOCATED);
    host.pages.putPage(frame);
    expect(host.machine.frames.state[frame]).toBe(FRAME.FREE);
  });

  it('waits for mmap_lock, or says that it would have to', () => {
    const { host, mm } = setup();
    const fresh = drive(host, doMmap(mm, { length: PAGE }));
    const got: number[] = [];
    host.sched.spawn(
      'writer',
      (function* (): Steps<void> {
        yield* mm.mmapLock.writeLock();
        yield* host.sched.sleepCycles(1000);
        mm.mmapLock.writeUnlock();
      })(),
      { cpu: 0 },
    );
    host.sched.spawn(
      'getter',
      (function* (): Steps<void> {
        yield* host.sched.sleepCycles(100);
        expect(getUserPageNowait(mm, fresh, FOLL.WRITE)).toBe(-ERRNO.EAGAIN);
        expect(userHpa(mm, fresh, FOLL.WRITE)).toBe(-ERRNO.EAGAIN);
        expect(() => new UserMemory(mm).read8(fresh)).toThrow('has to wait');
        got.push(yield* userHpaWait(mm, fresh, FOLL.WRITE));
        got.push(yield* getUserPage(mm, fresh, FOLL.WRITE));
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(got[0]).toBe(got[1]! * PAGE);
    expect(host.machine.cpus[1]!.clock[0]).toBeGreaterThan(1000);
  });
});

describe('copying to and from userspace', () => {
  it('stops at the first bad page with EFAULT', () => {
    const { mm, at, user } = setup();
    const bytes = new Uint8Array(100).fill(1);
    expect(copyToUser(mm, at + 2 * PAGE - 50, bytes)).toBe(-ERRNO.EFAULT);
    expect([user.read8(at + 2 * PAGE - 51), user.read8(at + 2 * PAGE - 1)]).toEqual([0x5a, 1]);
    expect(copyFromUser(mm, bytes, at + PAGE - 10)).toBe(0);
    expect(bytes[0]).toBe(0x5a);
    expect(copyFromUser(mm, bytes, at - PAGE)).toBe(-ERRNO.EFAULT);
  });
});

describe('migration', () => {
  it('moves the content to another frame inside the bracket of the notifier', () => {
    const { host, mm, user, at } = setup();
    const old = frameAt(mm, at);
    const notifier = new RecordingNotifier();
    mm.notifiers.register(notifier);
    expect(drive(host, migratePage(mm, at + 17))).toBe(0);
    expect(frameAt(mm, at)).not.toBe(old);
    expect(user.read8(at + 17)).toBe(0x5a);
    expect(host.machine.frames.story(old)).toContain('last freed by page migration in test');
    expect(notifier.ranges).toEqual([
      { start: at, end: at + PAGE, blockable: true, cause: MMU_NOTIFY.MIGRATE },
    ]);
    expect(host.pages.pageCount(frameAt(mm, at))).toBe(1);
  });

  it('is refused for a pinned page and for one with any other reference, which then stays mapped', () => {
    const { host, mm, user, at } = setup();
    const frame = frameAt(mm, at);
    const free = host.pages.nrFree;
    host.pages.pinPage(frame);
    expect(drive(host, migratePage(mm, at))).toBe(-ERRNO.EAGAIN);
    host.pages.unpinPage(frame);
    host.pages.getPage(frame);
    expect(drive(host, migratePage(mm, at))).toBe(-ERRNO.EAGAIN);
    expect(frameAt(mm, at)).toBe(frame);
    expect(user.read8(at)).toBe(0x5a);
    host.pages.putPage(frame);
    expect(host.pages.nrFree).toBe(free);
    expect(host.counters).toMatchObject({ migrations: 0, migrationsRefused: 2 });
    expect(drive(host, migratePage(mm, at))).toBe(0);
  });

  it('makes faults wait until the page has arrived', () => {
    const { host, mm, at } = setup();
    const old = frameAt(mm, at);
    mm.notifiers.register(
      new RecordingNotifier({
        onEnd: () => {
          expect(userHpa(mm, at, FOLL.READ)).toBe(-ERRNO.EAGAIN);
        },
      }),
    );
    let seen = -1;
    host.sched.exploring = true;
    host.sched.spawn(
      'migrator',
      (function* (): Steps<void> {
        expect(yield* migratePage(mm, at)).toBe(0);
      })(),
      { cpu: 0 },
    );
    host.sched.spawn(
      'getter',
      (function* (): Steps<void> {
        while (getUserPageFastOnly(mm, at, FOLL.READ) >= 0) {
          host.pages.putPage(old);
          yield;
        }
        seen = yield* getUserPage(mm, at, FOLL.READ);
      })(),
      { cpu: 1 },
    );
    host.sched.run();
    expect(seen).toBe(frameAt(mm, at));
    expect(seen).not.toBe(old);
  });

  it('survives that the page is given up meanwhile', () => {
    for (const held of [false, true]) {
      const { host, mm, user, at } = setup();
      const free = host.pages.nrFree;
      const old = frameAt(mm, at);
      if (held) host.pages.getPage(old);
      host.sched.exploring = true;
      host.sched.choose = (candidates) =>
        Math.max(
          0,
          candidates.findIndex((c) => c.task?.name === 'discarder'),
        );
      host.sched.spawn(
        'migrator',
        (function* (): Steps<void> {
          expect(yield* migratePage(mm, at)).toBe(held ? -ERRNO.EAGAIN : 0);
        })(),
        { cpu: 0 },
      );
      host.sched.spawn(
        'discarder',
        (function* (): Steps<void> {
          yield* host.sched.spinUntil(() => userHpa(mm, at, FOLL.READ) === -ERRNO.EAGAIN, 'the migration');
          yield* doMadvise(mm, at, PAGE, MADV.DONTNEED);
        })(),
        { cpu: 1 },
      );
      host.sched.run();
      if (held) host.pages.putPage(old);
      expect(host.pages.nrFree).toBe(free + 1);
      expect(user.read8(at)).toBe(0);
    }
  });

  it('moves a memfd page and an unmanaged one in their file', () => {
    const { host, mm, user } = setup({ unmanagedBytes: 1 << 20 });
    for (const file of [host.memfdCreate('f', PAGE), host.unmanagedFile('u', PAGE)]) {
      const at = drive(host, doMmap(mm, { length: PAGE, file }));
      user.write8(at, 3);
      const old = frameAt(mm, at);
      expect(drive(host, migratePage(mm, at))).toBe(0);
      expect(file.peek(0)).toBe(frameAt(mm, at));
      expect(file.peek(0)).not.toBe(old);
      expect(host.machine.frames.state[old]).toBe(FRAME.FREE);
      drive(host, doMunmap(mm, at, PAGE));
      expect(user.read8(drive(host, doMmap(mm, { length: PAGE, file })))).toBe(3);
    }
  });

  it('leaves pages alone that others map too, and says so where nothing is mapped', () => {
    const { host, mm, user } = setup({ unmanagedBytes: 1 << 20 });
    const other = host.createMm('other');
    const files = [host.memfdCreate('f', PAGE), host.unmanagedFile('u', PAGE)];
    const results = files.map((file) => {
      const at = drive(host, doMmap(mm, { length: PAGE, file }));
      new UserMemory(other).write8(drive(host, doMmap(other, { length: PAGE, file })), 3);
      expect(user.read8(at)).toBe(3);
      return drive(host, migratePage(mm, at));
    });
    expect(results).toEqual([-ERRNO.EAGAIN, -ERRNO.EBUSY]);
    const empty = drive(host, doMmap(mm, { length: PAGE }));
    expect(drive(host, migratePage(mm, empty))).toBe(-ERRNO.ENOENT);
    expect(drive(host, migratePage(mm, 0x1000))).toBe(-ERRNO.ENOENT);
  });

  it('is ENOMEM without a free frame, and leaves the page where it is', () => {
    const { host, mm, user } = setup({ unmanagedBytes: PAGE });
    const at = drive(host, doMmap(mm, { length: 2 * PAGE, file: host.unmanagedFile('u', PAGE) }));
    user.write8(at, 1);
    expect(drive(host, migratePage(mm, at))).toBe(-ERRNO.ENOMEM);
    const big = drive(host, doMmap(mm, { length: 8 << 20 }));
    expect(() => user.fill(big, 8 << 20, 1)).toThrow('finds no memory');
    expect(drive(host, migratePage(mm, big))).toBe(-ERRNO.ENOMEM);
    expect([user.read8(at), user.read8(big)]).toEqual([1, 1]);
  });

  it('splits a 2 MiB page, unless somebody holds it', () => {
    const { host, mm, user } = setup({ ramBytes: 16 << 20 });
    const at = drive(host, doMmap(mm, { length: 4 << 20 }));
    drive(host, doMadvise(mm, at, 4 << 20, MADV.HUGEPAGE));
    user.write8(at + PAGE, 1);
    user.write8(at + (2 << 20), 2);
    expect(drive(host, migratePage(mm, at + PAGE))).toBe(0);
    expect(user.read8(at + PAGE)).toBe(1);
    host.pages.getPage(frameAt(mm, at + (2 << 20)));
    expect(drive(host, migratePage(mm, at + (2 << 20)))).toBe(-ERRNO.EAGAIN);
    expect(user.read8(at + (2 << 20))).toBe(2);
  });
});

describe('the TLB flush of a change', () => {
  it('interrupts the other pCPUs that run the process, and nobody else', () => {
    const { host, mm, at } = setup({ nrCpus: 4 });
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
