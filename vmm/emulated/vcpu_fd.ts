// SPDX-License-Identifier: GPL-2.0-only
/** A vCPU's file descriptor: kvm_arch_vcpu_ioctl() of arch/x86/kvm/x86.c, 6.12. */
import type { StatsFd, Steps, VcpuFd } from '../../lib/kvm_util/backend.ts';
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import type { KvmIoctl } from '../../lib/uapi/ioctls.ts';
import type { KvmCpuidEntry2, KvmMsrEntry } from '../../lib/uapi/cpuid_msr.ts';
import type { KvmEnableCap } from '../../lib/uapi/memory.ts';
import type { KvmNestedState } from '../../lib/uapi/nested_state.ts';
import type { KvmDebugregs, KvmRegs, KvmSregs, KvmXcrs } from '../../lib/uapi/regs.ts';
import type { KvmRun } from '../../lib/uapi/run.ts';
import type { KvmLapicState, KvmMpState, KvmVcpuEvents } from '../../lib/uapi/vcpu_state.ts';
import type { Vcpu } from '../kvm/kvm_host.ts';
import { kvmVcpuIoctlRun, vcpuLoad, vcpuPut } from '../kvm/kvm_main.ts';
import { kvmVcpuIoctlGetStatsFd } from '../kvm/stats.ts';
import { kvmSetCpuid2 } from '../kvm/x86/cpuid.ts';
import { kvmApicGetState, kvmApicSetState, lapicInKernel } from '../kvm/x86/lapic.ts';
import { kvmApicAcceptEvents, kvmInjectNmi, kvmSetMpState } from '../kvm/x86/mp_state.ts';
import { kvmGetMsr, kvmSetMsr } from '../kvm/x86/msr.ts';
import { kvmVcpuIoctlGetNestedState, kvmVcpuIoctlSetNestedState } from '../kvm/x86/nested_state.ts';
import { kvmGetRegs, kvmGetSregs, kvmIoctlInterrupt, kvmSetRegs, kvmSetSregs } from '../kvm/x86/regs.ts';
import {
  kvmGetDebugregs,
  kvmGetVcpuEvents,
  kvmGetXcrs,
  kvmSetDebugregs,
  kvmSetVcpuEvents,
  kvmSetXcrs,
} from '../kvm/x86/vcpu_events.ts';
import { kvmVcpuIoctlSetTscKhz } from '../kvm/x86/tsc.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { checkIoctl } from './errors.ts';

export class EmulatedVcpuFd implements VcpuFd {
  readonly vcpu: Vcpu;

  constructor(vcpu: Vcpu) {
    this.vcpu = vcpu;
  }

  get id(): number {
    return this.vcpu.vcpuId;
  }
  get run(): KvmRun {
    return this.vcpu.run;
  }

  *ioctlRun(): Steps<void> {
    const { sched } = this.vcpu.kvm.host;
    spend(sched.cpu, COST.SYSCALL);
    if (sched.shouldYield()) yield;
    const r = yield* kvmVcpuIoctlRun(this.vcpu);
    // A signal is handled on the way back to userspace.
    if (r === -ERRNO.EINTR && sched.current !== null) sched.current.signalPending = false;
    checkIoctl('KVM_RUN', r);
  }

  getRegs(): KvmRegs {
    return this.#loaded('KVM_GET_REGS', () => kvmGetRegs(this.vcpu));
  }
  setRegs(regs: KvmRegs): void {
    this.#loaded('KVM_SET_REGS', () => kvmSetRegs(this.vcpu, regs));
  }
  getSregs(): KvmSregs {
    return this.#loaded('KVM_GET_SREGS', () => kvmGetSregs(this.vcpu));
  }
  setSregs(sregs: KvmSregs): void {
    this.#checked('KVM_SET_SREGS', () => kvmSetSregs(this.vcpu, sregs));
  }

  getMsrs(indices: readonly number[]): KvmMsrEntry[] {
    return this.#loaded('KVM_GET_MSRS', () => {
      const out: KvmMsrEntry[] = [];
      for (const index of indices) {
        const entry = { index, data: 0n };
        if (kvmGetMsr(this.vcpu, entry, 'host') !== 0) break;
        out.push(entry);
      }
      return out;
    });
  }

  setMsrs(entries: readonly KvmMsrEntry[]): number {
    return this.#loaded('KVM_SET_MSRS', () => {
      const failed = entries.findIndex((e) => kvmSetMsr(this.vcpu, { ...e }, 'host') !== 0);
      return failed < 0 ? entries.length : failed;
    });
  }

  setCpuid2(entries: readonly KvmCpuidEntry2[]): void {
    this.#loaded('KVM_SET_CPUID2', () => kvmSetCpuid2(this.vcpu, entries));
  }
  getCpuid2(): KvmCpuidEntry2[] {
    return this.#loaded('KVM_GET_CPUID2', () => this.vcpu.arch.cpuidEntries.map((e) => ({ ...e })));
  }

  getLapic(): KvmLapicState {
    this.#needApic('KVM_GET_LAPIC');
    return this.#loaded('KVM_GET_LAPIC', () => kvmApicGetState(this.vcpu));
  }
  setLapic(state: KvmLapicState): void {
    this.#needApic('KVM_SET_LAPIC');
    this.#checked('KVM_SET_LAPIC', () => kvmApicSetState(this.vcpu, state));
  }

  getMpState(): KvmMpState {
    return this.#loaded('KVM_GET_MP_STATE', () => {
      kvmApicAcceptEvents(this.vcpu);
      return { mp_state: this.vcpu.arch.mpState };
    });
  }
  setMpState(state: KvmMpState): void {
    this.#checked('KVM_SET_MP_STATE', () => kvmSetMpState(this.vcpu, state.mp_state));
  }

  getVcpuEvents(): KvmVcpuEvents {
    return this.#loaded('KVM_GET_VCPU_EVENTS', () => kvmGetVcpuEvents(this.vcpu));
  }
  setVcpuEvents(events: KvmVcpuEvents): void {
    this.#checked('KVM_SET_VCPU_EVENTS', () => kvmSetVcpuEvents(this.vcpu, events));
  }
  getDebugregs(): KvmDebugregs {
    return kvmGetDebugregs(this.vcpu);
  }
  setDebugregs(regs: KvmDebugregs): void {
    this.#checked('KVM_SET_DEBUGREGS', () => kvmSetDebugregs(this.vcpu, regs));
  }
  getXcrs(): KvmXcrs {
    return kvmGetXcrs(this.vcpu);
  }
  setXcrs(xcrs: KvmXcrs): void {
    this.#checked('KVM_SET_XCRS', () => kvmSetXcrs(this.vcpu, xcrs));
  }

  getNestedState(size: number): KvmNestedState {
    return this.#loaded('KVM_GET_NESTED_STATE', () => kvmVcpuIoctlGetNestedState(this.vcpu, size));
  }
  setNestedState(state: KvmNestedState | null): void {
    this.#loaded('KVM_SET_NESTED_STATE', () => kvmVcpuIoctlSetNestedState(this.vcpu, state));
  }

  interrupt(vector: number): void {
    if (vector < 0 || vector > 255) throw new KvmError('KVM_INTERRUPT', ERRNO.EINVAL, `vector ${vector}`);
    const ok = this.#loaded('KVM_INTERRUPT', () => kvmIoctlInterrupt(this.vcpu, vector));
    if (!ok) throw new KvmError('KVM_INTERRUPT', ERRNO.ENXIO, 'the local APIC is in the kernel');
  }
  nmi(): void {
    this.#loaded('KVM_NMI', () => kvmInjectNmi(this.vcpu));
  }
  getTscKhz(): number {
    return this.vcpu.arch.virtualTscKhz;
  }
  setTscKhz(khz: number): void {
    this.#checked('KVM_SET_TSC_KHZ', () => kvmVcpuIoctlSetTscKhz(this.vcpu, khz));
  }
  enableCap(cap: KvmEnableCap): void {
    throw new KvmError('KVM_ENABLE_CAP', ERRNO.EINVAL, `capability ${cap.cap} of a vCPU`);
  }
  statsFd(): StatsFd {
    const file = kvmVcpuIoctlGetStatsFd(this.vcpu);
    return { read: (offset, length) => file.read(offset, length) };
  }
  *close(): Steps<void> {
    // The vCPU lives as long as its VM.
  }

  /** With the vCPU loaded on this pCPU, as vcpu_load() and vcpu_put() bracket most ioctls. */
  #loaded<T>(ioctl: KvmIoctl, body: () => T): T {
    const { vcpu } = this;
    spend(vcpu.kvm.host.sched.cpu, COST.SYSCALL);
    if (vcpu.kvm.vmDead) throw new KvmError(ioctl, ERRNO.EIO);
    vcpuLoad(vcpu);
    try {
      return body();
    } finally {
      vcpuPut(vcpu);
    }
  }

  #checked(ioctl: KvmIoctl, body: () => number): void {
    if (this.#loaded(ioctl, body) !== 0) throw new KvmError(ioctl, ERRNO.EINVAL);
  }

  #needApic(ioctl: KvmIoctl): void {
    if (!lapicInKernel(this.vcpu)) throw new KvmError(ioctl, ERRNO.EINVAL, 'no in-kernel local APIC');
  }
}
