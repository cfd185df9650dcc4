// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_SET_USER_MEMORY_REGION: the refusals of kvm_set_memory_region() and check_memory_region_flags() in
 * virt/kvm/kvm_main.c and of kvm_arch_prepare_memory_region() in arch/x86/kvm/x86.c, and the generation rules of
 * kvm_swap_active_memslots().
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_MEM, KVM_X86_QUIRK, type KvmUserspaceMemoryRegion } from '../../lib/uapi/memory.ts';
import type { Gfn, Hva } from '../../lib/x86/addr.ts';
import { gfnToHva, gfnToMemslot, kvmIsVisibleGfn } from './guest_memory.ts';
import { KVM_HVA_ERR } from './kvm_types.ts';
import { kvmVmIoctlSetUserMemoryRegion, kvmVmIoctlSetUserMemoryRegion2 } from './memory_region.ts';
import { KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS, memslotGenU64 } from './memslots.ts';
import {
  errnoOf,
  createVcpu,
  drive,
  guestAccess,
  LOG_DIRTY,
  mmap,
  setSlot,
  testVm,
  type TestVm,
} from './testing/test_kvm.ts';

const region = (fields: Partial<KvmUserspaceMemoryRegion>): KvmUserspaceMemoryRegion => ({
  slot: 1,
  flags: 0,
  guest_phys_addr: 0x10_0000,
  memory_size: 0x2000,
  userspace_addr: 0x7000_0000,
  ...fields,
});

const refusal = (vm: TestVm, fields: Partial<KvmUserspaceMemoryRegion>): number =>
  errnoOf(() => drive(vm, kvmVmIoctlSetUserMemoryRegion(vm.kvm, region(fields))));

describe('KVM_SET_USER_MEMORY_REGION refuses', () => {
  const rows: [string, Partial<KvmUserspaceMemoryRegion>, number][] = [
    ['an unknown flag', { flags: 0x8 }, ERRNO.EINVAL],
    ['GUEST_MEMFD, which the first version does not have', { flags: KVM_MEM.GUEST_MEMFD }, ERRNO.EINVAL],
    ['a size that is not page aligned', { memory_size: 0x1001 }, ERRNO.EINVAL],
    ['a GPA that is not page aligned', { guest_phys_addr: 0x10_0800 }, ERRNO.EINVAL],
    ['an HVA that is not page aligned', { userspace_addr: 0x7000_0001 }, ERRNO.EINVAL],
    ['an HVA beyond userspace', { userspace_addr: 0xffff_8000_0000_0000n }, ERRNO.EINVAL],
    ['an HVA range that ends beyond userspace', { userspace_addr: 2 ** 47 - 0x2000 }, ERRNO.EINVAL],
    ["the slots that are KVM's own", { slot: 32_764 }, ERRNO.EINVAL],
    ['slot numbers that do not exist', { slot: 0xffff }, ERRNO.EINVAL],
    ['an address space that does not exist', { slot: (2 << 16) | 1 }, ERRNO.EINVAL],
    ['a GPA range that wraps', { guest_phys_addr: 0xffff_ffff_ffff_f000n }, ERRNO.EINVAL],
    ['more pages than 2^31 - 1', { memory_size: 2 ** 43 }, ERRNO.EINVAL],
    ["a GPA beyond the guest's physical addresses", { guest_phys_addr: 2 ** 46 - 0x1000 }, ERRNO.EINVAL],
    ['deletion of a slot that is not there', { memory_size: 0 }, ERRNO.EINVAL],
  ];
  for (const [what, fields, errno] of rows) {
    it(what, () => {
      const vm = testVm();
      expect(refusal(vm, fields)).toBe(errno);
      expect(vm.kvm.memslots[0]!.count).toBe(0);
      expect(vm.kvm.nrMemslotPages).toBe(0);
    });
  }

  it('overlap with another slot, with both in the message', () => {
    const vm = testVm();
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x10_0000, bytes: 0x4000 }));
    for (const gpa of [0x0f_f000, 0x10_1000, 0x10_3000]) {
      expect(refusal(vm, { slot: 2, guest_phys_addr: gpa })).toBe(ERRNO.EEXIST);
    }
    const create = (): void => drive(vm, kvmVmIoctlSetUserMemoryRegion(vm.kvm, region({ slot: 2 })));
    expect(create).toThrow(
      'KVM_SET_USER_MEMORY_REGION: EEXIST: slot 2 [0x100000, 0x102000) overlaps slot 1 [0x100000, 0x104000)',
    );
    expect(refusal(vm, { slot: 2, guest_phys_addr: 0x10_4000 })).toBe(0);
    expect(refusal(vm, { slot: (1 << 16) | 2, guest_phys_addr: 0x10_0000 })).toBe(0);
  });

  it('a move onto another slot', () => {
    const vm = testVm();
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x10_0000, bytes: 0x2000, hva: 0x7000_0000 }));
    drive(vm, setSlot(vm, { slot: 2, gpa: 0x20_0000, bytes: 0x2000 }));
    expect(refusal(vm, { guest_phys_addr: 0x20_1000 })).toBe(ERRNO.EEXIST);
    expect(gfnToHva(vm.kvm, 0x100 as Gfn)).toBe(0x7000_0000);
  });

  it('changes of size, HVA and KVM_MEM_READONLY', () => {
    const vm = testVm();
    expect(refusal(vm, {})).toBe(0);
    expect(refusal(vm, { memory_size: 0x3000 })).toBe(ERRNO.EINVAL);
    expect(refusal(vm, { userspace_addr: 0x7100_0000 })).toBe(ERRNO.EINVAL);
    expect(refusal(vm, { flags: KVM_MEM.READONLY })).toBe(ERRNO.EINVAL);
  });

  it("a move out of the guest's physical addresses, and leaves the slot as it was", () => {
    const vm = testVm();
    expect(refusal(vm, {})).toBe(0);
    const generation = vm.kvm.memslots[0]!.generation;
    expect(refusal(vm, { guest_phys_addr: 2 ** 46 - 0x1000 })).toBe(ERRNO.EINVAL);
    expect(gfnToHva(vm.kvm, 0x100 as Gfn)).toBe(0x7000_0000);
    expect(vm.kvm.memslots[0]!.generation).toBe(generation + 4);
    expect(refusal(vm, { guest_phys_addr: 0x40_0000 })).toBe(0);
  });
});

describe('memslot generations', () => {
  it('begin with the number of the address space', () => {
    const { kvm } = testVm();
    expect(kvm.memslots.map((slots) => slots.generation)).toEqual([0, 1]);
  });

  it('advance by 2 for CREATE and FLAGS_ONLY, by 4 for MOVE and DELETE, not at all for nothing', () => {
    const vm = testVm();
    const generations: number[] = [];
    const change = (fields: Partial<KvmUserspaceMemoryRegion>): void => {
      drive(vm, kvmVmIoctlSetUserMemoryRegion(vm.kvm, region(fields)));
      generations.push(vm.kvm.memslots[0]!.generation);
    };
    change({});
    change({});
    change({ flags: LOG_DIRTY });
    change({ flags: LOG_DIRTY, guest_phys_addr: 0x80_0000 });
    change({ memory_size: 0 });
    expect(generations).toEqual([2, 2, 4, 8, 12]);
    expect(vm.kvm.memslots[1]!.generation).toBe(1);
  });

  it('of the SMM address space stay odd', () => {
    const vm = testVm();
    drive(vm, setSlot(vm, { slot: 1 << 16 }));
    expect(vm.kvm.memslots[1]!.generation).toBe(3);
    expect(vm.kvm.memslots[0]!.generation).toBe(0);
  });

  it('carry bit 63 while readers of the old set are inside', () => {
    const vm = testVm();
    const { sched } = vm.kvm.host;
    const seen: bigint[] = [];
    const reader = sched.spawn(
      'reader',
      (function* () {
        const idx = vm.kvm.srcu.readLock();
        yield* sched.sleepCycles(100_000);
        seen.push(memslotGenU64(vm.kvm.memslots[0]!.generation));
        vm.kvm.srcu.readUnlock(idx);
      })(),
    );
    sched.spawn(
      'writer',
      (function* () {
        yield* sched.sleepCycles(1000);
        yield* setSlot(vm, { hva: 0x7000_0000 });
        seen.push(memslotGenU64(vm.kvm.memslots[0]!.generation));
      })(),
    );
    sched.run();
    expect(reader.alive).toBe(false);
    expect(seen).toEqual([1n << 63n, 2n]);
  });

  it('with the flag compare unequal to, and above, all without', () => {
    expect(KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS + 4).toBeGreaterThan(6);
    expect(memslotGenU64(KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS + 4)).toBe((1n << 63n) | 4n);
    expect(memslotGenU64(6)).toBe(6n);
  });
});

describe('a memslot', () => {
  it('that moves resolves to an error at both addresses in between', () => {
    const vm = testVm();
    const { kvm } = vm;
    const { sched } = kvm.host;
    const seen: [Hva, Hva][] = [];
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x10_0000, bytes: 0x2000, hva: 0x7000_0000 }));
    const look = (): void => void seen.push([gfnToHva(kvm, 0x100 as Gfn), gfnToHva(kvm, 0x300 as Gfn)]);
    sched.spawn(
      'reader',
      (function* () {
        for (let i = 0; i < 3; i++) {
          const idx = kvm.srcu.readLock();
          yield* sched.sleepCycles(50_000);
          look();
          kvm.srcu.readUnlock(idx);
          yield* sched.sleepCycles(1);
        }
      })(),
    );
    sched.spawn(
      'mover',
      (function* () {
        yield* sched.sleepCycles(1000);
        yield* setSlot(vm, { slot: 1, gpa: 0x30_0000, bytes: 0x2000, hva: 0x7000_0000 });
      })(),
    );
    sched.run();
    look();
    expect(seen[0]).toEqual([KVM_HVA_ERR.BAD, KVM_HVA_ERR.BAD]);
    expect(seen.at(-1)).toEqual([KVM_HVA_ERR.BAD, 0x7000_0000]);
  });

  it('is the same in both sets after every kind of change', () => {
    const vm = testVm();
    const ids = (): number[][] => vm.kvm.memslotSets[0]!.map((set) => set.all().map((slot) => slot.baseGfn));
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x10_0000, bytes: 0x2000, hva: 0x7000_0000 }));
    drive(vm, setSlot(vm, { slot: 2, gpa: 0x20_0000, bytes: 0x2000, hva: 0x7100_0000 }));
    expect(ids()).toEqual([
      [0x100, 0x200],
      [0x100, 0x200],
    ]);
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x30_0000, bytes: 0x2000, hva: 0x7000_0000 }));
    expect(ids()).toEqual([
      [0x200, 0x300],
      [0x200, 0x300],
    ]);
    drive(vm, setSlot(vm, { slot: 2, gpa: 0x20_0000, bytes: 0x2000, hva: 0x7100_0000, flags: LOG_DIRTY }));
    drive(vm, setSlot(vm, { slot: 2, bytes: 0 }));
    expect(ids()).toEqual([[0x300], [0x300]]);
    expect(vm.kvm.nrMemslotPages).toBe(2);
    drive(vm, setSlot(vm, { slot: 7, gpa: 0x20_0000, bytes: 0x2000, hva: 0x7100_0000 }));
    expect(gfnToMemslot(vm.kvm, 0x201 as Gfn)?.id).toBe(7);
    expect(kvmIsVisibleGfn(vm.kvm, 0x202 as Gfn)).toBe(false);
  });

  it('waits, to be changed, for the end of a running invalidation', () => {
    const vm = testVm();
    const { kvm } = vm;
    const { sched } = kvm.host;
    const order: string[] = [];
    drive(vm, setSlot(vm, { slot: 1, hva: 0x7000_0000 }));
    sched.spawn(
      'notifier',
      (function* () {
        const range = { start: 0x7000_0000, end: 0x7000_1000, blockable: true, cause: 0 };
        yield* kvm.notifier!.invalidateRangeStart(range);
        yield* sched.sleepCycles(200_000);
        order.push('end');
        yield* kvm.notifier!.invalidateRangeEnd(range);
      })(),
    );
    sched.spawn(
      'updater',
      (function* () {
        yield* sched.sleepCycles(50_000);
        yield* setSlot(vm, { slot: 2, gpa: 0x80_0000, hva: 0x7200_0000 });
        order.push('updated');
      })(),
    );
    sched.run();
    expect(order).toEqual(['end', 'updated']);
    expect(kvm.mnActiveInvalidateCount).toBe(0);
  });

  it('keeps other slots mapped when it is deleted without KVM_X86_QUIRK_SLOT_ZAP_ALL', () => {
    const pages = (quirks: number): number[] => {
      const vm = testVm();
      vm.kvm.arch.disabledQuirks = quirks;
      return drive(
        vm,
        (function* () {
          yield* setSlot(vm, { slot: 0, gpa: 0, bytes: 0x10_0000 });
          yield* setSlot(vm, { slot: 1, gpa: 0x20_0000, bytes: 0x10_0000 });
          const vcpu = yield* createVcpu(vm);
          yield* guestAccess(vcpu, 0x1000, 1);
          yield* guestAccess(vcpu, 0x20_0000, 1);
          const before = vm.kvm.stat.pages_4k;
          yield* setSlot(vm, { slot: 1, bytes: 0 });
          return [before, vm.kvm.stat.pages_4k];
        })(),
      );
    };
    expect(pages(0)).toEqual([2, 0]);
    expect(pages(KVM_X86_QUIRK.SLOT_ZAP_ALL)).toEqual([2, 1]);
  });

  it('can be set by the second version of the ioctl, under its own name', () => {
    const vm = testVm();
    const second = { ...region({}), guest_memfd: 0, guest_memfd_offset: 0 };
    drive(vm, kvmVmIoctlSetUserMemoryRegion2(vm.kvm, second));
    expect(vm.kvm.memslots[0]!.count).toBe(1);
    const bad = { ...second, flags: KVM_MEM.GUEST_MEMFD };
    expect(() => drive(vm, kvmVmIoctlSetUserMemoryRegion2(vm.kvm, bad))).toThrow(
      'KVM_SET_USER_MEMORY_REGION2: EINVAL',
    );
  });

  it('may share its HVA with another', () => {
    const vm = testVm();
    const hva = drive(vm, mmap(vm, 0x2000));
    drive(vm, setSlot(vm, { slot: 1, gpa: 0x10_0000, bytes: 0x2000, hva }));
    drive(vm, setSlot(vm, { slot: 2, gpa: 0x20_0000, bytes: 0x2000, hva }));
    const slots = vm.kvm.memslots[0]!;
    expect(slots.inHvaRange(hva as Hva, hva as Hva).map((slot) => slot.id)).toEqual([1, 2]);
  });
});
