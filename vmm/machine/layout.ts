// SPDX-License-Identifier: GPL-2.0-only
/**
 * Where things lie in the machine's one WebAssembly.Memory. A host physical address is a byte offset in it: the first
 * 16 MiB are firmware-reserved (machine state, never given to the host kernel), RAM follows.
 */

/** Per-CPU blocks: 64 KiB each, at most 32 CPUs. */
export const CPU_BLOCK_BASE = 0x0000_0000;
export const CPU_BLOCK_SIZE = 0x0001_0000;
export const MAX_CPUS = 32;
/** Inside a CPU block: architectural state (see `S`), then the fast TLB's five columns. */
export const CPU_STATE_BYTES = 0x1000;
export const FAST_TLB_OFFSET = 0x1000;
export const FAST_TLB_ENTRIES = 1024;
/** Then the counts per cost point (doubles), and a table for the quick walk: see mmu/quick_walk.ts. */
export const COUNTS_OFFSET = 0x6000;
export const QUICK_RIGHTS_OFFSET = 0x6800;

/** By frame: FrameTable.state (bytes), CodeCache.slotOf (bytes), FrameTable.fastHint (16 bits). */
export const FRAME_STATE_BASE = 0x0020_0000;
export const CODE_SLOT_BASE = 0x0028_0000;
export const FRAME_HINT_BASE = 0x0030_0000;

/** Offset-to-record tables of code pages: 4096 int32 each. */
export const CODE_TABLE_BASE = 0x0040_0000;
export const CODE_TABLE_BYTES = 0x0040_0000;
/** Decoded records of the interpreter. */
export const CODE_RECORD_BASE = 0x0080_0000;
export const CODE_RECORD_BYTES = 0x0080_0000;

/** First byte of RAM. */
export const RAM_BASE = 0x0100_0000;
/** Exclusive limit of RAM: physical addresses of RAM stay non-negative int32. */
export const RAM_LIMIT = 0x7fff_0000;
/** Behind RAM: the modelled TLB of each CPU, if the machine has room for it there. */
export const TLB_BLOCK_SIZE = 0x0005_0000;
/** The local APIC's default page, outside RAM. */
export const APIC_DEFAULT_PHYS_BASE = 0xfee0_0000;
