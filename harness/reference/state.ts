// SPDX-License-Identifier: GPL-2.0-only
/**
 * Architectural state of the reference interpreter: what a 64-bit program sees, and the control registers that paging
 * depends on. SDM, "Basic Execution Environment", "Control Registers".
 */

/** Registers; 64-bit values are unsigned bigints. */
export interface RefState {
  readonly gpr: bigint[];
  rip: bigint;
  /** Bits 21:0 of RFLAGS. */
  rflags: number;
  fsBase: bigint;
  gsBase: bigint;
  cpl: number;
  cr0: number;
  cr3: bigint;
  cr4: number;
  efer: number;
  pkru: number;
  /** Cycles spent so far. */
  cycles: number;
}

/** A state with everything zero but RFLAGS bit 1. */
export function emptyState(): RefState {
  return {
    gpr: new Array<bigint>(16).fill(0n),
    rip: 0n,
    rflags: 2,
    fsBase: 0n,
    gsBase: 0n,
    cpl: 0,
    cr0: 0,
    cr3: 0n,
    cr4: 0,
    efer: 0,
    pkru: 0,
    cycles: 0,
  };
}

/** A copy that later steps do not change. */
export function copyState(state: RefState): RefState {
  return { ...state, gpr: [...state.gpr] };
}

/** Make `into` equal to `from`. */
export function restoreState(into: RefState, from: RefState): void {
  const gpr = into.gpr;
  for (let n = 0; n < 16; n++) gpr[n] = from.gpr[n]!;
  Object.assign(into, { ...from, gpr });
}
