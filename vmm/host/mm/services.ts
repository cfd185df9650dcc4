// SPDX-License-Identifier: GPL-2.0-only
/** What memory management needs of the machine and of the rest of the host kernel. */
import type { Scheduler } from '../sched/sched.ts';
import type { Smp } from '../smp.ts';
import type { HostMemory } from './host_memory.ts';
import type { PageAllocator } from './page_alloc.ts';
import type { UnmanagedMemory } from './unmanaged.ts';

/** What mm code works with. */
export interface MmServices {
  readonly machine: HostMemory;
  readonly sched: Scheduler;
  readonly smp: Smp;
  readonly pages: PageAllocator;
  readonly unmanaged: UnmanagedMemory;
}
