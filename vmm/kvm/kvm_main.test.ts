// SPDX-License-Identifier: GPL-2.0-only
/** Life of VMs and vCPUs, and capabilities. Refusals of kvm_vm_ioctl_create_vcpu() and kvm_vm_ioctl_enable_cap(). */
import { describe, expect, it } from 'vitest';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_X86_QUIRK } from '../../lib/uapi/memory.ts';
import { FRAME } from '../machine/memory/frames.ts';
import { kvmVmIoctlCheckExtension, kvmVmIoctlEnableCapGeneric } from './capabilities.ts';
import {
  kvmCreateVm,
  kvmDestroyVm,
  kvmVcpuIoctlRun,
  kvmVmIoctlCreateVcpu,
  vcpuLoad,
  vcpuPut,
} from './kvm_main.ts';
import type { KvmArchOps } from './kvm_host_x86.ts';
import { KvmModule } from './module.ts';
import { createVcpu, drive, errnoOf, guestAccess, setSlot, testVm, type TestVm } from './testing/test_kvm.ts';

const frames = (vm: TestVm): number =>
  vm.kvm.host.machine.frames.state.filter((s) => s === FRAME.ALLOCATED).length;

/** The module with some of its architecture functions replaced. */
function moduleWith(module: KvmModule, change: Partial<KvmArchOps>): KvmModule {
  const { host, params, masks, ops, caps, arch } = module;
  return new KvmModule(host, { params, masks, ops, caps, arch: { ...arch, ...change } });
}

describe('a VM', () => {
  it('gives every table page back when it is destroyed', () => {
    const vm = testVm();
    const before = drive(
      vm,
      (function* () {
        const hva = yield* setSlot(vm);
        const vcpu = yield* createVcpu(vm);
        for (let page = 0; page < 64; page++) yield* guestAccess(vcpu, page * 4096, page);
        expect(vm.kvm.arch.tdpMmuPages).toBe(4);
        return hva;
      })(),
    );
    expect(before).toBeGreaterThan(0);
    const withTables = frames(vm);
    drive(vm, kvmDestroyVm(vm.kvm));
    expect(frames(vm)).toBe(withTables - 4);
    expect(vm.mm.notifiers.size).toBe(0);
    expect(vm.kvm.module.vmList).toEqual([]);
    expect(() => drive(vm, kvmDestroyVm(vm.kvm))).toThrow('destroyed twice');
  });

  it('is numbered by its module, and notified beside others of the process', () => {
    const vm = testVm();
    const second = kvmCreateVm(vm.kvm.module, vm.mm);
    expect([vm.kvm.name, second.name]).toEqual(['kvm-0', 'kvm-1']);
    expect(vm.mm.notifiers.size).toBe(2);
  });

  it('is refused if the architecture refuses it', () => {
    const { kvm, mm } = testVm();
    const { module } = kvm;
    const broken = moduleWith(module, { vmInit: () => -ERRNO.ENOMEM });
    expect(errnoOf(() => kvmCreateVm(broken, mm))).toBe(ERRNO.ENOMEM);
  });
});

describe('KVM_CREATE_VCPU', () => {
  it('gives vCPUs in order of creation, with the id that userspace chose', () => {
    const vm = testVm();
    const vcpus = [7, 3].map((id) => drive(vm, createVcpu(vm, id)));
    expect(vcpus.map((vcpu) => [vcpu.vcpuId, vcpu.vcpuIdx, vcpu.name])).toEqual([
      [7, 0, 'kvm-0/vcpu-7'],
      [3, 1, 'kvm-0/vcpu-3'],
    ]);
  });

  it('refuses ids twice, ids out of range, and more than KVM_CAP_MAX_VCPUS', () => {
    const vm = testVm();
    const errno = (id: number): number => errnoOf(() => drive(vm, kvmVmIoctlCreateVcpu(vm.kvm, id)));
    expect(errno(0)).toBe(0);
    expect(errno(0)).toBe(ERRNO.EEXIST);
    expect(errno(4096)).toBe(ERRNO.EINVAL);
    expect(errno(-1)).toBe(ERRNO.EINVAL);
    vm.kvm.createdVcpus = 1024;
    expect(errno(1)).toBe(ERRNO.EINVAL);
  });

  it('passes on what the architecture refuses', () => {
    const { kvm, mm } = testVm();
    const { module } = kvm;
    for (const arch of [{ vcpuPrecreate: () => -ERRNO.EBUSY }, { vcpuCreate: () => -ERRNO.EBUSY }]) {
      const other = kvmCreateVm(moduleWith(module, arch), mm);
      const create = (): unknown => kvm.host.sched.drive('test', kvmVmIoctlCreateVcpu(other, 0));
      expect(errnoOf(create)).toBe(ERRNO.EBUSY);
      expect(other.vcpus).toEqual([]);
    }
  });
});

describe('KVM_RUN', () => {
  it('is an error on a VM that is gone', () => {
    const vm = testVm();
    const vcpu = drive(vm, createVcpu(vm));
    expect(drive(vm, kvmVcpuIoctlRun(vcpu))).toBe(0);
    expect(vcpu.task).not.toBeNull();
    vm.kvm.vmBugged = true;
    expect(drive(vm, kvmVcpuIoctlRun(vcpu))).toBe(-ERRNO.EIO);
  });
});

describe('a loaded vCPU', () => {
  it('follows its task to another pCPU', () => {
    const vm = testVm();
    const { sched } = vm.kvm.host;
    const vcpu = drive(vm, createVcpu(vm));
    const seen: number[] = [];
    const task = sched.spawn(
      'vcpu',
      (function* () {
        vcpuLoad(vcpu);
        seen.push(vcpu.cpu);
        sched.setAffinity(sched.current!, 1);
        yield;
        seen.push(vcpu.cpu);
        expect(vm.kvm.module.runningVcpu).toEqual([null, vcpu]);
        vcpuPut(vcpu);
      })(),
      { cpu: 0 },
    );
    sched.run();
    expect(seen).toEqual([0, 1]);
    expect(vm.kvm.module.runningVcpu).toEqual([null, null]);
    expect(task.preemptNotifiers).toEqual([]);
  });
});

describe('KVM_CHECK_EXTENSION', () => {
  const { kvm } = testVm();
  const check = (cap: number): number => kvmVmIoctlCheckExtension(kvm.module, kvm, cap);

  it('answers what the kernel answers', () => {
    expect(check(KVM_CAP.NR_MEMSLOTS)).toBe(32_764);
    expect(check(KVM_CAP.READONLY_MEM)).toBe(1);
    expect(check(KVM_CAP.MULTI_ADDRESS_SPACE)).toBe(2);
    expect(check(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2)).toBe(3);
    expect(check(KVM_CAP.MAX_VCPUS)).toBe(1024);
    expect(check(KVM_CAP.NR_VCPUS)).toBe(2);
    expect(check(KVM_CAP.DISABLE_QUIRKS2)).toBe(0xff);
  });

  it('asks the architecture for the rest', () => {
    expect(check(9999)).toBe(7);
    expect(check(KVM_CAP.GUEST_MEMFD)).toBe(0);
  });
});

describe('KVM_ENABLE_CAP of a VM', () => {
  it('takes manual dirty log protection, and INITIALLY_SET only with it', () => {
    const { kvm } = testVm();
    const enable = (arg: number, flags = 0): number =>
      errnoOf(() =>
        kvmVmIoctlEnableCapGeneric(kvm, { cap: KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2, flags, args: [arg] }),
      );
    expect(enable(2)).toBe(ERRNO.EINVAL);
    expect(enable(5)).toBe(ERRNO.EINVAL);
    expect(enable(1, 1)).toBe(ERRNO.EINVAL);
    expect(enable(3)).toBe(0);
    expect(kvm.manualDirtyLogProtect).toBe(3);
    expect(enable(0)).toBe(0);
    expect(kvm.manualDirtyLogProtect).toBe(0);
  });

  it('disables quirks that exist', () => {
    const { kvm } = testVm();
    const enable = (cap: number, arg: number, flags = 0): boolean =>
      kvmVmIoctlEnableCapGeneric(kvm, { cap, flags, args: [arg] });
    expect(enable(KVM_CAP.DISABLE_QUIRKS2, KVM_X86_QUIRK.SLOT_ZAP_ALL)).toBe(true);
    expect(kvm.arch.disabledQuirks).toBe(0x80);
    expect(errnoOf(() => enable(KVM_CAP.DISABLE_QUIRKS2, 0x100))).toBe(ERRNO.EINVAL);
    expect(errnoOf(() => enable(KVM_CAP.DISABLE_QUIRKS2, 1, 1))).toBe(ERRNO.EINVAL);
    expect(enable(KVM_CAP.DISABLE_QUIRKS, 1)).toBe(true);
    expect(kvm.arch.disabledQuirks).toBe(1);
  });

  it('leaves other capabilities to the architecture', () => {
    const { kvm } = testVm();
    expect(kvmVmIoctlEnableCapGeneric(kvm, { cap: KVM_CAP.X86_USER_SPACE_MSR, flags: 0, args: [] })).toBe(
      false,
    );
  });
});
