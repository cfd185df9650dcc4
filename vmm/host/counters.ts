// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the host kernel did, counted. Plain fields, so that counting is one increment; a test or a report takes a copy
 * before and after. Cycles are not here: they are in each CPU's cost counts.
 */
export class HostCounters {
  /** memremap() of frames without a struct page, and its undoing. */
  maps = 0;
  unmaps = 0;
  /** kmap() and kmap_local_page() of managed frames: the direct map, no work. */
  kmaps = 0;
  kunmaps = 0;
  /** Kernel mappings that exist now, and the most that ever did: the exposure of guest memory. */
  liveMappings = 0;
  peakMappings = 0;
  /** Purges of lazily freed vmap areas. */
  purges = 0;
  /** TLB shootdowns: rounds, not receivers. */
  shootdowns = 0;
  /** Interrupts sent to other CPUs. */
  ipis = 0;
  timerInterrupts = 0;
  faults = 0;
  hugeFaults = 0;
  gupFast = 0;
  gupSlow = 0;
  pagesAllocated = 0;
  pagesFreed = 0;
  notifierStarts = 0;
  notifierEnds = 0;
  migrations = 0;
  migrationsRefused = 0;
  contextSwitches = 0;
  wakeups = 0;
  taskMigrations = 0;
  srcuSyncs = 0;
  lockContentions = 0;

  /** The values of this moment. */
  snapshot(): Readonly<Record<Exclude<keyof HostCounters, 'snapshot'>, number>> {
    return Object.assign({}, this as Omit<HostCounters, 'snapshot'>);
  }
}
