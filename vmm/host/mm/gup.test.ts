// SPDX-License-Identifier: GPL-2.0-only
/** Getting the frames of user pages, and copying to and from userspace. Expectations: mm/gup.c and lib/usercopy.c. */
import { describe, expect, it } from 'vitest';
import { pfn } from '../../../lib/x86/addr.ts';
import { FRAME } from '../../machine/memory/frames.ts';
import { ERRNO } from '../errno.ts';
import type { Steps } from '../steps.ts';
import { drive } from '../testing/test_host.ts';
import { frameAt, twoPages } from '../testing/two_pages.ts';
import { FOLL } from './fault.ts';
import { getUserPage, getUserPageFastOnly, getUserPageNowait } from './gup.ts';
import { doMadvise, MADV } from './madvise.ts';
import { doMmap, doMunmap } from './mmap.ts';
import { doMprotect } from './mprotect.ts';
import { copyFromUser, copyToUser, userHpa, userHpaWait, UserMemory } from './user_access.ts';
import { PROT } from './vma.ts';

const PAGE = 4096;

describe('getting user pages', () => {
  it('takes a reference and says whether the mapping is writable', () => {
    const { host, mm, at } = twoPages();
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
    const { host, mm, at } = twoPages();
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
    const { host, mm } = twoPages();
    const at = drive(host, doMmap(mm, { length: PAGE }));
    expect(getUserPageFastOnly(mm, at, FOLL.READ)).toBe(-ERRNO.EAGAIN);
    expect(getUserPageNowait(mm, at, FOLL.READ)).toBeGreaterThan(0);
    expect(getUserPageNowait(mm, at, FOLL.READ)).toBeGreaterThan(0);
    expect(host.counters).toMatchObject({ gupFast: 1, gupSlow: 1 });
  });

  it('finds unmanaged frames the slow way, without a reference', () => {
    const { host, mm } = twoPages({ unmanagedBytes: 1 << 20 });
    const at = drive(host, doMmap(mm, { length: PAGE, file: host.unmanagedFile('guest', PAGE) }));
    for (let i = 0; i < 2; i++) {
      expect(host.unmanaged.owns(pfn(drive(host, getUserPage(mm, at, FOLL.WRITE))))).toBe(true);
      expect(mm.gup).toMatchObject({ refcounted: false, writable: true });
    }
    expect(host.counters).toMatchObject({ gupFast: 0, gupSlow: 2 });
  });

  it('says when a 2 MiB page is behind it, whose head has the references', () => {
    const { host, mm, user } = twoPages({ ramBytes: 16 << 20 });
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
    const { host, mm } = twoPages();
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
    const { mm, at, user } = twoPages();
    const bytes = new Uint8Array(100).fill(1);
    expect(copyToUser(mm, at + 2 * PAGE - 50, bytes)).toBe(-ERRNO.EFAULT);
    expect([user.read8(at + 2 * PAGE - 51), user.read8(at + 2 * PAGE - 1)]).toEqual([0x5a, 1]);
    expect(copyFromUser(mm, bytes, at + PAGE - 10)).toBe(0);
    expect(bytes[0]).toBe(0x5a);
    expect(copyFromUser(mm, bytes, at - PAGE)).toBe(-ERRNO.EFAULT);
  });
});
