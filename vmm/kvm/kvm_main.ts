// SPDX-License-Identifier: GPL-2.0-only
/**
 * Life and death of VMs and vCPUs. Mirrors kvm_create_vm(), kvm_vm_ioctl_create_vcpu(), kvm_destroy_vm() and vcpu_load()
 * of virt/kvm/kvm_main.c, 6.12; leaves out devices, debugfs and file descriptors: whoever holds the object holds it.
 */
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import type { MmStruct } from '../host/mm/mm_struct.ts';
import type { Steps } from '../host/steps.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { BugError } from '../machine/errors.ts';
import { Kvm, Vcpu } from './kvm_host.ts';
import { KVM_MAX_VCPU_IDS, KVM_MAX_VCPUS } from './limits.ts';
import { KvmMemslots } from './memslots.ts';
import { KvmMmuNotifier } from './mmu_notifier.ts';
import { kvmMmuDestroy, kvmMmuUninitVm } from './mmu/mmu.ts';
import { kvmMmuZapAll } from './mmu/zap.ts';
import type { KvmModule } from './module.ts';

/** Address spaces of x86: normal and SMM. */
export const KVM_MAX_NR_ADDRESS_SPACES = 2;

/** KVM_CREATE_VM: a VM of the process that has the address space `mm`. */
export function kvmCreateVm(module: KvmModule, mm: MmStruct): Kvm {
  const kvm = new Kvm(module, mm, module.vmCount++);
  for (let asId = 0; asId < KVM_MAX_NR_ADDRESS_SPACES; asId++) {
    const sets = KvmMemslots.pair(asId);
    kvm.memslotSets.push(sets);
    kvm.memslots.push(sets[0]);
  }
  kvm.arch.maxVcpuIds = KVM_MAX_VCPU_IDS;
  const error = module.arch.vmInit(kvm);
  if (error < 0) throw new KvmError('KVM_CREATE_VM', error);
  kvm.notifier = new KvmMmuNotifier(kvm);
  mm.notifiers.register(kvm.notifier);
  module.vmList.push(kvm);
  return kvm;
}

/** KVM_CREATE_VCPU. */
export function* kvmVmIoctlCreateVcpu(kvm: Kvm, id: number): Steps<Vcpu> {
  const { arch } = kvm.module;
  const refuse = (errno: number, why: string): KvmError => new KvmError('KVM_CREATE_VCPU', errno, why);
  if (!kvm.lock.fastLock()) yield* kvm.lock.lock();
  try {
    if (id < 0 || id >= kvm.arch.maxVcpuIds) throw refuse(ERRNO.EINVAL, `vCPU id ${id}`);
    if (kvm.createdVcpus >= KVM_MAX_VCPUS) throw refuse(ERRNO.EINVAL, `${kvm.createdVcpus} vCPUs are there`);
    const precreate = arch.vcpuPrecreate(kvm, id);
    if (precreate < 0) throw refuse(precreate, `vCPU ${id}`);
    if (kvm.vcpus.some((other) => other.vcpuId === id)) throw refuse(ERRNO.EEXIST, `vCPU ${id} is there`);
    const vcpu = new Vcpu(kvm, id, kvm.vcpus.length);
    const created = arch.vcpuCreate(vcpu);
    const error = typeof created === 'number' ? created : yield* created;
    if (error < 0) throw refuse(error, `vCPU ${id}`);
    kvm.createdVcpus++;
    // From here on requests to all vCPUs reach it.
    kvm.vcpus.push(vcpu);
    arch.vcpuPostcreate(vcpu);
    return vcpu;
  } finally {
    kvm.lock.unlock();
  }
}

/** KVM_RUN: with vcpu->mutex; a negated errno, or 0 with vcpu->run filled. */
export function* kvmVcpuIoctlRun(vcpu: Vcpu): Steps<number> {
  const { sched } = vcpu.kvm.host;
  if (vcpu.kvm.vmBugged || vcpu.kvm.vmDead) return -ERRNO.EIO;
  if (!vcpu.mutex.fastLock()) yield* vcpu.mutex.lock();
  try {
    vcpu.task = sched.current;
    return yield* vcpu.kvm.module.arch.vcpuIoctlRun(vcpu);
  } finally {
    vcpu.mutex.unlock();
  }
}

/** vcpu_load(): the current pCPU is the vCPU's, until vcpuPut(); follows the task if it moves. */
export function vcpuLoad(vcpu: Vcpu): void {
  const { sched } = vcpu.kvm.host;
  const { module } = vcpu.kvm;
  sched.preemptDisable();
  module.runningVcpu[sched.cpu.id] = vcpu;
  if (sched.current !== null) sched.preemptNotifierRegister(sched.current, vcpu.preemptNotifier);
  spend(sched.cpu, COST.VCPU_LOAD);
  vcpu.cpu = sched.cpu.id;
  module.arch.vcpuLoad(vcpu, sched.cpu);
  sched.preemptEnable();
}

/** vcpu_put(). */
export function vcpuPut(vcpu: Vcpu): void {
  const { sched } = vcpu.kvm.host;
  const { module } = vcpu.kvm;
  sched.preemptDisable();
  module.arch.vcpuPut(vcpu);
  if (sched.current !== null) sched.preemptNotifierUnregister(sched.current, vcpu.preemptNotifier);
  module.runningVcpu[sched.cpu.id] = null;
  sched.preemptEnable();
}

/** kvm_destroy_vm(): stop being notified, then free vCPUs, page tables and memslots. */
export function* kvmDestroyVm(kvm: Kvm): Steps<void> {
  const { module } = kvm;
  const index = module.vmList.indexOf(kvm);
  if (index < 0) throw new BugError(`${kvm.name} is destroyed twice`);
  module.vmList.splice(index, 1);
  if (kvm.notifier !== null) yield* kvm.mm.notifiers.unregister(kvm.notifier);
  kvm.mnActiveInvalidateCount = 0;
  yield* kvmMmuZapAll(kvm);
  for (const vcpu of kvm.vcpus) {
    kvmMmuDestroy(vcpu);
    module.arch.vcpuDestroy(vcpu);
  }
  kvm.vcpus.length = 0;
  module.arch.vmDestroy(kvm);
  yield* kvmMmuUninitVm(kvm);
  kvm.vmDead = true;
  if (kvm.arch.tdpMmuPages !== 0)
    throw new BugError(`${kvm.name} leaves ${kvm.arch.tdpMmuPages} table pages behind`);
}
