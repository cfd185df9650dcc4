// SPDX-License-Identifier: GPL-2.0-only
/**
 * From gfn to slot, HVA and frame. Mirrors gfn_to_memslot(), gfn_to_hva() and hva_to_pfn() of virt/kvm/kvm_main.c,
 * 6.12. Callers hold kvm->srcu while they use a slot.
 */
import type { Gfn, Gpa, Hva } from '../../lib/x86/addr.ts';
import { PAGE_SIZE } from '../../lib/x86/addr.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { KVM_HVA_ERR, type Kvm, type Vcpu } from './kvm_host.ts';
import {
  gfnToHvaMemslot,
  KVM_MEMSLOT_INVALID,
  memslotIsReadonly,
  memslotIsVisible,
  type KvmMemorySlot,
  type KvmMemslots,
} from './memslots.ts';

/** kvm_memslots(): the active set of address space 0. */
export const kvmMemslots = (kvm: Kvm): KvmMemslots => kvm.memslots[0]!;
/** kvm_vcpu_memslots(): of the address space that the vCPU is in. */
export const kvmVcpuMemslots = (vcpu: Vcpu): KvmMemslots => vcpu.kvm.memslots[vcpu.arch.mmu.rootRole.smm]!;

/** gfn_to_memslot(): with the set's last-used hint. */
export function gfnToMemslot(kvm: Kvm, gfn: Gfn): KvmMemorySlot | null {
  const slots = kvm.memslots[0]!;
  const hint = slots.lastUsedSlot;
  if (hint !== null && gfn >= hint.baseGfn && gfn < hint.baseGfn + hint.npages) return hint;
  spend(kvm.host.sched.cpu, COST.MEMSLOT_LOOKUP);
  const slot = slots.search(gfn);
  if (slot !== null) slots.lastUsedSlot = slot;
  return slot;
}

/** kvm_vcpu_gfn_to_memslot(): with the vCPU's own hint, good for one generation. */
export function kvmVcpuGfnToMemslot(vcpu: Vcpu, gfn: Gfn): KvmMemorySlot | null {
  const slots = vcpu.kvm.memslots[vcpu.arch.mmu.rootRole.smm]!;
  if (slots.generation !== vcpu.lastUsedSlotGen) {
    vcpu.lastUsedSlot = null;
    vcpu.lastUsedSlotGen = slots.generation;
  }
  const hint = vcpu.lastUsedSlot;
  if (hint !== null && gfn >= hint.baseGfn && gfn < hint.baseGfn + hint.npages) return hint;
  spend(vcpu.kvm.host.sched.cpu, COST.MEMSLOT_LOOKUP);
  const slot = slots.search(gfn);
  if (slot !== null) vcpu.lastUsedSlot = slot;
  return slot;
}

/** __gfn_to_hva_many(): a KVM_HVA_ERR if there is no slot, if it is on its way out, or if it refuses the write. */
export function gfnToHvaSlot(slot: KvmMemorySlot | null, gfn: Gfn, access: 'read' | 'write'): Hva {
  if (slot === null || slot.flags & KVM_MEMSLOT_INVALID) return KVM_HVA_ERR.BAD;
  if (access === 'write' && memslotIsReadonly(slot)) return KVM_HVA_ERR.RO_BAD;
  return gfnToHvaMemslot(slot, gfn);
}

/** gfn_to_hva(): for writing. */
export const gfnToHva = (kvm: Kvm, gfn: Gfn): Hva => gfnToHvaSlot(gfnToMemslot(kvm, gfn), gfn, 'write');
/** kvm_vcpu_gfn_to_hva(). */
export const kvmVcpuGfnToHva = (vcpu: Vcpu, gfn: Gfn): Hva =>
  gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, gfn), gfn, 'write');

/** kvm_is_visible_gfn(): some slot backs it. */
export const kvmIsVisibleGfn = (kvm: Kvm, gfn: Gfn): boolean => memslotIsVisible(gfnToMemslot(kvm, gfn));

/** The gfn of an address below 2^52. */
export const gpaGfn = (gpa: Gpa): Gfn => Math.floor(gpa / PAGE_SIZE) as Gfn;
