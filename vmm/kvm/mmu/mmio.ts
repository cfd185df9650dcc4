// SPDX-License-Identifier: GPL-2.0-only
/**
 * Remembering that a gfn is MMIO: in the vCPU, and in entries that misconfigure. Mirrors vcpu_cache_mmio_info() of
 * arch/x86/kvm/x86.h and handle_mmio_page_fault() of arch/x86/kvm/mmu/mmu.c, 6.12.
 */
import { PAGE_SIZE, type Gfn, type Gpa } from '../../../lib/x86/addr.ts';
import { kvmMemslots, kvmVcpuMemslots } from '../guest_memory.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS } from '../memslots.ts';
import { TP } from '../trace_events.ts';
import { RET_PF, type LastSpte } from './page_fault.ts';
import { mmuIsNested } from './role.ts';
import { isMmioSpte, mmioSpteGen, mmioSpteGfn, MMIO_SPTE_GEN_MASK, spteU64 } from './spte.ts';
import { tdpLastSpte } from './tdp_iter.ts';

/** vcpu_cache_mmio_info(): not while memslots are being replaced, since the answer may be about to change. */
export function vcpuCacheMmioInfo(vcpu: Vcpu, gfn: Gfn, access: number): void {
  const gen = kvmMemslots(vcpu.kvm).generation;
  if (gen >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) return;
  vcpu.arch.mmioGva = 0;
  vcpu.arch.mmioAccess = access;
  vcpu.arch.mmioGfn = gfn;
  vcpu.arch.mmioGen = gen;
}

/** vcpu_clear_mmio_info(). */
export function vcpuClearMmioInfo(vcpu: Vcpu): void {
  vcpu.arch.mmioGfn = -1 as Gfn;
  vcpu.arch.mmioGva = 0;
}

/** vcpu_match_mmio_gpa(): the gfn is the cached one, and the memslots have not changed since. */
export function vcpuMatchMmioGpa(vcpu: Vcpu, gpa: Gpa): boolean {
  return (
    vcpu.arch.mmioGen === kvmMemslots(vcpu.kvm).generation &&
    vcpu.arch.mmioGfn === Math.floor(gpa / PAGE_SIZE)
  );
}

/**
 * handle_mmio_page_fault(): an entry misconfigured. EMULATE for MMIO, INVALID if the entry is of older memslots, RETRY
 * if there is no MMIO entry any more.
 */
export function handleMmioPageFault(vcpu: Vcpu, addr: Gpa): number {
  // L2's addresses are not those of the cache.
  if (!mmuIsNested(vcpu) && vcpuMatchMmioGpa(vcpu, addr)) return RET_PF.EMULATE;
  const { machine } = vcpu.kvm.host;
  const { trace, masks } = vcpu.kvm.module;
  const gfn = Math.floor(addr / PAGE_SIZE) as Gfn;
  const last: LastSpte = { sptep: 0, level: 0 };
  tdpLastSpte(machine.mem.i32, vcpu.arch.mmu.root.hpa, vcpu.arch.mmu.rootRole.level, gfn, last);
  const lo = machine.mem.i32[last.sptep]!;
  const hi = machine.mem.i32[last.sptep + 1]!;
  if (!isMmioSpte(masks, lo)) return RET_PF.RETRY;
  if (!checkMmioSpte(vcpu, lo, hi)) return RET_PF.INVALID;
  if (trace.on[TP.HANDLE_MMIO_PAGE_FAULT]) trace.record(TP.HANDLE_MMIO_PAGE_FAULT, 0, mmioSpteGfn(lo, hi), 0);
  vcpuCacheMmioInfo(vcpu, mmioSpteGfn(lo, hi), 0);
  return RET_PF.EMULATE;
}

/** check_mmio_spte(): the entry is of the current memslots. */
function checkMmioSpte(vcpu: Vcpu, lo: number, hi: number): boolean {
  const { trace } = vcpu.kvm.module;
  const generation = kvmVcpuMemslots(vcpu).generation;
  if (generation >= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) return false;
  const kvmGen = generation % (MMIO_SPTE_GEN_MASK + 1);
  const gen = mmioSpteGen(lo, hi);
  if (trace.on[TP.CHECK_MMIO_SPTE]) trace.record(TP.CHECK_MMIO_SPTE, spteU64(lo, hi), kvmGen, gen);
  return kvmGen === gen;
}
