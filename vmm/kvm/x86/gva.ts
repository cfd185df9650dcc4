// SPDX-License-Identifier: GPL-2.0-only
/**
 * L0's own walk of the guest's page tables, for instructions that it emulates: gva_to_gpa of
 * arch/x86/kvm/mmu/paging_tmpl.h, 6.12, with the accessed and dirty bits that it sets. 64-bit mode, 4 or 5 levels. Leaves out
 * protection keys and reserved bits.
 */
import { gpa, type Gpa } from '../../../lib/x86/addr.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { PTE, PTE_HI } from '../../../lib/x86/paging.ts';
import { CR0, CR4, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmReadCr0, kvmReadCr3, kvmReadCr4 } from './cache_regs.ts';
import { kvmVcpuReadGuest, kvmVcpuWriteGuest } from './guest_access.ts';

/** A translation, or the page fault that it ends in. */
export type GvaResult = { readonly gpa: Gpa } | { readonly errorCode: number };

const PHYS_MASK = 0x000f_ffff_ffff_f000n;
const NX = BigInt(PTE_HI.NX >>> 0) << 32n;

/** kvm_mmu_gva_to_gpa_*(): `access` is PFERR.WRITE, PFERR.FETCH or 0; the CPL decides PFERR.USER. */
export function kvmGvaToGpa(vcpu: Vcpu, linear: bigint, access: number): GvaResult {
  const user = vcpu.kvm.module.ops.getCpl(vcpu) === 3 ? PFERR.USER : 0;
  const levels = (kvmReadCr4(vcpu) & CR4.LA57) !== 0 ? 5 : 4;
  const nxe = (vcpu.arch.efer & EFER.NXE) !== 0;
  const want = access | user;
  let table = BigInt(kvmReadCr3(vcpu)) & PHYS_MASK;
  let allowed = BigInt(PTE.RW | PTE.US);
  let noExecute = false;
  const bytes = new Uint8Array(8);
  const view = new DataView(bytes.buffer);
  for (let level = levels; ; level--) {
    const index = (linear >> BigInt(12 + 9 * (level - 1))) & 0x1ffn;
    const at = gpa(Number(table + index * 8n));
    if (kvmVcpuReadGuest(vcpu, at, bytes) < 0) return { errorCode: want };
    const entry = view.getBigUint64(0, true);
    if ((entry & BigInt(PTE.P)) === 0n) return { errorCode: want };
    allowed &= entry;
    noExecute ||= nxe && (entry & NX) !== 0n;
    const leaf = level === 1 || (entry & BigInt(PTE.PS)) !== 0n;
    if (!leaf) {
      markAccessed(vcpu, at, entry, PTE.A);
      table = entry & PHYS_MASK;
      continue;
    }
    if (!permitted(vcpu, want, allowed, noExecute)) return { errorCode: want | PFERR.PRESENT };
    markAccessed(vcpu, at, entry, (want & PFERR.WRITE) !== 0 ? PTE.A | PTE.D : PTE.A);
    const mask = (1n << BigInt(12 + 9 * (level - 1))) - 1n;
    return { gpa: gpa(Number((entry & PHYS_MASK & ~mask) | (linear & mask))) };
  }
}

/** FNAME(update_accessed_dirty_bits): a table in read-only memory keeps its bits. */
function markAccessed(vcpu: Vcpu, at: Gpa, entry: bigint, bits: number): void {
  if ((entry & BigInt(bits)) === BigInt(bits)) return;
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, entry | BigInt(bits), true);
  kvmVcpuWriteGuest(vcpu, at, bytes);
}

/** permission_fault(): SDM, "Determination of Access Rights". */
function permitted(vcpu: Vcpu, want: number, allowed: bigint, noExecute: boolean): boolean {
  const userPage = (allowed & BigInt(PTE.US)) !== 0n;
  const writable = (allowed & BigInt(PTE.RW)) !== 0n;
  const write = (want & PFERR.WRITE) !== 0;
  if ((want & PFERR.FETCH) !== 0 && noExecute) return false;
  if ((want & PFERR.USER) !== 0) return userPage && (!write || writable);
  const cr4 = kvmReadCr4(vcpu);
  if (userPage && (want & PFERR.FETCH) !== 0) return (cr4 & CR4.SMEP) === 0;
  if (userPage && (cr4 & CR4.SMAP) !== 0 && (vcpu.kvm.module.ops.getRflags(vcpu) & RFLAGS.AC) === 0)
    return false;
  return !write || writable || (kvmReadCr0(vcpu) & CR0.WP) === 0;
}
