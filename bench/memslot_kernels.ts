// SPDX-License-Identifier: GPL-2.0-only
/** Benchmarks of L0's memslots and of the path from an EPT violation to a mapping. */
import { gpa, hva, type Hva } from '../lib/x86/addr.ts';
import type { Steps, VmFd } from '../lib/kvm_util/backend.ts';
import { at, guestFn, GUEST_SYNC, linkGuest, u64 } from '../lib/guest/index.ts';
import { kvmVmFree, vmMemRegionMove, vmUserspaceMemRegionAdd } from '../lib/kvm_util/kvm_util.ts';
import { getStat } from '../lib/kvm_util/stats.ts';
import { vcpuRun } from '../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../lib/kvm_util/vm_create.ts';
import { virtMap } from '../lib/kvm_util/x86/page_table.ts';
import { createEmulatedHost, type EmulatedHost } from '../vmm/emulated.ts';

const PAGE = 4096;
const BASE = 0x1000_0000;
const PAGES_PER_SLOT = 4;

/** `slots` ioctls on a new VM, in ascending order; the slots share one mapping of the process. */
function* addSlots(host: EmulatedHost, slots: number, memory: Hva): Steps<{ vm: VmFd; s: number }> {
  const vm = yield* host.kvm.createVm(0);
  const began = performance.now();
  for (let i = 0; i < slots; i++) {
    yield* vm.setUserMemoryRegion({
      slot: i + 1,
      flags: 0,
      guest_phys_addr: BASE + i * PAGES_PER_SLOT * PAGE,
      memory_size: PAGES_PER_SLOT * PAGE,
      userspace_addr: memory + i * PAGES_PER_SLOT * PAGE,
    });
  }
  return { vm, s: (performance.now() - began) / 1000 };
}

/** Milliseconds to add `slots` memslots, both sets included. */
export function slotSetupMs(slots: number): number {
  const host = createEmulatedHost();
  let ms = 0;
  host.runMain(function* () {
    const memory = yield* host.memory.mmap({ length: slots * PAGES_PER_SLOT * PAGE });
    const { vm, s } = yield* addSlots(host, slots, memory);
    ms = s * 1000;
    yield* vm.close();
  });
  return ms;
}

/** Microseconds of one move of the last of `slots` memslots. */
export function slotMoveUs(slots: number, moves: number): number {
  const host = createEmulatedHost();
  let us = 0;
  host.runMain(function* () {
    const memory = yield* host.memory.mmap({ length: slots * PAGES_PER_SLOT * PAGE });
    const { vm } = yield* addSlots(host, slots, memory);
    const home = BASE + (slots - 1) * PAGES_PER_SLOT * PAGE;
    const away = home + 0x4000_0000;
    const region = {
      slot: slots,
      flags: 0,
      memory_size: PAGES_PER_SLOT * PAGE,
      userspace_addr: hva(memory + home - BASE),
    };
    const began = performance.now();
    for (let i = 0; i < moves; i++) {
      yield* vm.setUserMemoryRegion({ ...region, guest_phys_addr: i % 2 === 0 ? away : home });
    }
    us = ((performance.now() - began) * 1000) / moves;
    yield* vm.close();
  });
  return us;
}

const AREA = 0x2000_0000;

/** Writes one word to each page of 512 MiB, then tells the host, for ever. */
const touchAll = guestFn('touch_all', [], (g) => {
  const p = g.local(u64);
  const end = g.local(u64, BASE + AREA);
  const value = g.local(u64, 1);
  g.loop(() => {
    g.set(p, BASE);
    g.for(
      p.lt(end),
      () => g.inc(p, PAGE),
      () => g.set(at(u64, p), value),
    );
    GUEST_SYNC(g, 0);
  });
});

/** Seconds of `passes` map passes: 131072 EPT violations each, at `slots` memslots; memory is there, EPT entries are not. */
export function mapPassSeconds(slots: number, passes: number): number[] {
  const host = createEmulatedHost();
  const times: number[] = [];
  host.runMain(function* () {
    const npages = AREA / PAGE;
    const [vm, vcpu] = yield* vmCreateWithOneVcpu(host, {
      image: linkGuest(touchAll),
      extraPages: npages / 512 + 16,
    });
    const perSlot = npages / slots;
    for (let i = 0; i < slots; i++) {
      const region = yield* vmUserspaceMemRegionAdd(vm, {
        slot: i + 1,
        guestPhysAddr: gpa(BASE + i * perSlot * PAGE),
        npages: perSlot,
      });
      host.memory.fill(region.hostMem, perSlot * PAGE, 0);
    }
    virtMap(vm, BigInt(BASE), gpa(BASE), npages);
    const home = gpa(BASE + (slots - 1) * perSlot * PAGE);
    for (let pass = 0; pass < passes; pass++) {
      const faults = getStat(vcpu.fd.statsFd(), 'pf_fixed');
      const began = performance.now();
      yield* vcpuRun(vcpu);
      times.push((performance.now() - began) / 1000);
      const taken = getStat(vcpu.fd.statsFd(), 'pf_fixed') - faults;
      if (taken < BigInt(npages)) throw new Error(`a map pass took ${taken} faults, not ${npages}`);
      // Moving any slot zaps every translation.
      yield* vmMemRegionMove(vm, slots, gpa(BASE + 2 * AREA));
      yield* vmMemRegionMove(vm, slots, home);
    }
    yield* kvmVmFree(vm);
  });
  return times;
}
