// SPDX-License-Identifier: GPL-2.0-only
/** Requests and kicks. Rules: Documentation/virt/kvm/vcpu-requests and kvm_make_vcpu_request() of virt/kvm/kvm_main.c. */
import { describe, expect, it } from 'vitest';
import { COST } from '../machine/cost/points.ts';
import type { Vcpu } from './kvm_host.ts';
import { vcpuLoad, vcpuPut } from './kvm_main.ts';
import { KVM_REQ, KVM_REQUEST, requestName, VCPU_MODE } from './request_numbers.ts';
import {
  kvmCheckRequest,
  kvmClearRequest,
  kvmFlushRemoteTlbs,
  kvmMakeAllCpusRequest,
  kvmMakeRequest,
  kvmMakeVcpusRequest,
  kvmRequestPending,
  kvmTestRequest,
  kvmVcpuKick,
} from './requests.ts';
import { createVcpu, drive, testVm, type TestVm } from './testing/test_kvm.ts';
import { kvmVcpuBlock, kvmVcpuHalt } from './vcpu_block.ts';

function withVcpus(nr: number): { vm: TestVm; vcpus: Vcpu[] } {
  const vm = testVm({ nrCpus: nr + 1 });
  const vcpus = Array.from({ length: nr }, (_, id) => drive(vm, createVcpu(vm, id)));
  return { vm, vcpus };
}

describe('request numbers', () => {
  it('are those of the kernel', () => {
    expect(KVM_REQ.TLB_FLUSH & 0xff).toBe(0);
    expect(KVM_REQ.EVENT).toBe(14);
    expect(KVM_REQ.GET_NESTED_STATE_PAGES).toBe(32);
    expect(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS & 0xff).toBe(39);
    expect(KVM_REQ.OUTSIDE_GUEST_MODE).toBe(0x700);
    expect(KVM_REQUEST.NO_WAKEUP | KVM_REQUEST.WAIT | KVM_REQUEST.NO_ACTION).toBe(0x700);
  });

  it('have names', () => {
    expect(requestName(KVM_REQ.MMU_SYNC)).toBe('KVM_REQ_MMU_SYNC');
    expect(requestName(77)).toBe('request 77');
  });
});

describe('the bitmap of requests', () => {
  it('keeps both halves, and check clears', () => {
    const vcpu = withVcpus(1).vcpus[0]!;
    for (const request of [
      KVM_REQ.UNBLOCK,
      KVM_REQ.GET_NESTED_STATE_PAGES,
      KVM_REQ.MMU_FREE_OBSOLETE_ROOTS,
    ]) {
      expect(kvmTestRequest(request, vcpu)).toBe(false);
      kvmMakeRequest(request, vcpu);
      expect(kvmTestRequest(request, vcpu)).toBe(true);
    }
    expect(vcpu.requestsLo).toBe(4);
    expect(vcpu.requestsHi).toBe(0x81);
    expect(kvmCheckRequest(KVM_REQ.UNBLOCK, vcpu)).toBe(true);
    expect(kvmCheckRequest(KVM_REQ.UNBLOCK, vcpu)).toBe(false);
    kvmClearRequest(KVM_REQ.GET_NESTED_STATE_PAGES, vcpu);
    expect(kvmRequestPending(vcpu)).toBe(true);
    kvmClearRequest(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS, vcpu);
    expect(kvmRequestPending(vcpu)).toBe(false);
  });

  it('does not take a request without action: nobody would clear it', () => {
    const vcpu = withVcpus(1).vcpus[0]!;
    expect(() => kvmMakeRequest(KVM_REQ.OUTSIDE_GUEST_MODE, vcpu)).toThrow('has no bit');
  });
});

/** A vCPU task that stays in guest mode until it is interrupted; when it left, by its own clock. */
function spawnGuest(vm: TestVm, vcpu: Vcpu, log: string[]): void {
  const { sched } = vm.kvm.host;
  const body = (function* () {
    vcpuLoad(vcpu);
    vcpu.mode = VCPU_MODE.IN_GUEST_MODE;
    const interrupts = sched.cpu.counts[COST.IPI_RECEIVE];
    while (sched.cpu.counts[COST.IPI_RECEIVE] === interrupts) {
      sched.cpu.clock[0] = sched.cpu.clock[0]! + 1000;
      yield;
    }
    log.push(`vcpu ${vcpu.vcpuId} left from mode ${vcpu.mode}`);
    vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
    vcpuPut(vcpu);
  })();
  sched.spawn(`vcpu ${vcpu.vcpuId}`, body, { cpu: vcpu.vcpuId });
}

describe('kick and wait', () => {
  it('returns when every vCPU took the interrupt, and sets no bit without action', () => {
    const { vm, vcpus } = withVcpus(2);
    const { sched } = vm.kvm.host;
    const log: string[] = [];
    for (const vcpu of vcpus) spawnGuest(vm, vcpu, log);
    const kicker = (function* () {
      yield* sched.sleepCycles(50_000);
      expect(yield* kvmMakeAllCpusRequest(vm.kvm, KVM_REQ.OUTSIDE_GUEST_MODE)).toBe(true);
      log.push('acknowledged');
      expect(vcpus.map(kvmRequestPending)).toEqual([false, false]);
      expect(yield* kvmMakeAllCpusRequest(vm.kvm, KVM_REQ.OUTSIDE_GUEST_MODE)).toBe(
        vcpus.some((v) => v.mode !== 0),
      );
    })();
    sched.spawn('kicker', kicker, { cpu: 2 });
    sched.run();
    expect(log.filter((line) => line.includes('from mode 2'))).toHaveLength(2);
    expect(log).toContain('acknowledged');
  });

  it('sends nothing to vCPUs that are outside of guest mode', () => {
    const { vm, vcpus } = withVcpus(2);
    const ipis = vm.kvm.host.counters.ipis;
    expect(drive(vm, kvmMakeVcpusRequest(vm.kvm, KVM_REQ.MMU_SYNC, [vcpus[1]!]))).toBe(false);
    expect(vm.kvm.host.counters.ipis).toBe(ipis);
    expect(vcpus.map(kvmRequestPending)).toEqual([false, true]);
  });

  it('interrupts a reader of shadow page tables only if it is to be waited for', () => {
    const { vm, vcpus } = withVcpus(1);
    const vcpu = vcpus[0]!;
    vcpu.mode = VCPU_MODE.READING_SHADOW_PAGE_TABLES;
    vcpu.cpu = 1;
    const send = (request: number): boolean => drive(vm, kvmMakeAllCpusRequest(vm.kvm, request));
    expect(send(KVM_REQ.EVENT)).toBe(false);
    expect(send(KVM_REQ.TLB_FLUSH)).toBe(true);
    expect(vcpu.mode).toBe(VCPU_MODE.READING_SHADOW_PAGE_TABLES);
  });

  it('counts remote flushes, and those that interrupted somebody', () => {
    const { vm, vcpus } = withVcpus(1);
    drive(vm, kvmFlushRemoteTlbs(vm.kvm));
    vcpus[0]!.mode = VCPU_MODE.IN_GUEST_MODE;
    vcpus[0]!.cpu = 1;
    drive(vm, kvmFlushRemoteTlbs(vm.kvm));
    expect(vm.kvm.stat.remote_tlb_flush_requests).toBe(2);
    expect(vm.kvm.stat.remote_tlb_flush).toBe(1);
    expect(kvmTestRequest(KVM_REQ.TLB_FLUSH, vcpus[0]!)).toBe(true);
  });
});

describe('kvm_vcpu_kick', () => {
  it('of the vCPU that runs here only ends its guest mode', () => {
    const { vm, vcpus } = withVcpus(1);
    const vcpu = vcpus[0]!;
    drive(
      vm,
      (function* () {
        vcpuLoad(vcpu);
        vcpu.mode = VCPU_MODE.IN_GUEST_MODE;
        const ipis = vm.kvm.host.counters.ipis;
        kvmVcpuKick(vcpu);
        expect(vcpu.mode).toBe(VCPU_MODE.EXITING_GUEST_MODE);
        expect(vm.kvm.host.counters.ipis).toBe(ipis);
        vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
        vcpuPut(vcpu);
      })(),
    );
  });

  it('sends one interrupt for several kicks', () => {
    const { vm, vcpus } = withVcpus(1);
    const vcpu = vcpus[0]!;
    drive(
      vm,
      (function* () {
        const other = vm.kvm.host.sched.cpu.id === 0 ? 1 : 0;
        vcpu.cpu = other;
        kvmVcpuKick(vcpu);
        vcpu.mode = VCPU_MODE.IN_GUEST_MODE;
        kvmVcpuKick(vcpu);
        kvmVcpuKick(vcpu);
        expect(vm.kvm.host.counters.ipis).toBe(1);
        vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
      })(),
    );
  });
});

describe('a vCPU that blocks', () => {
  it('wakes up for what makes it runnable', () => {
    const { vm, vcpus } = withVcpus(1);
    const vcpu = vcpus[0]!;
    const { sched } = vm.kvm.host;
    const log: string[] = [];
    sched.spawn(
      'vcpu',
      (function* () {
        yield* kvmVcpuHalt(vcpu);
        log.push('awake');
      })(),
    );
    sched.spawn(
      'device',
      (function* () {
        yield* sched.sleepCycles(1_000_000);
        expect(vcpu.stat.blocking).toBe(1);
        kvmVcpuKick(vcpu);
        yield* sched.sleepCycles(1_000_000);
        log.push('interrupt');
        vcpu.arch.interrupt.injected = true;
        kvmVcpuKick(vcpu);
      })(),
    );
    sched.run();
    expect(log).toEqual(['interrupt', 'awake']);
    expect(vcpu.stat.halt_wakeup).toBe(2);
    expect(vcpu.stat.blocking).toBe(0);
    expect(vcpu.stat.halt_wait_ns).toBeGreaterThan(1_900_000);
    expect(vcpu.stat.halt_wait_hist.reduce((sum, n) => sum + n)).toBe(1);
  });

  it('does not sleep if it has a reason not to', () => {
    const { vm, vcpus } = withVcpus(1);
    const vcpu = vcpus[0]!;
    kvmMakeRequest(KVM_REQ.UNBLOCK, vcpu);
    expect(drive(vm, kvmVcpuBlock(vcpu))).toBe(false);
    expect(kvmRequestPending(vcpu)).toBe(false);
    vcpu.arch.interrupt.injected = true;
    drive(vm, kvmVcpuHalt(vcpu));
    expect(vcpu.stat.halt_wait_ns).toBe(0);
  });

  it('wakes up for a signal', () => {
    const { vm, vcpus } = withVcpus(1);
    const { sched } = vm.kvm.host;
    const task = sched.spawn(
      'vcpu',
      (function* () {
        expect(yield* kvmVcpuBlock(vcpus[0]!)).toBe(true);
      })(),
    );
    sched.spawn(
      'killer',
      (function* () {
        yield* sched.sleepCycles(1000);
        sched.sendSignal(task);
      })(),
    );
    sched.run();
    expect(task.alive).toBe(false);
  });

  it('is not woken by requests that say so', () => {
    const { vm, vcpus } = withVcpus(1);
    const vcpu = vcpus[0]!;
    const { sched } = vm.kvm.host;
    sched.spawn(
      'vcpu',
      (function* () {
        yield* kvmVcpuBlock(vcpu);
      })(),
      { daemon: true },
    );
    sched.spawn(
      'other',
      (function* () {
        yield* sched.sleepCycles(1000);
        yield* kvmMakeAllCpusRequest(vm.kvm, KVM_REQ.TLB_FLUSH);
        expect(vcpu.stat.halt_wakeup).toBe(0);
        yield* kvmMakeAllCpusRequest(vm.kvm, KVM_REQ.EVENT);
        expect(vcpu.stat.halt_wakeup).toBe(1);
      })(),
    );
    sched.run();
  });
});
