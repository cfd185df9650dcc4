// SPDX-License-Identifier: GPL-2.0-only
/**
 * The host changes mappings while guests use them: nothing of the old page may be used when the start callback has
 * returned. Rules from the mmu_notifier half of virt/kvm/kvm_main.c and mmu_invalidate_retry_gfn().
 */
import { describe, expect, it } from 'vitest';
import { FOLL } from '../host/mm/fault.ts';
import { doMadvise, MADV } from '../host/mm/madvise.ts';
import { migratePage } from '../host/mm/migrate.ts';
import { exitMmap } from '../host/mm/mmap.ts';
import { userHpa } from '../host/mm/user_access.ts';
import type { Steps } from '../host/steps.ts';
import type { Gfn } from '../../lib/x86/addr.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { kvmFaultinPfn, mmuInvalidateRetryGfn } from './mmu/faultin.ts';
import { kvmMmuReload } from './mmu/mmu.ts';
import { RET_PF } from './mmu/page_fault.ts';
import { kvmVcpuGfnToMemslot } from './guest_memory.ts';
import type { Vcpu } from './kvm_host.ts';
import { kvmMmuInvalidateBegin, kvmMmuInvalidateEnd, kvmMmuInvalidateRangeAdd } from './mmu_notifier.ts';
import { done, RACE, race, runGuest, testGuest } from './testing/test_guest.ts';
import { drive, guestAccess, tdpEntry, tlbOf } from './testing/test_kvm.ts';
import { TP } from './trace_events.ts';

const GFN = 0x10 as Gfn;

describe('an invalidation', () => {
  it('zaps exactly the range, and the guest gets the new page', () =>
    runGuest({}, function* ({ kvm, mm, hva, vcpu, read, write }) {
      for (const page of [0, 1, 2]) yield* write(page * 0x1000, 100 + page);
      yield* doMadvise(mm, hva + 0x1000, 0x1000, MADV.DONTNEED);
      expect(kvm.stat.pages_4k).toBe(2);
      expect(tdpEntry(vcpu, 0x1000)).toBe(0);
      expect(yield* read(0x1000)).toEqual(done(0));
      expect(yield* read(0x2000)).toEqual(done(102));
    }));

  it('reaches every gfn that shows the page, in both address spaces', () =>
    runGuest({ slots: [] }, function* ({ mm, vcpu, read, write, mmap, setSlot }) {
      const hva = yield* mmap(0x4000);
      yield* setSlot({ slot: 0, gpa: 0, bytes: 0x4000, hva });
      yield* setSlot({ slot: 1, gpa: 0x10_0000, bytes: 0x4000, hva });
      yield* write(0x1000, 1);
      expect(yield* read(0x10_1000)).toEqual(done(1));
      yield* doMadvise(mm, hva + 0x1000, 0x1000, MADV.DONTNEED);
      expect([tdpEntry(vcpu, 0x1000), tdpEntry(vcpu, 0x10_1000)]).toEqual([0, 0]);
    }));

  it('flushes TLBs only if something was mapped', () =>
    runGuest({}, function* ({ kvm, mm, hva, write }) {
      yield* write(0, 1);
      const flushes = kvm.stat.remote_tlb_flush_requests;
      yield* doMadvise(mm, hva + 0x1000, 0x1000, MADV.DONTNEED);
      expect(kvm.stat.remote_tlb_flush_requests).toBe(flushes);
      yield* doMadvise(mm, hva, 0x1000, MADV.DONTNEED);
      expect(kvm.stat.remote_tlb_flush_requests).toBe(flushes + 1);
    }));

  it('takes no mmu_lock and moves no sequence where no slot is', () =>
    runGuest({}, function* ({ kvm, mmap }) {
      const elsewhere = yield* mmap(0x1000);
      const range = { start: elsewhere, end: elsewhere + 0x1000, blockable: true, cause: 0 };
      yield* kvm.notifier!.invalidateRangeStart(range);
      expect([kvm.mnActiveInvalidateCount, kvm.mmuInvalidateInProgress]).toEqual([1, 0]);
      yield* kvm.notifier!.invalidateRangeEnd(range);
      expect([kvm.mnActiveInvalidateCount, kvm.mmuInvalidateSeq]).toEqual([0, 0]);
    }));

  it('that moves the page leaves its content with the guest', () =>
    runGuest({}, function* ({ mm, hva, read, write }) {
      yield* write(0x1000, 77);
      const before = userHpa(mm, hva + 0x1000, FOLL.READ);
      expect(yield* migratePage(mm, hva + 0x1000)).toBe(0);
      expect(userHpa(mm, hva + 0x1000, FOLL.READ)).not.toBe(before);
      expect(yield* read(0x1000)).toEqual(done(77));
    }));

  it('of the whole process zaps everything', () =>
    runGuest({}, function* ({ kvm, mm, write }) {
      for (let page = 0; page < 8; page++) yield* write(page * 0x1000, 1);
      yield* exitMmap(mm);
      expect(kvm.stat.pages_4k).toBe(0);
      expect(kvm.mnActiveInvalidateCount).toBe(0);
    }));

  it('is traced with its range', () =>
    runGuest({}, function* ({ kvm, mm, hva }) {
      kvm.module.trace.enable(/^kvm_unmap_hva_range$/);
      yield* doMadvise(mm, hva, 0x1000, MADV.DONTNEED);
      const records = kvm.module.trace.records();
      expect(records.map((r) => [r.tracepoint, ...r.args])).toEqual([
        [TP.KVM_UNMAP_HVA_RANGE, hva, hva + 0x1000],
      ]);
    }));
});

describe('a page fault that meets an invalidation', () => {
  it('is retried if the sequence moved between lookup and lock', () =>
    runGuest({}, function* ({ kvm, mm, hva, vcpu }) {
      kvmMmuReload(vcpu);
      const fault = vcpu.arch.pageFault;
      fault.begin(0x1_0000 as never, 2, 2);
      fault.slot = kvmVcpuGfnToMemslot(vcpu, fault.gfn);
      expect(yield* kvmFaultinPfn(vcpu, fault)).toBe(RET_PF.CONTINUE);
      expect(mmuInvalidateRetryGfn(kvm, fault.mmuSeq, fault.gfn)).toBe(false);
      yield* doMadvise(mm, hva + 0x1_0000, 0x1000, MADV.DONTNEED);
      expect(mmuInvalidateRetryGfn(kvm, fault.mmuSeq, fault.gfn)).toBe(true);
      kvm.host.pages.putPage(fault.lookupPfn);
    }));

  it('is retried while its gfn is in the range, and not while it is outside', () =>
    runGuest({ slots: [] }, function* ({ kvm }) {
      yield* kvm.mmuLock.writeLock();
      kvmMmuInvalidateBegin(kvm);
      kvmMmuInvalidateRangeAdd(kvm, 0x10 as Gfn, 0x12 as Gfn);
      expect([0xf, 0x10, 0x11, 0x12].map((gfn) => mmuInvalidateRetryGfn(kvm, 0, gfn as Gfn))).toEqual([
        false,
        true,
        true,
        false,
      ]);
      kvmMmuInvalidateBegin(kvm);
      kvmMmuInvalidateRangeAdd(kvm, 0x20 as Gfn, 0x21 as Gfn);
      expect(mmuInvalidateRetryGfn(kvm, 0, 0x18 as Gfn)).toBe(true);
      kvmMmuInvalidateEnd(kvm);
      expect(mmuInvalidateRetryGfn(kvm, 1, 0x18 as Gfn)).toBe(true);
      kvmMmuInvalidateEnd(kvm);
      expect(mmuInvalidateRetryGfn(kvm, 2, 0x18 as Gfn)).toBe(false);
      expect(mmuInvalidateRetryGfn(kvm, 1, 0x18 as Gfn)).toBe(true);
      kvm.mmuLock.writeUnlock();
    }));

  it('refuses to test against an invalidation that has no range, and to end what never began', () =>
    runGuest({ slots: [] }, function* ({ kvm }) {
      yield* kvm.mmuLock.writeLock();
      kvmMmuInvalidateBegin(kvm);
      expect(() => mmuInvalidateRetryGfn(kvm, 0, GFN)).toThrow('no range');
      kvmMmuInvalidateEnd(kvm);
      expect(() => kvmMmuInvalidateEnd(kvm)).toThrow('negative');
      kvm.mmuLock.writeUnlock();
      const range = { start: 0x1000, end: 0x2000, blockable: true, cause: 0 };
      yield* expectThrow(kvm.notifier!.invalidateRangeEnd(range), 'never began');
    }));

  it('never installs the old page, whatever the order of steps', () => {
    for (let seed = 1; seed <= 12; seed++) raceFaultsWithInvalidations(seed);
  });
});

function* expectThrow(steps: Generator<void, void, void>, message: string): Generator<void, void, void> {
  let text = '';
  try {
    yield* steps;
  } catch (error) {
    text = String(error);
  }
  expect(text).toContain(message);
}

/** Two vCPUs write a page while the process drops it again and again; the explorer picks who goes on. */
function raceFaultsWithInvalidations(seed: number): void {
  const guest = testGuest(RACE);
  const { kvm, mm, hva, vcpu } = guest;
  const { pages, sched } = kvm.host;
  const other = drive(guest, guest.createVcpu(1));
  const write = function* (by: Vcpu): Steps<void> {
    for (let i = 0; i < 12; i++) {
      expect(yield* guestAccess(by, 0x1000, i + 1)).toEqual(done(i + 1));
    }
  };
  const dontneed = function* (): Steps<void> {
    for (let i = 0; i < 8; i++) {
      yield* doMadvise(mm, hva + 0x1000, 0x1000, MADV.DONTNEED);
      // Somebody else gets the frame.
      pages.allocPage(pages.owner('somebody else'));
      spend(sched.cpu, COST.INSN, 2000);
      yield;
    }
  };
  race(guest, seed, { 'vcpu 0': write(vcpu), 'vcpu 1': write(other), madvise: dontneed() });
  const pte = mm.pageTable.get(hva + 0x1000);
  const lo = tdpEntry(vcpu, 0x1000);
  if (lo & 1) expect(lo & 0x7fff_f000).toBe((pte >>> 8) * 4096);
  expect(kvm.mmuInvalidateInProgress).toBe(0);
}

describe('aging', () => {
  for (const ad of ['ad', 'no-ad'] as const) {
    it(`finds pages young once per use (${ad})`, () =>
      runGuest({ ad }, function* ({ kvm, hva, vcpu, write }) {
        yield* write(0x1000, 5);
        const notifier = kvm.notifier!;
        expect(notifier.testYoung!(hva + 0x1000, hva + 0x2000)).toBe(true);
        expect(notifier.clearFlushYoung!(hva, hva + 0x4000)).toBe(true);
        expect(notifier.clearFlushYoung!(hva, hva + 0x4000)).toBe(false);
        expect(notifier.testYoung!(hva, hva + 0x4000)).toBe(false);
        tlbOf(vcpu).flush();
        expect(yield* write(0x1000, 6)).toEqual(done(6));
        expect(notifier.testYoung!(hva + 0x1000, hva + 0x2000)).toBe(true);
        expect(vcpu.stat.pf_fast).toBe(ad === 'ad' ? 0 : 1);
      }));
  }
});
