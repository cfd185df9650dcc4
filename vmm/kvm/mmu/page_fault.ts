// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct kvm_page_fault and the results of handling one. Mirrors arch/x86/kvm/mmu/mmu_internal.h, 6.12. Each vCPU has
 * one object, filled anew for each fault.
 */
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { PG_LEVEL } from '../../../lib/x86/paging.ts';
import { PAGE_SIZE, type Gfn, type Gpa, type Hva, type Pfn } from '../../../lib/x86/addr.ts';
import { KVM_HVA_ERR, KVM_PFN_ERR } from '../kvm_types.ts';
import type { KvmMemorySlot } from '../memslots.ts';

/** The lowest present entry on the way to a gfn, or the first that is not present: its sptep and level. */
export interface LastSpte {
  sptep: number;
  level: number;
}

/** RET_PF_*: results of the steps of a page fault; negative numbers are errnos. */
// prettier-ignore
export const RET_PF = {
  CONTINUE:        0, // go on handling
  RETRY:           1, // let the guest fault again
  EMULATE:         2, // emulate the instruction
  WRITE_PROTECTED: 3, // the gfn is write-protected: emulate
  INVALID:         4, // this path cannot handle it
  FIXED:           5, // handled
  SPURIOUS:        6, // nothing to do
} as const;

export class KvmPageFault {
  addr = 0 as Gpa;
  /** PFERR.* */
  errorCode = 0;
  exec = false;
  write = false;
  present = false;
  rsvd = false;
  /** Largest mapping that is possible, wanted, and (after the NX huge page workaround) made. */
  maxLevel: number = PG_LEVEL.L2M;
  reqLevel: number = PG_LEVEL.L4K;
  goalLevel: number = PG_LEVEL.L4K;
  gfn = 0 as Gfn;
  slot: KvmMemorySlot | null = null;
  /** mmu_invalidate_seq before the frame was looked up. */
  mmuSeq = 0;
  hva: Hva = KVM_HVA_ERR.BAD;
  pfn: Pfn = KVM_PFN_ERR.FAULT;
  /** The frame has a reference that must be given back. */
  refcounted = false;
  mapWritable = false;
  /** The frame that the lookup found: `pfn` becomes the first of a huge page. */
  lookupPfn: Pfn = KVM_PFN_ERR.FAULT;
  /** A table that a huge page replaced: to be freed after a flush; or 0. */
  replacedTable = 0;
  /** The table page that the walk has reached. */
  table = 0;
  /** The access writes a table that translates it: the CPU cannot complete it when the table is not shadowed any more. */
  writeFaultToShadowPgtable = false;
  readonly last: LastSpte = { sptep: 0, level: 0 };

  /** A new fault at a guest-physical address. */
  begin(addr: Gpa, errorCode: number, maxLevel: number): void {
    this.addr = addr;
    this.errorCode = errorCode;
    this.exec = (errorCode & PFERR.FETCH) !== 0;
    this.write = (errorCode & PFERR.WRITE) !== 0;
    this.present = (errorCode & PFERR.PRESENT) !== 0;
    this.rsvd = (errorCode & PFERR.RSVD) !== 0;
    this.maxLevel = maxLevel;
    this.reqLevel = PG_LEVEL.L4K;
    this.goalLevel = PG_LEVEL.L4K;
    this.gfn = Math.floor(addr / PAGE_SIZE) as Gfn;
    this.slot = null;
    this.hva = KVM_HVA_ERR.BAD;
    this.pfn = KVM_PFN_ERR.FAULT;
    this.refcounted = false;
    this.mapWritable = false;
    this.replacedTable = 0;
    this.writeFaultToShadowPgtable = false;
  }
}
