// SPDX-License-Identifier: GPL-2.0-only
/**
 * Roles, roots and zapping. Rules from kvm_calc_cpu_role(), kvm_mmu_free_obsolete_roots() and
 * kvm_mmu_invalidate_mmio_sptes() of arch/x86/kvm/mmu/mmu.c.
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_X86_QUIRK } from '../../../lib/uapi/memory.ts';
import type { Gpa, Hpa } from '../../../lib/x86/addr.ts';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { doMadvise, MADV } from '../../host/mm/madvise.ts';
import type { Steps } from '../../host/steps.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Vcpu } from '../kvm_host.ts';
import { INVALID_PAGE } from '../kvm_host_x86.ts';
import { kvmDestroyVm } from '../kvm_main.ts';
import { TP } from '../trace_events.ts';
import { done, failed, RACE, race, runGuest, testGuest } from '../testing/test_guest.ts';
import { drive, guestAccess, LOG_DIRTY, tdpEntry, tlbOf } from '../testing/test_kvm.ts';
import { kvmMmuPageFault } from './fault.ts';
import { kvmCalcCpuRoleBase, kvmCalcCpuRoleExt, kvmInitMmu } from './init.ts';
import { kvmMmuFreeObsoleteRoots, kvmMmuLoadPgd, kvmMmuReload, kvmMmuResetContext } from './mmu.ts';
import { ROLE, ROLE_SMM_SHIFT } from './role.ts';
import { spteIndex, mmioSpteGen, mmioSpteGfn, mmioSpteHi, mmioSpteLo, eptMasks, isMmioSpte } from './spte.ts';
import { tdpRootOf } from './tdp_roots.ts';
import { kvmArchMemslotsUpdated } from './zap.ts';

const LONG_MODE: { cr0: number; cr4: number; efer: number } = {
  cr0: CR0.PG | CR0.PE,
  cr4: CR4.PAE,
  efer: EFER.LME | EFER.LMA,
};

describe('the role of a guest', () => {
  const guest = testGuest({ slots: [] });
  const { vcpu } = guest;
  const levels = (state: { cr0: number; cr4: number; efer: number }): number => {
    Object.assign(vcpu.arch, state);
    return kvmCalcCpuRoleBase(vcpu) & ROLE.LEVEL_MASK;
  };

  it('knows how many levels its tables have', () => {
    expect(levels({ cr0: CR0.PE, cr4: 0, efer: 0 })).toBe(0);
    expect(levels({ cr0: CR0.PG | CR0.PE, cr4: CR4.PSE, efer: 0 })).toBe(2);
    expect(levels({ cr0: CR0.PG | CR0.PE, cr4: CR4.PAE, efer: 0 })).toBe(3);
    expect(levels(LONG_MODE)).toBe(4);
    expect(levels({ ...LONG_MODE, cr4: CR4.PAE | CR4.LA57 })).toBe(5);
  });

  it('changes with each bit that permission checks look at, and with no other', () => {
    const role = (change: Partial<typeof LONG_MODE>): number => {
      Object.assign(vcpu.arch, LONG_MODE, change);
      return kvmCalcCpuRoleExt(vcpu) * 2 ** 32 + (kvmCalcCpuRoleBase(vcpu) >>> 0);
    };
    const base = role({});
    const changes = [
      { cr0: LONG_MODE.cr0 | CR0.WP },
      { cr4: CR4.PAE | CR4.SMEP },
      { cr4: CR4.PAE | CR4.SMAP },
      { cr4: CR4.PAE | CR4.PKE },
      { efer: LONG_MODE.efer | EFER.NXE },
    ].map((change) => role(change as Partial<typeof LONG_MODE>));
    expect(new Set([base, ...changes]).size).toBe(6);
    expect(
      role({ cr4: CR4.PAE | CR4.PGE, efer: LONG_MODE.efer | EFER.SCE, cr0: LONG_MODE.cr0 | CR0.TS }),
    ).toBe(base);
  });

  it('is stored, and roots survive a change that resets nothing', () => {
    Object.assign(vcpu.arch, LONG_MODE);
    kvmInitMmu(vcpu);
    expect(vcpu.arch.rootMmu.cpuRole.base.level).toBe(4);
    const { level, direct, adDisabled, smm } = vcpu.arch.rootMmu.rootRole;
    expect({ level, direct, adDisabled, smm }).toEqual({ level: 4, direct: true, adDisabled: false, smm: 0 });
    drive(
      guest,
      (function* () {
        expect(kvmMmuReload(vcpu)).toBe(0);
      })(),
    );
    const { hpa } = vcpu.arch.mmu.root;
    kvmInitMmu(vcpu);
    expect(vcpu.arch.mmu.root.hpa).toBe(hpa);
    kvmMmuResetContext(vcpu);
    expect(vcpu.arch.mmu.root.hpa).toBe(INVALID_PAGE);
  });
});

describe('roots', () => {
  it('are flushed for when they are loaded, and asked for only if there is none', () =>
    runGuest({ slots: [] }, function* ({ vcpu }) {
      kvmMmuLoadPgd(vcpu);
      expect(kvmMmuReload(vcpu)).toBe(0);
      expect(kvmMmuReload(vcpu)).toBe(0);
      expect(tlbOf(vcpu).flushes).toBe(1);
    }));

  it('differ between the address spaces', () =>
    runGuest({}, function* ({ kvm, read, write, setSlot, createVcpu }) {
      yield* setSlot({ slot: 1 << 16 });
      const other = yield* createVcpu(1);
      other.arch.mmu.rootRole.word |= 1 << ROLE_SMM_SHIFT;
      yield* write(0x1000, 11);
      yield* guestAccess(other, 0x1000, 22);
      expect(yield* read(0x1000)).toEqual(done(11));
      expect(kvm.arch.tdpMmuRoots).toHaveLength(2);
    }));

  it('that are obsolete are dropped, previous ones too', () =>
    runGuest({}, function* ({ kvm, vcpu, write, setSlot }) {
      yield* write(0, 1);
      const root = tdpRootOf(kvm, vcpu.arch.mmu.root.hpa);
      root.refcount++;
      Object.assign(vcpu.arch.mmu.prevRoots[1]!, { hpa: root.hpa, sp: root });
      kvmMmuFreeObsoleteRoots(vcpu);
      expect(root.refcount).toBe(3);
      yield* setSlot({ bytes: 0 });
      expect(root.invalid).toBe(true);
      kvmMmuFreeObsoleteRoots(vcpu);
      expect([vcpu.arch.mmu.root.hpa, vcpu.arch.mmu.prevRoots[1]!.hpa]).toEqual([INVALID_PAGE, INVALID_PAGE]);
      expect(kvm.arch.tdpMmuPages).toBe(0);
      expect(() => tdpRootOf(kvm, 0x1000 as Hpa)).toThrow('not a root');
    }));

  it('are missing at a page fault only by a mistake of the run loop', () => {
    const { vcpu } = testGuest({ slots: [] });
    expect(() => kvmMmuPageFault(vcpu, 0 as Gpa, 0)).toThrow('faults without a root');
  });
});

describe('out of memory', () => {
  it('is ENOMEM at the fault, and leaves no lock behind', () =>
    runGuest({ ramBytes: 4 << 20 }, function* ({ kvm, vcpu, write }) {
      kvmMmuReload(vcpu);
      const { pages } = kvm.host;
      const hog = pages.owner('hog');
      const taken: number[] = [];
      for (let frame = pages.allocPage(hog); frame >= 0; frame = pages.allocPage(hog)) taken.push(frame);
      pages.putPage(taken.pop() as never);
      pages.putPage(taken.pop() as never);
      expect(yield* write(0x1000, 1)).toEqual(failed(ERRNO.ENOMEM));
      for (const frame of taken) pages.putPage(frame as never);
      expect(yield* write(0x1000, 1)).toEqual(done(1));
    }));

  it('leaves a vCPU without a root', () =>
    runGuest({ ramBytes: 4 << 20, slots: [] }, function* ({ kvm, vcpu }) {
      const { pages } = kvm.host;
      while (pages.allocPage(pages.owner('hog')) >= 0);
      expect(kvmMmuReload(vcpu)).toBe(-ERRNO.ENOMEM);
    }));
});

describe('MMIO entries', () => {
  it('keep gfn and generation, and are told from others', () => {
    const masks = eptMasks('ad');
    for (const [gfn, gen] of [
      [0xfee00, 0],
      [0xc0000, 0x7ffff],
      [2 ** 34 - 1, 0x12345],
    ] as const) {
      const [lo, hi] = [mmioSpteLo(masks, gfn as never, gen), mmioSpteHi(gfn as never, gen)];
      expect(isMmioSpte(masks, lo)).toBe(true);
      expect([mmioSpteGfn(lo, hi), mmioSpteGen(lo, hi)]).toEqual([gfn, gen]);
      expect(hi >>> 31).toBe(0);
    }
    expect(isMmioSpte(masks, 0)).toBe(false);
    expect(isMmioSpte(masks, 0x1807)).toBe(false);
  });

  it('are zapped when the generation that they can store wraps', () =>
    runGuest({ slots: [] }, function* ({ kvm, vcpu, read }) {
      yield* read(0x1000);
      yield* kvm.slotsLock.lock();
      yield* kvmArchMemslotsUpdated(kvm, 2 ** 19 - 2);
      expect(tdpRootOf(kvm, vcpu.arch.mmu.root.hpa).invalid).toBe(false);
      yield* kvmArchMemslotsUpdated(kvm, 2 ** 19);
      expect(tdpRootOf(kvm, vcpu.arch.mmu.root.hpa).invalid).toBe(true);
      kvm.slotsLock.unlock();
    }));
});

describe('the index of a gfn', () => {
  it('is nine bits per level, above 2^32 too', () => {
    const gfn = 3 * 2 ** 27 + 7 * 2 ** 18 + 511 * 2 ** 9 + 5;
    expect([1, 2, 3, 4].map((level) => spteIndex(gfn, level))).toEqual([5, 511, 7, 3]);
    expect(spteIndex(2 ** 33 + 5, 1)).toBe(5);
  });
});

describe('a long invalidation', () => {
  it('lets go of mmu_lock when its slice is over, and still zaps everything', () => {
    const MB = 1 << 20;
    const guest = testGuest({ nrCpus: 2, sched: { quantum: 200 }, slots: [{ bytes: 16 * MB }] });
    const { kvm, mm, hva, vcpu, write } = guest;
    const { sched } = kvm.host;
    const touch = function* (): Steps<void> {
      for (let gpa = 0; gpa < 16 * MB; gpa += MB) yield* write(gpa, 1);
    };
    const dontneed = function* (): Steps<void> {
      yield* doMadvise(mm, hva, 16 * MB, MADV.DONTNEED);
    };
    const other = function* (): Steps<void> {
      for (let i = 0; i < 50; i++) {
        spend(sched.cpu, COST.INSN, 100);
        yield;
      }
    };
    drive(guest, touch());
    sched.spawn('madvise', dontneed(), { cpu: 0 });
    sched.spawn('other', other(), { cpu: 1 });
    sched.run();
    expect(kvm.stat.pages_4k).toBe(0);
    expect(tdpEntry(vcpu, 0)).toBe(0);
    expect(kvm.mmuInvalidateInProgress).toBe(0);
  });
});

describe('memslot changes beside running vCPUs', () => {
  for (const quirks of [0, KVM_X86_QUIRK.SLOT_ZAP_ALL]) {
    it(`never let a vCPU use what is gone (disabled quirks ${quirks})`, () => {
      for (let seed = 1; seed <= 15; seed++) raceMemslots(seed, quirks);
    });
  }
});

/** Two vCPUs use a slot that moves, that logs and that goes away; the explorer picks who goes on. */
function raceMemslots(seed: number, quirks: number): void {
  const guest = testGuest({ ...RACE, slots: [{ slot: 1, gpa: 0x40_0000 }] });
  const { kvm, mm, hva, vcpu, read, setSlot } = guest;
  const other = drive(guest, guest.createVcpu(1));
  kvm.arch.disabledQuirks = quirks;
  const use = function* (by: Vcpu): Steps<void> {
    for (let i = 0; i < 10; i++) {
      const { kind } = yield* guestAccess(by, 0x40_1000, i);
      expect(['done', 'emulate']).toContain(kind);
    }
  };
  const update = function* (): Steps<void> {
    yield* setSlot({ slot: 1, gpa: 0x80_0000, hva });
    yield* setSlot({ slot: 1, gpa: 0x40_0000, hva });
    yield* setSlot({ slot: 1, gpa: 0x40_0000, hva, flags: LOG_DIRTY });
    yield* setSlot({ slot: 1, bytes: 0 });
    yield* doMadvise(mm, hva, 0x10_0000, MADV.DONTNEED);
    for (let i = 0; i < 4; i++) kvm.host.pages.allocPage(kvm.host.pages.owner('somebody else'));
    yield* setSlot({ slot: 1, gpa: 0x40_0000, hva });
  };
  race(guest, seed, { 'vcpu 0': use(vcpu), 'vcpu 1': use(other), updater: update() });
  const value = drive(guest, read(0x40_1000));
  expect(value.kind).toBe('done');
  drive(guest, kvmDestroyVm(kvm));
  expect(kvm.arch.tdpMmuRoots).toEqual([]);
}

describe('tracepoints of the MMU', () => {
  it('tell the story of a fault', () =>
    runGuest({ slots: [{ flags: LOG_DIRTY }] }, function* ({ kvm, read, write, setSlot }) {
      const { trace } = kvm.module;
      trace.enable();
      yield* write(0x1000, 1);
      yield* read(0x80_0000);
      const seen = new Set(trace.records().map((record) => record.tracepoint));
      for (const tp of [
        TP.KVM_MMU_SPTE_REQUESTED,
        TP.KVM_MMU_GET_PAGE,
        TP.KVM_MMU_SET_SPTE,
        TP.MARK_MMIO_SPTE,
      ]) {
        expect(seen.has(tp)).toBe(true);
      }
      expect(seen.has(TP.KVM_TDP_MMU_SPTE_CHANGED)).toBe(true);
      yield* read(0x90_0000);
      yield* read(0x80_0000);
      yield* setSlot({ slot: 1, gpa: 0x100_0000 });
      yield* read(0x80_0000);
      yield* setSlot({ slot: 1, bytes: 0 });
      const later = trace.records().map((record) => record.tracepoint);
      for (const tp of [TP.HANDLE_MMIO_PAGE_FAULT, TP.CHECK_MMIO_SPTE, TP.KVM_MMU_ZAP_ALL_FAST]) {
        expect(later).toContain(tp);
      }
      expect(trace.text().join('\n')).toContain('kvm_mmu_zap_all_fast: kvm-mmu-valid-gen 0');
    }));
});
