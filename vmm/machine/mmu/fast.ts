// SPDX-License-Identifier: GPL-2.0-only
/**
 * The direct-mapped fast TLB that the interpreter probes: filled from records of the modelled TLB and strictly included
 * in it, so that a hit here is a hit there. Whoever drops a record drops the fast entries that stand for it. Constants
 * are local because the optimiser folds only those.
 */
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import * as layout from '../layout.ts';
import * as frames from '../memory/frames.ts';
import { ENTRY, PERM } from '../tlb/entry.ts';
import { ACCESS } from './access.ts';
import { MODE, type Mmu } from './mmu.ts';
import { guestRights, MAY } from './rights.ts';

const { CTX } = S;
const { PERM: E_PERM } = ENTRY;
const { U, D, EPT_R, EPT_W, EPT_X, EPT_XU } = PERM;
const { READ, WRITE, EXEC } = MAY;
const { MBEC } = MODE;
const { RAM_BASE, FAST_TLB_ENTRIES, FAST_TLB_OFFSET, CPU_BLOCK_BASE, CPU_BLOCK_SIZE } = layout;
const { FAST_ANYWHERE } = frames;
/** The tag of an access that is not allowed: no page's low word, nor that with bits 2:0 of a misaligned probe. */
export const FAST_NO_TAG = 0x800;
/** Word offsets of the columns, from the first: see FastTlb and the Cpu's constructor. */
const WRITE_TAG = FAST_TLB_ENTRIES;
const EXEC_TAG = 2 * FAST_TLB_ENTRIES;
const HI_TAG = 3 * FAST_TLB_ENTRIES;
const ADDEND = 4 * FAST_TLB_ENTRIES;

/** Let the fast TLB translate the page of lo/hi at host page `hpa` by record `b`, as far as the context allows. */
export function fillFast(cpu: Cpu, mmu: Mmu, lo: number, hi: number, b: number, hpa: number): void {
  if (hpa < RAM_BASE || mmu.check !== 'off' || hpa === mmu.apicAccessPage) return;
  const { tlb, mode } = mmu;
  // One view of all columns: each array that is touched costs.
  const { i32 } = cpu.mem;
  const { fastHint } = cpu.frames;
  const slot = (lo >>> 12) & (FAST_TLB_ENTRIES - 1);
  const at = ((CPU_BLOCK_BASE + cpu.id * CPU_BLOCK_SIZE + FAST_TLB_OFFSET) >> 2) + slot;
  const page = lo & ~0xfff;
  const perm = tlb.i[b + E_PERM]!;
  const rights = guestRights(mode, perm, mmu.pkru);
  const exec = (mode & MBEC) !== 0 && (perm & U) !== 0 ? EPT_XU : EPT_X;
  const pfn = hpa >>> 12;
  const mayWrite = (rights & WRITE) !== 0 && (perm & (EPT_W | D)) === (EPT_W | D) && !cpu.code.hasCode(pfn);
  i32[at] = (rights & READ) !== 0 && (perm & EPT_R) !== 0 ? page : FAST_NO_TAG;
  i32[at + WRITE_TAG] = mayWrite ? page : FAST_NO_TAG;
  i32[at + EXEC_TAG] = (rights & EXEC) !== 0 && (perm & exec) !== 0 ? page : FAST_NO_TAG;
  i32[at + HI_TAG] = hi ^ cpu.s[CTX]!;
  i32[at + ADDEND] = hpa - page;
  tlb.fastRecord[slot] = b;
  const hint = fastHint[pfn]!;
  if (hint !== slot + 1) fastHint[pfn] = hint === 0 ? slot + 1 : FAST_ANYWHERE;
}

/** Whether the fast TLB has the page of lo/hi for a read or a write (ACCESS.READ, WRITE). */
export function isDataFast(cpu: Cpu, lo: number, hi: number, kind: number): boolean {
  const { fast, s } = cpu;
  const i = (lo >>> 12) & (FAST_TLB_ENTRIES - 1);
  const tags = kind === ACCESS.READ ? fast.readTag : fast.writeTag;
  return tags[i] === (lo & -4096) && fast.hiTag[i] === (hi ^ s[CTX]!);
}

/** The host frame that a slot leads to, or -1 if it allows nothing. */
export function fastFrameOf(cpu: Cpu, slot: number): number {
  const { readTag, writeTag, execTag, addend } = cpu.fast;
  const page = [readTag[slot]!, writeTag[slot]!, execTag[slot]!].find((tag) => tag !== FAST_NO_TAG);
  return page === undefined ? -1 : ((page + addend[slot]!) | 0) >>> 12;
}

/** Drop one fast entry: TlbArray.onDropFast, too. */
export function dropFastSlot(cpu: Cpu, slot: number): void {
  const { fast } = cpu;
  fast.readTag[slot] = FAST_NO_TAG;
  fast.writeTag[slot] = FAST_NO_TAG;
  fast.execTag[slot] = FAST_NO_TAG;
  cpu.mmu.tlb.fastRecord[slot] = -1;
}

/** Forget every fast entry of the CPU. */
export function dropAllFast(cpu: Cpu): void {
  for (let slot = 0; slot < FAST_TLB_ENTRIES; slot++) dropFastSlot(cpu, slot);
}

/** Do something to every fast entry of the CPU that leads to a host frame. */
function forFrame(cpu: Cpu, pfn: number, act: (slot: number) => void): void {
  const hint = cpu.frames.fastHint[pfn]!;
  if (hint === 0) return;
  const first = hint === FAST_ANYWHERE ? 0 : hint - 1;
  const last = hint === FAST_ANYWHERE ? FAST_TLB_ENTRIES - 1 : first;
  for (let slot = first; slot <= last; slot++) {
    if (fastFrameOf(cpu, slot) === pfn) act(slot);
  }
}

/** Forget the fast entries of one host frame: FrameTable.onRetire, for each CPU. */
export function dropFastFrame(cpu: Cpu, pfn: number): void {
  forFrame(cpu, pfn, (slot) => dropFastSlot(cpu, slot));
}

/** Make stores to one host frame take the slow path: code has been decoded from it. */
export function dropWriteTags(cpu: Cpu, pfn: number): void {
  forFrame(cpu, pfn, (slot) => {
    cpu.fast.writeTag[slot] = FAST_NO_TAG;
  });
}
