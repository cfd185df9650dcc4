// SPDX-License-Identifier: GPL-2.0-only
/**
 * Translation of guest-physical addresses: guest-physical mappings first, else a walk of the extended page tables with
 * their accessed and dirty flags. SDM, "The Extended Page Table Mechanism", "EPT Misconfigurations", "EPT Violations"
 * and "Accessed and Dirty Flags for EPT". Leaves out: sub-page permissions, HLAT, supervisor shadow-stack control.
 */
import { EPTE } from '../../../lib/x86/paging.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { ENTRY, ENTRY_F64, pageOffsetMask, PERM } from '../tlb/entry.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { recordHpa } from '../tlb/tlb_array.ts';
import { ACCESS } from './access.ts';
import { EPT_QUAL, eptMisconfig, eptViolation } from './fault.ts';
import { MODE, WALK, WALK_ADDR, type Mmu } from './mmu.ts';
import { stampRecord } from './provenance.ts';
import { eptNeeds } from './rights.ts';
import { checkLeafFrame, checkTableFrame, staleFrame } from './sanitize.ts';

/** EPT paging-structure bits 7:3 (root levels) and 6:3 (non-leaf entries below) are reserved. */
const RESERVED_ROOT = 0xf8;
const RESERVED_TABLE = 0x78;
/** Memory types 2, 3 and 7 do not exist. */
const BAD_MEMORY_TYPES = (1 << 2) | (1 << 3) | (1 << 7);
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
  const { gp } = mmu;
  const b = gp.lookup(gLo, gHi, mmu.gpGroup, mmu.gpSpace, mmu.gpSpace);
  if (b >= 0) {
    const hit = useRecord(cpu, mmu, b, gLo, gHi, kind, bits, perm);
    if (hit !== REWALK) return hit;
  }
  return eptWalk(cpu, mmu, gLo, gHi, kind, bits, perm);
}

const REWALK = -2;

/** Translate by a cached guest-physical mapping; REWALK: it does not do and is gone. */
function useRecord(
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
  const rights = gp.i[b + ENTRY.PERM]!;
  if ((rights & eptNeeds(mmu.mode, perm, kind)) === 0) {
    gp.remove(b);
    if (mmu.profile.permissionFault === 'rewalk') return REWALK;
    mmu.ledger.record(FLUSH.EPT_VIOLATION, -1, 1, cpu.clock[0]!);
    return eptViolation(cpu, mmu.mode, gLo, gHi, bits, rights);
  }
  if (kind === ACCESS.WRITE && (rights & PERM.D) === 0) {
    gp.remove(b);
    return REWALK;
  }
  const hpa = recordHpa(gp, b, gLo);
  const pfn = hpa >>> 12;
  if (hpa < cpu.mem.size && !cpu.frames.isCurrentSince(pfn, gp.i[b + ENTRY.SEQ]!))
    staleFrame(cpu, gp, b, pfn);
  mmu.walk[WALK.EPT_PERM] = rights;
  mmu.walk[WALK.EPT_CODE] = gp.i[b]! & 3;
  mmu.walkAddr[WALK_ADDR.EPTE_HPA] = gp.i[b + ENTRY.EPTE_HPA]!;
  return hpa;
}

function eptWalk(
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
  if (((BAD_MEMORY_TYPES >>> ((lo >>> 3) & 7)) & 1) !== 0) return eptMisconfig(cpu, gLo, gHi);
  let rights = ((and & 7) << 12) | ((and & EPTE.XU) << 5);
  if ((mode & MODE.MBEC) === 0) rights |= PERM.EPT_XU;
  if ((rights & eptNeeds(mode, perm, kind)) === 0) return eptViolation(cpu, mode, gLo, gHi, bits, rights);
  rights |= (mode & MODE.EPT_AD) !== 0 ? setFlags(cpu, mmu, level, and, lo, kind) : PERM.D;
  return finish(cpu, mmu, gLo, gHi, level, lo, hi, rights, kind);
}

/** Set accessed flags, and the leaf's dirty flag for a write. PERM.D if the leaf is dirty. */
function setFlags(cpu: Cpu, mmu: Mmu, leafLevel: number, and: number, leaf: number, kind: number): number {
  const { i32 } = cpu.mem;
  const at = mmu.eptEntryHpa;
  if ((and & EPTE.A) === 0) {
    for (let level = mmu.eptLevels; level >= leafLevel; level--) i32[at[level]! >> 2]! |= EPTE.A;
  }
  if (kind === ACCESS.WRITE && (leaf & EPTE.D) === 0) {
    i32[at[leafLevel]! >> 2]! |= EPTE.D;
    return PERM.D;
  }
  return (leaf & EPTE.D) !== 0 ? PERM.D : 0;
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
): number {
  const code = level - 1;
  const mask = pageOffsetMask(code);
  const base = ((lo & ~0xfff & ~mask) >>> 0) + (hi & 0xf_ffff) * 0x1_0000_0000;
  const leaf = mmu.eptEntryHpa[level]!;
  checkLeafFrame(cpu, base + (gLo & mask));
  mmu.walk[WALK.EPT_PERM] = rights;
  mmu.walk[WALK.EPT_CODE] = code;
  mmu.walkAddr[WALK_ADDR.EPTE_HPA] = leaf;
  if (mmu.gp.keeps) {
    const { gp } = mmu;
    const b = gp.insert(gLo, gHi, code, mmu.gpGroup, mmu.gpSpace);
    const f = b >> 1;
    gp.i[b + ENTRY.PERM] = rights;
    gp.f[f + ENTRY_F64.HPA] = base;
    gp.f[f + ENTRY_F64.GPA] = ((gLo & ~mask) >>> 0) + gHi * 0x1_0000_0000;
    gp.i[b + ENTRY.PTE_HPA] = -1;
    gp.i[b + ENTRY.EPTE_HPA] = leaf;
    stampRecord(cpu, gp, b, kind);
  }
  return base + (gLo & mask);
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
