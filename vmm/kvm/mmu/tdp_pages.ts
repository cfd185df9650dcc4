// SPDX-License-Identifier: GPL-2.0-only
/**
 * Table pages of the TDP MMU: real frames of machine memory. Mirrors tdp_mmu_alloc_sp(), tdp_mmu_free_sp() and
 * handle_removed_pt() of arch/x86/kvm/mmu/tdp_mmu.c, 6.12; the RCU callback that frees pages is a list that the caller
 * frees when no CPU can walk the pages any more.
 */
import { PAGE_SIZE, pfn as toPfn, type Gfn } from '../../../lib/x86/addr.ts';
import { GFP } from '../../host/mm/page_alloc.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Kvm } from '../kvm_host.ts';
import { isLastSpte, isShadowPresentPte, pagesPerHpage, SPTE_ENT_PER_PAGE, spteHpa } from './spte.ts';
import { tdpMmuSetSpte } from './tdp_iter.ts';

/** The address of a zeroed table page, or -ENOMEM. */
export function tdpMmuAllocPage(kvm: Kvm): number {
  const { pages } = kvm.host;
  const frame = pages.allocPage(pages.owner(`TDP table of ${kvm.name}`), GFP.ZERO);
  if (frame < 0) return frame;
  kvm.arch.tdpMmuPages++;
  return frame * PAGE_SIZE;
}

/** Free table pages that no CPU can reach. */
export function tdpMmuFreePages(kvm: Kvm, tables: readonly number[]): void {
  const { pages } = kvm.host;
  const by = pages.owner(`TDP zap of ${kvm.name}`);
  for (const table of tables) pages.putPage(toPfn(table / PAGE_SIZE), by);
  kvm.arch.tdpMmuPages -= tables.length;
}

/** handle_removed_pt(): the table at `table` was unlinked. Clear all below it; table pages go to `freed`. */
export function handleRemovedPt(
  kvm: Kvm,
  asId: number,
  table: number,
  level: number,
  gfn: number,
  freed: number[],
): void {
  const { i32 } = kvm.host.machine.mem;
  const span = pagesPerHpage(level);
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) {
    const sptep = (table >>> 2) + 2 * i;
    const lo = i32[sptep]!;
    if (lo === 0) continue;
    const entryGfn = gfn + i * span;
    tdpMmuSetSpte(kvm, asId, sptep, level, entryGfn as Gfn, 0, 0);
    if (!isShadowPresentPte(lo)) continue;
    if (isLastSpte(lo, level)) spend(kvm.host.sched.cpu, COST.TDP_ZAP);
    else handleRemovedPt(kvm, asId, spteHpa(lo), level - 1, entryGfn, freed);
  }
  freed.push(table);
}
