// SPDX-License-Identifier: GPL-2.0-only
/**
 * Who may do what to a page: U/S, R/W, XD against CPL, CR0.WP, CR4.SMEP, CR4.SMAP, RFLAGS.AC and IA32_EFER.NXE, plus
 * protection keys. SDM, "Determination of Access Rights" and "Protection Keys". Supervisor keys (PKS) are left out.
 */
import { CR0, CR4, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { PERM } from '../tlb/entry.ts';
import { ACCESS } from './access.ts';
import { MODE, type Mmu } from './mmu.ts';

/** Bits of a RIGHTS element, 1 << ACCESS kind. */
export const MAY = { READ: 1, WRITE: 2, EXEC: 4 } as const;

function rightsOf(mode: number, perm: number): number {
  const userPage = (perm & PERM.U) !== 0;
  const noExec = (mode & MODE.NXE) !== 0 && (perm & PERM.X) === 0;
  const writable = (perm & PERM.W) !== 0;
  if ((mode & MODE.USER) !== 0) {
    if (!userPage) return 0;
    return MAY.READ | (writable ? MAY.WRITE : 0) | (noExec ? 0 : MAY.EXEC);
  }
  const data = userPage && (mode & MODE.SMAP) !== 0 ? 0 : MAY.READ | MAY.WRITE;
  const readOnly = (mode & MODE.WP) !== 0 && !writable;
  const exec = noExec || (userPage && (mode & MODE.SMEP) !== 0) ? 0 : MAY.EXEC;
  return (readOnly ? data & ~MAY.WRITE : data) | exec;
}

function rightsTable(): Uint8Array {
  const table = new Uint8Array(32 * 8);
  for (let n = 0; n < table.length; n++) table[n] = rightsOf(n >> 3, n & 7);
  return table;
}

/** MAY bits by (MODE bits 4:0) << 3 | (PERM.W, U, X); protection keys and EPT not considered. */
export const RIGHTS: Uint8Array = rightsTable();

/** The MODE of the CPU's explicit accesses, or of implicit supervisor accesses, by its registers. */
export function modeOf(cpu: Cpu, mmu: Mmu, implicit: number): number {
  const s = cpu.s;
  const cr4 = s[S.CR4]!;
  let mode = (s[S.EFER]! & EFER.NXE) !== 0 ? MODE.NXE : 0;
  if (implicit === 0 && s[S.CPL] === 3) mode |= MODE.USER;
  else {
    if ((s[S.CR0]! & CR0.WP) !== 0) mode |= MODE.WP;
    if ((cr4 & CR4.SMEP) !== 0) mode |= MODE.SMEP;
    if ((cr4 & CR4.SMAP) !== 0 && (implicit !== 0 || (s[S.RFLAGS_SYS]! & RFLAGS.AC) === 0)) mode |= MODE.SMAP;
  }
  if ((cr4 & (CR4.PKE | CR4.LA57 | CR4.PGE)) !== 0) {
    // With all-zero PKRU, keys forbid nothing.
    if ((cr4 & CR4.PKE) !== 0 && s[S.PKRU] !== 0) mode |= MODE.PKE;
    if ((cr4 & CR4.LA57) !== 0) mode |= MODE.LA57;
    if ((cr4 & CR4.PGE) !== 0) mode |= MODE.PGE;
  }
  if (mmu.eptp !== 0) {
    mode |= MODE.EPT;
    if (mmu.eptAd !== 0) mode |= MODE.EPT_AD;
    if (mmu.mbec !== 0) mode |= MODE.MBEC;
  }
  return mode;
}

/** The MAY bits that PKRU takes from a page. SDM, "Protection Keys". */
export function keyDenies(mode: number, perm: number, pkru: number): number {
  if ((mode & MODE.PKE) === 0 || (perm & PERM.U) === 0) return 0;
  const bits = pkru >>> (((perm >>> PERM.PK_SHIFT) & 15) * 2);
  if ((bits & 1) !== 0) return MAY.READ | MAY.WRITE;
  return (bits & 2) !== 0 && (mode & (MODE.USER | MODE.WP)) !== 0 ? MAY.WRITE : 0;
}

/** The MAY bits that the guest's own tables give. */
export function guestRights(mode: number, perm: number, pkru: number): number {
  const rights = RIGHTS[((mode & 31) << 3) | (perm & 7)]!;
  return (mode & MODE.PKE) === 0 ? rights : rights & ~keyDenies(mode, perm, pkru);
}

/** The PERM.EPT bit that an access of `kind` needs. */
export function eptNeeds(mode: number, perm: number, kind: number): number {
  if (kind === ACCESS.READ) return PERM.EPT_R;
  if (kind === ACCESS.WRITE) return PERM.EPT_W;
  return (mode & MODE.MBEC) !== 0 && (perm & PERM.U) !== 0 ? PERM.EPT_XU : PERM.EPT_X;
}
