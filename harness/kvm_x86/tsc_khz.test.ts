// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_SET_TSC_KHZ and the TSC MSRs at another frequency than the host's. Expected: Documentation/virt/kvm/api.rst, and SDM
 * "Time-Stamp Counter Adjustment".
 */
import { describe, expect, it } from 'vitest';
import { GUEST_DONE, GUEST_SYNC, GUEST_SYNC_ARGS, rdmsr, rdtsc, wrmsr } from '../../lib/guest/index.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { __vmVcpuAdd } from '../../lib/kvm_util/x86/processor.ts';
import { vmCreateBarebones } from '../../lib/kvm_util/vm_create.ts';
import { errnoOf, guest, nextSync, smallHost, withVm } from './small_vm.ts';

const idle = guest((g) => GUEST_DONE(g));
const readTwice = guest((g) => {
  GUEST_SYNC(g, rdtsc(g));
  GUEST_SYNC(g, rdtsc(g));
  GUEST_DONE(g);
});

/** Cycles of the guest's TSC in a millisecond of virtual time. */
function ticksPerMs(khz: number): number {
  let ticks = 0n;
  withVm(readTwice, function* ({ host, vcpu }) {
    if (khz !== 0) vcpu.fd.setTscKhz(khz);
    const [first] = yield* nextSync(vcpu);
    yield* host.threads.sleepNs(1_000_000);
    const [second] = yield* nextSync(vcpu);
    ticks = BigInt.asIntN(64, second! - first!);
  });
  return Number(ticks);
}

describe('KVM_SET_TSC_KHZ', () => {
  it('is there where the processor has TSC scaling', () => {
    withVm(idle, function* ({ vm, vcpu }) {
      expect([
        vm.fd.checkExtension(KVM_CAP.TSC_CONTROL),
        vm.fd.checkExtension(KVM_CAP.VM_TSC_CONTROL),
      ]).toEqual([1, 1]);
      const host = vcpu.fd.getTscKhz();
      vcpu.fd.setTscKhz(1_000_000);
      expect(vcpu.fd.getTscKhz()).toBe(1_000_000);
      vcpu.fd.setTscKhz(0);
      expect(vcpu.fd.getTscKhz()).toBe(host);
    });
  });

  it('refuses frequencies that the multiplier cannot express', () => {
    withVm(idle, function* ({ vm, vcpu }) {
      for (const khz of [0x7fff_ffff, -1]) {
        expect(errnoOf(() => vcpu.fd.setTscKhz(khz))).toBe(ERRNO.EINVAL);
        expect(errnoOf(() => vm.fd.setTscKhz(khz))).toBe(ERRNO.EINVAL);
      }
    });
  });

  it("makes the guest's TSC run at that frequency", () => {
    const host = ticksPerMs(0);
    for (const khz of [500_000, 1_000_000, 5_000_000]) {
      // The time between the two reads is the same; the price of some exits is in it.
      const hostKhz = 2_300_000;
      expect(Math.abs(ticksPerMs(khz) / ((host * khz) / hostKhz) - 1)).toBeLessThan(0.3);
    }
  });

  it('of a VM is that of its vCPUs to come', () => {
    const host = smallHost();
    host.runMain(function* () {
      const vm = yield* vmCreateBarebones(host);
      const { fd: early } = yield* __vmVcpuAdd(vm, 0);
      vm.fd.setTscKhz(123_456);
      const { fd: late } = yield* __vmVcpuAdd(vm, 1);
      expect([vm.fd.getTscKhz(), late.getTscKhz()]).toEqual([123_456, 123_456]);
      expect(early.getTscKhz()).not.toBe(123_456);
    });
  });

  it('leaves IA32_TSC_ADJUST to move in units of the guest', () => {
    const code = guest((g) => {
      wrmsr(g, MSR.IA32_TSC_ADJUST, 0x1000);
      const before = g.let(rdtsc(g));
      wrmsr(g, MSR.IA32_TSC_ADJUST, 0x1000_0000);
      GUEST_SYNC_ARGS(g, rdtsc(g).sub(before), 0, 0, 0, 0);
      wrmsr(g, MSR.IA32_TSC, 0);
      GUEST_SYNC_ARGS(g, rdmsr(g, MSR.IA32_TSC_ADJUST), rdtsc(g), 0, 0, 0);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      vcpu.fd.setTscKhz(4_000_000);
      const [moved] = yield* nextSync(vcpu);
      expect(moved! >= 0xfff_f000n && moved! < 0x1001_0000n).toBe(true);
      const [adjust, tsc] = yield* nextSync(vcpu);
      // Whatever the TSC was is subtracted.
      expect(BigInt.asIntN(64, adjust!)).toBeLessThan(0x1000);
      expect(Number(tsc!)).toBeLessThan(0x10_0000);
    });
  });
});
