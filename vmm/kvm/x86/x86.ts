// SPDX-License-Identifier: GPL-2.0-only
/**
 * The kvm_arch_*() functions of x86: what architecture-neutral code calls. Mirrors arch/x86/kvm/x86.c, 6.12. The vendor's
 * operations are reached through `kvm.module.ops`.
 */
import { KVM_CAP } from '../../../lib/uapi/capabilities.ts';
import { ERRNO, KvmError } from '../../../lib/uapi/errno.ts';
import type { KvmEnableCap } from '../../../lib/uapi/memory.ts';
import { KVM_MSR_EXIT_REASON } from '../../../lib/uapi/cpuid_msr.ts';
import { KVM_SYNC_X86 } from '../../../lib/uapi/run.ts';
import { KVM_MP_STATE, KVM_X2APIC_API } from '../../../lib/uapi/vcpu_state.ts';
import { ApicBus } from '../../machine/apic/apic_bus.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import type { Steps } from '../../host/steps.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import type { KvmArchOps } from '../kvm_host_x86.ts';
import { vcpuLoad, vcpuPut } from '../kvm_main.ts';
import { TP } from '../trace_events.ts';
import { kvmVcpuAfterSetCpuid } from './cpuid.ts';
import { kvmCreateLapic, kvmFreeLapic, lapicInKernel, vcpuApic } from './lapic.ts';
import { kvmVcpuReset } from './mp_state.ts';
import { kvmSetTsc, kvmSetTscKhz } from './tsc.ts';
import { kvmArchVcpuIoctlRun, kvmArchVcpuRunnable } from './run.ts';

/** The APIC bus of each VM with an in-kernel irqchip: struct kvm_apic_map's place. */
type Buses = WeakMap<Kvm, ApicBus>;

const EXTENSIONS: Readonly<Record<number, number>> = {
  [KVM_CAP.IRQCHIP]: 1,
  [KVM_CAP.EXT_CPUID]: 1,
  [KVM_CAP.MP_STATE]: 1,
  [KVM_CAP.VCPU_EVENTS]: 1,
  [KVM_CAP.DEBUGREGS]: 1,
  [KVM_CAP.XCRS]: 1,
  [KVM_CAP.GET_TSC_KHZ]: 1,
  [KVM_CAP.TSC_DEADLINE_TIMER]: 1,
  // The broadcast quirk concerns MSIs, which are not modelled.
  [KVM_CAP.X2APIC_API]: KVM_X2APIC_API.USE_32BIT_IDS,
  [KVM_CAP.USER_NMI]: 1,
  [KVM_CAP.EXCEPTION_PAYLOAD]: 1,
  [KVM_CAP.X86_TRIPLE_FAULT_EVENT]: 1,
  [KVM_CAP.GET_MSR_FEATURES]: 1,
  [KVM_CAP.X86_USER_SPACE_MSR]: 1,
  [KVM_CAP.SYNC_REGS]: KVM_SYNC_X86.REGS | KVM_SYNC_X86.SREGS | KVM_SYNC_X86.EVENTS,
};

/** kvm_arch_vcpu_create(): a vCPU in reset state, its TSC at zero; application processors wait for INIT. */
function vcpuCreate(vcpu: Vcpu, buses: Buses): number {
  const { kvm } = vcpu;
  const { sched } = kvm.host;
  const bsp = vcpu.vcpuId === kvm.arch.bspVcpuId;
  vcpu.arch.mpState = !kvm.arch.irqchipInKernel || bsp ? KVM_MP_STATE.RUNNABLE : KVM_MP_STATE.UNINITIALIZED;
  vcpu.arch.maxphyaddr = Math.min(36, kvm.module.caps.maxphyaddr);
  sched.preemptDisable();
  const bus = buses.get(kvm);
  if (kvm.arch.irqchipInKernel && bus !== undefined) kvmCreateLapic(vcpu, bus);
  const err = kvm.module.ops.vcpuCreate(vcpu);
  if (err === 0) {
    kvmVcpuAfterSetCpuid(vcpu);
    kvmVcpuReset(vcpu, 'reset');
    kvmSetTscKhz(vcpu, kvm.arch.defaultTscKhz === 0 ? kvm.module.caps.tscKhz : kvm.arch.defaultTscKhz);
    kvmSetTsc(vcpu, 0n);
  } else kvmFreeLapic(vcpu);
  sched.preemptEnable();
  return err;
}

function* vcpuIoctlRun(vcpu: Vcpu): Steps<number> {
  vcpuLoad(vcpu);
  const r = yield* kvmArchVcpuIoctlRun(vcpu);
  vcpuPut(vcpu);
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_USERSPACE_EXIT] !== 0) trace.record(TP.KVM_USERSPACE_EXIT, vcpu.run.exit_reason, r);
  return r;
}

function vcpuDestroy(vcpu: Vcpu, buses: Buses): void {
  if (lapicInKernel(vcpu)) {
    const { apic } = vcpuApic(vcpu);
    const apics = buses.get(vcpu.kvm)?.apics;
    apics?.splice(apics.indexOf(apic), 1);
  }
  kvmFreeLapic(vcpu);
  vcpu.kvm.module.ops.vcpuFree(vcpu);
}

/** The table for one loaded kvm.ko. */
export function x86ArchOps(): KvmArchOps & { createIrqchip(kvm: Kvm): void } {
  const buses: Buses = new WeakMap();
  return {
    vmInit: (kvm) => kvm.module.ops.vmInit(kvm),
    vmDestroy: (kvm) => kvm.module.ops.vmDestroy(kvm),
    vcpuPrecreate: () => 0,
    vcpuCreate: (vcpu) => vcpuCreate(vcpu, buses),
    vcpuPostcreate: () => undefined,
    vcpuDestroy: (vcpu) => vcpuDestroy(vcpu, buses),
    vcpuLoad: (vcpu: Vcpu, cpu: Cpu) => vcpu.kvm.module.ops.vcpuLoad(vcpu, cpu),
    vcpuPut: (vcpu) => vcpu.kvm.module.ops.vcpuPut(vcpu),
    vcpuIoctlRun,
    vcpuRunnable: kvmArchVcpuRunnable,
    cpuHasPendingTimer: () => false,
    vmIoctlCheckExtension: (_kvm, cap) => EXTENSIONS[cap] ?? 0,
    createIrqchip: (kvm) => createIrqchip(kvm, buses),
  };
}

/** KVM_CREATE_IRQCHIP: before the first vCPU, once. The PIC and the I/O APIC are not modelled. */
function createIrqchip(kvm: Kvm, buses: Buses): void {
  if (kvm.arch.irqchipInKernel) throw new KvmError('KVM_CREATE_IRQCHIP', ERRNO.EEXIST);
  if (kvm.createdVcpus > 0) throw new KvmError('KVM_CREATE_IRQCHIP', ERRNO.EINVAL, 'there are vCPUs already');
  kvm.arch.irqchipInKernel = true;
  buses.set(kvm, new ApicBus());
}

/** kvm_vm_ioctl_enable_cap() of x86: true if it was one of these. */
export function kvmVmIoctlEnableCapX86(kvm: Kvm, cap: KvmEnableCap): boolean {
  const arg = Number(cap.args[0] ?? 0);
  if (cap.flags !== 0) throw new KvmError('KVM_ENABLE_CAP', ERRNO.EINVAL, `flags ${cap.flags}`);
  switch (cap.cap) {
    case KVM_CAP.EXCEPTION_PAYLOAD:
      kvm.arch.exceptionPayloadEnabled = arg !== 0;
      return true;
    case KVM_CAP.X86_TRIPLE_FAULT_EVENT:
      kvm.arch.tripleFaultEvent = arg !== 0;
      return true;
    case KVM_CAP.X2APIC_API:
      if ((arg & ~KVM_X2APIC_API.USE_32BIT_IDS) !== 0)
        throw new KvmError('KVM_ENABLE_CAP', ERRNO.EINVAL, `KVM_CAP_X2APIC_API flags ${arg}`);
      if (arg !== 0) kvm.arch.x2apicFormat = true;
      return true;
    case KVM_CAP.X86_USER_SPACE_MSR:
      if (
        (arg & ~(KVM_MSR_EXIT_REASON.INVAL | KVM_MSR_EXIT_REASON.UNKNOWN | KVM_MSR_EXIT_REASON.FILTER)) !==
        0
      ) {
        throw new KvmError('KVM_ENABLE_CAP', ERRNO.EINVAL, `KVM_CAP_X86_USER_SPACE_MSR mask ${arg}`);
      }
      kvm.arch.userSpaceMsrMask = arg;
      return true;
    default:
      return false;
  }
}
