// SPDX-License-Identifier: GPL-2.0-only
/** Dirty bitmaps of memslots. Mirrors mark_page_dirty_in_slot() and its neighbours in virt/kvm/kvm_main.c, 6.12. */
import { KVM_DIRTY_LOG } from '../../lib/uapi/memory.ts';
import type { Gfn } from '../../lib/x86/addr.ts';
import type { Kvm, Vcpu } from './kvm_host.ts';
import type { KvmMemorySlot } from './memslots.ts';
import { gfnToMemslot, kvmVcpuGfnToMemslot } from './guest_memory.ts';

/** A clear bitmap: whole 64-bit words. */
export const allocDirtyBitmap = (npages: number): Uint32Array => new Uint32Array(Math.ceil(npages / 64) * 2);

/** kvm_dirty_log_manual_protect_and_init_set(): a new bitmap begins with every page dirty. */
export const kvmDirtyLogManualProtectAndInitSet = (kvm: Kvm): boolean =>
  (kvm.manualDirtyLogProtect & KVM_DIRTY_LOG.INITIALLY_SET) !== 0;

/** mark_page_dirty_in_slot(). */
export function markPageDirtyInSlot(slot: KvmMemorySlot | null, gfn: Gfn): void {
  const bitmap = slot?.dirtyBitmap ?? null;
  if (slot === null || bitmap === null) return;
  const page = gfn - slot.baseGfn;
  bitmap[page >>> 5] = bitmap[page >>> 5]! | (1 << (page & 31));
}

/** mark_page_dirty(): in the address space 0. */
export const markPageDirty = (kvm: Kvm, gfn: Gfn): void => markPageDirtyInSlot(gfnToMemslot(kvm, gfn), gfn);

/** kvm_vcpu_mark_page_dirty(). */
export const kvmVcpuMarkPageDirty = (vcpu: Vcpu, gfn: Gfn): void =>
  markPageDirtyInSlot(kvmVcpuGfnToMemslot(vcpu, gfn), gfn);
