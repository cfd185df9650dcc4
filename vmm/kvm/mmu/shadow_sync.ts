// SPDX-License-Identifier: GPL-2.0-only
/**
 * Bringing unsync pages up to date: FNAME(sync_spte) of arch/x86/kvm/mmu/paging_tmpl.h, kvm_sync_page() and
 * mmu_sync_children() of mmu.c, 6.12. mmu_lock is held for writing; kvm_mmu_sync_roots() needs no lock, since it queues.
 */
import type { Gfn, Pfn } from '../../../lib/x86/addr.ts';
import { FOLL } from '../../host/mm/fault.ts';
import { userHpa } from '../../host/mm/user_access.ts';
import type { Steps } from '../../host/steps.ts';
import { BugError } from '../../machine/errors.ts';
import { gfnToHvaSlot, kvmVcpuGfnToMemslot, kvmVcpuMemslots } from '../guest_memory.ts';
import { KVM_HVA_ERR, type Vcpu } from '../kvm_host.ts';
import { KVM_MMU_NUM_PREV_ROOTS, type KvmMmu } from '../kvm_host_x86.ts';
import { kvmMmuFreeRoots, kvmMmuRootPrevious } from './free_roots.ts';
import { vcpuClearMmioInfo } from './mmio.ts';
import { KvmMmuPage } from './mmu_page.ts';
import { kvmMmuSlotGfnWriteProtect } from './page_track.ts';
import { dropSpte } from './rmap.ts';
import { ROLE } from './role.ts';
import { makeShadowSpte, mmuSpteUpdate, type SpteWords } from './shadow_spte.ts';
import { kvmMmuCommitZapPages, kvmMmuPrepareZapPage } from './shadow_zap.ts';
import {
  isMmioSpte,
  mmioSpteGfn,
  mmioSpteHi,
  mmioSpteLo,
  MMIO_SPTE_GEN_MASK,
  SPTE_ENT_PER_PAGE,
  SPTE_HI,
  spteHpa,
} from './spte.ts';
import { kvmUnlinkUnsyncPage, mmuUnsyncWalk } from './unsync.ts';
import { gpteAccess, gpteToGfnLvl, haveAccessedDirty, isPresentGpte, protectCleanGpte } from './walk_addr.ts';
import { EPTE } from '../../../lib/x86/paging.ts';

/** Where the guest's entry for `index` of the page is in machine memory; below zero if it cannot be read now. */
function gpteHpa(vcpu: Vcpu, sp: KvmMmuPage, index: number): number {
  const page = gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, sp.gfn), sp.gfn, 'read');
  return page === KVM_HVA_ERR.BAD ? -1 : userHpa(vcpu.kvm.mm, page + 8 * index, FOLL.READ);
}

/** FNAME(prefetch_invalid_gpte): the entry translates nothing, or has not been used. */
function invalidGpte(mmu: KvmMmu, lo: number, hi: number): boolean {
  if (!isPresentGpte(true, lo)) return true;
  if (haveAccessedDirty(mmu) && (lo & EPTE.A) === 0) return true;
  return mmu.guestRsvdCheck.isSet(lo, hi, 1);
}

/** FNAME(sync_spte) of one present or MMIO entry: -1 the guest's cannot be read, 1 the TLBs must be flushed, else 0. */
export function kvmSyncSpte(vcpu: Vcpu, mmu: KvmMmu, sp: KvmMmuPage, index: number): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const sptep = sp.sptep(index);
  if ((i32[sptep]! | i32[sptep + 1]!) === 0) return 0;
  const at = gpteHpa(vcpu, sp, index);
  if (at < 0) return -1;
  const lo = i32[at >>> 2]!;
  const hi = i32[(at >>> 2) + 1]!;
  if (invalidGpte(mmu, lo, hi)) {
    dropSpte(kvm, sptep);
    return 1;
  }
  const gfn = gpteToGfnLvl(lo, hi, 1);
  const access = protectCleanGpte(mmu, sp.role.access & gpteAccess(true, lo, false), lo);
  if (isMmioSpte(kvm.module.masks, i32[sptep]!)) return syncMmioSpte(vcpu, sptep, gfn);
  if (access === 0 || gfn !== sp.gfnAt(index)) {
    dropSpte(kvm, sptep);
    return 1;
  }
  return sp.accessAt(index) === access ? 0 : changeAccess(vcpu, sp, index, gfn, access);
}

/** sync_mmio_spte(): an entry of another gfn goes; one of the same is of the current memslots from now on. */
function syncMmioSpte(vcpu: Vcpu, sptep: number, gfn: Gfn): number {
  const { i32 } = vcpu.kvm.host.machine.mem;
  if (mmioSpteGfn(i32[sptep]!, i32[sptep + 1]!) !== gfn) {
    dropSpte(vcpu.kvm, sptep);
    return 0;
  }
  const gen = kvmVcpuMemslots(vcpu).generation % (MMIO_SPTE_GEN_MASK + 1);
  i32[sptep] = mmioSpteLo(vcpu.kvm.module.masks, gfn, gen);
  i32[sptep + 1] = mmioSpteHi(gfn, gen);
  return 0;
}

/** The gfn is the same, the rights are others. */
function changeAccess(vcpu: Vcpu, sp: KvmMmuPage, index: number, gfn: Gfn, access: number): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const sptep = sp.sptep(index);
  const slot = kvmVcpuGfnToMemslot(vcpu, gfn);
  if (slot === null) throw new BugError(`gfn ${gfn} is mapped without a slot`);
  sp.setTranslation(index, gfn, access);
  const old = i32[sptep]!;
  const words: SpteWords = { lo: 0, hi: 0, wrprot: false };
  const hostWritable = (i32[sptep + 1]! & SPTE_HI.HOST_WRITABLE) !== 0;
  const pfn = (spteHpa(old) >>> 12) as Pfn;
  makeShadowSpte(vcpu, sp, { slot, gfn, pfn, access, hostWritable, why: 'sync' }, old, words);
  return mmuSpteUpdate(i32, sptep, words, kvm.module.masks.accessed) ? 1 : 0;
}

/** Roles may differ in these when a page is synced by a context: level, rights, quadrant. */
const SYNC_ROLE_IGNORE = ROLE.LEVEL_MASK | ROLE.ACCESS_MASK | ROLE.QUADRANT_MASK | ROLE.PASSTHROUGH;

/** __kvm_sync_page(): as kvm_sync_spte(), for the whole page. */
function syncPage(vcpu: Vcpu, mmu: KvmMmu, sp: KvmMmuPage): number {
  if (sp.role.direct || ((sp.role.word ^ mmu.rootRole.word) & ~SYNC_ROLE_IGNORE) !== 0) return -1;
  let flush = 0;
  for (let i = 0; i < SPTE_ENT_PER_PAGE; i++) {
    const r = kvmSyncSpte(vcpu, mmu, sp, i);
    if (r < 0) return -1;
    flush |= r;
  }
  return flush;
}

/** kvm_sync_page(): a page that cannot be synced is zapped, and -1 returned. Marks the need to flush. */
export function kvmSyncPage(vcpu: Vcpu, mmu: KvmMmu, sp: KvmMmuPage): number {
  const r = syncPage(vcpu, mmu, sp);
  if (r < 0) kvmMmuPrepareZapPage(vcpu.kvm, sp);
  else if (r > 0) vcpu.kvm.arch.shadow.flush = true;
  return r;
}

/** mmu_sync_children(): everything below `parent` is write-protected and up to date afterwards. Flushes. */
export function* mmuSyncChildren(vcpu: Vcpu, mmu: KvmMmu, parent: KvmMmuPage): Steps<void> {
  const { kvm } = vcpu;
  const { shadow } = kvm.arch;
  for (;;) {
    const pages = mmuUnsyncWalk(kvm, parent);
    if (pages.length === 0) break;
    for (const sp of pages) {
      // Before reading the entries: a write after it faults, and finds the page in sync.
      if (kvmMmuSlotGfnWriteProtect(kvm, sp.role.smm, sp.gfn, 1)) shadow.flush = true;
    }
    yield* kvmMmuCommitZapPages(kvm);
    for (const sp of pages) {
      if (sp.role.invalid || !sp.unsync) continue;
      kvmUnlinkUnsyncPage(kvm, sp);
      kvmSyncPage(vcpu, mmu, sp);
    }
  }
  yield* kvmMmuCommitZapPages(kvm);
}

/** is_unsync_root(). */
const unsyncRoot = (sp: unknown): sp is KvmMmuPage =>
  sp instanceof KvmMmuPage && (sp.unsync || sp.unsyncChildren.size !== 0);

/** kvm_mmu_sync_roots(): the current root; done before the guest is entered again. Nothing to do for direct roots. */
export function kvmMmuSyncRoots(vcpu: Vcpu): void {
  const { mmu } = vcpu.arch;
  if (mmu.rootRole.direct || mmu.root.sp === null) return;
  vcpuClearMmioInfo(vcpu);
  const { sp } = mmu.root;
  if (unsyncRoot(sp))
    vcpu.kvm.arch.shadow.work.push(() => (sp.role.invalid ? undefined : mmuSyncChildren(vcpu, mmu, sp)));
}

/** kvm_mmu_sync_prev_roots(): previous roots that are out of sync are given up. */
export function kvmMmuSyncPrevRoots(vcpu: Vcpu): void {
  const { mmu } = vcpu.arch;
  let roots = 0;
  for (let i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++) {
    if (unsyncRoot(mmu.prevRoots[i]!.sp)) roots |= kvmMmuRootPrevious(i);
  }
  if (roots !== 0) kvmMmuFreeRoots(vcpu.kvm, mmu, roots);
}
