// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct nested_vmx: what L0 keeps for a vCPU that is a hypervisor itself. Mirrors arch/x86/kvm/vmx/vmx.h, 6.12; leaves
 * out eVMCS and SMM.
 */
import { HrTimer } from '../../../host/sched/hrtimer.ts';
import { KvmHostMap } from '../../host_map.ts';
import type { LoadedVmcs } from '../loaded_vmcs.ts';
import { copyNestedVmxMsrs, type NestedVmxMsrs } from './nested_msrs.ts';
import { Vmcs12 } from './vmcs12.ts';

/** "No VMCS": current_vmptr and vmxon_ptr outside of VMX operation. */
export const INVALID_VMPTR = -1;

export class NestedVmx {
  /** L1 executed VMXON. */
  vmxon = false;
  vmxonPtr = INVALID_VMPTR;
  pmlFull = false;
  /** Guest-physical address of the VMCS that L1 made current, or INVALID_VMPTR. */
  currentVmptr = INVALID_VMPTR;
  /** The copies in L0's memory of the current VMCS and of the shadow VMCS that it links to. */
  readonly cachedVmcs12 = new Vmcs12();
  readonly cachedShadowVmcs12 = new Vmcs12();
  /** vmcs12 changed since L0 copied it to the shadow VMCS. */
  needVmcs12ToShadowSync = false;
  /** L1 may have changed fields that prepare_vmcs02() copies seldom. */
  dirtyVmcs12 = false;
  /** L1 may have changed its MSR bitmap's address or its use. */
  forceMsrBitmapRecalc = false;
  /** vmcs02 holds newer values of the fields that are synced seldom. */
  needSyncVmcs02ToVmcs12Rare = false;
  vmcs02Initialized = false;
  /** The rule that the last failed check of vmcs12 found broken, for reports; empty: none failed yet. */
  failedCheck = '';

  // What happened while L2 ran and concerns vmcs01: done on return to L1.
  changeVmcs01VirtualApicMode = false;
  reloadVmcs01ApicAccessPage = false;
  updateVmcs01CpuDirtyLogging = false;
  updateVmcs01ApicvStatus = false;

  /** VMLAUNCH or VMRESUME succeeded and L2 has not executed yet: no exit to L1 may come in between. */
  nestedRunPending = false;
  /** An MTF exit to L1 is due. */
  mtfPending = false;

  /** What L2 runs on; null outside of VMX operation. */
  vmcs02: LoadedVmcs | null = null;
  readonly apicAccessPageMap = new KvmHostMap('APIC-access page');
  readonly virtualApicMap = new KvmHostMap('virtual-APIC page');
  readonly piDescMap = new KvmHostMap('posted-interrupt descriptor');
  readonly msrBitmapMap = new KvmHostMap('MSR bitmap');
  /** Byte offset of the posted-interrupt descriptor in its page; the page is mapped while there is one. */
  piDescOffset = 0;
  piPending = false;
  /** L1's notification vector, or -1. */
  postedIntrNv = -1;

  /** The preemption timer of L2, as a host timer; null until L1 turns VMX on. */
  preemptionTimer: HrTimer | null = null;
  /** L1's TSC at which it fires, in the timer's units; set at the first entry after L1's VMLAUNCH or VMRESUME. */
  preemptionTimerDeadline = 0n;
  hasPreemptionTimerDeadline = false;
  preemptionTimerExpired = false;

  /** vmcs01's values before an entry that does not load L2's own. */
  preVmenterDebugctl = 0;

  /** The tag of L2's translations; 0: none, it shares L1's. */
  vpid02 = 0;
  /** VPID that vmcs12 had at the last entry. */
  lastVpid = 0;

  /** vmcs_config.nested: the most that any vCPU may have. */
  readonly offered: NestedVmxMsrs;
  readonly msrs: NestedVmxMsrs;

  constructor(offered: NestedVmxMsrs) {
    this.offered = offered;
    this.msrs = copyNestedVmxMsrs(offered);
  }
}
