// SPDX-License-Identifier: GPL-2.0-only
/** The address space of a host process, after struct mm_struct: areas, page tables, mmap_lock and who is to be notified. */
import { RwSem } from '../locking/rwsem.ts';
import { WaitQueue } from '../sched/wait_queue.ts';
import { MmuNotifierSubscriptions } from './mmu_notifier.ts';
import { PageTable } from './page_table.ts';
import type { MmServices } from './services.ts';
import { VmaList } from './vma.ts';

/** What getUserPage*() found out beside the frame; reused, so that a lookup allocates nothing. */
export interface GupResult {
  /** The mapping allows writing. */
  writable: boolean;
  /** A reference was taken: give it back with putPage(). False for frames without a struct page. */
  refcounted: boolean;
  /** log2 of the frames that are mapped together: 0 or 9. */
  order: number;
}

/** TASK_SIZE of a 4-level address space, and where mmap() looks first (the legacy, bottom-up layout). */
export const TASK_SIZE = 0x7fff_ffff_f000;
export const TASK_UNMAPPED_BASE = 0x2aaa_aaaa_b000;

/** Names under which the parts of mm code take and free frames. */
export interface MmOwners {
  readonly anon: number;
  readonly munmap: number;
  readonly madvise: number;
  readonly migrate: number;
  readonly reap: number;
}

export class MmStruct {
  readonly name: string;
  readonly services: MmServices;
  readonly vmas = new VmaList();
  readonly pageTable = new PageTable();
  readonly mmapLock: RwSem;
  readonly notifiers: MmuNotifierSubscriptions;
  /** Faults that meet a migration entry wait here. */
  readonly migrationWait: WaitQueue;
  readonly gup: GupResult = { writable: false, refcounted: false, order: 0 };
  readonly owners: MmOwners;
  /** Where mmap() puts the next area without an address of its own. */
  mmapBase = TASK_UNMAPPED_BASE;

  constructor(services: MmServices, name: string) {
    const { sched, pages } = services;
    this.name = name;
    this.services = services;
    this.mmapLock = new RwSem(sched, `mmap_lock of ${name}`);
    this.notifiers = new MmuNotifierSubscriptions(sched, name);
    this.migrationWait = new WaitQueue(sched, `a page migration in ${name}`);
    this.owners = {
      anon: pages.owner(`anonymous memory of ${name}`),
      munmap: pages.owner(`munmap by ${name}`),
      madvise: pages.owner(`madvise by ${name}`),
      migrate: pages.owner(`page migration in ${name}`),
      reap: pages.owner(`OOM reaper in ${name}`),
    };
  }

  /** mm_cpumask: pCPUs that run a task of this process now. */
  *cpumask(): Iterable<number> {
    for (const pcpu of this.services.sched.pcpus) if (pcpu.current?.process === this) yield pcpu.id;
  }
}
