// SPDX-License-Identifier: GPL-2.0-only
/**
 * TDP roots: allocated once per role, shared by vCPUs, invalidated as a whole. Mirrors the root handling of
 * arch/x86/kvm/mmu/tdp_mmu.c, 6.12. A valid root holds one reference of its own beside those of vCPUs.
 */
import type { Hpa } from '../../../lib/x86/addr.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Steps } from '../../host/steps.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import { TdpMmuRoot } from './mmu_page.ts';
import { ROLE } from './role.ts';
import { isLastSpte, isShadowPresentPte, pagesPerHpage, SPTE_ENT_PER_PAGE, spteHpa } from './spte.ts';
import { tdpMmuSetSpte } from './tdp_iter.ts';
import { handleRemovedPt, tdpMmuAllocPage, tdpMmuFreePages } from './tdp_pages.ts';
import type { Gfn } from '../../../lib/x86/addr.ts';

/** kvm_tdp_mmu_alloc_root(): a reference to the valid root of the vCPU's role, new if there is none; or -ENOMEM. */
export function kvmTdpMmuAllocRoot(vcpu: Vcpu): TdpMmuRoot | number {
  const { kvm } = vcpu;
  const { word } = vcpu.arch.mmu.rootRole;
  // A role without the invalid bit: that of a root which is gone differs.
  for (const root of kvm.arch.tdpMmuRoots) {
    if (root.role.word !== word) continue;
    root.refcount++;
    return root;
  }
  const hpa = tdpMmuAllocPage(kvm);
  if (hpa < 0) return hpa;
  spend(kvm.host.sched.cpu, COST.TDP_ROOT_ALLOC);
  const root = new TdpMmuRoot(hpa as Hpa, word);
  kvm.arch.tdpMmuRoots.push(root);
  return root;
}

/** root_to_sp(). */
export function tdpRootOf(kvm: Kvm, hpa: Hpa): TdpMmuRoot {
  for (const root of kvm.arch.tdpMmuRoots) if (root.hpa === hpa) return root;
  throw new BugError(`${hpa} is not a root of ${kvm.name}`);
}

/** kvm_tdp_mmu_put_root(): the last reference frees the root, which must have been invalidated and zapped. */
export function kvmTdpMmuPutRoot(kvm: Kvm, root: TdpMmuRoot): void {
  root.refcount--;
  if (root.refcount > 0) return;
  if (!root.invalid) throw new BugError(`${kvm.name}: the last reference to a valid root is gone`);
  const roots = kvm.arch.tdpMmuRoots;
  roots.splice(roots.indexOf(root), 1);
  tdpMmuFreePages(kvm, [root.hpa]);
}

/**
 * for_each_tdp_mmu_root_yield_safe(): the roots of an address space, each with a reference while it is in use, so that
 * mmu_lock may be dropped meanwhile. `asId` null: all; roots that are invalid only if `which` says so.
 */
export function* forEachTdpMmuRoot(
  kvm: Kvm,
  asId: number | null,
  which: 'all' | 'valid',
  body: (root: TdpMmuRoot) => Steps<void>,
): Steps<void> {
  for (const root of [...kvm.arch.tdpMmuRoots]) {
    const wanted = (asId === null || root.role.smm === asId) && !(root.invalid && which === 'valid');
    if (!wanted || root.refcount === 0) continue;
    root.refcount++;
    yield* body(root);
    kvmTdpMmuPutRoot(kvm, root);
  }
}

/** kvm_tdp_mmu_invalidate_roots(): no vCPU may load them any more; with mmu_lock held for writing. */
export function kvmTdpMmuInvalidateRoots(kvm: Kvm): void {
  kvm.mmuLock.assertHeldWrite();
  for (const root of kvm.arch.tdpMmuRoots) {
    if (root.invalid) continue;
    root.role.word |= ROLE.INVALID;
    root.scheduledZap = true;
  }
}

/**
 * kvm_tdp_mmu_zap_invalidated_roots(): zap what kvm_tdp_mmu_invalidate_roots() left behind. A root stays listed while
 * it is being zapped, so that notifiers reach its entries. No TLB flush: who loads a root flushes first.
 */
export function* kvmTdpMmuZapInvalidatedRoots(kvm: Kvm): Steps<void> {
  const lock = kvm.mmuLock;
  if (!lock.readFastLock()) yield* lock.readLock();
  for (;;) {
    const root = kvm.arch.tdpMmuRoots.find((candidate) => candidate.scheduledZap);
    if (root === undefined) break;
    root.scheduledZap = false;
    yield* tdpMmuZapRoot(kvm, root, 'read');
    kvmTdpMmuPutRoot(kvm, root);
  }
  lock.readUnlock();
}

/** tdp_mmu_zap_root(): clear every entry of the root, freeing the tables below. Drops the lock when its slice ends. */
export function* tdpMmuZapRoot(kvm: Kvm, root: TdpMmuRoot, held: 'read' | 'write'): Steps<void> {
  const { i32 } = kvm.host.machine.mem;
  const level = root.role.level;
  const span = pagesPerHpage(level);
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) {
    const sptep = (root.hpa >>> 2) + 2 * i;
    const lo = i32[sptep]!;
    if (lo === 0) continue;
    if (isShadowPresentPte(lo) && !isLastSpte(lo, level) && level > 2) {
      yield* zapTables(kvm, root, spteHpa(lo), level - 1, i * span, held);
    }
    zapEntry(kvm, root, sptep, level, (i * span) as Gfn);
  }
}

/** The entries of one table, each subtree of level 2 and below in one go. */
function* zapTables(
  kvm: Kvm,
  root: TdpMmuRoot,
  table: number,
  level: number,
  gfn: number,
  held: 'read' | 'write',
): Steps<void> {
  const { i32 } = kvm.host.machine.mem;
  const span = pagesPerHpage(level);
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) {
    const sptep = (table >>> 2) + 2 * i;
    const lo = i32[sptep]!;
    if (lo === 0) continue;
    const entryGfn = gfn + i * span;
    if (level > 2 && isShadowPresentPte(lo) && !isLastSpte(lo, level)) {
      yield* zapTables(kvm, root, spteHpa(lo), level - 1, entryGfn, held);
    }
    zapEntry(kvm, root, sptep, level, entryGfn as Gfn);
    yield* condResched(kvm, held);
  }
}

function zapEntry(kvm: Kvm, root: TdpMmuRoot, sptep: number, level: number, gfn: Gfn): void {
  const lo = kvm.host.machine.mem.i32[sptep]!;
  tdpMmuSetSpte(kvm, root.role.smm, sptep, level, gfn, 0, 0);
  if (!isShadowPresentPte(lo)) return;
  spend(kvm.host.sched.cpu, COST.TDP_ZAP);
  if (isLastSpte(lo, level)) return;
  const freed: number[] = [];
  handleRemovedPt(kvm, root.role.smm, spteHpa(lo), level - 1, gfn, freed);
  tdpMmuFreePages(kvm, freed);
}

/** tdp_mmu_iter_cond_resched() without a pending flush: let others have mmu_lock when the slice is over. */
function* condResched(kvm: Kvm, held: 'read' | 'write'): Steps<void> {
  if (!kvm.host.sched.shouldYield()) return;
  const lock = kvm.mmuLock;
  if (held === 'read') lock.readUnlock();
  else lock.writeUnlock();
  yield;
  if (held === 'read') yield* lock.readLock();
  else yield* lock.writeLock();
}
