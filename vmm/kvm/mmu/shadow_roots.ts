// SPDX-License-Identifier: GPL-2.0-only
/**
 * Roots of the shadow MMU: mmu_alloc_shadow_roots() of arch/x86/kvm/mmu/mmu.c, 6.12, for 4 and 5 levels. An EPTP that
 * points at nothing gets the dummy root, where every access faults.
 */
import { PAGE_SIZE, pfn as toPfn, type Gfn, type Hpa } from '../../../lib/x86/addr.ts';
import type { Steps } from '../../host/steps.ts';
import { GFP } from '../../host/mm/page_alloc.ts';
import { kvmVcpuGfnToMemslot } from '../guest_memory.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import { memslotIsVisible } from '../memslots.ts';
import { makeMmuPagesAvailable } from './shadow_limit.ts';
import { kvmMmuGetShadowPage } from './shadow_page.ts';
import { mmuSyncChildren } from './shadow_sync.ts';
import { kvmMmuCommitZapPages } from './shadow_zap.ts';

/** Bits 51:12 of CR3 or an EPTP. */
const pgdGfn = (pgd: number): Gfn => (Math.floor(pgd / PAGE_SIZE) % 2 ** 40) as Gfn;

/** Make the current root for the guest's CR3 or EPTP; 0, -ENOMEM or -ENOSPC. Takes mmu_lock. */
export function* mmuAllocShadowRoots(vcpu: Vcpu): Steps<number> {
  const { kvm } = vcpu;
  const { mmu } = vcpu.arch;
  const pgd = mmu.getGuestPgd(vcpu);
  const gfn = pgdGfn(pgd);
  if (!memslotIsVisible(kvmVcpuGfnToMemslot(vcpu, gfn))) {
    const dummy = dummyRoot(kvm);
    if (dummy < 0) return dummy;
    mmu.root.hpa = dummy as Hpa;
    mmu.root.pgd = pgd;
    return 0;
  }
  if (!kvm.mmuLock.writeFastLock()) yield* kvm.mmuLock.writeLock();
  const short = makeMmuPagesAvailable(kvm);
  const sp = short < 0 ? short : kvmMmuGetShadowPage(kvm, vcpu, gfn, mmu.rootRole.word);
  if (typeof sp !== 'number') {
    sp.rootCount++;
    mmu.root.hpa = sp.hpa;
    mmu.root.sp = sp;
    mmu.root.pgd = pgd;
    // A page that others made may have become out of sync.
    if (sp.unsyncChildren.size !== 0) yield* mmuSyncChildren(vcpu, mmu, sp);
  }
  yield* kvmMmuCommitZapPages(kvm);
  kvm.mmuLock.writeUnlock();
  return typeof sp === 'number' ? sp : 0;
}

/** kvm_mmu_get_dummy_root(): one zeroed page for the VM. */
function dummyRoot(kvm: Kvm): number {
  const { shadow } = kvm.arch;
  if (shadow.dummyRoot < 0) {
    const { pages } = kvm.host;
    const frame = pages.allocPage(pages.owner(`dummy root of ${kvm.name}`), GFP.ZERO);
    if (frame < 0) return frame;
    shadow.dummyRoot = frame * PAGE_SIZE;
  }
  return shadow.dummyRoot;
}

/** The VM goes away. */
export function freeDummyRoot(kvm: Kvm): void {
  const { shadow } = kvm.arch;
  if (shadow.dummyRoot < 0) return;
  kvm.host.pages.putPage(toPfn(shadow.dummyRoot / PAGE_SIZE));
  shadow.dummyRoot = -1;
}
