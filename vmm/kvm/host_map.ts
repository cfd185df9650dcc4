// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest pages that L0 maps for itself: kvm_vcpu_map() and kvm_vcpu_unmap() of virt/kvm/kvm_main.c, 6.12. A page with a
 * struct page is pinned and reached through the direct map; unmanaged memory goes through memremap() each time, and
 * nothing tells the holder when its host mapping goes away.
 */
import { hpa, PAGE_SIZE, type Gfn, type Hpa, type Pfn } from '../../lib/x86/addr.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { FOLL } from '../host/mm/fault.ts';
import { getUserPage, getUserPageNowait } from '../host/mm/gup.ts';
import type { KernelMapping } from '../host/mm/kernel_mapping.ts';
import type { Steps } from '../host/steps.ts';
import { markPageDirtyInSlot } from './dirty_bitmap.ts';
import { gfnToHvaSlot, kvmVcpuGfnToMemslot } from './guest_memory.ts';
import { kvmIsErrorHva, type Vcpu } from './kvm_host.ts';

/** struct kvm_host_map: mapped while `mapping` is not null. */
export class KvmHostMap {
  /** What the page is to the vCPU, for reports. */
  readonly what: string;
  gfn = -1 as Gfn;
  pfn = -1 as Pfn;
  refcounted = false;
  mapping: KernelMapping | null = null;

  constructor(what: string) {
    this.what = what;
  }

  /** Physical address of the page. */
  get hpa(): Hpa {
    return hpa(this.pfn * PAGE_SIZE);
  }
}

/** kvm_vcpu_map(), as far as it goes without waiting: 0, -EINVAL, or -EAGAIN: kvmVcpuMapWait() first. */
export function kvmVcpuMap(vcpu: Vcpu, gfn: Gfn, map: KvmHostMap): number {
  const { kvm } = vcpu;
  const address = gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, gfn), gfn, 'write');
  if (kvmIsErrorHva(address)) return -ERRNO.EINVAL;
  const found = getUserPageNowait(kvm.mm, address, FOLL.WRITE);
  if (found === -ERRNO.EAGAIN) return found;
  if (found < 0) return -ERRNO.EINVAL;
  map.gfn = gfn;
  map.pfn = found as Pfn;
  map.refcounted = kvm.mm.gup.refcounted;
  map.mapping = kvm.host.kernelMap.memremap(map.pfn, `${map.what} of ${vcpu.name}`);
  return 0;
}

/** Wait until the page behind `gfn` can be had, so that kvmVcpuMap() need not. */
export function* kvmVcpuMapWait(vcpu: Vcpu, gfn: Gfn): Steps<void> {
  const { kvm } = vcpu;
  const address = gfnToHvaSlot(kvmVcpuGfnToMemslot(vcpu, gfn), gfn, 'write');
  if (kvmIsErrorHva(address)) return;
  const found = yield* getUserPage(kvm.mm, address, FOLL.WRITE);
  if (found >= 0 && kvm.mm.gup.refcounted) kvm.host.pages.putPage(found as Pfn);
}

/** kvm_vcpu_unmap(): `dirty` if L0 or the hardware may have written to it. */
export function kvmVcpuUnmap(vcpu: Vcpu, map: KvmHostMap, written: 'dirty' | 'clean'): void {
  const { mapping } = map;
  if (mapping === null) return;
  const { kvm } = vcpu;
  map.mapping = null;
  kvm.host.kernelMap.memunmap(mapping);
  if (written === 'dirty') {
    const slot = kvmVcpuGfnToMemslot(vcpu, map.gfn);
    if (slot !== null) markPageDirtyInSlot(slot, map.gfn);
  }
  if (map.refcounted) kvm.host.pages.putPage(map.pfn);
}
