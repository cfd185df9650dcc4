// SPDX-License-Identifier: GPL-2.0-only
/** kvm_intel.ko's own data: what the kernel keeps in globals of arch/x86/kvm/vmx, 6.12. */
import type { Hpa } from '../../../lib/x86/addr.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { NestedVmxMsrs } from './nested/nested_msrs.ts';
import type { ShadowBitmaps, VmcsConfig } from './vmcs01.ts';
import type { VpidAllocator } from './vpid_allocator.ts';

/** kvm_intel.ko as it is loaded on one host. */
export interface VmxModule {
  readonly config: VmcsConfig;
  readonly vpids: VpidAllocator;
  /** VMXON regions by pCPU. */
  readonly vmxonRegions: Map<number, Hpa>;
  /** Whose user-return MSRs each pCPU holds. */
  readonly uretOwner: Vcpu[];
  /** What L1 gets of VMX. */
  readonly nestedMsrs: NestedVmxMsrs;
  /** VMREAD and VMWRITE bitmaps for L1, or null without kvm_intel.enable_shadow_vmcs. */
  readonly shadowBitmaps: ShadowBitmaps | null;
  /** The page that HOST_CR3 names. */
  readonly hostCr3: Hpa;
}
