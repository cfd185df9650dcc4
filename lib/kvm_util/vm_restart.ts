// SPDX-License-Identifier: GPL-2.0-only
/**
 * A VM that ends while its memory stays, and goes on as another VM: kvm_vm_release(), kvm_vm_restart() and
 * vm_recreate_with_one_vcpu() of kvm_util.c in tools/testing/selftests/kvm.
 */
import { PAGE_SIZE } from '../x86/addr.ts';
import type { Steps } from './backend.ts';
import type { KvmVcpu, KvmVm } from './kvm_util.ts';
import { __vmVcpuAdd } from './x86/processor.ts';

/** kvm_vm_release(): closes the vCPUs and the VM. */
export function* kvmVmRelease(vm: KvmVm): Steps<void> {
  for (const vcpu of vm.vcpus) yield* vcpu.fd.close();
  vm.vcpus.length = 0;
  yield* vm.fd.close();
}

/** kvm_vm_restart(): a new VM with the old one's memory and an irqchip. */
export function* kvmVmRestart(vm: KvmVm): Steps<void> {
  vm.fd = yield* vm.backend.kvm.createVm(0);
  vm.fd.createIrqchip();
  for (const r of vm.regions.all()) {
    yield* vm.fd.setUserMemoryRegion2({
      slot: r.slot,
      flags: r.flags,
      guest_phys_addr: r.guestPhysAddr,
      memory_size: r.npages * PAGE_SIZE,
      userspace_addr: r.hostMem,
      guest_memfd: 0,
      guest_memfd_offset: 0,
    });
  }
}

/** vm_vcpu_recreate(): a vCPU in its reset state that knows what KVM supports. */
export function* vmVcpuRecreate(vm: KvmVm, id: number): Steps<KvmVcpu> {
  const vcpu = yield* __vmVcpuAdd(vm, id);
  vcpu.fd.setCpuid2(vm.backend.kvm.getSupportedCpuid());
  return vcpu;
}

/** vm_recreate_with_one_vcpu(). */
export function* vmRecreateWithOneVcpu(vm: KvmVm): Steps<KvmVcpu> {
  yield* kvmVmRestart(vm);
  return yield* vmVcpuRecreate(vm, 0);
}
