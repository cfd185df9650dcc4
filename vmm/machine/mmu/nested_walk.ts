// SPDX-License-Identifier: GPL-2.0-only
/**
 * The common case of a two-dimensional walk, straight-line: 4 levels, a 4 KiB page, guest tables whose guest-physical
 * mappings are cached, nothing to set in the guest's entries, nothing to refuse. Until the last step it changes nothing;
 * whatever it does not take goes to guest_walk.ts, which knows all the rules and must agree with it.
 */
import { PTE } from '../../../lib/x86/paging.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { ENTRY, PERM } from '../tlb/entry.ts';
import { ACCESS } from './access.ts';
import { eptTranslate, finalAccessBits } from './ept_walk.ts';
import { MODE, WALK, WALK_ADDR, type Mmu } from './mmu.ts';
import * as rights from './rights.ts';

// Local, because the optimiser folds only local constants.
const { P, A, D, PS, G } = PTE;
const { CR3 } = S;
const { NXE, PGE, EPT_AD } = MODE;
const { WRITE } = ACCESS;
const { PERM: E_PERM, SEQ, RAM } = ENTRY;
const { X, D: PERM_D, G: PERM_G, EPT_R, EPT_W, EPT_ALL } = PERM;
const { PERM: W_PERM, CODE, REFS, EPT_PERM } = WALK;
const { HPA, GPA, PTE_GPA, PTE_HPA } = WALK_ADDR;
const { RIGHTS } = rights;
const RW_US = 3;
const PA_HI = 0xf_ffff;
const OFFSET_2M = 0x1f_ffff;

/** It is not the common case; nothing has happened. */
export const NOT_COMMON = 1;

/** Host address of a guest table page by its cached mapping, or -1. */
function tableHost(cpu: Cpu, mmu: Mmu, gLo: number, needs: number): number {
  const { gp } = mmu;
  const b = gp.lookup(gLo, 0, mmu.gpGroup, mmu.gpSpace, mmu.gpSpace);
  if (b < 0) return -1;
  const { i } = gp;
  const ram = i[b + RAM]!;
  const code = i[b]! & 3;
  if (ram < 0 || code > 1 || (i[b + E_PERM]! & needs) !== needs) return -1;
  const hpa = code === 0 ? ram : ram + (gLo & OFFSET_2M & ~0xfff);
  return hpa < cpu.mem.size && cpu.frames.isCurrentSince(hpa >>> 12, i[b + SEQ]!) ? hpa : -1;
}

/** walkGuest() under EPT: 0 or -1 as it, or NOT_COMMON. */
export function quickNestedWalk(
  cpu: Cpu,
  mmu: Mmu,
  lo: number,
  hi: number,
  mode: number,
  kind: number,
): number {
  const { s } = cpu;
  const { i32 } = cpu.mem;
  const needs = (mode & EPT_AD) !== 0 ? EPT_R | EPT_W | PERM_D : EPT_R;
  const t4 = tableHost(cpu, mmu, s[CR3]!, needs);
  if (t4 < 0 || s[CR3 + 1] !== 0) return NOT_COMMON;
  let at = (t4 >> 2) | ((hi >>> 6) & 0x3fe);
  const e4 = i32[at]!;
  let his = i32[at | 1]!;
  const t3 = tableHost(cpu, mmu, e4, needs);
  if (t3 < 0) return NOT_COMMON;
  at = (t3 >> 2) | (((hi << 3) | (lo >>> 29)) & 0x3fe);
  const e3 = i32[at]!;
  his |= i32[at | 1]!;
  const t2 = tableHost(cpu, mmu, e3, needs);
  if (t2 < 0) return NOT_COMMON;
  at = (t2 >> 2) | ((lo >>> 20) & 0x3fe);
  const e2 = i32[at]!;
  his |= i32[at | 1]!;
  const t1 = tableHost(cpu, mmu, e2, needs);
  if (t1 < 0) return NOT_COMMON;
  at = (t1 >> 2) | ((lo >>> 11) & 0x3fe);
  const e1 = i32[at]!;
  const h1 = i32[at | 1]!;
  his |= h1;
  const and = e4 & e3 & e2 & e1;
  const wanted = kind === WRITE ? D : 0;
  let perm = ((and >> 1) & RW_US) | (his < 0 ? 0 : X);
  if (
    (and & (P | A)) !== (P | A) ||
    ((e4 | e3 | e2) & PS) !== 0 ||
    (his & PA_HI) !== 0 ||
    (his < 0 && (mode & NXE) === 0) ||
    (e1 & wanted) !== wanted ||
    (RIGHTS[((mode & 31) << 3) | perm]! & (1 << kind)) === 0
  ) {
    return NOT_COMMON;
  }
  perm |= ((e1 & G) !== 0 && (mode & PGE) !== 0 ? PERM_G : 0) | ((h1 >>> 19) & 0xf00);
  const { walk, walkAddr } = mmu;
  const page = e1 & ~0xfff;
  walk[REFS] = 4;
  const hpa = eptTranslate(cpu, mmu, page | (lo & 0xfff), 0, kind, finalAccessBits(kind), perm);
  if (hpa < 0) return -1;
  const ept = walk[EPT_PERM]!;
  walk[W_PERM] = perm | (ept & EPT_ALL) | ((e1 & D) !== 0 ? ept & PERM_D : 0);
  walk[CODE] = 0;
  walkAddr[HPA] = hpa - (lo & 0xfff);
  walkAddr[GPA] = page >>> 0;
  walkAddr[PTE_GPA] = ((e2 & ~0xfff) >>> 0) + ((lo >>> 9) & 0xff8);
  walkAddr[PTE_HPA] = at << 2;
  return 0;
}
