// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct kvm_mmu_page of arch/x86/kvm/mmu/mmu_internal.h, 6.12: a table page of KVM's. Those of the TDP MMU are described
 * only if they are roots.
 */
import type { Hpa } from '../../../lib/x86/addr.ts';
import type { KvmMmuRootPage } from '../kvm_host_x86.ts';
import { KvmMmuPageRole } from './role.ts';

/** A root of the TDP MMU. */
export class TdpMmuRoot implements KvmMmuRootPage {
  readonly tdpMmuPage = true;
  readonly hpa: Hpa;
  readonly role: KvmMmuPageRole;
  /** vCPUs that use it, plus 1 while it is valid. A new root has its maker and itself. */
  refcount = 2;
  /** Invalidated by zap-all and still to be zapped by that caller. */
  scheduledZap = false;

  constructor(hpa: Hpa, role: number) {
    this.hpa = hpa;
    this.role = new KvmMmuPageRole(role);
  }

  get invalid(): boolean {
    return this.role.invalid;
  }
}
