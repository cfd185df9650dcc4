// SPDX-License-Identifier: GPL-2.0-only
/**
 * The in-kernel local APIC of a vCPU. The register machine is the hardware's (vmm/machine/apic); here are the timer on the
 * host's hrtimers, the messages that become requests and kicks, and KVM_GET/SET_LAPIC. Mirrors arch/x86/kvm/lapic.c,
 * 6.12, without APICv; an interrupt window waits where KVM would use the TPR threshold.
 */
import { KVM_APIC_REG_SIZE, type KvmLapicState } from '../../../lib/uapi/vcpu_state.ts';
import { APIC_REG, APICBASE } from '../../../lib/x86/apic.ts';
import { X86_FEATURE } from '../../../lib/x86/cpuid.ts';
import { HrTimer } from '../../host/sched/hrtimer.ts';
import { ApicBus } from '../../machine/apic/apic_bus.ts';
import { x2apicLdr } from '../../machine/apic/apic_registers.ts';
import { LocalApic, type ApicHost } from '../../machine/apic/local_apic.ts';
import { BugError } from '../../machine/errors.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest, kvmVcpuKick } from '../requests.ts';
import { guestHas } from './cpuid_entry.ts';
import { kvmApicHostEvents, LapicEvents } from './mp_state.ts';

/** KVM's emulated APIC timer counts nanoseconds (APIC_BUS_CYCLE_NS is 1). */
const APIC_BUS_CYCLE_NS = 1;

/** struct kvm_lapic. */
export class KvmLapic extends LapicEvents {
  readonly apic: LocalApic;
  readonly timer: HrTimer;

  constructor(vcpu: Vcpu, bus: ApicBus) {
    super();
    const cyclesPerNs = vcpu.kvm.module.caps.tscKhz / 1e6;
    // The timer fires wherever it was armed; the APIC then sees that its deadline has passed.
    this.timer = new HrTimer(`${vcpu.name} apic timer`, () => {
      this.apic.timer.poll();
    });
    this.apic = new LocalApic({
      id: vcpu.vcpuId,
      bus,
      bsp: vcpu.vcpuId === vcpu.kvm.arch.bspVcpuId,
      tscPerTick: APIC_BUS_CYCLE_NS * cyclesPerNs,
      host: this.#host(vcpu),
    });
  }

  override reset(): void {
    this.apic.reset();
  }

  #host(vcpu: Vcpu): ApicHost {
    const { sched } = vcpu.kvm.host;
    return {
      now: () => sched.now(),
      tscToCycles: (lo, hi) => {
        const sinceZero = (BigInt(hi >>> 0) << 32n) + BigInt(lo >>> 0) - vcpu.arch.l1TscOffset;
        return Number((sinceZero << 48n) / vcpu.arch.l1TscScalingRatio);
      },
      interruptPending: () => {
        kvmMakeRequest(KVM_REQ.EVENT, vcpu);
        kvmVcpuKick(vcpu);
      },
      ...kvmApicHostEvents(vcpu, this),
      timerChanged: (deadline) => {
        if (deadline === Infinity) sched.hrtimerCancel(this.timer);
        else sched.hrtimerStart(this.timer, Math.max(deadline, sched.now()));
      },
    };
  }
}

/** The vCPU's local APIC; there must be one. */
export function vcpuApic(vcpu: Vcpu): KvmLapic {
  const { apic } = vcpu.arch;
  if (!(apic instanceof KvmLapic)) throw new BugError(`${vcpu.name} has no in-kernel local APIC`);
  return apic;
}

/** lapic_in_kernel(). */
export const lapicInKernel = (vcpu: Vcpu): boolean => vcpu.arch.apic !== null;

/** kvm_create_lapic(). */
export function kvmCreateLapic(vcpu: Vcpu, bus: ApicBus): void {
  const lapic = new KvmLapic(vcpu, bus);
  vcpu.arch.apic = lapic;
  vcpu.arch.apicBase = apicBaseOf(lapic.apic);
}

/** kvm_free_lapic(). */
export function kvmFreeLapic(vcpu: Vcpu): void {
  if (!lapicInKernel(vcpu)) return;
  vcpu.kvm.host.sched.hrtimerCancel(vcpuApic(vcpu).timer);
  vcpu.arch.apic = null;
}

const apicBaseOf = (apic: LocalApic): number => (apic.baseLo >>> 0) + apic.baseHi * 2 ** 32;

/** kvm_set_apic_base(): 1 if the value or the transition is refused. */
export function kvmSetApicBase(vcpu: Vcpu, base: bigint, by: 'guest' | 'host'): number {
  const noX2apic = guestHas(vcpu, X86_FEATURE.X2APIC) ? 0n : BigInt(APICBASE.EXTD);
  const reserved = ~((1n << BigInt(vcpu.arch.maxphyaddr)) - 1n) | 0x2ffn | noX2apic;
  if ((base & reserved) !== 0n) return 1;
  if ((Number(base & 0xfffn) & (APICBASE.ENABLE | APICBASE.EXTD)) === APICBASE.EXTD) return 1;
  if (!lapicInKernel(vcpu)) {
    vcpu.arch.apicBase = Number(base);
    return 0;
  }
  const { apic } = vcpuApic(vcpu);
  const lo = Number(base & 0xffff_ffffn) | 0;
  const hi = Number(base >> 32n) | 0;
  const mode = APICBASE.ENABLE | APICBASE.EXTD;
  // Userspace may jump between modes; the guest has to take the architectural steps.
  if (by === 'host' && (lo & mode) === mode && (apic.baseLo & mode) === 0)
    apic.setBase(apic.baseLo | APICBASE.ENABLE, apic.baseHi);
  if (by === 'host' && (lo & mode) === APICBASE.ENABLE && (apic.baseLo & mode) === mode)
    apic.setBase(apic.baseLo & ~mode, apic.baseHi);
  if (!apic.setBase(lo, hi)) return 1;
  vcpu.arch.apicBase = Number(base);
  return 0;
}

/** kvm_lapic_get_cr8(). */
export const kvmLapicGetCr8 = (vcpu: Vcpu): number =>
  lapicInKernel(vcpu) ? vcpuApic(vcpu).apic.cr8() : vcpu.arch.cr8;

/** kvm_lapic_set_tpr(). */
export function kvmLapicSetTpr(vcpu: Vcpu, cr8: number): void {
  if (lapicInKernel(vcpu)) vcpuApic(vcpu).apic.setCr8(cr8);
  else vcpu.arch.cr8 = cr8;
}

/** kvm_cpu_has_injectable_intr(): a vector above the processor priority, or one from KVM_INTERRUPT. */
export function kvmCpuHasInjectableIntr(vcpu: Vcpu): boolean {
  if (!lapicInKernel(vcpu)) return vcpu.arch.interrupt.injected;
  return vcpuApic(vcpu).apic.highestDeliverable() >= 0;
}

/** kvm_cpu_get_interrupt(): the vector moves from IRR to ISR. */
export const kvmCpuGetInterrupt = (vcpu: Vcpu): number => vcpuApic(vcpu).apic.acknowledge();

/** Offset of an access in the vCPU's APIC page, or -1: it is elsewhere. apic_mmio_in_range(). */
export function apicPageOffset(vcpu: Vcpu, address: number): number {
  if (!lapicInKernel(vcpu)) return -1;
  const { apic } = vcpuApic(vcpu);
  const base = apicBaseOf(apic);
  const offset = address - (base - (base % 4096));
  return offset >= 0 && offset < 4096 ? offset : -1;
}

/** KVM_GET_LAPIC: the first KiB of the register page. */
export function kvmApicGetState(vcpu: Vcpu): KvmLapicState {
  const { apic } = vcpuApic(vcpu);
  const regs = new Uint8Array(KVM_APIC_REG_SIZE);
  const view = new DataView(regs.buffer);
  for (let offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4)
    view.setInt32(offset, apic.register(offset), true);
  view.setInt32(APIC_REG.TMCCT, apic.timer.currentCount(), true);
  if (apic.isX2apic() && !vcpu.kvm.arch.x2apicFormat) view.setInt32(APIC_REG.ID, vcpu.vcpuId << 24, true);
  return { regs };
}

/** KVM_SET_LAPIC; 1: refused. In x2APIC mode ID and LDR follow from the vCPU's id, whatever the image says. */
export function kvmApicSetState(vcpu: Vcpu, state: KvmLapicState): number {
  const { apic } = vcpuApic(vcpu);
  const image = new Int32Array(1024);
  const view = new DataView(state.regs.buffer, state.regs.byteOffset, state.regs.byteLength);
  for (let offset = 0; offset < KVM_APIC_REG_SIZE; offset += 4)
    image[offset >> 2] = view.getInt32(offset, true);
  if (apic.isX2apic()) {
    if (vcpu.kvm.arch.x2apicFormat && image[APIC_REG.ID >> 2] !== vcpu.vcpuId) return 1;
    image[APIC_REG.ID >> 2] = vcpu.vcpuId;
    image[APIC_REG.LDR >> 2] = x2apicLdr(vcpu.vcpuId);
  }
  apic.restore(image);
  return 0;
}
