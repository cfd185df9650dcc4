// SPDX-License-Identifier: GPL-2.0-only
/**
 * Translation of guest-physical addresses: guest-physical mappings first, else a walk of the extended page tables with
 * their accessed and dirty flags. SDM, "The Extended Page Table Mechanism", "EPT Misconfigurations", "EPT Violations",
 * "Accessed and Dirty Flags for EPT" and "Page-Modification Logging". Leaves out: sub-page permissions, HLAT, supervisor
 * shadow-stack control.
 */
import { EPTE } from '../../../lib/x86/paging.ts';
import type { Cpu } from '../cpu/cpu.ts';
import * as layout from '../layout.ts';
import { FRAME } from '../memory/frames.ts';
import { ENTRY, ENTRY_F64, pageOffsetMask, PERM } from '../tlb/entry.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { recordHpa, setRecordHpa } from '../tlb/tlb_array.ts';
import { ACCESS } from './access.ts';
import { EPT_QUAL, eptMisconfig, eptViolation, pmlFull } from './fault.ts';
import { MODE, WALK, type Mmu } from './mmu.ts';
import { pmlIsFull, pmlLog } from './pml.ts';
import { stampRecord } from './provenance.ts';
import { eptNeeds } from './rights.ts';
import { checkLeafFrame, checkTableFrame, staleFrame } from './sanitize.ts';

// Local, because the optimiser folds only local constants.
const { R, W, X, A, D: DIRTY } = EPTE;
const { FREE } = FRAME;
const { RAM_BASE } = layout;
const { READ, WRITE } = ACCESS;
const { EPT_AD, MBEC } = MODE;
const { PERM: E_PERM, SEQ, PTE_HPA, EPTE_HPA } = ENTRY;
const { D, EPT_R, EPT_W, EPT_XU } = PERM;
const { REFS: W_REFS, EPT_PERM: W_EPT_PERM, EPT_CODE: W_EPT_CODE, EPTE_HPA: W_EPTE_HPA } = WALK;
const RWX = 7;
/** EPT paging-structure bits 7:3 (root levels) and 6:3 (non-leaf entries below) are reserved. */
const RESERVED_ROOT = 0xf8;
const RESERVED_TABLE = 0x78;
/** Memory types 2, 3 and 7 do not exist. */
const GOOD_MEMORY_TYPES = 0x73;
/** Bits of a guest-physical address's high word that a walk of 4 levels does not look at: 51:48. */
const BEYOND_4_LEVELS = 0xf_0000;
const RESERVED_1G = 0x3fff_f000;
const RESERVED_2M = 0x001f_f000;

/**
 * Host physical address of a guest-physical one, or -1 with cpu.fault filled. `kind`: ACCESS; `bits`: the
 * qualification's access and LINEAR/TRANSLATED bits; `perm`: PERM.U counts for user execution.
 * Leaves rights, size and leaf in mmu.walk and mmu.walkAddr.
 */
export function eptTranslate(
  cpu: Cpu,
  mmu: Mmu,
  gLo: number,
  gHi: number,
  kind: number,
  bits: number,
  perm: number,
): number {
  const { gp, walk } = mmu;
  const b = gp.lookup(gLo, gHi, mmu.gpGroup, mmu.gpSpace, mmu.gpSpace);
  if (b < 0) return eptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  const { i } = gp;
  const rights = i[b + E_PERM]!;
  const needs = kind === WRITE ? EPT_W | D : kind === READ ? EPT_R : eptNeeds(mmu.mode, perm, kind);
  if ((rights & needs) !== needs) return refusedByRecord(cpu, mmu, b, gLo, gHi, kind, bits, perm);
  const hpa = recordHpa(gp, b, gLo);
  const pfn = hpa >>> 12;
  if (hpa < cpu.mem.size && !cpu.frames.isCurrentSince(pfn, i[b + SEQ]!)) staleFrame(cpu, gp, b, pfn);
  if (hpa < RAM_BASE) checkLeafFrame(cpu, hpa);
  walk[W_EPT_PERM] = rights;
  walk[W_EPT_CODE] = i[b]! & 3;
  walk[W_EPTE_HPA] = i[b + EPTE_HPA]!;
  return hpa;
}

/** A cached guest-physical mapping does not allow the access, or not without setting the dirty flag. */
function refusedByRecord(
  cpu: Cpu,
  mmu: Mmu,
  b: number,
  gLo: number,
  gHi: number,
  kind: number,
  bits: number,
  perm: number,
): number {
  const { gp } = mmu;
  const rights = gp.i[b + E_PERM]!;
  gp.remove(b);
  const allowed = (rights & eptNeeds(mmu.mode, perm, kind)) !== 0;
  if (allowed || mmu.profile.permissionFault === 'rewalk')
    return eptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  mmu.ledger.record(FLUSH.EPT_VIOLATION, -1, 1, cpu.clock[0]!);
  return eptViolation(cpu, mmu.mode, gLo, gHi, bits, rights);
}

/**
 * A walk straight-line in the common case: 4 levels, a 4 KiB page, all rights but the leaf's, nothing to set or refuse.
 * Changes nothing before it is known to be that.
 */
function eptWalk(
  cpu: Cpu,
  mmu: Mmu,
  gLo: number,
  gHi: number,
  kind: number,
  bits: number,
  perm: number,
): number {
  const { mem, frames } = cpu;
  const { i32, size } = mem;
  const { state } = frames;
  const t4 = mmu.eptRoot;
  if (t4 < 0 || mmu.eptLevels !== 4) return fullEptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  let at = (t4 >> 2) | ((gHi >>> 6) & 0x3fe);
  const e4 = i32[at]!;
  let his = i32[at | 1]!;
  const t3 = e4 & ~0xfff;
  if (t3 >>> 0 >= size) return fullEptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  at = (t3 >> 2) | (((gHi << 3) | (gLo >>> 29)) & 0x3fe);
  const e3 = i32[at]!;
  his |= i32[at | 1]!;
  const t2 = e3 & ~0xfff;
  if (t2 >>> 0 >= size) return fullEptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  at = (t2 >> 2) | ((gLo >>> 20) & 0x3fe);
  const e2 = i32[at]!;
  his |= i32[at | 1]!;
  const t1 = e2 & ~0xfff;
  if (t1 >>> 0 >= size) return fullEptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  at = (t1 >> 2) | ((gLo >>> 11) & 0x3fe);
  const e1 = i32[at]!;
  his |= i32[at | 1]!;
  const base = e1 & ~0xfff;
  const { mode } = mmu;
  const ad = (mode & EPT_AD) !== 0;
  const tables = e4 & e3 & e2;
  const wanted = (kind === WRITE ? (ad ? W | DIRTY : W) : kind === READ ? R : X) | (ad ? A : 0) | R;
  if (
    (tables & (ad ? RWX | A : RWX)) !== (ad ? RWX | A : RWX) ||
    ((e4 | e3 | e2) & RESERVED_ROOT) !== 0 ||
    ((his & 0xf_ffff) | (gHi & BEYOND_4_LEVELS)) !== 0 ||
    (e1 & wanted) !== wanted ||
    ((GOOD_MEMORY_TYPES >>> ((e1 >>> 3) & 7)) & 1) === 0 ||
    (mode & MBEC) !== 0 ||
    base < RAM_BASE ||
    base >= size ||
    (frames.managed &&
      (state[t4 >>> 12] === FREE ||
        state[t3 >>> 12] === FREE ||
        state[t2 >>> 12] === FREE ||
        state[t1 >>> 12] === FREE ||
        state[base >>> 12] === FREE))
  ) {
    return fullEptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
  }
  const { walk } = mmu;
  const rights = ((e1 & RWX) << 12) | EPT_XU | (!ad || (e1 & DIRTY) !== 0 ? D : 0);
  walk[W_REFS]! += 4;
  walk[W_EPT_PERM] = rights;
  walk[W_EPT_CODE] = 0;
  walk[W_EPTE_HPA] = at << 2;
  if (keepsMapping(mmu, bits)) keepMapping(cpu, mmu, gLo, gHi, 0, base, rights, at << 2, kind);
  return base | (gLo & 0xfff);
}

/**
 * Whether a translation becomes a guest-physical mapping. The real sizes keep those of paging structures only: what a
 * linear address translates to has its combined mapping.
 */
function keepsMapping(mmu: Mmu, bits: number): boolean {
  return mmu.gp.keeps && ((bits & EPT_QUAL.TRANSLATED) === 0 || mmu.policy !== 'real');
}

/** The walk by all the rules. */
function fullEptWalk(
  cpu: Cpu,
  mmu: Mmu,
  gLo: number,
  gHi: number,
  kind: number,
  bits: number,
  perm: number,
): number {
  const { mode, reservedHi } = mmu;
  const { i32, size } = cpu.mem;
  const { managed } = cpu.frames;
  const presentMask = (mode & MODE.MBEC) !== 0 ? 0x407 : 0x007;
  const at = mmu.eptEntryHpa;
  let table = mmu.eptRoot;
  let level = mmu.eptLevels;
  let and = -1;
  let lo = 0;
  let hi = 0;
  // Software that uses addresses of more than 48 bits needs 5 levels: no entry stands for them.
  if (level === 4 && (gHi & BEYOND_4_LEVELS) !== 0) return eptViolation(cpu, mode, gLo, gHi, bits, 0);
  for (;;) {
    const index =
      level > 3
        ? gHi >>> (9 * level - 29)
        : level === 3
          ? (gHi << 2) | (gLo >>> 30)
          : gLo >>> (9 * level + 3);
    if (table < 0) return outsideOfRam(cpu, mmu, gLo, gHi);
    if (managed) checkTableFrame(cpu, table, 'EPT');
    const word = (table >> 2) | ((index & 511) << 1);
    lo = i32[word]!;
    hi = i32[word + 1]!;
    at[level] = word << 2;
    mmu.walk[WALK.REFS]!++;
    if ((lo & presentMask) === 0) return eptViolation(cpu, mode, gLo, gHi, bits, 0);
    if ((lo & 3) === EPTE.W || (hi & reservedHi) !== 0) return eptMisconfig(cpu, gLo, gHi);
    and &= lo;
    if (level === 1 || (level < 4 && (lo & EPTE.PS) !== 0)) break;
    if ((lo & (level > 3 ? RESERVED_ROOT : RESERVED_TABLE)) !== 0) return eptMisconfig(cpu, gLo, gHi);
    table = (hi & 0xf_ffff) === 0 && (lo & ~0xfff) >>> 0 < size ? lo & ~0xfff : -1;
    level--;
  }
  if (level > 1 && (lo & (level === 2 ? RESERVED_2M : RESERVED_1G)) !== 0) return eptMisconfig(cpu, gLo, gHi);
  if (((GOOD_MEMORY_TYPES >>> ((lo >>> 3) & 7)) & 1) === 0) return eptMisconfig(cpu, gLo, gHi);
  let rights = ((and & 7) << 12) | ((and & EPTE.XU) << 5);
  if ((mode & MODE.MBEC) === 0) rights |= PERM.EPT_XU;
  if ((rights & eptNeeds(mode, perm, kind)) === 0) return eptViolation(cpu, mode, gLo, gHi, bits, rights);
  if ((mode & MODE.EPT_AD) !== 0) {
    const dirty = setFlags(cpu, mmu, level, and, lo, kind, gLo, gHi);
    if (dirty < 0) return pmlFull(cpu);
    rights |= dirty;
  } else rights |= PERM.D;
  return finish(cpu, mmu, gLo, gHi, level, lo, hi, rights, kind, bits);
}

/**
 * Set accessed flags, and the leaf's dirty flag for a write, which is logged: nobody else sets dirty flags for EPT.
 * PERM.D if the leaf is dirty, else 0; -1: the page-modification log is full, and nothing has happened.
 */
function setFlags(
  cpu: Cpu,
  mmu: Mmu,
  leafLevel: number,
  and: number,
  leaf: number,
  kind: number,
  gLo: number,
  gHi: number,
): number {
  const { i32 } = cpu.mem;
  const at = mmu.eptEntryHpa;
  const dirties = kind === ACCESS.WRITE && (leaf & EPTE.D) === 0;
  if ((dirties || (and & EPTE.A) === 0) && pmlIsFull(cpu, mmu)) return -1;
  if ((and & EPTE.A) === 0) {
    for (let level = mmu.eptLevels; level >= leafLevel; level--) i32[at[level]! >> 2]! |= EPTE.A;
  }
  if (!dirties) return (leaf & EPTE.D) !== 0 ? PERM.D : 0;
  i32[at[leafLevel]! >> 2]! |= EPTE.D;
  if (mmu.pmlPage >= 0) pmlLog(cpu, mmu, gLo, gHi);
  return PERM.D;
}

/** Leave the result of a walk, cache it, and return the host physical address. */
function finish(
  cpu: Cpu,
  mmu: Mmu,
  gLo: number,
  gHi: number,
  level: number,
  lo: number,
  hi: number,
  rights: number,
  kind: number,
  bits: number,
): number {
  const code = level - 1;
  const mask = pageOffsetMask(code);
  const base = ((lo & ~0xfff & ~mask) >>> 0) + (hi & 0xf_ffff) * 0x1_0000_0000;
  const leaf = mmu.eptEntryHpa[level]!;
  checkLeafFrame(cpu, base + (gLo & mask));
  mmu.walk[WALK.EPT_PERM] = rights;
  mmu.walk[WALK.EPT_CODE] = code;
  mmu.walk[WALK.EPTE_HPA] = leaf;
  if (keepsMapping(mmu, bits)) keepMapping(cpu, mmu, gLo, gHi, code, base, rights, leaf, kind);
  return base + (gLo & mask);
}

/** Make a guest-physical mapping. */
function keepMapping(
  cpu: Cpu,
  mmu: Mmu,
  gLo: number,
  gHi: number,
  code: number,
  base: number,
  rights: number,
  leaf: number,
  kind: number,
): void {
  const { gp } = mmu;
  const b = gp.insert(gLo, gHi, code, mmu.gpGroup, mmu.gpSpace);
  gp.i[b + E_PERM] = rights;
  setRecordHpa(gp, b, base, cpu.mem.size);
  gp.f[(b >> 1) + ENTRY_F64.GPA] = ((gLo & ~pageOffsetMask(code)) >>> 0) + gHi * 0x1_0000_0000;
  gp.i[b + PTE_HPA] = -1;
  gp.i[b + EPTE_HPA] = leaf;
  stampRecord(cpu, gp, b, kind);
}

/** A table outside of RAM reads as ones, which no entry may be: reserved bits are set. */
function outsideOfRam(cpu: Cpu, mmu: Mmu, gLo: number, gHi: number): number {
  mmu.walk[WALK.REFS]!++;
  return eptMisconfig(cpu, gLo, gHi);
}

/** The qualification's access bits of an access to a guest paging-structure entry, or of its A/D update. */
export const tableAccessBits = (writes: boolean): number =>
  EPT_QUAL.LINEAR | EPT_QUAL.READ | (writes ? EPT_QUAL.WRITE : 0);
/** ... of an access of `kind` to a translated linear address. */
export const finalAccessBits = (kind: number): number => EPT_QUAL.LINEAR | EPT_QUAL.TRANSLATED | (1 << kind);
/** ... of an access without a linear address. */
export const physicalAccessBits = (kind: number): number => 1 << kind;
