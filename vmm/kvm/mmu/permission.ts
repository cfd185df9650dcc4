// SPDX-License-Identifier: GPL-2.0-only
/**
 * May an access go through an entry with these rights? Decided once per mode as a bitmap. Mirrors
 * update_permission_bitmask() and update_pkru_bitmask() of arch/x86/kvm/mmu/mmu.c and permission_fault() of mmu.h, 6.12.
 */
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { CR0, RFLAGS } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmMmu } from '../kvm_host_x86.ts';
import { kvmReadCr0 } from '../x86/cache_regs.ts';
import { ACC, ROLE, ROLE_EXT } from './role.ts';

/** One bit for each combination of ACC.*: those that contain `right`. */
const having = (right: number): number =>
  [0, 1, 2, 3, 4, 5, 6, 7].reduce((mask, acc) => mask | ((acc & right) !== 0 ? 1 << acc : 0), 0);
const X = having(ACC.EXEC);
const W = having(ACC.WRITE);
const U = having(ACC.USER);

/** EPT: read, write and fetch each ask for their own bit. */
export function updatePermissionBitmaskEpt(mmu: KvmMmu): void {
  for (let i = 0; i < 16; i++) {
    const access = i << 1;
    let faults = 0;
    if ((access & PFERR.WRITE) !== 0) faults |= ~W;
    if ((access & PFERR.USER) !== 0) faults |= ~U;
    if ((access & PFERR.FETCH) !== 0) faults |= ~X;
    mmu.permissions[i] = faults;
  }
}

/** A guest's own tables, by its CR0, CR4 and EFER as they are in the cpu role. */
export function updatePermissionBitmask(mmu: KvmMmu): void {
  const { base, ext } = mmu.cpuRole;
  const nx = (base.word & ROLE.EFER_NX) !== 0;
  const wp = (base.word & ROLE.CR0_WP) !== 0;
  const smep = (ext & ROLE_EXT.CR4_SMEP) !== 0;
  const smap = (ext & ROLE_EXT.CR4_SMAP) !== 0;
  for (let i = 0; i < 16; i++) {
    const access = i << 1;
    const user = (access & PFERR.USER) !== 0;
    const fetch = (access & PFERR.FETCH) !== 0;
    let faults = 0;
    if ((access & PFERR.WRITE) !== 0 && (wp || user)) faults |= ~W;
    if (user) faults |= ~U;
    if (fetch && nx) faults |= ~X;
    if (!user && fetch && smep) faults |= U;
    // The place of RSVD in the index says that SMAP does not count.
    if (!user && !fetch && smap && (access & PFERR.RSVD) === 0) faults |= U;
    mmu.permissions[i] = faults;
  }
}

/**
 * update_pkru_bitmask(): for each kind of access which of a key's two bits (access-disable, write-disable) forbid it; two
 * bits at the position access & ~PRESENT, where RSVD stands for a user page.
 */
export function updatePkruBitmask(mmu: KvmMmu): void {
  const { base, ext } = mmu.cpuRole;
  mmu.pkruMask = 0;
  if ((ext & ROLE_EXT.CR4_PKE) === 0) return;
  const wp = (base.word & ROLE.CR0_WP) !== 0;
  for (let i = 0; i < 16; i++) {
    const access = i << 1;
    const userPage = (access & PFERR.RSVD) !== 0;
    if ((access & PFERR.FETCH) !== 0 || !userPage) continue;
    const write = (access & PFERR.WRITE) !== 0 && (wp || (access & PFERR.USER) !== 0);
    mmu.pkruMask |= (write ? 3 : 1) << access;
  }
}

/** kvm_mmu_refresh_passthrough_bits(): a guest may own CR0.WP, and change it without an exit. */
function refreshPassthroughBits(vcpu: Vcpu, mmu: KvmMmu): void {
  if (mmu === vcpu.arch.guestMmu) return;
  const { base } = mmu.cpuRole;
  const wp = (kvmReadCr0(vcpu) & CR0.WP) !== 0 ? ROLE.CR0_WP : 0;
  if ((base.word & ROLE.CR0_WP) === wp) return;
  base.word ^= ROLE.CR0_WP;
  updatePermissionBitmask(mmu);
  updatePkruBitmask(mmu);
}

/** permission_fault(): 0, or PFERR.PRESENT with PFERR.PK if a protection key forbids the access. */
export function permissionFault(vcpu: Vcpu, mmu: KvmMmu, acc: number, pkey: number, access: number): number {
  refreshPassthroughBits(vcpu, mmu);
  const kind = access & (PFERR.WRITE | PFERR.USER | PFERR.FETCH);
  const smapOff = (mmu.cpuRole.ext & ROLE_EXT.CR4_SMAP) !== 0 && alignmentCheck(vcpu) ? PFERR.RSVD : 0;
  let fault = (mmu.permissions[(kind | smapOff) >> 1]! >> acc) & 1;
  let errorCode: number = PFERR.PRESENT;
  if (mmu.pkruMask !== 0) {
    const at = kind | ((acc & ACC.USER) !== 0 ? PFERR.RSVD : 0);
    if ((vcpu.arch.pkru >>> (2 * pkey)) & (mmu.pkruMask >>> at) & 3) {
      errorCode |= PFERR.PK;
      fault = 1;
    }
  }
  return fault === 0 ? 0 : errorCode;
}

const alignmentCheck = (vcpu: Vcpu): boolean => (vcpu.kvm.module.ops.getRflags(vcpu) & RFLAGS.AC) !== 0;
