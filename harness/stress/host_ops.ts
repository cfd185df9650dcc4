// SPDX-License-Identifier: GPL-2.0-only
/** What the host does to a VM under stress, one operation a function. Each leaves the memory usable when it has ended. */
import { gpa, hva, type Hva } from '../../lib/x86/addr.ts';
import { MADV, PROT, type Steps } from '../../lib/kvm_util/backend.ts';
import { getStat } from '../../lib/kvm_util/stats.ts';
import { addrGpa2hva, vmMemRegionMove } from '../../lib/kvm_util/kvm_util.ts';
import { vmPgd } from '../../lib/kvm_util/x86/page_table.ts';
import { FOLL } from '../../vmm/host/mm/fault.ts';
import { doMmap } from '../../vmm/host/mm/mmap.ts';
import { userHpaWait } from '../../vmm/host/mm/user_access.ts';
import { BugError } from '../../vmm/machine/errors.ts';
import { AREA, AREA_PAGES, DROPPED_PAGES, HOST_CODE, HOST_CODE_IMM, HOST_CODE_PAGE } from './layout.ts';
import type { SharedName, StressRun } from './scenario.ts';

const PAGE = 4096;
type HostOp = (t: StressRun) => Steps<void>;

const areaHva = (t: StressRun, area: keyof typeof AREA, page = 0): Hva =>
  hva(t.vm.regions.get(AREA[area].slot).hostMem + page * PAGE);

/** Some pages of [0, total). */
function range(t: StressRun, total: number): { first: number; count: number } {
  const first = t.draw(total);
  return { first, count: 1 + t.draw(Math.min(total - first, 12)) };
}

const counterAt = (t: StressRun, symbol: SharedName, page: number): Hva =>
  hva(t.symbolHva(symbol) + 4 * page);

function bump(t: StressRun, symbol: SharedName, pages: { first: number; count: number }): void {
  const { memory } = t.host;
  for (let page = pages.first; page < pages.first + pages.count; page++) {
    const at = counterAt(t, symbol, page);
    memory.writeU32(at, memory.readU32(at) + 1);
  }
}

const shadowOf = (t: StressRun, page: number): bigint =>
  t.host.memory.readU64(hva(t.symbolHva('shadow') + 8 * page));

/** Drop pages by `how`; afterwards each is zero or was written since. */
function* drop(t: StressRun, pages: { first: number; count: number }, how: HostOp): Steps<void> {
  bump(t, 'drop_begun', pages);
  const before = Array.from({ length: pages.count }, (_, i) => shadowOf(t, pages.first + i));
  yield* how(t);
  for (let i = 0; i < pages.count; i++) {
    const value = yield* readIfMapped(t, areaHva(t, 'dropped', pages.first + i));
    if (value !== 0n && value < before[i]!)
      throw new BugError(
        `dropped page ${pages.first + i} still holds ${value}, ${before[i]!} was its last when it went`,
      );
  }
  bump(t, 'drop_ended', pages);
}

/** Another thread may have unmapped it: then it holds nothing. */
function* readIfMapped(t: StressRun, at: Hva): Steps<bigint> {
  return (yield* userHpaWait(t.kvm.mm, at, FOLL.READ)) < 0 ? 0n : t.host.memory.readU64(at);
}

function* madvise(t: StressRun): Steps<void> {
  const all = t.draw(8) === 0;
  const pages = all ? { first: 0, count: DROPPED_PAGES } : range(t, DROPPED_PAGES);
  yield* drop(t, pages, function* () {
    try {
      const count = all ? AREA_PAGES : pages.count;
      yield* t.host.memory.madvise(areaHva(t, 'dropped', pages.first), count * PAGE, MADV.DONTNEED);
    } catch (error) {
      // ENOMEM: another thread has unmapped a part, which drops it just as well.
      if (!(error instanceof Error && error.message.includes('ENOMEM'))) throw error;
    }
  });
}

function* remap(t: StressRun): Steps<void> {
  const pages = range(t, DROPPED_PAGES);
  const fixed = areaHva(t, 'dropped', pages.first);
  const length = pages.count * PAGE;
  yield* drop(t, pages, function* () {
    yield* t.host.memory.munmap(fixed, length);
    if (t.draw(2) === 0) yield* t.pause(500 + t.draw(3000));
    const at = yield* doMmap(t.kvm.mm, { length, fixed });
    if (at !== fixed) throw new BugError(`mmap() gave ${at}`);
  });
}

function* protect(t: StressRun): Steps<void> {
  const area = t.draw(3) === 0 ? 'dropped' : 'stable';
  const pages = range(t, area === 'stable' ? HOST_CODE_PAGE : DROPPED_PAGES);
  const at = areaHva(t, area, pages.first);
  const length = pages.count * PAGE;
  const set = function* (prot: number): Steps<void> {
    try {
      yield* t.host.memory.mprotect(at, length, prot);
    } catch (error) {
      if (!(error instanceof Error && error.message.includes('ENOMEM'))) throw error;
    }
  };
  // The host reads what it dropped: that stays readable.
  yield* set(area === 'stable' && t.draw(2) === 0 ? PROT.NONE : PROT.READ);
  yield* t.pause(200 + t.draw(4000));
  yield* set(PROT.READ | PROT.WRITE);
}

function* migrateAt(t: StressRun, at: Hva): Steps<void> {
  t.count((yield* t.host.memory.migratePage(at)) ? 'migrated' : 'not migrated');
}

/** Of slot 0 the root of the guest's page tables only: the host half reads the rest without waiting. */
function* migrateTables(t: StressRun): Steps<void> {
  yield* migrateAt(t, addrGpa2hva(t.vm, vmPgd(t.vm)));
}

function* migrate(t: StressRun): Steps<void> {
  for (let n = 1 + t.draw(4); n > 0; n--) {
    const areas = ['stable', 'dropped', 'moving'] as const;
    yield* migrateAt(t, areaHva(t, areas[t.draw(3)]!, t.draw(DROPPED_PAGES)));
  }
}

/** The slot of the moving area goes to another guest physical address and comes back. */
function* move(t: StressRun): Steps<void> {
  yield* t.logs.moving.exclusive(() => moveAway(t));
}

function* moveAway(t: StressRun): Steps<void> {
  yield* vmMemRegionMove(t.vm, AREA.moving.slot, gpa(AREA.moving.moved));
  if (t.draw(2) === 0) yield* t.pause(t.draw(3000));
  yield* vmMemRegionMove(t.vm, AREA.moving.slot, gpa(AREA.moving.gpa));
}

/** The slot goes and comes again; its log begins anew. */
function* recreate(t: StressRun): Steps<void> {
  yield* t.logs.moving.exclusive(() => deleteAndAdd(t));
}

function* deleteAndAdd(t: StressRun): Steps<void> {
  const region = t.vm.regions.get(AREA.moving.slot);
  const set = (bytes: number): Steps<void> =>
    t.vm.fd.setUserMemoryRegion2({
      slot: region.slot,
      flags: region.flags,
      guest_phys_addr: region.guestPhysAddr,
      memory_size: bytes,
      userspace_addr: region.hostMem,
      guest_memfd: 0,
      guest_memfd_offset: 0,
    });
  yield* set(0);
  if (t.draw(2) === 0) yield* t.pause(t.draw(3000));
  yield* set(region.npages * PAGE);
  t.logs.moving.begin();
}

function* signal(t: StressRun): Steps<void> {
  t.host.threads.kill(t.vcpuThreads[t.draw(t.vcpuThreads.length)]!);
}

function* affinity(t: StressRun): Steps<void> {
  const thread = t.vcpuThreads[t.draw(t.vcpuThreads.length)]!;
  t.host.threads.setAffinity(thread, t.draw(t.host.threads.nrCpus));
}

function* stats(t: StressRun): Steps<void> {
  getStat(t.vm.fd.statsFd(), 'remote_tlb_flush');
  const vcpu = t.vm.vcpus[t.draw(t.vm.vcpus.length)]!;
  getStat(vcpu.fd.statsFd(), 'exits');
}

/** Self-modifying code as the host does it: one store to the immediate of an instruction that vCPUs execute. */
function* code(t: StressRun): Steps<void> {
  const at = hva(areaHva(t, 'stable', HOST_CODE_PAGE) + HOST_CODE_IMM);
  yield* userHpaWait(t.kvm.mm, at, FOLL.WRITE);
  t.host.memory.writeU32(at, t.host.memory.readU32(at) + 1);
}

/** Put the code there. */
export function writeHostCode(t: StressRun): void {
  t.host.memory.write(areaHva(t, 'stable', HOST_CODE_PAGE), HOST_CODE);
}

/** Operations by name. */
export const HOST_OPS = {
  madvise,
  remap,
  protect,
  migrate,
  migrateTables,
  move,
  recreate,
  signal,
  affinity,
  stats,
  code,
  dirtyStable: (t: StressRun): Steps<void> => t.logs.stable.step(),
  dirtyMoving: (t: StressRun): Steps<void> => t.logs.moving.step(),
} as const;
export type HostOpName = keyof typeof HOST_OPS;
