// SPDX-License-Identifier: GPL-2.0-only
/**
 * Descriptors in memory and segment registers in the state. SDM, "Segment Descriptors" and "Loading Segment Registers".
 * Accesses to the tables are implicit supervisor accesses.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import {
  AR,
  AR_DPL_SHIFT,
  descriptorAr,
  descriptorBase,
  descriptorLimit,
  SEG_TYPE,
  SELECTOR,
} from '../../../../lib/x86/segments.ts';
import { loadLinearSystem, storeLinearSystem } from '../../mmu/linear.ts';
import type { Cpu } from '../cpu.ts';
import { S, SEG_WORDS, SEGF, SEGN } from '../state.ts';
import { refuse, selectorError } from './fault.ts';

/** Index of the first word of a segment register. */
export function segAt(seg: number): number {
  return S.SEG + seg * SEG_WORDS;
}

/** DPL of access rights. */
export function dplOf(ar: number): number {
  return (ar & AR.DPL_MASK) >> AR_DPL_SHIFT;
}

/** Whether the access rights are those of a code segment. */
export function isCode(ar: number): boolean {
  return (ar & (AR.S | SEG_TYPE.CODE)) === (AR.S | SEG_TYPE.CODE);
}

/** Whether the access rights are those of a data segment that can be written. */
export function isWritableData(ar: number): boolean {
  return (ar & (AR.S | SEG_TYPE.CODE | SEG_TYPE.WRITABLE)) === (AR.S | SEG_TYPE.WRITABLE);
}

/** base + offset (0 <= offset < 2^31) in sys.address. */
export function addressAt(cpu: Cpu, baseWord: number, offset: number): void {
  const { s, sys } = cpu;
  const sum = (s[baseWord]! >>> 0) + offset;
  sys.address[0] = sum | 0;
  sys.address[1] = s[baseWord + 1]! + (sum >= 0x1_0000_0000 ? 1 : 0);
}

/**
 * Find the linear address of a selector's descriptor of `bytes` bytes, in sys.address; false: beyond the table's limit,
 * or there is no LDT. Sets no fault.
 */
export function locateDescriptor(cpu: Cpu, selector: number, bytes: number): boolean {
  const { s } = cpu;
  const offset = selector & SELECTOR.INDEX_MASK;
  const inLdt = (selector & SELECTOR.TI) !== 0;
  const ldtr = segAt(SEGN.LDTR);
  if (inLdt && (s[ldtr + SEGF.AR]! & AR.UNUSABLE) !== 0) return false;
  const limit = (inLdt ? s[ldtr + SEGF.LIMIT]! : s[S.GDTR_LIMIT]!) >>> 0;
  if (offset + bytes - 1 > limit) return false;
  addressAt(cpu, inLdt ? ldtr + SEGF.BASE : S.GDTR_BASE, offset);
  return true;
}

/** Fetch a descriptor of 8 bytes into sys.desc[0..1]; false: GP(selector | ext), or the fault of the access. */
export function fetchDescriptor(cpu: Cpu, selector: number, ext = 0): boolean {
  if (!locateDescriptor(cpu, selector, 8)) return refuse(cpu, VECTOR.GP, selectorError(selector, ext));
  const { address, desc } = cpu.sys;
  return loadLinearSystem(cpu, address[0]!, address[1]!, 8, desc);
}

/** Set the accessed bit of the descriptor that fetchDescriptor() found, in memory and in sys.desc. */
export function markAccessed(cpu: Cpu): boolean {
  const { address, desc } = cpu.sys;
  if ((desc[1]! & (SEG_TYPE.ACCESSED << 8)) !== 0) return true;
  desc[1] = desc[1]! | (SEG_TYPE.ACCESSED << 8);
  return storeLinearSystem(cpu, address[0]!, address[1]!, 8, desc[0]!, desc[1]);
}

/** Load a segment register from sys.desc. */
export function loadSegment(cpu: Cpu, seg: number, selector: number): void {
  const { s, sys } = cpu;
  const at = segAt(seg);
  s[at + SEGF.BASE] = descriptorBase(sys.desc[0]!, sys.desc[1]!);
  s[at + SEGF.BASE + 1] = 0;
  s[at + SEGF.LIMIT] = descriptorLimit(sys.desc[0]!, sys.desc[1]!);
  s[at + SEGF.SEL] = selector;
  s[at + SEGF.AR] = descriptorAr(sys.desc[1]!);
}

/** Make a segment register unusable, with a null selector. */
export function loadNullSegment(cpu: Cpu, seg: number, selector: number, dpl = 0): void {
  const at = segAt(seg);
  cpu.s.fill(0, at, at + SEG_WORDS);
  cpu.s[at + SEGF.SEL] = selector;
  cpu.s[at + SEGF.AR] = AR.UNUSABLE | (dpl << AR_DPL_SHIFT);
}

/** Whether a selector is null. */
export function isNull(selector: number): boolean {
  return (selector & ~SELECTOR.RPL_MASK) === 0;
}
