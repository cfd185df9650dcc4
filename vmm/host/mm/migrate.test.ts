// SPDX-License-Identifier: GPL-2.0-only
/** Page migration: when a page moves, when it may not, and who waits. Order: migrate_folio_unmap() of mm/migrate.c. */
import { describe, expect, it } from 'vitest';
import { FRAME } from '../../machine/memory/frames.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import { RecordingNotifier } from '../testing/recording_notifier.ts';
import { drive } from '../testing/test_host.ts';
import { frameAt, twoPages } from '../testing/two_pages.ts';
import { FOLL } from './fault.ts';
import { getUserPage, getUserPageFastOnly } from './gup.ts';
import { doMadvise, MADV } from './madvise.ts';
import { migratePage } from './migrate.ts';
import { doMmap, doMunmap } from './mmap.ts';
import { MMU_NOTIFY } from './mmu_notifier.ts';
import { userHpa, UserMemory } from './user_access.ts';

const PAGE = 4096;

describe('migration', () => {
  it('moves the content to another frame inside the bracket of the notifier', () => {
    const { host, mm, user, at } = twoPages();
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
    const { host, mm, user, at } = twoPages();
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
    const { host, mm, at } = twoPages();
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
      const { host, mm, user, at } = twoPages();
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
    const { host, mm, user } = twoPages({ unmanagedBytes: 1 << 20 });
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
    const { host, mm, user } = twoPages({ unmanagedBytes: 1 << 20 });
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
    const { host, mm, user } = twoPages({ unmanagedBytes: PAGE });
    const at = drive(host, doMmap(mm, { length: 2 * PAGE, file: host.unmanagedFile('u', PAGE) }));
    user.write8(at, 1);
    expect(drive(host, migratePage(mm, at))).toBe(-ERRNO.ENOMEM);
    const big = drive(host, doMmap(mm, { length: 8 << 20 }));
    expect(() => user.fill(big, 8 << 20, 1)).toThrow('finds no memory');
    expect(drive(host, migratePage(mm, big))).toBe(-ERRNO.ENOMEM);
    expect([user.read8(at), user.read8(big)]).toEqual([1, 1]);
  });

  it('splits a 2 MiB page, unless somebody holds it', () => {
    const { host, mm, user } = twoPages({ ramBytes: 16 << 20 });
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
