// SPDX-License-Identifier: GPL-2.0-only
/** The machine as the host kernel sees it: memory, the fate of its frames, and code caches that watch stores. */
import type { FrameTable } from '../../machine/memory/frames.ts';
import type { PhysMem } from '../../machine/memory/phys_mem.ts';

export interface HostMemory {
  readonly mem: PhysMem;
  readonly frames: FrameTable;
  /** Kernel code wrote to memory from which a CPU may have decoded instructions. */
  noteStore(hpa: number, length: number): void;
}
