// SPDX-License-Identifier: GPL-2.0-only
/** The host half of nested tests refuses what a test must not do. Expected: lib/x86/processor.c and kvm_util.c of the KVM selftests. */
import { describe, expect, it } from 'vitest';
import { KVM_UTIL_MIN_VADDR, readGpaU64, type KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { tryVcpuRun, vcpuRun, vcpuRunCompleteIo } from '../../lib/kvm_util/ucall_common.ts';
import { kvmVmRelease, vmRecreateWithOneVcpu } from '../../lib/kvm_util/vm_restart.ts';
import {
  kvmCpuHas,
  kvmCpuHasEpt,
  kvmGetFeatureMsr,
  vcpuSetCpuidFeature,
} from '../../lib/kvm_util/x86/cpuid.ts';
import { assertSameState, vmMigrateWithOneVcpu } from '../../lib/kvm_util/x86/migrate.ts';
import { nestedStateSize, vcpuNestedStateGet } from '../../lib/kvm_util/x86/nested_state.ts';
import { addrGva2gpa, readGuest, vmVaddrAlloc } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuSaveState } from '../../lib/kvm_util/x86/state.ts';
import {
  __tdpMap,
  tdpGetPte,
  tdpIdentityMapDefaultMemslots,
  tdpMap,
  vmEnableTdp,
} from '../../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { GUEST_DONE, GUEST_SYNC, VmxPages } from '../../lib/guest/index.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_NESTED_NO_PA, KVM_NESTED_STATE_SIZE } from '../../lib/uapi/nested_state.ts';
import { X86_FEATURE, X86_FEATURE_EXT } from '../../lib/x86/cpuid.ts';
import { PG_LEVEL } from '../../lib/x86/paging.ts';
import { VMX_MSR } from '../../lib/x86/vmx/capability_msrs.ts';
import { guest, smallHost, withVm } from './small_vm.ts';

const code = guest((g) => {
  GUEST_SYNC(g, 1);
  GUEST_DONE(g);
});

/** A body that only builds. */
const onVm = (body: (vm: KvmVm) => void): void => {
  withVm(code, function* ({ vm }) {
    body(vm);
  });
};

describe("L1's EPT", () => {
  it('maps pages of slot 0 to themselves, and others where the test says', () => {
    onVm((vm) => {
      vmEnableTdp(vm);
      const page = addrGva2gpa(vm, vmVaddrAlloc(vm, 4096, KVM_UTIL_MIN_VADDR));
      tdpIdentityMapDefaultMemslots(vm);
      tdpMap(vm, 0x4000_0000, page, 4096);
      const address = (l2: number): bigint => readGpaU64(vm, tdpGetPte(vm, l2)) & 0x000f_ffff_ffff_f000n;
      expect([address(page), address(0x4000_0000)]).toEqual([BigInt(page), BigInt(page)]);
    });
  });

  it('refuses a second root, a second mapping, misaligned addresses, and a page inside of a large one', () => {
    onVm((vm) => {
      expect(() => tdpMap(vm, 0, 0, 4096)).toThrow('vm_enable_tdp() must come first');
      vmEnableTdp(vm);
      expect(() => vmEnableTdp(vm)).toThrow('TDP MMU already initialized');
      tdpMap(vm, 0x1000, 0x1000, 4096);
      expect(() => tdpMap(vm, 0x1000, 0x2000, 4096)).toThrow('already present');
      expect(() => __tdpMap(vm, 0x1000, 0, 0x20_0000, PG_LEVEL.L2M)).toThrow('Virtual address not aligned');
      expect(() => __tdpMap(vm, 0x20_0000, 0x1000, 0x20_0000, PG_LEVEL.L2M)).toThrow(
        'Physical address not aligned',
      );
      __tdpMap(vm, 0x20_0000, 0x20_0000, 0x20_0000, PG_LEVEL.L2M);
      expect(() => tdpMap(vm, 0x20_1000, 0x1000, 4096)).toThrow('Cannot create page table at level: 2');
    });
  });
});

describe('struct vmx_pages', () => {
  it('has a page for each area but the APIC-access page, and the root of the EPT', () => {
    onVm((vm) => {
      vmEnableTdp(vm);
      const vmx = vcpuAllocVmx(vm);
      const field = (name: string): bigint =>
        new DataView(readGuest(vm, vmx + BigInt(VmxPages.offsetof(name)), 8).buffer).getBigUint64(0, true);
      for (const area of ['vmxon', 'vmcs', 'msr', 'shadow_vmcs', 'vmread', 'vmwrite'])
        expect(field(`${area}_gpa`)).toBe(BigInt(addrGva2gpa(vm, field(area))));
      expect([field('apic_access'), field('eptp_gpa')]).toEqual([0n, BigInt(vm.arch.tdpPgd!)]);
    });
  });
});

describe('queries', () => {
  it('tell what KVM supports, and fail the test for a feature MSR that does not exist', () => {
    const host = smallHost();
    expect([
      kvmCpuHas(host, X86_FEATURE.VMX),
      kvmCpuHas(host, X86_FEATURE_EXT.SVM),
      kvmCpuHasEpt(host),
    ]).toEqual([true, false, true]);
    expect(kvmGetFeatureMsr(host, VMX_MSR.IA32_VMX_BASIC) & 0x7fff_ffffn).toBe(0x11e5_7ed0n);
    expect(() => kvmGetFeatureMsr(host, 0x10)).toThrow('KVM_GET_MSRS failed on feature MSR 0x10');
    expect(host.kvm.getMsrFeatureIndexList()).toContain(VMX_MSR.IA32_VMX_EPT_VPID_CAP);
  });

  it('say that there is no nested virtualization with kvm_intel.nested=0', () => {
    const host = smallHost({ params: ['kvm_intel.nested=0'] });
    expect([kvmCpuHas(host, X86_FEATURE.VMX), kvmCpuHasEpt(host)]).toEqual([false, false]);
    withVm(
      code,
      function* ({ vcpu }) {
        expect(nestedStateSize(vcpu)).toBe(0);
        expect(() => vcpuNestedStateGet(vcpu)).toThrow('KVM_GET_NESTED_STATE: EINVAL');
      },
      { params: ['kvm_intel.nested=0'] },
    );
  });

  it('fail the test for a feature in a leaf that the vCPU does not have', () => {
    withVm(code, function* ({ vcpu }) {
      expect(() => vcpuSetCpuidFeature(vcpu, [0x1234, 0, 0, 0])).toThrow('the vCPU has no CPUID leaf 0x1234');
    });
  });
});

describe('a migrated vCPU', () => {
  it('goes on in a new VM with the same state', () => {
    withVm(code, function* ({ vcpu }) {
      yield* vcpuRun(vcpu);
      const { vcpu: moved, state } = yield* vmMigrateWithOneVcpu(vcpu);
      assertSameState(yield* vcpuSaveState(moved), state, 'saved again');
      expect([state.nested?.size, state.nested?.hdr.vmx.vmxon_pa]).toEqual([
        KVM_NESTED_STATE_SIZE,
        KVM_NESTED_NO_PA,
      ]);
      expect(yield* tryVcpuRun(moved)).toBe(0);
      const other = { ...state, regs: { ...state.regs, rbx: state.regs.rbx + 1n } };
      expect(() => assertSameState(other, state, 'changed')).toThrow('changed: regs');
    });
  });

  it('has all memory slots, and nothing of a VM that was only released', () => {
    withVm(code, function* ({ vm, vcpu }) {
      yield* vcpuRun(vcpu);
      yield* kvmVmRelease(vm);
      expect(vm.vcpus).toEqual([]);
      const fresh = yield* vmRecreateWithOneVcpu(vm);
      expect(fresh.fd.getRegs().rip).toBe(0xfff0n);
      expect(vm.regions.size).toBe(1);
    });
  });

  it('completes its I/O by a KVM_RUN that ends at once', () => {
    withVm(code, function* ({ vcpu }) {
      yield* vcpuRun(vcpu);
      const { rip } = vcpu.fd.getRegs();
      yield* vcpuRunCompleteIo(vcpu);
      expect(vcpu.fd.getRegs().rip).toBe(rip + 1n);
      expect(vcpu.fd.run.immediate_exit).toBe(0);
      vcpu.fd.run.immediate_exit = 1;
      expect(yield* tryVcpuRun(vcpu)).toBe(ERRNO.EINTR);
      vcpu.fd.run.immediate_exit = 0;
    });
  });
});
