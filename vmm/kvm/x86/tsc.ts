// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest's TSC: offset and frequency of L1's, what L2's controls make of them, writes of IA32_TSC and IA32_TSC_ADJUST,
 * KVM_SET_TSC_KHZ. Mirrors arch/x86/kvm/x86.c, 6.12; leaves out the synchronisation of vCPUs' TSCs, catch-up for
 * processors without TSC scaling, and kvmclock.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { X86_FEATURE } from '../../../lib/x86/cpuid.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import type { KvmModule } from '../module.ts';
import { TP } from '../trace_events.ts';
import { isGuestMode } from './cache_regs.ts';
import { guestHas } from './cpuid_entry.ts';
import { lapicInKernel, vcpuApic } from './lapic.ts';

/** kvm_caps.tsc_scaling_ratio_frac_bits, and the ratio of a guest that runs at the host's frequency. */
export const TSC_SCALING_RATIO_FRAC_BITS = 48n;
export const KVM_DEFAULT_TSC_SCALING_RATIO = 1n << TSC_SCALING_RATIO_FRAC_BITS;
/** KVM_VMX_TSC_MULTIPLIER_MAX. */
const MAX_RATIO = (1n << 64n) - 1n;
/** kvm.tsc_tolerance_ppm: how far a frequency may be off before it is scaled. */
const TSC_TOLERANCE_PPM = 250;

const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);
const s64 = (value: bigint): bigint => BigInt.asIntN(64, value);

/** kvm_scale_tsc(). */
export const kvmScaleTsc = (tsc: bigint, ratio: bigint): bigint =>
  ratio === KVM_DEFAULT_TSC_SCALING_RATIO ? tsc : u64((u64(tsc) * ratio) >> TSC_SCALING_RATIO_FRAC_BITS);

/** rdtsc() of the pCPU that executes L0's code. */
const rdtsc = (vcpu: Vcpu): bigint => BigInt(Math.floor(vcpu.kvm.host.sched.now()));

/** kvm_read_l1_tsc(): of the pCPU's clock as it is now, or of `hostTsc`. */
export const kvmReadL1Tsc = (vcpu: Vcpu, hostTsc: bigint = rdtsc(vcpu)): bigint =>
  u64(kvmScaleTsc(hostTsc, vcpu.arch.l1TscScalingRatio) + vcpu.arch.l1TscOffset);

/** What RDMSR of IA32_TSC gives the guest that runs now, L1 or L2. */
export const kvmReadGuestTsc = (vcpu: Vcpu): bigint =>
  u64(kvmScaleTsc(rdtsc(vcpu), vcpu.arch.tscScalingRatio) + vcpu.arch.tscOffset);

/** kvm_compute_l1_tsc_offset(): L1's TSC reads `target` now. */
const computeL1TscOffset = (vcpu: Vcpu, target: bigint): bigint =>
  s64(target - kvmScaleTsc(rdtsc(vcpu), vcpu.arch.l1TscScalingRatio));

/** mul_s64_u64_shr(): the magnitude is shifted, then gets its sign back. */
function mulShift(value: bigint, multiplier: bigint): bigint {
  const magnitude = ((value < 0n ? -value : value) * multiplier) >> TSC_SCALING_RATIO_FRAC_BITS;
  return s64(value < 0n ? -magnitude : magnitude);
}

/** kvm_calc_nested_tsc_offset(): the offset that makes L2's TSC out of the host's, signed. */
export function kvmCalcNestedTscOffset(l1Offset: bigint, l2Offset: bigint, l2Multiplier: bigint): bigint {
  const scaled =
    l2Multiplier === KVM_DEFAULT_TSC_SCALING_RATIO ? l1Offset : mulShift(s64(l1Offset), l2Multiplier);
  return s64(scaled + l2Offset);
}

/** kvm_calc_nested_tsc_multiplier(). */
export const kvmCalcNestedTscMultiplier = (l1Multiplier: bigint, l2Multiplier: bigint): bigint =>
  l2Multiplier === KVM_DEFAULT_TSC_SCALING_RATIO
    ? l1Multiplier
    : u64((l1Multiplier * l2Multiplier) >> TSC_SCALING_RATIO_FRAC_BITS);

/** kvm_vcpu_write_tsc_offset(): L1's; while L2 runs the hardware gets what follows for L2. */
export function kvmWriteTscOffset(vcpu: Vcpu, l1Offset: bigint): void {
  const { arch } = vcpu;
  const { trace, ops } = vcpu.kvm.module;
  if (trace.on[TP.KVM_WRITE_TSC_OFFSET] !== 0)
    trace.record(TP.KVM_WRITE_TSC_OFFSET, vcpu.vcpuId, arch.l1TscOffset, l1Offset);
  arch.l1TscOffset = l1Offset;
  arch.tscOffset = isGuestMode(vcpu)
    ? kvmCalcNestedTscOffset(l1Offset, ops.getL2TscOffset(vcpu), ops.getL2TscMultiplier(vcpu))
    : l1Offset;
  ops.writeTscOffset(vcpu);
  if (lapicInKernel(vcpu)) vcpuApic(vcpu).apic.timer.tscChanged();
}

/** kvm_vcpu_write_tsc_multiplier(). */
function kvmWriteTscMultiplier(vcpu: Vcpu, l1Multiplier: bigint): void {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  arch.l1TscScalingRatio = l1Multiplier;
  arch.tscScalingRatio = isGuestMode(vcpu)
    ? kvmCalcNestedTscMultiplier(l1Multiplier, ops.getL2TscMultiplier(vcpu))
    : l1Multiplier;
  if (vcpu.kvm.module.caps.hasTscControl) ops.writeTscMultiplier(vcpu);
  if (lapicInKernel(vcpu)) vcpuApic(vcpu).apic.timer.tscChanged();
}

/** kvm_synchronize_tsc() for one vCPU: L1's TSC reads `value` now. */
export const kvmSetTsc = (vcpu: Vcpu, value: bigint): void =>
  kvmWriteTscOffset(vcpu, computeL1TscOffset(vcpu, value));

/** adjust_tsc_offset_guest(). */
const adjustTscOffset = (vcpu: Vcpu, adjustment: bigint): void =>
  kvmWriteTscOffset(vcpu, s64(vcpu.arch.l1TscOffset + adjustment));

/** WRMSR of IA32_TSC; a guest's moves IA32_TSC_ADJUST along. SDM, "Time-Stamp Counter Adjustment". */
export function kvmWriteTsc(vcpu: Vcpu, value: bigint, by: 'guest' | 'host'): number {
  if (by === 'host') {
    kvmSetTsc(vcpu, value);
    return 0;
  }
  const adjustment = s64(computeL1TscOffset(vcpu, value) - vcpu.arch.l1TscOffset);
  adjustTscOffset(vcpu, adjustment);
  vcpu.arch.iaTscAdjust = u64(vcpu.arch.iaTscAdjust + adjustment);
  return 0;
}

/** WRMSR of IA32_TSC_ADJUST; a guest's moves its TSC along. Without the feature it is accepted and changes nothing. */
export function kvmWriteTscAdjust(vcpu: Vcpu, value: bigint, by: 'guest' | 'host'): number {
  if (!guestHas(vcpu, X86_FEATURE.TSC_ADJUST)) return 0;
  if (by === 'guest') adjustTscOffset(vcpu, s64(value - vcpu.arch.iaTscAdjust));
  vcpu.arch.iaTscAdjust = value;
  return 0;
}

/** kvm_caps.max_guest_tsc_khz. */
const maxGuestTscKhz = (module: KvmModule): number =>
  Number(
    [0x7fff_ffffn, kvmScaleTsc(BigInt(module.caps.tscKhz), MAX_RATIO)].reduce((a, b) => (a < b ? a : b)),
  );

/** kvm_set_tsc_khz(): true if the processor can run the guest at this frequency. */
export function kvmSetTscKhz(vcpu: Vcpu, khz: number): boolean {
  const { tscKhz, hasTscControl } = vcpu.kvm.module.caps;
  vcpu.arch.virtualTscKhz = khz;
  const tolerance = (ppm: number): number => Math.floor((tscKhz * (1_000_000 + ppm)) / 1_000_000);
  if (khz >= tolerance(-TSC_TOLERANCE_PPM) && khz <= tolerance(TSC_TOLERANCE_PPM)) {
    kvmWriteTscMultiplier(vcpu, KVM_DEFAULT_TSC_SCALING_RATIO);
    return true;
  }
  if (!hasTscControl) return false;
  const ratio = (KVM_DEFAULT_TSC_SCALING_RATIO * BigInt(khz)) / BigInt(tscKhz);
  if (ratio === 0n || ratio >= MAX_RATIO) return false;
  kvmWriteTscMultiplier(vcpu, ratio);
  return true;
}

/** The frequency that KVM_SET_TSC_KHZ asks for: 0 is the host's; undefined: refused. */
function requestedKhz(module: KvmModule, khz: number): number | undefined {
  if (module.caps.hasTscControl && khz >= maxGuestTscKhz(module)) return undefined;
  return khz === 0 ? module.caps.tscKhz : khz;
}

/** KVM_SET_TSC_KHZ of a vCPU: 0 or -EINVAL. */
export function kvmVcpuIoctlSetTscKhz(vcpu: Vcpu, khz: number): number {
  const wanted = requestedKhz(vcpu.kvm.module, khz >>> 0);
  return wanted !== undefined && kvmSetTscKhz(vcpu, wanted) ? 0 : -ERRNO.EINVAL;
}

/** KVM_SET_TSC_KHZ of a VM: the frequency of vCPUs to come. 0 or -EINVAL. */
export function kvmVmIoctlSetTscKhz(kvm: Kvm, khz: number): number {
  const wanted = requestedKhz(kvm.module, khz >>> 0);
  if (wanted === undefined) return -ERRNO.EINVAL;
  kvm.arch.defaultTscKhz = wanted;
  return 0;
}
