// SPDX-License-Identifier: GPL-2.0-only
/** A VM's file descriptor, and /dev/kvm: kvm_vm_ioctl() and kvm_dev_ioctl() of virt/kvm/kvm_main.c, 6.12. */
import type { KvmDevice, StatsFd, Steps, VcpuFd, VmFd } from '../../lib/kvm_util/backend.ts';
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import type { KvmCpuidEntry2, KvmMsrEntry } from '../../lib/uapi/cpuid_msr.ts';
import type {
  KvmClearDirtyLog,
  KvmDirtyLog,
  KvmEnableCap,
  KvmUserspaceMemoryRegion,
  KvmUserspaceMemoryRegion2,
} from '../../lib/uapi/memory.ts';
import type { MmStruct } from '../host/mm/mm_struct.ts';
import { kvmVmIoctlCheckExtension, kvmVmIoctlEnableCapGeneric } from '../kvm/capabilities.ts';
import { kvmVmIoctlClearDirtyLog, kvmVmIoctlGetDirtyLog } from '../kvm/dirty_log.ts';
import type { Kvm } from '../kvm/kvm_host.ts';
import { kvmCreateVm, kvmDestroyVm, kvmVmIoctlCreateVcpu } from '../kvm/kvm_main.ts';
import { kvmVmIoctlSetUserMemoryRegion, kvmVmIoctlSetUserMemoryRegion2 } from '../kvm/memory_region.ts';
import type { KvmModule } from '../kvm/module.ts';
import { kvmVmIoctlGetStatsFd } from '../kvm/stats.ts';
import { kvmGetSupportedCpuid } from '../kvm/x86/cpuid.ts';
import { kvmGetFeatureMsr, kvmGetMsrFeatureIndexList } from '../kvm/x86/feature_msrs.ts';
import { kvmGetMsrIndexList } from '../kvm/x86/msr.ts';
import { kvmVmIoctlSetTscKhz } from '../kvm/x86/tsc.ts';
import { kvmVmIoctlEnableCapX86 } from '../kvm/x86/x86.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { checkIoctl } from './errors.ts';
import { EmulatedVcpuFd } from './vcpu_fd.ts';

const KVM_API_VERSION = 12;

/** The part of the architecture's table that only VM ioctls need. */
export interface IrqchipOps {
  createIrqchip(kvm: Kvm): void;
}

export class EmulatedVmFd implements VmFd {
  readonly kvm: Kvm;
  readonly #irqchip: IrqchipOps;

  constructor(kvm: Kvm, irqchip: IrqchipOps) {
    this.kvm = kvm;
    this.#irqchip = irqchip;
  }

  checkExtension(cap: number): number {
    return kvmVmIoctlCheckExtension(this.kvm.module, this.kvm, cap);
  }

  *enableCap(cap: KvmEnableCap): Steps<void> {
    yield* this.#enter();
    if (!kvmVmIoctlEnableCapGeneric(this.kvm, cap) && !kvmVmIoctlEnableCapX86(this.kvm, cap)) {
      throw new KvmError('KVM_ENABLE_CAP', ERRNO.EINVAL, `capability ${cap.cap}`);
    }
  }

  *createVcpu(id: number): Steps<VcpuFd> {
    yield* this.#enter();
    return new EmulatedVcpuFd(yield* kvmVmIoctlCreateVcpu(this.kvm, id));
  }

  *setUserMemoryRegion(region: KvmUserspaceMemoryRegion): Steps<void> {
    yield* this.#enter();
    yield* kvmVmIoctlSetUserMemoryRegion(this.kvm, region);
  }
  *setUserMemoryRegion2(region: KvmUserspaceMemoryRegion2): Steps<void> {
    yield* this.#enter();
    yield* kvmVmIoctlSetUserMemoryRegion2(this.kvm, region);
  }
  *getDirtyLog(log: KvmDirtyLog): Steps<void> {
    yield* this.#enter();
    yield* kvmVmIoctlGetDirtyLog(this.kvm, log);
  }
  *clearDirtyLog(log: KvmClearDirtyLog): Steps<void> {
    yield* this.#enter();
    yield* kvmVmIoctlClearDirtyLog(this.kvm, log);
  }

  getTscKhz(): number {
    const { arch, module } = this.kvm;
    return arch.defaultTscKhz === 0 ? module.caps.tscKhz : arch.defaultTscKhz;
  }
  setTscKhz(khz: number): void {
    checkIoctl('KVM_SET_TSC_KHZ', kvmVmIoctlSetTscKhz(this.kvm, khz));
  }
  createIrqchip(): void {
    this.#irqchip.createIrqchip(this.kvm);
  }
  statsFd(): StatsFd {
    const file = kvmVmIoctlGetStatsFd(this.kvm);
    return { read: (offset, length) => file.read(offset, length) };
  }
  *close(): Steps<void> {
    yield* this.#enter();
    yield* kvmDestroyVm(this.kvm);
  }

  /** Into the kernel: its price, and a place to be preempted. */
  *#enter(): Steps<void> {
    const { sched } = this.kvm.host;
    spend(sched.cpu, COST.SYSCALL);
    if (sched.shouldYield()) yield;
  }
}

export class EmulatedKvmDevice implements KvmDevice {
  readonly #module: KvmModule;
  readonly #mm: MmStruct;
  readonly #irqchip: IrqchipOps;

  constructor(module: KvmModule, mm: MmStruct, irqchip: IrqchipOps) {
    this.#module = module;
    this.#mm = mm;
    this.#irqchip = irqchip;
  }

  getApiVersion(): number {
    return KVM_API_VERSION;
  }
  checkExtension(cap: number): number {
    return kvmVmIoctlCheckExtension(this.#module, null, cap);
  }
  getSupportedCpuid(): KvmCpuidEntry2[] {
    return kvmGetSupportedCpuid(this.#module);
  }
  getMsrIndexList(): number[] {
    return kvmGetMsrIndexList(this.#module);
  }
  getMsrFeatureIndexList(): number[] {
    return kvmGetMsrFeatureIndexList(this.#module);
  }
  getMsrs(indices: readonly number[]): KvmMsrEntry[] {
    const out: KvmMsrEntry[] = [];
    for (const index of indices) {
      const data = kvmGetFeatureMsr(this.#module, index);
      if (data === undefined) break;
      out.push({ index, data });
    }
    return out;
  }
  *createVm(type: number): Steps<VmFd> {
    const { sched } = this.#module.host;
    spend(sched.cpu, COST.SYSCALL);
    if (sched.shouldYield()) yield;
    if (type !== 0) throw new KvmError('KVM_CREATE_VM', ERRNO.EINVAL, `VM type ${type}`);
    return new EmulatedVmFd(kvmCreateVm(this.#module, this.#mm), this.#irqchip);
  }
}
