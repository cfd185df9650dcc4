// SPDX-License-Identifier: GPL-2.0-only
/**
 * kvm.ko with its vendor module, loaded on one host: parameters, operation tables, limits, trace buffer. What the
 * kernel keeps in globals (struct kvm_caps, kvm_x86_ops, module parameters) lives here, so that hosts do not share it.
 */
import type { Host } from '../host/host.ts';
import { spend } from '../machine/cost/ledger.ts';
import type { CostPoint } from '../machine/cost/points.ts';
import type { Kvm, Vcpu } from './kvm_host.ts';
import type { KvmArchOps, KvmX86Ops } from './kvm_host_x86.ts';
import type { SpteMasks } from './mmu/spte.ts';
import type { KvmParams } from './params.ts';
import { KvmTrace } from './trace.ts';

/** struct kvm_caps and the MMU's globals: what the hardware and the parameters allow. */
export interface KvmCaps {
  /** Physical address bits that a guest may have. */
  maxphyaddr: number;
  /** Two-dimensional paging: EPT or NPT. */
  tdpEnabled: boolean;
  /** Accessed and dirty bits in TDP entries. */
  adEnabled: boolean;
  /** Largest page of a TDP entry: PG_LEVEL.*. */
  maxTdpLevel: number;
  /** Levels of a TDP root. */
  tdpRootLevel: number;
  mmioCaching: boolean;
  /** The processor has 1 GiB pages in guests' tables. */
  gbpages: boolean;
  /** The host's TSC frequency, and a guest's unless userspace sets another. */
  tscKhz: number;
  /** A guest's TSC may run at another frequency: kvm_caps.has_tsc_control. */
  hasTscControl: boolean;
}

export interface KvmModuleOptions {
  readonly params: KvmParams;
  /** Format of TDP entries: eptMasks(). */
  readonly masks: SpteMasks;
  readonly arch: KvmArchOps;
  readonly ops: KvmX86Ops;
  readonly caps: KvmCaps;
}

export class KvmModule {
  readonly host: Host;
  readonly params: KvmParams;
  readonly arch: KvmArchOps;
  readonly ops: KvmX86Ops;
  readonly caps: KvmCaps;
  readonly masks: SpteMasks;
  readonly trace: KvmTrace;
  /** VMs that exist. */
  readonly vmList: Kvm[] = [];
  /** VMs that ever were: the next one's number. */
  vmCount = 0;
  /** kvm_get_running_vcpu(): by pCPU. */
  readonly runningVcpu: (Vcpu | null)[];

  constructor(host: Host, options: KvmModuleOptions) {
    this.host = host;
    this.params = options.params;
    this.arch = options.arch;
    this.ops = options.ops;
    this.caps = options.caps;
    this.masks = options.masks;
    this.trace = new KvmTrace(host.sched);
    this.runningVcpu = host.sched.cpus.map(() => null);
  }

  /** Let time pass on the current pCPU. */
  spend(point: CostPoint, n = 1): void {
    spend(this.host.sched.cpu, point, n);
  }
}
