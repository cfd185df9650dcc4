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
import { createVcpu, drive, guestAccess, mmap, setSlot, tdpEntry, testVm } from '../testing/test_kvm.ts';
import { kvmMmuPageFault } from './fault.ts';
import { kvmMmuReload, kvmMmuUnload } from './mmu.ts';
import { RET_PF } from './page_fault.ts';
import { isMmioSpte } from './spte.ts';

const MB = 1 << 20;

describe('a guest write', () => {
  it('lands in the page of the process behind the slot', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const hva = yield* setSlot(vm, { gpa: 0x10_0000 });
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 0x10_2008, 0xabcd)).toEqual({ kind: 'done', value: 0xabcd });
        const table = vm.mm.pageTable.get(hva + 0x2000);
        expect(vm.kvm.host.machine.mem.i32[((table >>> 8) * 4096 + 8) >>> 2]).toBe(0xabcd);
        expect(vcpu.stat.pf_taken).toBe(1);
        expect(vcpu.stat.pf_fixed).toBe(1);
        expect(vm.kvm.stat.pages_4k).toBe(1);
      })(),
    );
  });

  it('gets an entry with RWX, write-back memory, and accessed and dirty bits', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm, { gpa: 0 });
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x3000, 1);
        const lo = tdpEntry(vcpu, 0x3000);
        expect(lo & (EPTE.R | EPTE.W | EPTE.X)).toBe(7);
        expect((lo & EPTE.MT_MASK) >>> 3).toBe(6);
        expect(lo & (EPTE.A | EPTE.D)).toBe(EPTE.A | EPTE.D);
        expect(lo & EPTE.PS).toBe(0);
      })(),
    );
  });

  it('leaves accessed and dirty bits alone without eptad', () => {
    const vm = testVm({ ad: 'no-ad' });
    drive(
      vm,
      (function* () {
        yield* setSlot(vm);
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x3000, 1);
        expect(tdpEntry(vcpu, 0x3000) & (EPTE.A | EPTE.D)).toBe(0);
        expect(tdpEntry(vcpu, 0x3000) & EPTE.W).toBe(EPTE.W);
      })(),
    );
  });

  it('to a read-only slot is emulated and does not land, and reads go on without exits', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm, { flags: KVM_MEM.READONLY });
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 0x1000)).toEqual({ kind: 'done', value: 0 });
        expect(yield* guestAccess(vcpu, 0x1000, 5)).toEqual({ kind: 'emulate' });
        expect(yield* guestAccess(vcpu, 0x1000)).toEqual({ kind: 'done', value: 0 });
        expect(tdpEntry(vcpu, 0x1000) & EPTE.W).toBe(0);
        expect(vcpu.stat.pf_emulate).toBe(1);
        expect(vcpu.stat.pf_taken).toBe(2);
      })(),
    );
  });

  it('to memory that the host cannot provide is EFAULT for userspace', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm, { bytes: 0x2000, hva: 0x6000_0000 });
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 0, 1)).toEqual({ kind: 'error', errno: ERRNO.EFAULT });
        const hva = yield* setSlot(vm, { slot: 1, gpa: 0x10_0000, bytes: 0x2000 });
        yield* doMprotect(vm.mm, hva, 0x2000, PROT.READ);
        expect(yield* guestAccess(vcpu, 0x10_0000)).toMatchObject({ kind: 'done' });
        expect(yield* guestAccess(vcpu, 0x10_0000, 1)).toEqual({ kind: 'error', errno: ERRNO.EFAULT });
      })(),
    );
  });
});

describe('a gfn without a slot', () => {
  it('is emulated, and cached in an entry that misconfigures', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm);
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 0x4000_0000, 1)).toEqual({ kind: 'emulate' });
        expect(isMmioSpte(vm.kvm.module.masks, tdpEntry(vcpu, 0x4000_0000))).toBe(true);
        expect(yield* guestAccess(vcpu, 0x4000_0004)).toEqual({ kind: 'emulate' });
        expect(vcpu.stat.pf_mmio_spte_created).toBe(1);
        expect(vcpu.stat.pf_taken).toBe(1);
      })(),
    );
  });

  it('is found by its entry when another MMIO access came in between', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const vcpu = yield* createVcpu(vm);
        for (const gpa of [0x1000, 0x2000, 0x1000]) {
          expect(yield* guestAccess(vcpu, gpa)).toEqual({ kind: 'emulate' });
        }
        expect(vcpu.stat.pf_mmio_spte_created).toBe(2);
      })(),
    );
  });

  it('becomes memory when a slot appears there', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 0x1000)).toEqual({ kind: 'emulate' });
        yield* setSlot(vm);
        expect(yield* guestAccess(vcpu, 0x1000, 3)).toEqual({ kind: 'done', value: 3 });
      })(),
    );
  });

  it('is not cached without mmio_caching', () => {
    const vm = testVm({ params: ['kvm.mmio_caching=0'] });
    drive(
      vm,
      (function* () {
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 0x1000)).toEqual({ kind: 'emulate' });
        expect(tdpEntry(vcpu, 0x1000)).toBe(0);
        expect(vcpu.stat.pf_mmio_spte_created).toBe(0);
      })(),
    );
  });

  it('beyond the physical addresses of the guest is emulated without an entry', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 2 ** 46)).toEqual({ kind: 'emulate' });
        expect(vcpu.stat.pf_mmio_spte_created).toBe(0);
      })(),
    );
  });

  it('whose MMIO entry is gone is retried', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm);
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x1000, 1);
        expect(kvmMmuPageFault(vcpu, 0x1000 as Gpa, PFERR.RSVD)).toBe(RET_PF.RETRY);
      })(),
    );
  });
});

describe('a huge page', () => {
  it('is mapped where slot and host both allow it', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const hva = yield* mmap(vm, 4 * MB);
        yield* doMadvise(vm.mm, hva, 4 * MB, MADV.HUGEPAGE);
        yield* setSlot(vm, { gpa: 4 * MB, bytes: 4 * MB, hva });
        const vcpu = yield* createVcpu(vm);
        expect(yield* guestAccess(vcpu, 4 * MB + 0x12_3000, 9)).toEqual({ kind: 'done', value: 9 });
        expect(tdpEntry(vcpu, 4 * MB) & EPTE.PS).toBe(EPTE.PS);
        expect(vm.kvm.stat.pages_2m).toBe(1);
        expect(yield* guestAccess(vcpu, 4 * MB, 8)).toEqual({ kind: 'done', value: 8 });
        expect(vcpu.stat.pf_taken).toBe(1);
      })(),
    );
  });

  it('is not mapped if the host maps small pages, or the slot is aligned differently', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm, { slot: 0, gpa: 0, bytes: 4 * MB });
        const hva = yield* mmap(vm, 4 * MB);
        yield* doMadvise(vm.mm, hva, 4 * MB, MADV.HUGEPAGE);
        yield* setSlot(vm, { slot: 1, gpa: 16 * MB + 0x1000, bytes: 4 * MB, hva });
        const vcpu = yield* createVcpu(vm);
        for (const gpa of [0, 18 * MB])
          expect(yield* guestAccess(vcpu, gpa, 1)).toEqual({ kind: 'done', value: 1 });
        expect(vm.kvm.stat.pages_2m).toBe(0);
        expect(vm.kvm.stat.pages_4k).toBe(2);
      })(),
    );
  });

  it('is not mapped where the slot covers only a part of it', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const hva = yield* mmap(vm, 4 * MB);
        yield* doMadvise(vm.mm, hva, 4 * MB, MADV.HUGEPAGE);
        yield* setSlot(vm, { gpa: 4 * MB + 0x1000, bytes: 4 * MB - 0x1000, hva: hva + 0x1000 });
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 4 * MB + 0x2000, 1);
        expect(vm.kvm.stat.pages_4k).toBe(1);
        yield* guestAccess(vcpu, 6 * MB, 1);
        expect(vm.kvm.stat.pages_2m).toBe(1);
      })(),
    );
  });

  it('takes the place of a table of small pages, which is freed after a flush', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const hva = yield* mmap(vm, 2 * MB);
        yield* setSlot(vm, { gpa: 0, bytes: 2 * MB, hva });
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x1000, 1);
        const tables = vm.kvm.arch.tdpMmuPages;
        const root = vcpu.arch.mmu.root.hpa;
        yield* doMunmap(vm.mm, hva, 2 * MB);
        yield* doMmap(vm.mm, { length: 2 * MB, prot: PROT.READ | PROT.WRITE, fixed: hva });
        yield* doMadvise(vm.mm, hva, 2 * MB, MADV.HUGEPAGE);
        const flushes = vm.kvm.stat.remote_tlb_flush_requests;
        expect(yield* guestAccess(vcpu, 0x1000, 2)).toEqual({ kind: 'done', value: 2 });
        expect(vm.kvm.stat.pages_2m).toBe(1);
        expect(vm.kvm.arch.tdpMmuPages).toBe(tables - 1);
        expect(vm.kvm.stat.remote_tlb_flush_requests).toBe(flushes + 1);
        expect(vcpu.arch.mmu.root.hpa).toBe(root);
      })(),
    );
  });
});

describe('roots', () => {
  it('are shared by vCPUs of one role and freed with the VM', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        const [one, two] = [yield* createVcpu(vm, 0), yield* createVcpu(vm, 1)];
        expect(kvmMmuReload(one)).toBe(0);
        expect(kvmMmuReload(two)).toBe(0);
        expect(one.arch.mmu.root.hpa).toBe(two.arch.mmu.root.hpa);
        expect(vm.kvm.arch.tdpMmuRoots.map((root) => root.refcount)).toEqual([3]);
        kvmMmuUnload(one);
        expect(vm.kvm.arch.tdpMmuRoots.map((root) => root.refcount)).toEqual([2]);
      })(),
    );
  });

  it('become obsolete when a slot is deleted: vCPUs fault again into new ones', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm, { slot: 0 });
        yield* setSlot(vm, { slot: 1, gpa: 0x80_0000 });
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x1000, 7);
        yield* setSlot(vm, { slot: 1, bytes: 0 });
        expect(vm.kvm.stat.pages_4k).toBe(0);
        expect(yield* guestAccess(vcpu, 0x1000)).toEqual({ kind: 'done', value: 7 });
        expect(vcpu.stat.pf_fixed).toBe(2);
        expect(vm.kvm.arch.tdpMmuRoots).toHaveLength(1);
        expect(vm.kvm.arch.mmuValidGen).toBe(1);
      })(),
    );
  });
});

describe('a fault that finds its work done', () => {
  it('is spurious', () => {
    const vm = testVm();
    drive(
      vm,
      (function* () {
        yield* setSlot(vm);
        const vcpu = yield* createVcpu(vm);
        yield* guestAccess(vcpu, 0x1000, 1);
        const r = kvmMmuPageFault(vcpu, 0x1000 as Gpa, PFERR.WRITE | PFERR.PRESENT);
        expect(r).toBe(RET_PF.SPURIOUS);
        expect(kvmMmuPageFault(vcpu, 0x1000 as Gpa, PFERR.WRITE)).toBe(RET_PF.SPURIOUS);
        expect(vcpu.stat.pf_spurious).toBe(2);
      })(),
    );
  });
});
