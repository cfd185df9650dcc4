// SPDX-License-Identifier: GPL-2.0-only
/**
 * The page-modification log: 512 entries that the processor fills from the last to the first, one for each dirty flag
 * for EPT that it sets. SDM, "Page-Modification Logging". Mmu.pmlPage says where it is, and whether there is one.
 */
import type { Cpu } from '../cpu/cpu.ts';
import { checkLeafFrame } from './sanitize.ts';
import type { Mmu } from './mmu.ts';

const PML_ENTRIES = 512;

/** Whether a log-full event comes before the next accessed or dirty flag for EPT is set. */
export function pmlIsFull(cpu: Cpu, mmu: Mmu): boolean {
  return mmu.pmlPage >= 0 && cpu.mem.i32[mmu.pmlIndexWord]! >= PML_ENTRIES;
}

/** Log a write to the page of a guest-physical address; pmlIsFull() has said that there is room. */
export function pmlLog(cpu: Cpu, mmu: Mmu, gLo: number, gHi: number): void {
  const { mem, code, sys } = cpu;
  const { i32 } = mem;
  const index = i32[mmu.pmlIndexWord]!;
  const at = mmu.pmlPage + 8 * index;
  checkLeafFrame(cpu, at);
  if (at >= mem.size) sys.mmioWrite(at, 8, gLo & ~0xfff, gHi);
  else {
    i32[at >>> 2] = gLo & ~0xfff;
    i32[(at >>> 2) + 1] = gHi;
    if (code.hasCode(at >>> 12)) code.noteStore(at, 8);
  }
  // The field has 16 bits: below 0 comes FFFFH, which is full.
  i32[mmu.pmlIndexWord] = (index - 1) & 0xffff;
}
