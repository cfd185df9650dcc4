// SPDX-License-Identifier: GPL-2.0-only
/**
 * The direct-mapped fast TLB that the interpreter probes: filled from records of the modelled TLB and strictly included
 * in it, so that a hit here is a hit there. Whoever drops a record drops the fast entries that stand for it. Constants
 * are local because the optimiser folds only those.
 */
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import * as layout from '../layout.ts';
import { ENTRY, PERM } from '../tlb/entry.ts';
import { MODE, type Mmu } from './mmu.ts';
import { guestRights, MAY } from './rights.ts';

const { CTX } = S;
const { PERM: E_PERM } = ENTRY;
const { U, D, EPT_R, EPT_W, EPT_X, EPT_XU } = PERM;
const { READ, WRITE, EXEC } = MAY;
const { MBEC } = MODE;
const { RAM_BASE, FAST_TLB_ENTRIES } = layout;
/** A tag that no page's low word is equal to. */
const NO_TAG = 1;

/** Let the fast TLB translate the page of lo/hi at host page `hpa` by record `b`, as far as the context allows. */
export function fillFast(cpu: Cpu, mmu: Mmu, lo: number, hi: number, b: number, hpa: number): void {
  if (hpa < RAM_BASE || mmu.check !== 'off') return;
  const { fast } = cpu;
  const { fastRecord } = mmu.tlb;
  const { fastRefs } = cpu.frames;
  const page = lo & ~0xfff;
  const slot = (lo >>> 12) & (FAST_TLB_ENTRIES - 1);
  const perm = mmu.tlb.i[b + E_PERM]!;
  const rights = guestRights(mmu.mode, perm, mmu.pkru);
  const exec = (mmu.mode & MBEC) !== 0 && (perm & U) !== 0 ? EPT_XU : EPT_X;
  const pfn = hpa >>> 12;
  const mayWrite = (rights & WRITE) !== 0 && (perm & (EPT_W | D)) === (EPT_W | D) && !cpu.code.hasCode(pfn);
  fast.readTag[slot] = (rights & READ) !== 0 && (perm & EPT_R) !== 0 ? page : NO_TAG;
  fast.writeTag[slot] = mayWrite ? page : NO_TAG;
  fast.execTag[slot] = (rights & EXEC) !== 0 && (perm & exec) !== 0 ? page : NO_TAG;
  fast.hiTag[slot] = hi ^ cpu.s[CTX]!;
  fast.addend[slot] = (hpa - page) | 0;
  if (fastRecord[slot]! >= 0) fastRefs[mmu.fastFrame[slot]!]!--;
  fastRecord[slot] = b;
  mmu.fastFrame[slot] = pfn;
  fastRefs[pfn]!++;
}

/** Drop one fast entry: TlbArray.onDropFast, too. */
export function dropFastSlot(cpu: Cpu, mmu: Mmu, slot: number): void {
  if (mmu.tlb.fastRecord[slot]! < 0) return;
  const { fast } = cpu;
  fast.readTag[slot] = NO_TAG;
  fast.writeTag[slot] = NO_TAG;
  fast.execTag[slot] = NO_TAG;
  cpu.frames.fastRefs[mmu.fastFrame[slot]!]!--;
  mmu.tlb.fastRecord[slot] = -1;
}

/** Forget every fast entry of the CPU. */
export function dropAllFast(cpu: Cpu): void {
  for (let slot = 0; slot < FAST_TLB_ENTRIES; slot++) dropFastSlot(cpu, cpu.mmu, slot);
}

/** Forget the fast entries of one host frame: FrameTable.onRetire, for each CPU. */
export function dropFastFrame(cpu: Cpu, pfn: number): void {
  const { mmu } = cpu;
  for (let slot = 0; slot < FAST_TLB_ENTRIES; slot++) {
    if (mmu.fastFrame[slot] === pfn) dropFastSlot(cpu, mmu, slot);
  }
}

/** Make stores to one host frame take the slow path: code has been decoded from it. */
export function dropWriteTags(cpu: Cpu, pfn: number): void {
  const { mmu } = cpu;
  for (let slot = 0; slot < FAST_TLB_ENTRIES; slot++) {
    if (mmu.fastFrame[slot] === pfn && mmu.tlb.fastRecord[slot]! >= 0) cpu.fast.writeTag[slot] = NO_TAG;
  }
}
