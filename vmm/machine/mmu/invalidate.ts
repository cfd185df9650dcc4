// SPDX-License-Identifier: GPL-2.0-only
/**
 * Invalidation, with the scope that each instruction and transition must have and no more. SDM, "Operations that
 * Invalidate TLBs and Paging-Structure Caches", "Operations that Invalidate Cached Mappings", INVPCID, INVVPID, INVEPT.
 * Operands are checked by the caller. Each call is entered into the ledger with what it dropped.
 */
import { CR4 } from '../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { ep4taOf, NO_TAG, PCID_GLOBAL } from '../tlb/tag_spaces.ts';
import type { Mmu } from './mmu.ts';

/** Stands for "any" in a scope. */
const ANY = -3;

/** Types of INVPCID. */
export const INVPCID_TYPE = { ADDRESS: 0, SINGLE: 1, ALL_GLOBAL: 2, ALL: 3 } as const;
/** Types of INVVPID. */
export const INVVPID_TYPE = { ADDRESS: 0, SINGLE: 1, ALL: 2, SINGLE_RETAIN_GLOBALS: 3 } as const;
/** Types of INVEPT. */
export const INVEPT_TYPE = { SINGLE: 1, ALL: 2 } as const;

/** Flush behaviour of MOV to CR3: bit 63 of the source operand, when CR4.PCIDE is set. */
export interface Cr3Flush {
  readonly noflush: boolean;
}

/** Whether a space of linear or combined mappings is in scope; `pcid` ANY takes globals along. */
function inScope(mmu: Mmu, space: number, vpid: number, pcid: number): boolean {
  const { spaces } = mmu;
  const v = spaces.vpid[space]!;
  if (v < 0 || (vpid !== ANY && v !== vpid)) return false;
  return pcid === ANY || spaces.pcid[space] === pcid;
}

/** Drop linear and combined mappings by VPID and PCID, under every EP4TA. */
function dropContext(mmu: Mmu, vpid: number, pcid: number): number {
  let dropped = 0;
  for (let space = 0; space < mmu.spaces.length; space++) {
    if (mmu.tlb.countOf(space) > 0 && inScope(mmu, space, vpid, pcid)) dropped += mmu.tlb.dropSpace(space);
  }
  return dropped;
}

/** As dropContext() with any PCID, but keep global translations. */
function dropNonGlobal(mmu: Mmu, vpid: number): number {
  let dropped = 0;
  for (let space = 0; space < mmu.spaces.length; space++) {
    if (mmu.spaces.pcid[space] === PCID_GLOBAL || mmu.tlb.countOf(space) === 0) continue;
    if (inScope(mmu, space, vpid, ANY)) dropped += mmu.tlb.dropSpace(space);
  }
  return dropped;
}

/** Drop what translates one linear address. */
function dropPage(mmu: Mmu, vpid: number, pcid: number, lo: number, hi: number): number {
  let dropped = 0;
  for (let space = 0; space < mmu.spaces.length; space++) {
    if (mmu.tlb.countOf(space) === 0 || !inScope(mmu, space, vpid, pcid)) continue;
    dropped += mmu.tlb.dropAddress(lo, hi, mmu.spaces.group[space]!, space);
  }
  return dropped;
}

/** Drop guest-physical and combined mappings by EP4TA; ANY: all of them, but no linear mappings. */
function dropEp4ta(mmu: Mmu, ep4ta: number): number {
  const { spaces, tlb, gp } = mmu;
  let dropped = 0;
  for (let space = 0; space < spaces.length; space++) {
    const tag = spaces.ep4ta[space]!;
    if (tag < 0 || (ep4ta !== ANY && tag !== ep4ta)) continue;
    dropped += tlb.dropSpace(space) + gp.dropSpace(space);
  }
  return dropped;
}

function note(cpu: Cpu, kind: number, tag: number, dropped: number): void {
  cpu.mmu.ledger.record(kind, tag, dropped, cpu.clock[0]!);
}

const currentPcid = (cpu: Cpu): number => ((cpu.s[S.CR4]! & CR4.PCIDE) !== 0 ? cpu.s[S.CR3]! & 0xfff : 0);

/** INVLPG: the page in the current VPID and PCID, and global translations of it. */
export function invlpg(cpu: Cpu, lo: number, hi: number): void {
  const { mmu } = cpu;
  const pcid = currentPcid(cpu);
  const dropped = dropPage(mmu, mmu.vpid, pcid, lo, hi) + dropPage(mmu, mmu.vpid, PCID_GLOBAL, lo, hi);
  note(cpu, FLUSH.INVLPG, pcid, dropped);
}

/** MOV to CR3, after S.CR3 has its new value: the new PCID without global translations, unless told not to. */
export function movCr3Flush(cpu: Cpu, how: Cr3Flush): void {
  const { mmu } = cpu;
  const pcid = currentPcid(cpu);
  if (how.noflush && (cpu.s[S.CR4]! & CR4.PCIDE) !== 0) return;
  note(cpu, FLUSH.MOV_CR3, pcid, dropContext(mmu, mmu.vpid, pcid));
}

/** MOV to CR4, low words of the old and the new value; after S.CR4 has the new one. */
export function flushOnCr4Change(cpu: Cpu, oldLo: number, newLo: number): void {
  const { mmu } = cpu;
  const changed = oldLo ^ newLo;
  if ((changed & (CR4.PGE | CR4.LA57)) !== 0 || (changed & oldLo & CR4.PCIDE) !== 0) {
    note(cpu, FLUSH.MOV_CR4, -1, dropContext(mmu, mmu.vpid, ANY));
  } else if ((changed & CR4.PAE) !== 0 || (changed & newLo & CR4.SMEP) !== 0) {
    const pcid = currentPcid(cpu);
    const dropped = dropContext(mmu, mmu.vpid, pcid) + dropContext(mmu, mmu.vpid, PCID_GLOBAL);
    note(cpu, FLUSH.MOV_CR4, pcid, dropped);
  }
}

/** MOV to CR0 that clears PG: everything of the current VPID. */
export function flushOnPagingOff(cpu: Cpu): void {
  note(cpu, FLUSH.MOV_CR0, -1, dropContext(cpu.mmu, cpu.mmu.vpid, ANY));
}

/** INVPCID; operands are already checked. */
export function invpcid(cpu: Cpu, type: number, pcid: number, lo: number, hi: number): void {
  const { mmu } = cpu;
  if (type === INVPCID_TYPE.ADDRESS)
    note(cpu, FLUSH.INVPCID_ADDR, pcid, dropPage(mmu, mmu.vpid, pcid, lo, hi));
  else if (type === INVPCID_TYPE.SINGLE)
    note(cpu, FLUSH.INVPCID_SINGLE, pcid, dropContext(mmu, mmu.vpid, pcid));
  else if (type === INVPCID_TYPE.ALL_GLOBAL)
    note(cpu, FLUSH.INVPCID_ALL_GLOBAL, -1, dropContext(mmu, mmu.vpid, ANY));
  else note(cpu, FLUSH.INVPCID_ALL, -1, dropNonGlobal(mmu, mmu.vpid));
}

/** INVVPID; operands are already checked. Guest-physical mappings stay; type 2 leaves VPID 0000H alone. */
export function invvpid(cpu: Cpu, type: number, vpid: number, lo: number, hi: number): void {
  const { mmu } = cpu;
  if (type === INVVPID_TYPE.ADDRESS) note(cpu, FLUSH.INVVPID_ADDR, vpid, dropPage(mmu, vpid, ANY, lo, hi));
  else if (type === INVVPID_TYPE.SINGLE) note(cpu, FLUSH.INVVPID_SINGLE, vpid, dropContext(mmu, vpid, ANY));
  else if (type === INVVPID_TYPE.ALL) note(cpu, FLUSH.INVVPID_ALL, -1, dropGuests(mmu));
  else note(cpu, FLUSH.INVVPID_SINGLE_RETAIN, vpid, dropNonGlobal(mmu, vpid));
}

function dropGuests(mmu: Mmu): number {
  let dropped = 0;
  for (let space = 0; space < mmu.spaces.length; space++) {
    if (mmu.spaces.vpid[space]! > 0) dropped += mmu.tlb.dropSpace(space);
  }
  return dropped;
}

/** INVEPT; operands are already checked. Linear mappings stay. */
export function invept(cpu: Cpu, type: number, eptp: number): void {
  const { mmu } = cpu;
  if (type === INVEPT_TYPE.SINGLE)
    note(cpu, FLUSH.INVEPT_SINGLE, ep4taOf(eptp), dropEp4ta(mmu, ep4taOf(eptp)));
  else note(cpu, FLUSH.INVEPT_ALL, -1, dropEp4ta(mmu, ANY));
}

/** VM entry, VM exit or EPTP switching with "enable VPID" = 0: linear and combined mappings of VPID 0000H. */
export function vmxTransitionFlush(cpu: Cpu): void {
  note(cpu, FLUSH.VMX_TRANSITION, 0, dropContext(cpu.mmu, 0, ANY));
}

/** Reset: everything. */
export function flushAll(cpu: Cpu): void {
  const { mmu } = cpu;
  const dropped = dropContext(mmu, ANY, ANY) + dropEp4ta(mmu, ANY);
  note(cpu, FLUSH.RESET, NO_TAG, dropped);
}
