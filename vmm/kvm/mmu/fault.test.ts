// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page faults of the TDP MMU: what gets mapped, how large, with which bits; MMIO, read-only slots, errors. Rules from
 * arch/x86/kvm/mmu/mmu.c and tdp_mmu.c; entry bits from SDM, "The Extended Page Table Mechanism".
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_MEM } from '../../../lib/uapi/memory.ts';
import { EPTE } from '../../../lib/x86/paging.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import type { Gpa } from '../../../lib/x86/addr.ts';
import { doMadvise, MADV } from '../../host/mm/madvise.ts';
import { doMprotect } from '../../host/mm/mprotect.ts';
import { doMmap, doMunmap } from '../../host/mm/mmap.ts';
import { PROT } from '../../host/mm/vma.ts';
import { done, EMULATE, failed, runGuest } from '../testing/test_guest.ts';
import { tdpEntry } from '../testing/test_kvm.ts';
import { kvmMmuPageFault } from './fault.ts';
import { kvmMmuReload, kvmMmuUnload } from './mmu.ts';
import { RET_PF } from './page_fault.ts';
import { isMmioSpte } from './spte.ts';

const MB = 1 << 20;

describe('a guest write', () => {
  it('lands in the page of the process behind the slot', () =>
    runGuest({ slots: [{ gpa: 0x10_0000 }] }, function* ({ kvm, mm, hva, vcpu, write }) {
      expect(yield* write(0x10_2008, 0xabcd)).toEqual(done(0xabcd));
      const table = mm.pageTable.get(hva + 0x2000);
      expect(kvm.host.machine.mem.i32[((table >>> 8) * 4096 + 8) >>> 2]).toBe(0xabcd);
      expect(vcpu.stat.pf_taken).toBe(1);
      expect(vcpu.stat.pf_fixed).toBe(1);
      expect(kvm.stat.pages_4k).toBe(1);
    }));

  it('gets an entry with RWX, write-back memory, and accessed and dirty bits', () =>
    runGuest({}, function* ({ vcpu, write }) {
      yield* write(0x3000, 1);
      const lo = tdpEntry(vcpu, 0x3000);
      expect(lo & (EPTE.R | EPTE.W | EPTE.X)).toBe(7);
      expect((lo & EPTE.MT_MASK) >>> 3).toBe(6);
      expect(lo & (EPTE.A | EPTE.D)).toBe(EPTE.A | EPTE.D);
      expect(lo & EPTE.PS).toBe(0);
    }));

  it('leaves accessed and dirty bits alone without eptad', () =>
    runGuest({ ad: 'no-ad' }, function* ({ vcpu, write }) {
      yield* write(0x3000, 1);
      expect(tdpEntry(vcpu, 0x3000) & (EPTE.A | EPTE.D)).toBe(0);
      expect(tdpEntry(vcpu, 0x3000) & EPTE.W).toBe(EPTE.W);
    }));

  it('to a read-only slot is emulated and does not land, and reads go on without exits', () =>
    runGuest({ slots: [{ flags: KVM_MEM.READONLY }] }, function* ({ vcpu, read, write }) {
      expect(yield* read(0x1000)).toEqual(done(0));
      expect(yield* write(0x1000, 5)).toEqual(EMULATE);
      expect(yield* read(0x1000)).toEqual(done(0));
      expect(tdpEntry(vcpu, 0x1000) & EPTE.W).toBe(0);
      expect(vcpu.stat.pf_emulate).toBe(1);
      expect(vcpu.stat.pf_taken).toBe(2);
    }));

  it('to memory that the host cannot provide is EFAULT for userspace', () =>
    runGuest({ slots: [{ bytes: 0x2000, hva: 0x6000_0000 }] }, function* ({ mm, read, write, setSlot }) {
      expect(yield* write(0, 1)).toEqual(failed(ERRNO.EFAULT));
      const hva = yield* setSlot({ slot: 1, gpa: 0x10_0000, bytes: 0x2000 });
      yield* doMprotect(mm, hva, 0x2000, PROT.READ);
      expect(yield* read(0x10_0000)).toMatchObject({ kind: 'done' });
      expect(yield* write(0x10_0000, 1)).toEqual(failed(ERRNO.EFAULT));
    }));
});

describe('a gfn without a slot', () => {
  it('is emulated, and cached in an entry that misconfigures', () =>
    runGuest({}, function* ({ kvm, vcpu, read, write }) {
      expect(yield* write(0x4000_0000, 1)).toEqual(EMULATE);
      expect(isMmioSpte(kvm.module.masks, tdpEntry(vcpu, 0x4000_0000))).toBe(true);
      expect(yield* read(0x4000_0004)).toEqual(EMULATE);
      expect(vcpu.stat.pf_mmio_spte_created).toBe(1);
      expect(vcpu.stat.pf_taken).toBe(1);
    }));

  it('is found by its entry when another MMIO access came in between', () =>
    runGuest({ slots: [] }, function* ({ vcpu, read }) {
      for (const gpa of [0x1000, 0x2000, 0x1000]) {
        expect(yield* read(gpa)).toEqual(EMULATE);
      }
      expect(vcpu.stat.pf_mmio_spte_created).toBe(2);
    }));

  it('becomes memory when a slot appears there', () =>
    runGuest({ slots: [] }, function* ({ read, write, setSlot }) {
      expect(yield* read(0x1000)).toEqual(EMULATE);
      yield* setSlot();
      expect(yield* write(0x1000, 3)).toEqual(done(3));
    }));

  it('is not cached without mmio_caching', () =>
    runGuest({ params: ['kvm.mmio_caching=0'], slots: [] }, function* ({ vcpu, read }) {
      expect(yield* read(0x1000)).toEqual(EMULATE);
      expect(tdpEntry(vcpu, 0x1000)).toBe(0);
      expect(vcpu.stat.pf_mmio_spte_created).toBe(0);
    }));

  it('beyond the physical addresses of the guest is emulated without an entry', () =>
    runGuest({ slots: [] }, function* ({ vcpu, read }) {
      expect(yield* read(2 ** 46)).toEqual(EMULATE);
      expect(vcpu.stat.pf_mmio_spte_created).toBe(0);
    }));

  it('whose MMIO entry is gone is retried', () =>
    runGuest({}, function* ({ vcpu, write }) {
      yield* write(0x1000, 1);
      expect(kvmMmuPageFault(vcpu, 0x1000 as Gpa, PFERR.RSVD)).toBe(RET_PF.RETRY);
    }));
});

describe('a huge page', () => {
  it('is mapped where slot and host both allow it', () =>
    runGuest({ slots: [] }, function* ({ kvm, vcpu, write, mmap, setSlot }) {
      const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
      yield* setSlot({ gpa: 4 * MB, bytes: 4 * MB, hva });
      expect(yield* write(4 * MB + 0x12_3000, 9)).toEqual(done(9));
      expect(tdpEntry(vcpu, 4 * MB) & EPTE.PS).toBe(EPTE.PS);
      expect(kvm.stat.pages_2m).toBe(1);
      expect(yield* write(4 * MB, 8)).toEqual(done(8));
      expect(vcpu.stat.pf_taken).toBe(1);
    }));

  it('is not mapped if the host maps small pages, or the slot is aligned differently', () =>
    runGuest({ slots: [{ slot: 0, gpa: 0, bytes: 4 * MB }] }, function* ({ kvm, write, mmap, setSlot }) {
      const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
      yield* setSlot({ slot: 1, gpa: 16 * MB + 0x1000, bytes: 4 * MB, hva });
      for (const gpa of [0, 18 * MB]) expect(yield* write(gpa, 1)).toEqual(done(1));
      expect(kvm.stat.pages_2m).toBe(0);
      expect(kvm.stat.pages_4k).toBe(2);
    }));

  it('is not mapped where the slot covers only a part of it', () =>
    runGuest({ slots: [] }, function* ({ kvm, write, mmap, setSlot }) {
      const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
      yield* setSlot({ gpa: 4 * MB + 0x1000, bytes: 4 * MB - 0x1000, hva: hva + 0x1000 });
      yield* write(4 * MB + 0x2000, 1);
      expect(kvm.stat.pages_4k).toBe(1);
      yield* write(6 * MB, 1);
      expect(kvm.stat.pages_2m).toBe(1);
    }));

  it('takes the place of a table of small pages, which is freed after a flush', () =>
    runGuest({ slots: [] }, function* ({ kvm, mm, vcpu, write, mmap, setSlot }) {
      const hva = yield* mmap(2 * MB);
      yield* setSlot({ gpa: 0, bytes: 2 * MB, hva });
      yield* write(0x1000, 1);
      const tables = kvm.arch.tdpMmuPages;
      const root = vcpu.arch.mmu.root.hpa;
      yield* doMunmap(mm, hva, 2 * MB);
      yield* doMmap(mm, { length: 2 * MB, prot: PROT.READ | PROT.WRITE, fixed: hva });
      yield* doMadvise(mm, hva, 2 * MB, MADV.HUGEPAGE);
      const flushes = kvm.stat.remote_tlb_flush_requests;
      expect(yield* write(0x1000, 2)).toEqual(done(2));
      expect(kvm.stat.pages_2m).toBe(1);
      expect(kvm.arch.tdpMmuPages).toBe(tables - 1);
      expect(kvm.stat.remote_tlb_flush_requests).toBe(flushes + 1);
      expect(vcpu.arch.mmu.root.hpa).toBe(root);
    }));
});

describe('roots', () => {
  it('are shared by vCPUs of one role and freed with the VM', () =>
    runGuest({ slots: [] }, function* ({ kvm, vcpu, createVcpu }) {
      const other = yield* createVcpu(1);
      expect(kvmMmuReload(vcpu)).toBe(0);
      expect(kvmMmuReload(other)).toBe(0);
      expect(vcpu.arch.mmu.root.hpa).toBe(other.arch.mmu.root.hpa);
      expect(kvm.arch.tdpMmuRoots.map((root) => root.refcount)).toEqual([3]);
      kvmMmuUnload(vcpu);
      expect(kvm.arch.tdpMmuRoots.map((root) => root.refcount)).toEqual([2]);
    }));

  it('become obsolete when a slot is deleted: vCPUs fault again into new ones', () =>
    runGuest({}, function* ({ kvm, vcpu, read, write, setSlot }) {
      yield* setSlot({ slot: 1, gpa: 0x80_0000 });
      yield* write(0x1000, 7);
      yield* setSlot({ slot: 1, bytes: 0 });
      expect(kvm.stat.pages_4k).toBe(0);
      expect(yield* read(0x1000)).toEqual(done(7));
      expect(vcpu.stat.pf_fixed).toBe(2);
      expect(kvm.arch.tdpMmuRoots).toHaveLength(1);
      expect(kvm.arch.mmuValidGen).toBe(1);
    }));
});

describe('a fault that finds its work done', () => {
  it('is spurious', () =>
    runGuest({}, function* ({ vcpu, write }) {
      yield* write(0x1000, 1);
      const r = kvmMmuPageFault(vcpu, 0x1000 as Gpa, PFERR.WRITE | PFERR.PRESENT);
      expect(r).toBe(RET_PF.SPURIOUS);
      expect(kvmMmuPageFault(vcpu, 0x1000 as Gpa, PFERR.WRITE)).toBe(RET_PF.SPURIOUS);
      expect(vcpu.stat.pf_spurious).toBe(2);
    }));
});
