// SPDX-License-Identifier: GPL-2.0-only
/** struct guest_walker of arch/x86/kvm/mmu/paging_tmpl.h, 6.12: what a walk of a guest's tables by L0 found. */
import type { Gfn } from '../../../lib/x86/addr.ts';
import { X86Exception } from '../x86/x86_exception.ts';

const MAX_LEVELS = 5;

/** Arrays are by level - 1. One walker per vCPU and purpose; a walk fills it anew. */
export class GuestWalker {
  /** The address, linear or L2's physical, as words, and the access: PFERR.* and PFERR_GUEST.*. */
  lo = 0;
  hi = 0;
  access = 0;
  /** Level of the last entry, and of the first. */
  level = 0;
  maxLevel = 0;
  /** Where the tables are in the address space that the walk reads: L2's frame numbers for L2's own tables. */
  readonly tableGfn = new Float64Array(MAX_LEVELS);
  /** The same in L1's. */
  readonly realGfn = new Float64Array(MAX_LEVELS);
  readonly pteLo = new Int32Array(MAX_LEVELS);
  readonly pteHi = new Int32Array(MAX_LEVELS);
  /** HVA of each entry. */
  readonly ptep = new Float64Array(MAX_LEVELS);
  readonly pteWritable = new Uint8Array(MAX_LEVELS);
  /** ACC.* of the entries above that of a level. */
  readonly ptAccess = new Uint8Array(MAX_LEVELS);
  /** ACC.* of the translation. */
  pteAccess = 0;
  gfn = 0 as Gfn;
  fault = new X86Exception();
  /** What the host has to be waited for, after WALK.BUSY. */
  busyHva = 0;
  busyFoll = 0;
}

/** Results of a walk. */
export const WALK = { FAULT: 0, OK: 1, BUSY: 2 } as const;
