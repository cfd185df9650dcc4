// SPDX-License-Identifier: GPL-2.0-only
/**
 * Splitting a huge page into a table of smaller ones that translate the same. Mirrors tdp_mmu_split_huge_page() and
 * make_small_spte() of arch/x86/kvm/mmu, 6.12.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import type { Gfn } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Kvm } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import {
  makeNonleafSpteLo,
  nonleafSpteHi,
  pagesPerHpage,
  SPTE_ENT_PER_PAGE,
  SPTE_LO,
  spteU64,
} from './spte.ts';
import { tdpMmuSetSpte } from './tdp_iter.ts';
import { tdpMmuAllocPage } from './tdp_pages.ts';

/** Replace the leaf at `sptep` by a table; 0 or -ENOMEM. No TLB flush is needed: the translations stay. */
export function tdpMmuSplitHugePage(kvm: Kvm, asId: number, sptep: number, level: number, gfn: Gfn): number {
  const { i32 } = kvm.host.machine.mem;
  const { trace, masks } = kvm.module;
  const lo = i32[sptep]!;
  const hi = i32[sptep + 1]!;
  const table = tdpMmuAllocPage(kvm);
  if (trace.on[TP.KVM_MMU_SPLIT_HUGE_PAGE]) {
    trace.record(TP.KVM_MMU_SPLIT_HUGE_PAGE, gfn, spteU64(lo, hi), level, table < 0 ? -ERRNO.ENOMEM : 0);
  }
  if (table < 0) return table;
  spend(kvm.host.sched.cpu, COST.TDP_SPLIT);
  const bytes = pagesPerHpage(level - 1) * 4096;
  const small = level - 1 === 1 ? lo & ~SPTE_LO.PAGE_SIZE : lo;
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) {
    i32[(table >>> 2) + 2 * i] = small + i * bytes;
    i32[(table >>> 2) + 2 * i + 1] = hi;
  }
  if (level === 2) kvm.stat.pages_4k += SPTE_ENT_PER_PAGE;
  else kvm.stat.pages_2m += SPTE_ENT_PER_PAGE;
  tdpMmuSetSpte(kvm, asId, sptep, level, gfn, makeNonleafSpteLo(masks, table), nonleafSpteHi(masks));
  return 0;
}
