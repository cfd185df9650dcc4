// SPDX-License-Identifier: GPL-2.0-only
/** Where the memory of a stress VM lies. The guest maps it one to one; each area is one slot of 2 MiB, so that it can be huge. */

export const MAX_VCPUS = 4;
export const AREA_PAGES = 512;

/** Slot numbers and guest physical addresses. `moved` is where the slot of `moving` goes for a while. */
export const AREA = {
  stable: { slot: 1, gpa: 0x1000_0000 },
  dropped: { slot: 2, gpa: 0x1020_0000 },
  moving: { slot: 3, gpa: 0x1040_0000, moved: 0x1080_0000 },
} as const;

/** Pages of the stable area: data of each vCPU, then the counters, each vCPU's own code, and code that the host writes. */
export const DATA_PAGES = 32;
export const COUNTER_PAGE = 32;
export const CODE_PAGE = 33;
export const HOST_CODE_PAGE = CODE_PAGE + MAX_VCPUS;
export const STABLE_PAGES = HOST_CODE_PAGE + 1;
/** Of the other two. */
export const DROPPED_PAGES = 64;
export const MOVING_PAGES = 16;
/** Pages whose writes the guest records: stable ones, then moving ones. */
export const RECORDED_PAGES = STABLE_PAGES + MOVING_PAGES;

/** Vectors: one per sender of an IPI, and the timer's. */
export const IPI_VECTOR = 0x40;
export const TIMER_VECTOR = 0x50;

/** nop nop nop; mov eax, imm32; ret: the immediate is aligned, a store replaces it at once. */
export const HOST_CODE = Uint8Array.of(0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xc3);
export const HOST_CODE_IMM = 4;
