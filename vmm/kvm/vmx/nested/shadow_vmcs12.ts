// SPDX-License-Identifier: GPL-2.0-only
/**
 * The shadow VMCS of L1 for L2, emulated: L0 keeps a copy while L2 runs. nested_cache_shadow_vmcs12() and
 * nested_flush_cached_shadow_vmcs12() of arch/x86/kvm/vmx/nested.c, 6.12.
 */
import { gpa } from '../../../../lib/x86/addr.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmVcpuReadGuest, kvmVcpuWriteGuest } from '../../x86/guest_access.ts';
import { toVmx } from '../vcpu_vmx.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHasShadowVmcs } from './vmcs12_controls.ts';

const isLinked = (vmcs12: Vmcs12): boolean =>
  nestedCpuHasShadowVmcs(vmcs12) &&
  !(vmcs12.lo(VMCS_GUEST.VMCS_LINK_POINTER) === -1 && vmcs12.hi(VMCS_GUEST.VMCS_LINK_POINTER) === -1);

/** At entry, from L1's memory. */
export function nestedCacheShadowVmcs12(vcpu: Vcpu): void {
  const { cachedVmcs12, cachedShadowVmcs12 } = toVmx(vcpu).nested;
  if (!isLinked(cachedVmcs12)) return;
  kvmVcpuReadGuest(vcpu, gpa(cachedVmcs12.num(VMCS_GUEST.VMCS_LINK_POINTER)), cachedShadowVmcs12.bytes);
}

/** At exit, back to L1's memory. */
export function nestedFlushCachedShadowVmcs12(vcpu: Vcpu): void {
  const { cachedVmcs12, cachedShadowVmcs12 } = toVmx(vcpu).nested;
  if (!isLinked(cachedVmcs12)) return;
  kvmVcpuWriteGuest(vcpu, gpa(cachedVmcs12.num(VMCS_GUEST.VMCS_LINK_POINTER)), cachedShadowVmcs12.bytes);
}
