// SPDX-License-Identifier: GPL-2.0-only
/**
 * Two holders of mmap_lock for reading at one page: migration against MADV_DONTNEED, faults and another migration. After
 * try_to_migrate_one() of mm/rmap.c, which looks at the entry again under the page-table lock before it replaces it.
 */
import { describe, expect, it } from 'vitest';
import { Rng } from '../../machine/cpu/system/rng.ts';
import type { Host } from '../host.ts';
import type { Steps } from '../steps.ts';
import { drive, testHost } from '../testing/test_host.ts';
import { RecordingNotifier } from '../testing/recording_notifier.ts';
import { FOLL } from './fault.ts';
import { doMadvise, MADV } from './madvise.ts';
import { migratePage } from './migrate.ts';
import { doMmap, doMunmap } from './mmap.ts';
import { userHpaWait, UserMemory } from './user_access.ts';

const LENGTH = 0x4000;

/** Run `bodies` together under a random schedule. */
function explore(host: Host, seed: number, bodies: readonly (() => Steps<void>)[]): void {
  const rng = new Rng(seed);
  host.sched.choose = (candidates) => (rng.next() >>> 4) % candidates.length;
  host.sched.exploring = true;
  bodies.forEach((body, i) => host.sched.spawn(`t${i}`, body()));
  host.sched.run();
  host.sched.exploring = false;
}

/** The word that is left after migrations, drops and a write have met at one page. */
function race(seed: number, drops: number): bigint {
  const host = testHost({ nrCpus: 3 });
  const mm = host.createMm('m');
  mm.notifiers.register(new RecordingNotifier());
  const free = host.pages.nrFree;
  const at = drive(host, doMmap(mm, { length: LENGTH }));
  const user = new UserMemory(mm);
  user.write64(at, 7n);
  const migrate = function* (): Steps<void> {
    for (let i = 0; i < 4; i++) yield* migratePage(mm, at);
  };
  const drop = function* (): Steps<void> {
    for (let i = 0; i < drops; i++) yield* doMadvise(mm, at, LENGTH, MADV.DONTNEED);
    yield* userHpaWait(mm, at, FOLL.WRITE);
    if (drops > 0) user.write64(at, 9n);
  };
  explore(host, seed, [migrate, migrate, drop]);
  const left = user.read64(at);
  drive(host, doMunmap(mm, at, LENGTH));
  expect(host.pages.nrFree).toBe(free);
  return left;
}

describe('migration of a page that others change', () => {
  it('loses neither a page nor a write when MADV_DONTNEED drops the page meanwhile', () => {
    for (let seed = 1; seed <= 30; seed++) expect(race(seed, 3), `seed ${seed}`).toBe(9n);
  });

  it('happens once at a time', () => {
    for (let seed = 1; seed <= 30; seed++) expect(race(seed, 0), `seed ${seed}`).toBe(7n);
  });
});
