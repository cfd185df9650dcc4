// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shadow pages follow what changes below and above them: EPT12 as L1 writes it, L1's memory as the host and userspace
 * change it. Rules from mmu_try_to_unsync_pages(), kvm_mmu_track_write(), the mmu_notifier and dirty-log functions of
 * arch/x86/kvm/mmu/mmu.c; what may be stale and until when from SDM, "Invalidating Cached EPT-Based Translations".
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_DIRTY_LOG, KVM_MEM, KVM_X86_QUIRK } from '../../../lib/uapi/memory.ts';
import { EPTE } from '../../../lib/x86/paging.ts';
import { doMadvise, MADV } from '../../host/mm/madvise.ts';
import type { Steps } from '../../host/steps.ts';
import { kvmVmIoctlGetDirtyLog } from '../dirty_log.ts';
import type { Kvm } from '../kvm_host.ts';
import { KVM_MMU_ROOTS_ALL } from '../kvm_host_x86.ts';
import { kvmDestroyVm } from '../kvm_main.ts';
import { RACE, race } from '../testing/test_guest.ts';
import { drive, tlbOf } from '../testing/test_kvm.ts';
import {
  enterL2,
  l1Write,
  nestedAccess,
  runNested,
  RWX,
  testNested,
  walk,
  WB,
  type NestedResult,
} from '../testing/test_nested.ts';
import { X86Exception } from '../x86/x86_exception.ts';
import { FRAME } from '../../machine/memory/frames.ts';
import { kvmArchMmuEnableLogDirtyPtMasked } from './dirty_log.ts';
import { kvmMmuFreeRoots } from './free_roots.ts';
import { KvmMmuPage } from './mmu_page.ts';
import { kvmMmuSyncPrevRoots, kvmMmuSyncRoots } from './shadow_sync.ts';
import { kvmMmuUnprotectGfn } from './shadow_work.ts';

const MB = 0x10_0000;
const L2 = 0x40_0000_0000;
const LEAF = RWX | WB;
const done = (value: number): NestedResult => ({ kind: 'done', value });

/** What L1 does with INVEPT: L0 gives up the roots. */
function invept(kvm: Kvm): void {
  const { arch } = kvm.vcpus[0]!;
  kvmMmuFreeRoots(kvm, arch.guestMmu, KVM_MMU_ROOTS_ALL);
  tlbOf(kvm.vcpus[0]!).flush();
}

describe('a table of level 1 of EPT12', () => {
  it('becomes unsync by the first write of L1, which is not emulated', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      leave();
      expect(yield* l1Write(ept.entry(L2, 1), 0x6000 | LEAF)).toBe('done');
      expect(kvm.stat.mmu_unsync).toBe(1);
      expect(yield* l1Write(ept.entry(L2, 1) + 8, 0x7000 | LEAF)).toBe('done');
      expect([kvm.stat.mmu_unsync, kvm.stat.mmu_pte_write]).toEqual([1, 0]);
    }));

  it('may be seen as it was until INVEPT, and must be seen as it is afterwards', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      leave();
      yield* l1Write(ept.entry(L2, 1), 0x6000 | LEAF);
      enter();
      expect(yield* l2(L2)).toEqual(done(1));
      leave();
      invept(kvm);
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect(kvm.stat.mmu_unsync).toBe(0);
    }));

  it('loses rights, or the page, at INVEPT', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write, vcpu }) {
      ept.map(L2, 0x5000);
      ept.map(L2 + 0x1000, 0x6000);
      ept.map(L2 + 0x2000, 0x7000);
      enter();
      for (const page of [0, 1, 2]) yield* l2(L2 + page * 0x1000, 'write', page);
      leave();
      const entry = ept.entry(L2, 1);
      yield* l1Write(entry, 0x5000 | EPTE.R | WB);
      yield* l1Write(entry + 8, 0);
      yield* l1Write(entry + 16, 0x7000 | EPTE.W | WB);
      invept(kvm);
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect((yield* l2(L2, 'write', 9)).kind).toBe('fault');
      expect(walk(vcpu, L2).rights).toBe(EPTE.R);
      expect((yield* l2(L2 + 0x1000)).kind).toBe('fault');
      expect(yield* l2(L2 + 0x2000)).toMatchObject({ fault: { errorCode: 0xd } });
    }));

  it('is write-protected again when it has been synced', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      for (const page of [0x6000, 0x7000]) {
        leave();
        expect(kvm.stat.mmu_unsync).toBe(0);
        yield* l1Write(ept.entry(L2, 1), page | LEAF);
        expect(kvm.stat.mmu_unsync).toBe(1);
        invept(kvm);
        enter();
        yield* l2(L2, 'write', page);
      }
      leave();
      expect(kvm.stat.mmu_cache_miss).toBe(4);
    }));

  it('is read again for an address that L1 was told of, without INVEPT', () =>
    runNested({}, function* ({ ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000, { bits: EPTE.R | WB });
      ept.map(L2 + 0x1000, 0x6000);
      enter();
      yield* l2(L2);
      yield* l2(L2 + 0x1000, 'write', 6);
      leave();
      yield* l1Write(ept.entry(L2, 1), 0x7000 | EPTE.R | WB);
      yield* l1Write(ept.entry(L2, 1) + 8, 0x8000 | LEAF);
      enter();
      expect((yield* l2(L2, 'write', 1)).kind).toBe('fault');
      leave();
      yield* l1Write(0x7000, 7);
      enter();
      expect(yield* l2(L2)).toEqual(done(7));
      expect(yield* l2(L2 + 0x1000)).toEqual(done(6));
    }));

  it('is synced by KVM_REQ_MMU_SYNC in the current root, and costs previous roots their place', () =>
    runNested({}, function* ({ kvm, vcpu, ept, newEpt, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      const other = newEpt();
      enter();
      yield* l2(L2, 'write', 1);
      leave();
      yield* l1Write(ept.entry(L2, 1), 0x6000 | LEAF);
      enter(other);
      yield* l2(L2);
      kvmMmuSyncRoots(vcpu);
      kvmMmuSyncPrevRoots(vcpu);
      expect(vcpu.arch.guestMmu.prevRoots.filter((root) => root.sp !== null)).toHaveLength(0);
      enter(ept);
      tlbOf(vcpu).flush();
      expect(yield* l2(L2)).toEqual(done(0));
      expect(kvm.stat.mmu_unsync).toBe(0);
      leave();
      yield* l1Write(ept.entry(L2, 1), 0x5000 | LEAF);
      enter();
      kvmMmuSyncRoots(vcpu);
      expect(kvm.stat.mmu_unsync).toBe(1);
      expect(yield* l2(L2)).toEqual(done(1));
      expect(kvm.stat.mmu_unsync).toBe(0);
    }));

  it('that L1 uses for two parents is unsync below both', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      const table = Number(ept.read(ept.entry(L2, 2)));
      ept.write(ept.entry(L2 + 2 * MB, 2), BigInt(table));
      enter();
      yield* l2(L2, 'write', 1);
      expect(yield* l2(L2 + 2 * MB)).toEqual(done(1));
      leave();
      yield* l1Write(ept.entry(L2, 1), 0x6000 | LEAF);
      invept(kvm);
      enter();
      expect(yield* l2(L2 + 2 * MB)).toEqual(done(0));
      expect(yield* l2(L2)).toEqual(done(0));
    }));
});

describe('a table that gets another parent', () => {
  // No CPU can have cached anything for addresses that were not mapped before: SDM, "Information That May Be Cached".
  for (const level of [2, 3]) {
    it(`at level ${level} is in sync for its new addresses at once`, () =>
      runNested({}, function* ({ ept, enter, leave, l2, l1Write }) {
        const span = 2 ** (12 + 9 * (level - 1));
        ept.map(L2, 0x5000);
        ept.map(L2 + 0x1000, 0x6000);
        enter();
        yield* l2(L2, 'write', 5);
        yield* l2(L2 + 0x1000, 'write', 6);
        leave();
        expect(yield* l1Write(ept.entry(L2, 1) + 8, 0x7000 | LEAF)).toBe('done');
        const table = Number(ept.read(ept.entry(L2, level)));
        yield* l1Write(ept.entry(L2, level) + 8, table);
        enter();
        expect(yield* l2(L2 + span)).toEqual(done(5));
        expect(yield* l2(L2 + span + 0x1000)).toEqual(done(0));
      }));
  }

  it('behind the back of L0 is not mistaken for the old one', () =>
    runNested({}, function* ({ kvm, ept, newEpt, enter, leave, l2 }) {
      ept.map(L2, 0x5000);
      ept.map(L2 + 0x1000, 0x6000);
      enter();
      yield* l2(L2, 'write', 5);
      const other = newEpt();
      other.map(L2 + 0x1000, 0x7000);
      // As userspace writes it: nobody tells L0.
      ept.write(ept.entry(L2, 2), other.read(other.entry(L2, 2)));
      expect(yield* l2(L2 + 0x1000, 'write', 7)).toEqual(done(7));
      leave();
      const { shadow } = kvm.arch;
      const page = shadow.byGfn.get(other.entry(L2, 1) >>> 12)!;
      expect(page.map((sp) => sp.gfnAt(1))).toEqual([7]);
      expect(shadow.byGfn.get(ept.root >>> 12)).toHaveLength(1);
    }));
});

describe('a table above level 1', () => {
  it('is only written by L0, which takes away what the entry translated', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      leave();
      const other = ept.page();
      ept.write(other, BigInt(0x7000 | LEAF));
      expect(yield* l1Write(ept.entry(L2, 2), other | RWX)).toBe('emulated');
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect([kvm.stat.mmu_pde_zapped, kvm.stat.mmu_pte_write]).toEqual([1, 1]);
    }));

  it('is no table any more after three writes without a use', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2);
      leave();
      const entry = ept.entry(L2, 2);
      const write = (): Steps<'done' | 'emulated'> => l1Write(entry + 8, 0);
      expect([yield* write(), yield* write(), yield* write(), yield* write()]).toEqual([
        'emulated',
        'emulated',
        'emulated',
        'done',
      ]);
      expect(kvm.stat.mmu_flooded).toBe(1);
    }));

  it('that L1 writes in other pieces than entries goes at once', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2);
      leave();
      yield* l1Write(ept.entry(L2, 2) + 6, 0);
      expect(yield* l1Write(ept.entry(L2, 2) + 8, 0)).toBe('done');
      expect(kvm.stat.mmu_flooded).toBe(1);
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
    }));

  it('may be unprotected, for an instruction that L0 does not emulate', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2);
      leave();
      const gfn = ept.entry(L2, 3) >>> 12;
      expect(kvmMmuUnprotectGfn(kvm, gfn)).toBe(true);
      expect(yield* l1Write(ept.entry(L2, 3) + 8, 0)).toBe('done');
      expect(kvmMmuUnprotectGfn(kvm, gfn)).toBe(false);
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
    }));

  it('that is L2 memory at the same time is written by L0 for L2 too', () =>
    runNested({}, function* ({ ept, enter, l2 }) {
      ept.map(L2, 0x5000);
      ept.map(L2 + 0x1000, ept.entry(L2, 2) & ~0xfff);
      ept.map(L2 + 0x2000, ept.entry(L2, 1) & ~0xfff);
      enter();
      yield* l2(L2);
      expect((yield* l2(L2 + 0x1000)).kind).toBe('done');
      expect(yield* l2(L2 + 0x1000, 'write', 0)).toEqual({ kind: 'emulate' });
      // Its own table of level 1 becomes unsync.
      expect(yield* l2(L2 + 0x2000 + 0x18, 'write', 0x6000 | LEAF)).toEqual(done(0x6000 | LEAF));
      expect(yield* l2(L2 + 0x3000)).toEqual(done(0));
    }));

  it('that L1 uses at another level is shadowed as what it is there', () =>
    runNested({}, function* ({ kvm, ept, newEpt, enter, leave, l2 }) {
      ept.map(L2, 0x5000);
      const other = newEpt();
      // The table of level 1 of the first is the table of level 2 of the second: its entries point at data.
      const table = ept.entry(L2, 1) & ~0xfff;
      ept.write(0x5000, BigInt(0x9000 | LEAF));
      ept.write(other.entry(0, 3), BigInt(table | RWX));
      ept.write(table, BigInt(0x5000 | RWX));
      enter(ept);
      yield* l2(L2);
      enter(other);
      expect((yield* l2(0, 'write', 3)).kind).toBe('done');
      leave();
      expect(kvm.arch.shadow.byGfn.get(table >>> 12)!.map((sp) => sp.role.level)).toEqual([1, 2]);
    }));
});

describe("L1's memory", () => {
  it('is not used by L2 after the host has taken it away', () =>
    runNested({}, function* ({ kvm, mm, hva, ept, enter, l2 }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      yield* doMadvise(mm, hva + 0x5000, 0x1000, MADV.DONTNEED);
      kvm.host.pages.allocPage(kvm.host.pages.owner('somebody else'));
      expect(yield* l2(L2)).toEqual(done(0));
    }));

  it('that holds tables may go and come back empty, behind the back of L0', () =>
    runNested({}, function* ({ kvm, mm, hva, ept, enter, leave, l2 }) {
      ept.map(L2, 0x5000);
      ept.map(L2 + 0x1000, 0x6000);
      enter();
      yield* l2(L2, 'write', 1);
      yield* doMadvise(mm, hva + 3 * MB, MB, MADV.DONTNEED);
      leave();
      invept(kvm);
      enter();
      expect((yield* l2(L2 + 0x1000)).kind).toBe('fault');
    }));

  it('is young after a use of L2, with accessed flags and without', () => {
    for (const [ad, accessedDirty] of [
      ['ad', true],
      ['ad', false],
      ['no-ad', false],
    ] as const) {
      runNested({ ad }, function* ({ kvm, hva, ept, enter, l2 }) {
        const young = (): boolean => kvm.notifier!.clearFlushYoung!(hva + 0x5000, hva + 0x6000);
        const test = (): boolean => kvm.notifier!.testYoung!(hva + 0x5000, hva + 0x6000);
        ept.map(L2, 0x5000);
        enter(ept, { accessedDirty });
        expect([test(), young()]).toEqual([false, false]);
        yield* l2(L2, 'write', 1);
        expect([test(), young(), test(), young()]).toEqual([true, true, false, false]);
        tlbOf(kvm.vcpus[0]!).flush();
        expect(yield* l2(L2)).toEqual(done(1));
        expect(young()).toBe(true);
        tlbOf(kvm.vcpus[0]!).flush();
        expect(yield* l2(L2, 'write', 2)).toEqual(done(2));
      });
    }
  });

  for (const quirks of [0, KVM_X86_QUIRK.SLOT_ZAP_ALL]) {
    it(`is gone for L2 when its slot is deleted (disabled quirks ${quirks})`, () =>
      runNested({}, function* ({ kvm, vcpu, ept, enter, l2, setSlot }) {
        kvm.arch.disabledQuirks = quirks;
        yield* setSlot({ slot: 1, gpa: 0x4000_0000 });
        ept.map(L2, 0x4000_0000);
        ept.map(L2 + 0x1000, 0x5000);
        enter();
        yield* l2(L2, 'write', 1);
        yield* l2(L2 + 0x1000, 'write', 1);
        yield* setSlot({ slot: 1, bytes: 0 });
        expect(walk(vcpu, L2).rights).toBe(0);
        expect(yield* l2(L2)).toEqual({ kind: 'emulate' });
        expect(yield* l2(L2 + 0x1000)).toEqual(done(1));
        expect(kvm.arch.shadow.zapped).toEqual([]);
      }));

    it(`takes the shadow of its tables with it (disabled quirks ${quirks})`, () =>
      runNested({}, function* ({ kvm, ept, enter, l2, setSlot, hva }) {
        kvm.arch.disabledQuirks = quirks;
        ept.map(L2, 0x5000);
        enter();
        yield* l2(L2, 'write', 1);
        yield* setSlot({ bytes: 0 });
        const { shadow } = kvm.arch;
        expect([shadow.active.size, shadow.rmaps.size, shadow.writeTrack.size]).toEqual([0, 0, 0]);
        expect(shadow.indirectShadowPages).toBe(0);
        expect((yield* l2(L2)).kind).toBe('fault');
        yield* setSlot({ bytes: 4 * MB, hva });
        expect(yield* l2(L2)).toEqual(done(1));
      }));
  }

  it('cannot be mapped by large pages where tables are, and can when they are gone', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, write, mmap, setSlot }) {
      const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
      yield* setSlot({ slot: 1, gpa: 0x4000_0000, bytes: 4 * MB, hva });
      yield* write(0x4000_0000, 1);
      expect(kvm.stat.pages_2m).toBe(1);
      const slot = kvm.memslots[0]!.idToMemslot(1)!;
      ept.map(L2, 0x5000);
      // The last table moves into the huge page.
      ept.write(ept.entry(L2, 2), BigInt(0x4000_1000 | RWX));
      enter();
      expect((yield* l2(L2)).kind).toBe('fault');
      leave();
      yield* write(0x4000_1000, 0x5000 | LEAF);
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect(slot.arch.lpageInfo![0]).toBe(1);
      leave();
      // Protected as a whole; the write splits it.
      expect(yield* write(0x4000_1008, 0)).toEqual(done(0));
      expect([kvm.stat.pages_2m, kvm.stat.mmu_unsync]).toEqual([0, 1]);
      invept(kvm);
      expect(kvmMmuUnprotectGfn(kvm, 0x40001)).toBe(true);
      yield* write(0x4000_0000, 1);
      expect([slot.arch.lpageInfo![0], kvm.stat.mmu_unsync]).toEqual([0, 0]);
    }));
});

function* dirtyPages(kvm: Kvm): Steps<number[]> {
  const slot = kvm.memslots[0]!.idToMemslot(0)!;
  const log = { slot: 0, dirty_bitmap: new Uint8Array(Math.ceil(slot.npages / 64) * 8) };
  yield* kvmVmIoctlGetDirtyLog(kvm, log);
  const isSet = (page: number): boolean => ((log.dirty_bitmap[page >>> 3]! >>> (page & 7)) & 1) === 1;
  return Array.from({ length: slot.npages }, (_, page) => page).filter(isSet);
}

describe('dirty logging', () => {
  it('logs pages of L1 that L2 writes, once per round', () =>
    runNested({}, function* ({ kvm, hva, ept, enter, l2, setSlot }) {
      ept.map(L2, 0x5000);
      ept.map(L2 + 0x1000, 0x6000);
      enter();
      yield* l2(L2, 'write', 1);
      yield* l2(L2 + 0x1000);
      yield* setSlot({ bytes: 4 * MB, hva, flags: KVM_MEM.LOG_DIRTY_PAGES });
      expect(yield* dirtyPages(kvm)).toEqual([]);
      yield* l2(L2, 'write', 2);
      yield* l2(L2 + 0x1000);
      expect(yield* dirtyPages(kvm)).toEqual([5]);
      expect(yield* dirtyPages(kvm)).toEqual([]);
      yield* l2(L2, 'write', 3);
      expect(yield* dirtyPages(kvm)).toEqual([5]);
    }));

  for (const eager of [0, 1]) {
    it(`splits large pages of L2 (eager_page_split=${eager}), which come back afterwards`, () =>
      runNested(
        { params: [`kvm.eager_page_split=${eager}`] },
        function* ({ kvm, ept, enter, l2, mmap, setSlot }) {
          const slot = { slot: 1, gpa: 0x4000_0000, bytes: 4 * MB, hva: yield* mmap(4 * MB, MADV.HUGEPAGE) };
          yield* setSlot(slot);
          ept.map(L2, 0x4000_0000, { level: 2 });
          enter();
          yield* l2(L2 + 0x5000, 'write', 41);
          expect(kvm.stat.pages_2m).toBe(1);
          yield* setSlot({ ...slot, flags: KVM_MEM.LOG_DIRTY_PAGES });
          expect([kvm.stat.pages_2m, kvm.stat.pages_4k]).toEqual(eager === 1 ? [0, 512] : [1, 0]);
          yield* l2(L2 + 0x7000, 'write', 42);
          expect(kvm.stat.pages_2m).toBe(0);
          const bitmap = kvm.memslots[0]!.idToMemslot(1)!.dirtyBitmap!;
          expect([...bitmap].findIndex((word) => word !== 0)).toBe(0);
          expect(bitmap[0]).toBe(1 << 7);
          expect(yield* l2(L2 + 0x5000)).toEqual(done(41));
          yield* setSlot(slot);
          expect(yield* l2(L2 + 0x7000)).toEqual(done(42));
          expect(kvm.stat.pages_2m).toBe(1);
        },
      ));
  }

  it('with all bits set at first protects large pages when bits are cleared', () =>
    runNested({}, function* ({ kvm, ept, enter, l2, mmap, setSlot }) {
      kvm.manualDirtyLogProtect = KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG.INITIALLY_SET;
      const slot = { slot: 1, gpa: 0x4000_0000, bytes: 4 * MB, hva: yield* mmap(4 * MB, MADV.HUGEPAGE) };
      yield* setSlot(slot);
      ept.map(L2, 0x4000_0000, { level: 2 });
      enter();
      yield* l2(L2, 'write', 1);
      yield* setSlot({ ...slot, flags: KVM_MEM.LOG_DIRTY_PAGES });
      expect(kvm.stat.pages_2m).toBe(1);
      const logged = kvm.memslots[0]!.idToMemslot(1)!;
      yield* kvm.mmuLock.writeLock();
      logged.dirtyBitmap![0] = 0;
      kvmArchMmuEnableLogDirtyPtMasked(kvm, logged, logged.baseGfn, 0xffff_ffff, 0);
      kvm.mmuLock.writeUnlock();
      tlbOf(kvm.vcpus[0]!).flush();
      expect(kvm.stat.pages_2m).toBe(0);
      yield* l2(L2 + 0x3000, 'write', 2);
      expect(logged.dirtyBitmap![0]).toBe(1 << 3);
    }));
});

describe('races', () => {
  it('between L2s, an L1 that writes EPT12, and the host never let L2 use what is gone', () => {
    for (let seed = 1; seed <= 12; seed++) raceAll(seed);
  });
});

/** Two vCPUs run L2 on one EPT12; the host takes pages away, and userspace deletes a slot. */
function raceAll(seed: number): void {
  const nested = testNested({ ...RACE, slots: [{ bytes: 4 * MB }, { slot: 1, gpa: 0x4000_0000 }] });
  const { kvm, mm, hva, vcpu, ept, eptp, setSlot } = nested;
  const other = drive(nested, nested.createVcpu(1));
  for (let page = 0; page < 4; page++) ept.map(L2 + page * 0x1000, 0x5000 + page * 0x1000);
  ept.map(L2 + 0x10000, 0x4000_0000);
  const injected: X86Exception[] = [];
  const use = function* (by: typeof vcpu): Steps<void> {
    for (let i = 0; i < 8; i++) {
      enterL2(by, eptp(ept), {}, injected);
      const { kind } = yield* nestedAccess(by, injected, L2 + (i % 4) * 0x1000, 'write', i);
      expect(kind).toBe('done');
      const r = yield* nestedAccess(by, injected, L2 + 0x10000, 'read', 0);
      expect(['done', 'emulate']).toContain(r.kind);
      // Two pages swap places, or a table is written as it is.
      if (by === vcpu) yield* l1Write(by, ept.entry(L2, 1), (i % 2 === 0 ? 0x6000 : 0x5000) | LEAF);
      else yield* l1Write(by, ept.entry(L2, 2), Number(ept.read(ept.entry(L2, 2))));
    }
  };
  const host = function* (): Steps<void> {
    for (let i = 0; i < 4; i++) {
      yield* doMadvise(mm, hva + 0x5000, 0x4000, MADV.DONTNEED);
      kvm.host.pages.allocPage(kvm.host.pages.owner('somebody else'));
      yield* setSlot({ slot: 1, bytes: 0 });
      yield* setSlot({ slot: 1, gpa: 0x4000_0000 });
    }
  };
  race(nested, seed, { 'vcpu 0': use(vcpu), 'vcpu 1': use(other), host: host() });
  expect(injected).toEqual([]);
  drive(nested, kvmDestroyVm(kvm));
  const { shadow } = kvm.arch;
  expect([shadow.byFrame.size, shadow.byGfn.size, shadow.rmaps.size, shadow.zapped.length]).toEqual([
    0, 0, 0, 0,
  ]);
}

describe('the number of shadow pages', () => {
  it('is limited, and the oldest give way', () =>
    runNested({}, function* ({ kvm, ept, enter, l2 }) {
      const { shadow } = kvm.arch;
      const tables = 2 * shadow.nMaxMmuPages;
      for (let i = 0; i < tables; i++) ept.map(L2 + 2 * MB * i, 0x10_0000 + 0x1000 * i);
      enter();
      for (let i = 0; i < tables; i++) {
        expect(yield* l2(L2 + 2 * MB * i, 'write', i)).toEqual(done(i));
        expect(shadow.byFrame.size).toBeLessThanOrEqual(shadow.nMaxMmuPages);
      }
      expect(kvm.stat.mmu_recycled).toBeGreaterThan(tables / 2);
      for (let i = 0; i < tables; i++) expect(yield* l2(L2 + 2 * MB * i)).toEqual(done(i));
    }));

  it('follows the memory of the VM, and may have to shrink', () =>
    runNested({}, function* ({ kvm, ept, enter, l2, setSlot }) {
      const { shadow } = kvm.arch;
      yield* setSlot({ slot: 1, gpa: 0x4000_0000, bytes: 28 * MB });
      expect(shadow.nMaxMmuPages).toBe(Math.floor((32 * MB) / 4096 / 50));
      kvm.arch.disabledQuirks = KVM_X86_QUIRK.SLOT_ZAP_ALL;
      for (let i = 0; i < 100; i++) ept.map(L2 + 2 * MB * i, 0x10_0000 + 0x1000 * i);
      enter();
      for (let i = 0; i < 100; i++) yield* l2(L2 + 2 * MB * i, 'write', i);
      expect(shadow.byFrame.size).toBeGreaterThan(64);
      yield* setSlot({ slot: 1, bytes: 0 });
      expect([shadow.nMaxMmuPages, shadow.byFrame.size <= 64]).toEqual([64, true]);
      expect(yield* l2(L2)).toEqual(done(0));
      expect(yield* l2(L2 + 2 * MB * 99)).toEqual(done(99));
    }));

  it('may be used up by roots', () =>
    runNested({}, function* ({ kvm, enter, l2, newEpt }) {
      kvm.arch.shadow.nMaxMmuPages = 1;
      enter();
      expect((yield* l2(L2)).kind).toBe('fault');
      enter(newEpt());
      expect(yield* l2(L2)).toEqual({ kind: 'error', errno: ERRNO.ENOSPC });
    }));
});

describe('the end of a VM', () => {
  it('gives every page of the shadow MMU back', () => {
    const nested = testNested();
    const { kvm, ept, vcpu } = nested;
    ept.map(L2, 0x5000);
    nested.enter();
    drive(nested, nested.l2(L2, 'write', 1));
    const { sp } = vcpu.arch.mmu.root;
    expect(sp).toBeInstanceOf(KvmMmuPage);
    drive(nested, kvmDestroyVm(kvm));
    expect(kvm.arch.shadow.active.size).toBe(0);
    expect(kvm.host.machine.frames.state[sp!.hpa >>> 12]).toBe(FRAME.FREE);
  });
});
