// SPDX-License-Identifier: GPL-2.0-only
/**
 * Reading and changing TDP entries in machine memory, and walking over them. Mirrors tdp_iter.c and the entry accessors
 * of tdp_mmu.c in arch/x86/kvm/mmu, 6.12. An entry is named by its word index in machine memory (`sptep`).
 * DEVIATION: a walk with its change of entries is one step, at most one leaf table long: no compare-and-exchange fails
 * and no entry is ever seen frozen.
 */
import type { Gfn, Hpa } from '../../../lib/x86/addr.ts';
import type { Kvm } from '../kvm_host.ts';
import type { TdpMmuRoot } from './mmu_page.ts';
import { TP } from '../trace_events.ts';
import type { LastSpte } from './page_fault.ts';
import {
  isLargePte,
  isLastSpte,
  isShadowPresentPte,
  pagesPerHpage,
  spteHpa,
  spteIndex,
  spteU64,
} from './spte.ts';

/** Word index of the entry of `gfn` in the table at `table`. */
export const sptepOf = (table: number, gfn: number, level: number): number =>
  (table >>> 2) + (spteIndex(gfn, level) << 1);

/** Called for each present leaf of a walk. */
export type LeafVisitor = (sptep: number, lo: number, level: number, gfn: Gfn) => void;

/**
 * Visit present leaves of `root` from `gfn` on, up to `end` (exclusive), as far as one table of level 1 or one empty
 * stretch goes; the gfn to go on at. Callers loop, and may let others act in between.
 */
export function tdpWalkLeaves(
  i32: Int32Array,
  root: TdpMmuRoot,
  gfn: Gfn,
  end: Gfn,
  visit: LeafVisitor,
): Gfn {
  let table: number = root.hpa;
  for (let level = root.role.level; level > 1; level--) {
    const sptep = sptepOf(table, gfn, level);
    const lo = i32[sptep]!;
    if (!isShadowPresentPte(lo)) return roundUp(gfn, level);
    if (isLargePte(lo)) {
      const span = pagesPerHpage(level);
      visit(sptep, lo, level, (Math.floor(gfn / span) * span) as Gfn);
      return roundUp(gfn, level);
    }
    table = spteHpa(lo);
  }
  const stop = Math.min(end, roundUp(gfn, 2));
  let sptep = sptepOf(table, gfn, 1);
  for (let at: number = gfn; at < stop; at++, sptep += 2) {
    const lo = i32[sptep]!;
    if (isShadowPresentPte(lo)) visit(sptep, lo, 1, at as Gfn);
  }
  return stop as Gfn;
}

/** The first gfn behind the entry of `level` that holds `gfn`. */
function roundUp(gfn: number, level: number): Gfn {
  const span = pagesPerHpage(level);
  return ((Math.floor(gfn / span) + 1) * span) as Gfn;
}

/** Walk down to the entry that maps `gfn`, or that would have to. */
export function tdpLastSpte(i32: Int32Array, rootHpa: Hpa, rootLevel: number, gfn: Gfn, out: LastSpte): void {
  let table: number = rootHpa;
  let level = rootLevel;
  for (;;) {
    const sptep = sptepOf(table, gfn, level);
    const lo = i32[sptep]!;
    if (!isShadowPresentPte(lo) || isLastSpte(lo, level)) {
      out.sptep = sptep;
      out.level = level;
      return;
    }
    table = spteHpa(lo);
    level--;
  }
}

/** Write an entry, keep the page counts, and trace; the caller takes care of what the old one pointed at. */
export function tdpMmuSetSpte(
  kvm: Kvm,
  asId: number,
  sptep: number,
  level: number,
  gfn: Gfn,
  lo: number,
  hi: number,
): void {
  const { i32 } = kvm.host.machine.mem;
  const oldLo = i32[sptep]!;
  const trace = kvm.module.trace;
  if (trace.on[TP.KVM_TDP_MMU_SPTE_CHANGED]) {
    const before = spteU64(oldLo, i32[sptep + 1]!);
    trace.record(TP.KVM_TDP_MMU_SPTE_CHANGED, asId, gfn, level, before, spteU64(lo, hi));
  }
  i32[sptep] = lo;
  i32[sptep + 1] = hi;
  const was = isShadowPresentPte(oldLo) && isLastSpte(oldLo, level);
  const is = isShadowPresentPte(lo) && isLastSpte(lo, level);
  if (was !== is) kvmUpdatePageStats(kvm, level, is ? 1 : -1);
}

/** kvm_update_page_stats(). */
export function kvmUpdatePageStats(kvm: Kvm, level: number, count: number): void {
  if (level === 1) kvm.stat.pages_4k += count;
  else if (level === 2) kvm.stat.pages_2m += count;
  else kvm.stat.pages_1g += count;
}
