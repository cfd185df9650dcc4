// SPDX-License-Identifier: GPL-2.0-only
/**
 * The translation context: which translations are live, as tags of the modelled TLB and as one XOR constant of the fast
 * TLB. Contexts that were seen are remembered, so that switching back is a table lookup.
 * DEVIATION: the constant sits in bits 62:57; a non-canonical address that differs from a canonical one of another live
 * context in just the right of these bits may hit the fast TLB instead of raising GP.
 */
import { CR4 } from '../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SCRATCH } from '../cpu/regs.ts';
import { S } from '../cpu/state.ts';
import { ep4taOf, NO_TAG, PCID_GLOBAL } from '../tlb/tag_spaces.ts';
import { dropAllFast, dropFastSlot } from './fast.ts';
import { CONTEXT_SLOTS, CONTEXT_WORDS, MODE, type Mmu } from './mmu.ts';
import { modeOf } from './rights.ts';

/** Words of a remembered context: the key, then what follows from it. */
// prettier-ignore
const CTX = {
  MODE: 0, TAG: 1, EPTP_LO: 2, EPTP_HI: 3, PKRU: 4, // key; TAG is VPID << 12 | PCID
  XOR: 5, SPACE: 6, GLOBAL: 7, GROUP: 8, GP_SPACE: 9, GP_GROUP: 10,
} as const;

/** Contexts that the fast TLB can tell apart. Bit 31 stays the address's own: sign flips must not alias. */
const MAX_CONTEXTS = 64;
const XOR_SHIFT = 25;
/** Tags are swept when there are more than these. */
const MAX_SPACES = 1024;

/** After any change of CPL, CR0.WP, CR3, CR4, EFER.NXE, RFLAGS.AC, PKRU, or the Mmu's eptp, eptAd, mbec, vpid. */
export function mmuContextChanged(cpu: Cpu): void {
  const { mmu, s } = cpu;
  const mode = modeOf(cpu, mmu, 0);
  const pcid = (s[S.CR4]! & CR4.PCIDE) !== 0 ? s[S.CR3]! & 0xfff : 0;
  const tag = (mmu.vpid << 12) | pcid;
  const pkru = (mode & MODE.PKE) !== 0 ? s[S.PKRU]! : 0;
  const eptpLo = mmu.eptp | 0;
  const eptpHi = (mmu.eptp / 0x1_0000_0000) | 0;
  const hash = Math.imul(mode + Math.imul(tag, 0x61c88647) + (eptpLo >>> 12) + pkru, 0x2545f491);
  const at = (hash >>> 24) * CONTEXT_WORDS;
  const c = mmu.contexts;
  if (
    c[at] !== mode ||
    c[at + CTX.TAG] !== tag ||
    c[at + CTX.EPTP_LO] !== eptpLo ||
    c[at + CTX.EPTP_HI] !== eptpHi ||
    c[at + CTX.PKRU] !== pkru
  ) {
    newContext(cpu, mmu, at, pcid);
    c[at] = mode;
    c[at + CTX.TAG] = tag;
    c[at + CTX.EPTP_LO] = eptpLo;
    c[at + CTX.EPTP_HI] = eptpHi;
    c[at + CTX.PKRU] = pkru;
  }
  mmu.mode = mode;
  mmu.pkru = pkru;
  mmu.space = c[at + CTX.SPACE]!;
  mmu.globalSpace = c[at + CTX.GLOBAL]!;
  mmu.group = c[at + CTX.GROUP]!;
  mmu.gpSpace = c[at + CTX.GP_SPACE]!;
  mmu.gpGroup = c[at + CTX.GP_GROUP]!;
  s[S.CTX] = c[at + CTX.XOR]!;
  s[SCRATCH.MODE] = mode;
  s[SCRATCH.GROUP] = mmu.group;
  s[SCRATCH.SPACE] = mmu.space;
  s[SCRATCH.GLOBAL_SPACE] = mmu.globalSpace;
  if ((mode & MODE.EPT) !== 0) {
    const root = eptpLo & ~0xfff;
    mmu.eptRoot = (eptpHi & 0xf_ffff) === 0 && root >>> 0 < cpu.mem.size ? root : -1;
    mmu.eptLevels = ((eptpLo >>> 3) & 7) + 1;
  }
}

/** Give the context at `at` its tags and its number. */
function newContext(cpu: Cpu, mmu: Mmu, at: number, pcid: number): void {
  const { contexts: c, spaces } = mmu;
  if (mmu.spaces.length === 0) mmu.tlb.onDropFast = (slot) => dropFastSlot(cpu, slot);
  if (mmu.nrContexts === MAX_CONTEXTS || spaces.live > MAX_SPACES) forgetContexts(cpu, mmu);
  const ep4ta = mmu.eptp === 0 ? NO_TAG : ep4taOf(mmu.eptp);
  const space = spaces.intern(mmu.vpid, pcid, ep4ta);
  const gpSpace = spaces.intern(NO_TAG, NO_TAG, ep4ta);
  c[at + CTX.XOR] = mmu.nrContexts++ << XOR_SHIFT;
  c[at + CTX.SPACE] = space;
  c[at + CTX.GLOBAL] = spaces.intern(mmu.vpid, PCID_GLOBAL, ep4ta);
  c[at + CTX.GROUP] = spaces.group[space]!;
  c[at + CTX.GP_SPACE] = gpSpace;
  c[at + CTX.GP_GROUP] = spaces.group[gpSpace]!;
}

/** Numbers have run out: start again with an empty fast TLB, and reuse the tags that nothing is cached for. */
function forgetContexts(cpu: Cpu, mmu: Mmu): void {
  dropAllFast(cpu);
  mmu.contexts.fill(-1, 0, CONTEXT_SLOTS * CONTEXT_WORDS);
  mmu.nrContexts = 0;
  if (mmu.spaces.live <= MAX_SPACES) return;
  mmu.spaces.sweep((space) => mmu.tlb.countOf(space) + mmu.gp.countOf(space) > 0);
}

/** Whether a context with this XOR constant is remembered that may use records of `space`. For the audit. */
export function contextMayUse(mmu: Mmu, xor: number, space: number): boolean {
  const { contexts: c } = mmu;
  // A context whose place was taken by another is not remembered; its number is not given out again either.
  let known = false;
  for (let at = 0; at < c.length; at += CONTEXT_WORDS) {
    if (c[at] === -1 || c[at + CTX.XOR] !== xor) continue;
    known = true;
    if (c[at + CTX.SPACE] === space || c[at + CTX.GLOBAL] === space) return true;
  }
  return !known && xor >>> XOR_SHIFT < mmu.nrContexts;
}
