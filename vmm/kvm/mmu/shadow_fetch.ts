// SPDX-License-Identifier: GPL-2.0-only
/**
 * Installing what a walk of EPT12 found: FNAME(fetch) of arch/x86/kvm/mmu/paging_tmpl.h and mmu_set_spte() of mmu.c,
 * 6.12; leaves out prefetching of neighbours. mmu_lock is held for writing.
 */
import { PAGE_SIZE, type Gfn } from '../../../lib/x86/addr.ts';
import { FOLL } from '../../host/mm/fault.ts';
import { userHpa } from '../../host/mm/user_access.ts';
import type { Steps } from '../../host/steps.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { gfnToHvaSlot, kvmVcpuGfnToMemslot, kvmVcpuMemslots } from '../guest_memory.ts';
import { KVM_HVA_ERR, type Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { TP } from '../trace_events.ts';
import type { GuestWalker } from './guest_walker.ts';
import { kvmMmuHugepageAdjust } from './hugepage.ts';
import { clearSpWriteFloodingCount, type KvmMmuPage } from './mmu_page.ts';
import { RET_PF, type KvmPageFault } from './page_fault.ts';
import { dropSpte, rmapAdd } from './rmap.ts';
import { kvmMmuGetChildSp, linkShadowPage } from './shadow_page.ts';
import { makeShadowSpte, mmuSpteUpdate, type SpteWords } from './shadow_spte.ts';
import { mmuSyncChildren } from './shadow_sync.ts';
import { dropParentPte, kvmMmuCommitZapPages } from './shadow_zap.ts';
import {
  isLargePte,
  isShadowPresentPte,
  mmioSpteHi,
  mmioSpteLo,
  MMIO_SPTE_GEN_MASK,
  pagesPerHpage,
  spteHpa,
  spteU64,
} from './spte.ts';
import { sptepOf } from './tdp_iter.ts';

/** FNAME(gpte_changed): is the guest's entry of `level` another than the walk saw? */
function gpteChanged(vcpu: Vcpu, w: GuestWalker, level: number): boolean {
  const i = level - 1;
  const gfn = w.realGfn[i]! as Gfn;
  const page = gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, gfn), gfn, 'read');
  if (page === KVM_HVA_ERR.BAD) return true;
  const hpa = userHpa(vcpu.kvm.mm, page + (w.ptep[i]! % PAGE_SIZE), FOLL.READ);
  if (hpa < 0) return true;
  const { i32 } = vcpu.kvm.host.machine.mem;
  return i32[hpa >>> 2] !== w.pteLo[i] || i32[(hpa >>> 2) + 1] !== w.pteHi[i];
}

const roundGfn = (gfn: number, level: number): Gfn => (gfn - (gfn % pagesPerHpage(level))) as Gfn;

/** FNAME(fetch): RET_PF.*, or -ENOMEM. */
export function* shadowFetch(vcpu: Vcpu, fault: KvmPageFault, w: GuestWalker): Steps<number> {
  const { mmu } = vcpu.arch;
  const { sp } = mmu.root;
  // The root's table is write-protected, or the root is not valid any more.
  if (gpteChanged(vcpu, w, mmu.cpuRole.base.level)) return RET_PF.RETRY;
  if (sp === null) {
    // The dummy root: the table's gfn has become visible since.
    kvmMakeRequest(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS, vcpu);
    return RET_PF.RETRY;
  }
  const r = yield* linkIndirect(vcpu, fault, w);
  if (r !== RET_PF.CONTINUE) return r;
  kvmMmuHugepageAdjust(vcpu, fault);
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_MMU_SPTE_REQUESTED])
    trace.record(TP.KVM_MMU_SPTE_REQUESTED, fault.gfn, fault.pfn, fault.goalLevel);
  const sptep = linkDirect(vcpu, fault, w);
  if (sptep < 0) return sptep;
  return mmuSetSpte(vcpu, fault, w.pteAccess, sptep);
}

/** Pages for the guest's tables, down to that of the walk's last level: `fault.table`. RET_PF.*, or -ENOMEM. */
function* linkIndirect(vcpu: Vcpu, fault: KvmPageFault, w: GuestWalker): Steps<number> {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const { shadow } = kvm.arch;
  const gpaGfn = nestedGfn(fault);
  let table: number = vcpu.arch.mmu.root.hpa;
  clearSpWriteFloodingCount(shadow.pageAt(table));
  for (let level = vcpu.arch.mmu.rootRole.level; level > w.level; level--) {
    const sptep = sptepOf(table, gpaGfn, level);
    const gfn = w.tableGfn[level - 2]! as Gfn;
    const sp = kvmMmuGetChildSp(vcpu, sptep, gfn, 'indirect', w.ptAccess[level - 2]!);
    if (typeof sp === 'number') return sp;
    // A page that a CPU may use must not hold less than what the guest's entries said when it is linked.
    if (sp !== null && sp.unsyncChildren.size !== 0) yield* mmuSyncChildren(vcpu, vcpu.arch.mmu, sp);
    // Flushed before the guest's entry is read: the table is write-protected, or unsync, for everybody.
    yield* kvmMmuCommitZapPages(kvm);
    if (gpteChanged(vcpu, w, level - 1) || sp?.role.invalid === true) return RET_PF.RETRY;
    if (sp !== null) linkShadowPage(kvm, sptep, sp);
    if (fault.write && gfn === fault.gfn) fault.writeFaultToShadowPgtable = true;
    table = spteHpa(i32[sptep]!);
    clearSpWriteFloodingCount(shadow.pageAt(table));
  }
  fault.table = table;
  return RET_PF.CONTINUE;
}

/** Pages below a large page of the guest's that the host cannot map as one: the entry to set, or -ENOMEM. */
function linkDirect(vcpu: Vcpu, fault: KvmPageFault, w: GuestWalker): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const gpaGfn = nestedGfn(fault);
  let { table } = fault;
  for (let level = w.level; level > fault.goalLevel; level--) {
    const sptep = sptepOf(table, gpaGfn, level);
    // The child's role holds the rights: a page made when the guest's entry was clean is replaced by one that can write.
    const sp = kvmMmuGetChildSp(vcpu, sptep, roundGfn(fault.gfn, level), 'direct', w.pteAccess);
    if (typeof sp === 'number') return sp;
    if (sp !== null) linkShadowPage(kvm, sptep, sp);
    table = spteHpa(i32[sptep]!);
  }
  return sptepOf(table, gpaGfn, fault.goalLevel);
}

/** The frame number of the faulting address of L2. */
const nestedGfn = (fault: KvmPageFault): number => Math.floor(fault.addr / PAGE_SIZE);

/** mmu_set_spte(). */
function mmuSetSpte(vcpu: Vcpu, fault: KvmPageFault, access: number, sptep: number): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const sp = kvm.arch.shadow.pageOf(sptep);
  const gfn = roundGfn(fault.gfn, fault.goalLevel);
  const { slot } = fault;
  spend(kvm.host.sched.cpu, COST.TDP_MAP);
  if (slot === null) return markMmioSpte(vcpu, sptep, gfn);
  const index = sp.indexOf(sptep);
  const wasRmapped = clearForSpte(vcpu, fault, sp, sptep);
  const words: SpteWords = { lo: 0, hi: 0, wrprot: false };
  const { pfn, mapWritable: hostWritable } = fault;
  makeShadowSpte(vcpu, sp, { slot, gfn, pfn, access, hostWritable, why: 'fault' }, i32[sptep]!, words);
  let r: number = RET_PF.SPURIOUS;
  if (words.lo !== i32[sptep] || words.hi !== i32[sptep + 1]) {
    r = RET_PF.FIXED;
    if (mmuSpteUpdate(i32, sptep, words, kvm.module.masks.accessed)) kvm.arch.shadow.flush = true;
    traceSetSpte(vcpu, gfn, words, fault.goalLevel, sptep);
  }
  if (wasRmapped) sp.setTranslation(index, gfn, access);
  else rmapAdd(kvm, sp, index, gfn, access);
  return words.wrprot && fault.write ? RET_PF.WRITE_PROTECTED : r;
}

function traceSetSpte(vcpu: Vcpu, gfn: Gfn, words: SpteWords, level: number, sptep: number): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_MMU_SET_SPTE])
    trace.record(TP.KVM_MMU_SET_SPTE, gfn, spteU64(words.lo, words.hi), level, sptep * 4);
}

/** Make room for a leaf: a table or another frame goes. True if the entry maps the same frame already. */
function clearForSpte(vcpu: Vcpu, fault: KvmPageFault, sp: KvmMmuPage, sptep: number): boolean {
  const { kvm } = vcpu;
  const { shadow } = kvm.arch;
  const lo = kvm.host.machine.mem.i32[sptep]!;
  if (!isShadowPresentPte(lo)) return false;
  if (sp.role.level > 1 && !isLargePte(lo)) {
    dropParentPte(kvm, shadow.pageAt(spteHpa(lo)), sptep);
    shadow.flush = true;
    return false;
  }
  const sameGfn = sp.gfnAt(sp.indexOf(sptep)) === roundGfn(fault.gfn, sp.role.level);
  if (spteHpa(lo) >>> 12 === fault.pfn && sameGfn) return true;
  dropSpte(kvm, sptep);
  shadow.flush = true;
  return false;
}

/** mark_mmio_spte(): remember, for this generation of memslots, that nothing backs the gfn. */
function markMmioSpte(vcpu: Vcpu, sptep: number, gfn: Gfn): number {
  const { kvm } = vcpu;
  const { i32 } = kvm.host.machine.mem;
  const { masks, trace } = kvm.module;
  const gen = kvmVcpuMemslots(vcpu).generation % (MMIO_SPTE_GEN_MASK + 1);
  if (isShadowPresentPte(i32[sptep]!)) {
    dropSpte(kvm, sptep);
    kvm.arch.shadow.flush = true;
  }
  i32[sptep] = mmioSpteLo(masks, gfn, gen);
  i32[sptep + 1] = mmioSpteHi(gfn, gen);
  vcpu.stat.pf_mmio_spte_created++;
  if (trace.on[TP.MARK_MMIO_SPTE]) trace.record(TP.MARK_MMIO_SPTE, sptep * 4, gfn, 0, gen);
  return RET_PF.EMULATE;
}
