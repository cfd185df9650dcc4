// SPDX-License-Identifier: GPL-2.0-only
/**
 * Whether the steps of zapping and faulting can be interleaved finely enough: a secondary MMU that keeps frames without a
 * reference is right with the retry protocol of virt/kvm/kvm_main.c (mmu_invalidate_seq and in_progress), and each of its
 * parts is found missing by some schedule.
 */
import { describe, expect, it } from 'vitest';
import { pfn } from '../../../lib/x86/addr.ts';
import type { Host } from '../host.ts';
import type { Steps } from '../steps.ts';
import { drive, testHost } from '../testing/test_host.ts';
import { FOLL } from './fault.ts';
import { getUserPage } from './gup.ts';
import { doMadvise, MADV } from './madvise.ts';
import { migratePage } from './migrate.ts';
import { doMmap } from './mmap.ts';
import type { MmStruct } from './mm_struct.ts';
import type { MmuNotifier } from './mmu_notifier.ts';

/** Which part of the protocol is left out. */
type Flaw = 'none' | 'no sequence check' | 'no in-progress check' | 'no invalidation';

/** One cached translation of one page, as a pfncache or an EPT entry is. */
class SecondaryMmu implements MmuNotifier {
  readonly name = 'secondary MMU';
  readonly #host: Host;
  readonly #flaw: Flaw;
  stale = 0;
  uses = 0;
  #cached = -1;
  #epoch = 0;
  #seq = 0;
  #inProgress = 0;

  constructor(host: Host, flaw: Flaw) {
    this.#host = host;
    this.#flaw = flaw;
  }

  *invalidateRangeStart(): Steps<number> {
    this.#inProgress++;
    if (this.#flaw !== 'no invalidation') this.#cached = -1;
    yield;
    return 0;
  }

  *invalidateRangeEnd(): Steps<void> {
    this.#seq++;
    yield;
    this.#inProgress--;
  }

  use(): boolean {
    if (this.#cached < 0) return false;
    this.uses++;
    if (!this.#host.machine.frames.isCurrent(pfn(this.#cached), this.#epoch)) this.stale++;
    return true;
  }

  *map(mm: MmStruct, at: number): Steps<void> {
    const { pages, machine } = this.#host;
    const seq = this.#seq;
    yield;
    const frame = yield* getUserPage(mm, at, FOLL.WRITE);
    yield;
    const retry =
      (this.#inProgress !== 0 && this.#flaw !== 'no in-progress check') ||
      (this.#seq !== seq && this.#flaw !== 'no sequence check');
    if (!retry) {
      this.#cached = frame;
      this.#epoch = machine.frames.epoch[frame]!;
    }
    pages.putPage(pfn(frame));
  }
}

/** Uses of stale frames under one random schedule. */
function staleUses(seed: number, flaw: Flaw): number {
  const host = testHost({ nrCpus: 2 });
  const mm = host.createMm('test');
  const at = drive(host, doMmap(mm, { length: 4096 }));
  const secondary = new SecondaryMmu(host, flaw);
  mm.notifiers.register(secondary);
  let state = seed;
  host.sched.exploring = true;
  host.sched.choose = (candidates) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * candidates.length);
  };
  const guest = function* (): Steps<void> {
    for (let i = 0; i < 60; i++) {
      if (!secondary.use()) yield* secondary.map(mm, at);
      yield;
    }
  };
  const disturber = function* (): Steps<void> {
    for (let i = 0; i < 6; i++)
      yield* i % 2 === 0 ? doMadvise(mm, at, 4096, MADV.DONTNEED) : migratePage(mm, at);
  };
  host.sched.spawn('guest', guest(), { cpu: 0 });
  host.sched.spawn('disturber', disturber(), { cpu: 1 });
  host.sched.run();
  expect(secondary.uses).toBeGreaterThan(0);
  return secondary.stale;
}

const SEEDS = Array.from({ length: 50 }, (_, seed) => seed + 1);

describe('a secondary MMU under random schedules', () => {
  it('never uses a stale frame with the whole protocol', () => {
    expect(SEEDS.filter((seed) => staleUses(seed, 'none') !== 0)).toEqual([]);
  });

  it.each(['no sequence check', 'no in-progress check', 'no invalidation'] as const)(
    'is found out with %s',
    (flaw) => {
      expect(SEEDS.some((seed) => staleUses(seed, flaw) !== 0)).toBe(true);
    },
  );
});
