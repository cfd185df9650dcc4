// SPDX-License-Identifier: GPL-2.0-only
/**
 * The walk of the guest's paging structures, 4 or 5 levels, directly or through EPT. SDM, "4-Level Paging and 5-Level
 * Paging", "Accessed and Dirty Flags", "Translation of Guest-Physical Addresses Using EPT". A and D are set once the
 * access is known to be allowed by the guest's tables, and not at all if it is not.
 */
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { PTE } from '../../../lib/x86/paging.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { RAM_BASE } from '../layout.ts';
import { PAGE_CODE, pageOffsetMask, PERM } from '../tlb/entry.ts';
import { ACCESS } from './access.ts';
import { eptTranslate, finalAccessBits, tableAccessBits } from './ept_walk.ts';
import { pageFault } from './fault.ts';
import { MODE, WALK, WALK_ADDR, type Mmu } from './mmu.ts';
import { guestRights } from './rights.ts';
import { checkLeafFrame, checkTableFrame } from './sanitize.ts';

// Local, because the optimiser folds only local constants.
const { P, RW, US, A, D, PS, G } = PTE;
const { NXE, EPT, EPT_AD, LA57, PGE } = MODE;
const { READ, WRITE } = ACCESS;
const { REFS } = WALK;
const { X, D: PERM_D, G: PERM_G, PK_SHIFT } = PERM;
const { CR3 } = S;
const { PRESENT, RSVD } = PFERR;
const RAM_START = RAM_BASE;
/** Bits below the address of a large page's entry that must be clear (bit 12 is PAT). */
const RESERVED_1G = 0x3fff_e000;
const RESERVED_2M = 0x001f_e000;
const NX_RESERVED = 0x8000_0000 | 0;

/**
 * Walk for an access of `kind`. 0: done, the result is in mmu.walk and mmu.walkAddr (HPA and GPA of the page, aligned to
 * its size). -1: cpu.fault is filled.
 */
export function walkGuest(cpu: Cpu, mmu: Mmu, lo: number, hi: number, mode: number, kind: number): number {
  const { s, mem } = cpu;
  const { i32, size } = mem;
  const { walk, entryHpa } = mmu;
  const reservedHi = (mode & NXE) !== 0 ? mmu.reservedHi : mmu.reservedHi | NX_RESERVED;
  const nested = (mode & EPT) !== 0;
  let level = (mode & LA57) !== 0 ? 5 : 4;
  let vLo = s[CR3]!;
  let vHi = s[CR3 + 1]!;
  let and = -1;
  let nx = 0;
  walk[REFS] = 0;
  for (;;) {
    const index =
      level > 3 ? hi >>> (9 * level - 29) : level === 3 ? (hi << 2) | (lo >>> 30) : lo >>> (9 * level + 3);
    const offset = (index & 511) << 3;
    let table = vLo & ~0xfff;
    if (nested) {
      table = tableThroughEpt(cpu, mmu, mode, table | offset, vHi & 0xf_ffff, level);
      if (table === -1) return -1;
    } else if ((vHi & 0xf_ffff) !== 0 || table >>> 0 >= size || table < RAM_START) table = OUTSIDE;
    else if (cpu.frames.managed) checkTableFrame(cpu, table, 'page');
    walk[REFS]++;
    if (table === OUTSIDE) return pageFault(cpu, mode, kind, PRESENT | RSVD, 0);
    const at = table | offset;
    vLo = i32[at >> 2]!;
    vHi = i32[(at >> 2) + 1]!;
    entryHpa[level] = at;
    if ((vLo & P) === 0) return pageFault(cpu, mode, kind, 0, 0);
    if ((vHi & reservedHi) !== 0) return pageFault(cpu, mode, kind, PRESENT | RSVD, 0);
    and &= vLo;
    nx |= vHi;
    if (level === 1) break;
    if ((vLo & PS) !== 0) {
      const bad = level === 2 ? RESERVED_2M : level === 3 ? RESERVED_1G : PS;
      if ((vLo & bad) !== 0) return pageFault(cpu, mode, kind, PRESENT | RSVD, 0);
      break;
    }
    level--;
  }
  let perm = ((and & RW) >> 1) | ((and & US) >> 1) | (nx < 0 ? 0 : X);
  if ((mode & PGE) !== 0 && (vLo & G) !== 0) perm |= PERM_G;
  perm |= ((vHi >>> 27) & 15) << PK_SHIFT;
  if ((guestRights(mode, perm, cpu.s[S.PKRU]!) & (1 << kind)) === 0) {
    return pageFault(cpu, mode, kind, PRESENT, perm);
  }
  if ((and & A) === 0 || (kind === WRITE && (vLo & D) === 0)) {
    if (setFlags(cpu, mmu, mode, level, kind) < 0) return -1;
    if (kind === WRITE) vLo |= D;
  }
  if ((vLo & D) !== 0) perm |= PERM_D;
  return nested
    ? finishNested(cpu, mmu, lo, kind, level, vLo, vHi & 0xf_ffff, perm)
    : finishDirect(cpu, mmu, lo, level, vLo, vHi & 0xf_ffff, perm);
}

/** A table that is not in RAM: it reads as ones, which sets reserved bits. */
const OUTSIDE = -4096;

/** Host address of the page that holds a guest paging-structure entry; OUTSIDE, or -1 with the fault filled. */
function tableThroughEpt(cpu: Cpu, mmu: Mmu, mode: number, gLo: number, gHi: number, level: number): number {
  const asWrite = (mode & EPT_AD) !== 0;
  const kind = asWrite ? WRITE : READ;
  const hpa = eptTranslate(cpu, mmu, gLo, gHi, kind, tableAccessBits(asWrite), 0);
  if (hpa < 0) return -1;
  mmu.entryGpa[level] = (gLo >>> 0) + gHi * 0x1_0000_0000;
  return hpa < cpu.mem.size ? hpa & ~0xfff : OUTSIDE;
}

/** Set the accessed flags of the entries used, and the leaf's dirty flag for a write. */
function setFlags(cpu: Cpu, mmu: Mmu, mode: number, leaf: number, kind: number): number {
  const { i32 } = cpu.mem;
  for (let level = (mode & LA57) !== 0 ? 5 : 4; level >= leaf; level--) {
    const at = mmu.entryHpa[level]!;
    const old = i32[at >> 2]!;
    const want = old | A | (level === leaf && kind === WRITE ? D : 0);
    if (want === old) continue;
    // With EPT's accessed and dirty flags the read was checked as a write already.
    if ((mode & (EPT | EPT_AD)) === EPT) {
      const gpa = mmu.entryGpa[level]!;
      const gLo = gpa | 0;
      const gHi = Math.floor(gpa / 0x1_0000_0000);
      if (eptTranslate(cpu, mmu, gLo, gHi, WRITE, tableAccessBits(true), 0) < 0) return -1;
    }
    i32[at >> 2] = want;
    if (cpu.code.hasCode(at >>> 12)) cpu.code.noteStore(at, 8);
  }
  return 0;
}

function finishDirect(
  cpu: Cpu,
  mmu: Mmu,
  lo: number,
  level: number,
  vLo: number,
  vHi: number,
  perm: number,
): number {
  const { walk, walkAddr } = mmu;
  const mask = pageOffsetMask(level - 1);
  const base = ((vLo & ~0xfff & ~mask) >>> 0) + vHi * 0x1_0000_0000;
  checkLeafFrame(cpu, base + (lo & mask));
  walk[WALK.PERM] = perm | PERM.EPT_ALL;
  walk[WALK.CODE] = level - 1;
  walkAddr[WALK_ADDR.HPA] = base;
  walkAddr[WALK_ADDR.GPA] = base;
  walkAddr[WALK_ADDR.PTE_GPA] = mmu.entryHpa[level]!;
  walkAddr[WALK_ADDR.PTE_HPA] = mmu.entryHpa[level]!;
  walk[WALK.EPTE_HPA] = -1;
  return 0;
}

/** The access itself, through EPT; the page is the smaller of the two. */
function finishNested(
  cpu: Cpu,
  mmu: Mmu,
  lo: number,
  kind: number,
  level: number,
  vLo: number,
  gHi: number,
  perm: number,
): number {
  const { walk, walkAddr } = mmu;
  const guestMask = pageOffsetMask(level - 1);
  const gLo = (vLo & ~0xfff & ~guestMask) | (lo & guestMask);
  const hpa = eptTranslate(cpu, mmu, gLo, gHi, kind, finalAccessBits(kind), perm);
  if (hpa < 0) return -1;
  const eptPerm = walk[WALK.EPT_PERM]!;
  const code = Math.min(level - 1, walk[WALK.EPT_CODE]!);
  const mask = code === PAGE_CODE.S4K ? 0xfff : pageOffsetMask(code);
  walk[WALK.PERM] = (perm & ~PERM.D) | (eptPerm & PERM.EPT_ALL) | (perm & eptPerm & PERM.D);
  walk[WALK.CODE] = code;
  walkAddr[WALK_ADDR.HPA] = hpa - (gLo & mask);
  walkAddr[WALK_ADDR.GPA] = ((gLo & ~mask) >>> 0) + gHi * 0x1_0000_0000;
  walkAddr[WALK_ADDR.PTE_GPA] = mmu.entryGpa[level]!;
  walkAddr[WALK_ADDR.PTE_HPA] = mmu.entryHpa[level]!;
  return 0;
}
