// SPDX-License-Identifier: GPL-2.0-only
/**
 * What userspace and L1 see of VMX's capability MSRs, IA32_FEATURE_CONTROL, CPUID.VMX and CR4.VMXE. Expected: the values
 * that nested_vmx_setup_ctls_msrs() of arch/x86/kvm/vmx/nested.c, 6.12, makes of a Skylake server's, and the rules of
 * vmx_set_vmx_msr() and is_vmx_feature_control_msr_valid(). Real KVM on such a processor gives the same numbers.
 */
import { describe, expect, it } from 'vitest';
import {
  get_cr4,
  GUEST_DONE,
  GUEST_SYNC,
  KVM_ASM_SAFE,
  rdmsr_safe,
  type GuestCode,
  u64,
  wrmsr_safe,
} from '../../lib/guest/index.ts';
import { R } from '../../lib/asm/operands.ts';
import { X86_FEATURE } from '../../lib/x86/cpuid.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR4 } from '../../lib/x86/registers.ts';
import { FEAT_CTL, VMX_MSR as M } from '../../lib/x86/vmx/capability_msrs.ts';
import type { VcpuFd } from '../../lib/kvm_util/backend.ts';
import { guest, nextSync, smallHost, withVm } from './small_vm.ts';

/** By number: what L1 sees with default parameters. */
const EXPECTED: readonly (readonly [number, bigint])[] = [
  [M.IA32_VMX_BASIC, 0x00d8_1000_11e5_7ed0n],
  [M.IA32_VMX_PINBASED_CTLS, 0x0000_00ff_0000_0016n],
  [M.IA32_VMX_PROCBASED_CTLS, 0xfff9_fffe_0401_e172n],
  [M.IA32_VMX_EXIT_CTLS, 0x007f_ffff_0003_6dffn],
  [M.IA32_VMX_ENTRY_CTLS, 0x0000_f3ff_0000_11ffn],
  [M.IA32_VMX_MISC, 0x2000_0165n],
  [M.IA32_VMX_CR0_FIXED0, 0x8000_0021n],
  [M.IA32_VMX_CR0_FIXED1, 0xffff_ffffn],
  [M.IA32_VMX_CR4_FIXED0, 0x2000n],
  [M.IA32_VMX_CR4_FIXED1, 0x0077_27ffn],
  [M.IA32_VMX_VMCS_ENUM, 0x32n],
  [M.IA32_VMX_PROCBASED_CTLS2, 0x0203_7bff_0000_0000n],
  [M.IA32_VMX_EPT_VPID_CAP, 0x0f01_0633_4041n],
  [M.IA32_VMX_TRUE_PINBASED_CTLS, 0x0000_00ff_0000_0016n],
  [M.IA32_VMX_TRUE_PROCBASED_CTLS, 0xfff9_fffe_0400_6172n],
  [M.IA32_VMX_TRUE_EXIT_CTLS, 0x007f_ffff_0003_6dfbn],
  [M.IA32_VMX_TRUE_ENTRY_CTLS, 0x0000_f3ff_0000_11fbn],
  [M.IA32_VMX_VMFUNC, 1n],
];
const ALL = EXPECTED.map(([index]) => index);
const expectedOf = new Map(EXPECTED);
const NO_NESTED = { params: ['kvm_intel.nested=0'] };

const idle = guest((g) => GUEST_DONE(g));
/** KVM_GET_MSRS of one MSR, undefined if refused. */
const getMsr = (fd: VcpuFd, index: number): bigint | undefined => fd.getMsrs([index])[0]?.data;
const setMsr = (fd: VcpuFd, index: number, data: bigint): boolean => fd.setMsrs([{ index, data }]) === 1;
const setCr4 = (g: GuestCode, bits: number) =>
  KVM_ASM_SAFE(g, {
    in: { v: get_cr4(g).or(bits) },
    emit: (a, r) => a.emit('mov', R.cr4, r.reg64('v')),
  }).vector;

describe('the capability MSRs of L1', () => {
  it('are what KVM makes of the processor, for userspace and for L1', () => {
    const code = guest((g) => {
      const value = g.local(u64, 0);
      for (const index of ALL) {
        GUEST_SYNC(g, rdmsr_safe(g, index, value));
        GUEST_SYNC(g, value);
      }
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const hex = (value: bigint | undefined) => value?.toString(16);
      for (const [index, value] of EXPECTED) {
        expect([index.toString(16), hex(getMsr(vcpu.fd, index))]).toEqual([index.toString(16), hex(value)]);
        expect([index, ...(yield* nextSync(vcpu)).slice(0, 1)]).toEqual([index, 0n]);
        expect([index, hex((yield* nextSync(vcpu))[0])]).toEqual([index, hex(value)]);
      }
    });
  });

  it('are feature MSRs of the device, but for what follows from CPUID', () => {
    const { kvm } = smallHost();
    expect(kvm.getMsrFeatureIndexList()).toEqual(ALL);
    const differing = kvm.getMsrs(ALL).filter(({ index, data }) => data !== expectedOf.get(index));
    expect(differing.map(({ index }) => index)).toEqual([]);
    const saved = kvm.getMsrIndexList().filter((index) => index >= 0x480 && index <= 0x491);
    expect(saved).toHaveLength(12);
    expect(saved).not.toContain(M.IA32_VMX_CR4_FIXED1);
  });

  it('are not there with kvm_intel.nested=0, nor CPUID.VMX, nor CR4.VMXE', () => {
    const code = guest((g) => {
      const value = g.local(u64, 0);
      GUEST_SYNC(g, rdmsr_safe(g, M.IA32_VMX_BASIC, value));
      GUEST_SYNC(g, setCr4(g, CR4.VMXE));
      GUEST_DONE(g);
    });
    const { kvm } = withVm(
      code,
      function* ({ vcpu }) {
        expect(getMsr(vcpu.fd, M.IA32_VMX_BASIC)).toBeUndefined();
        expect(setMsr(vcpu.fd, M.IA32_VMX_VMCS_ENUM, 0n)).toBe(false);
        expect([(yield* nextSync(vcpu))[0], (yield* nextSync(vcpu))[0]]).toEqual([
          BigInt(VECTOR.GP),
          BigInt(VECTOR.GP),
        ]);
      },
      NO_NESTED,
    );
    const [, , reg, bit] = X86_FEATURE.VMX;
    const leaf = kvm.getSupportedCpuid().find((e) => e.function === 1)!;
    expect([reg, (leaf.ecx >>> bit) & 1]).toEqual([2, 0]);
    expect([kvm.getMsrFeatureIndexList(), kvm.getMsrs([M.IA32_VMX_BASIC])]).toEqual([[], []]);
    expect(kvm.getMsrIndexList().filter((index) => index >= 0x480 && index <= 0x491)).toEqual([]);
  });

  it('follow the parameters', () => {
    const value = (param: string, index: number): bigint =>
      smallHost({ params: [param] }).kvm.getMsrs([index])[0]!.data;
    const pin = expectedOf.get(M.IA32_VMX_TRUE_PINBASED_CTLS)!;
    expect(value('kvm_intel.enable_apicv=0', M.IA32_VMX_TRUE_PINBASED_CTLS)).toBe(pin & ~(0x80n << 32n));
    const second = expectedOf.get(M.IA32_VMX_PROCBASED_CTLS2)!;
    expect(value('kvm_intel.vpid=0', M.IA32_VMX_PROCBASED_CTLS2)).toBe(second & ~(0x20n << 32n));
    expect(value('kvm_intel.vpid=0', M.IA32_VMX_EPT_VPID_CAP) >> 32n).toBe(0n);
    expect(value('kvm_intel.eptad=0', M.IA32_VMX_PROCBASED_CTLS2)).toBe(second & ~(0x2_0000n << 32n));
    expect(value('kvm_intel.eptad=0', M.IA32_VMX_EPT_VPID_CAP) & 0x20_0000n).toBe(0n);
  });

  it('are read-only to L1', () => {
    const code = guest((g) => {
      for (const index of ALL) GUEST_SYNC(g, wrmsr_safe(g, index, 0));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      for (const index of ALL)
        expect([index, (yield* nextSync(vcpu))[0]]).toEqual([index, BigInt(VECTOR.GP)]);
    });
  });

  it('of a vCPU follow its CPUID', () => {
    withVm(idle, function* ({ vcpu: { fd } }) {
      const cpuid = fd.getCpuid2();
      const [, , , smep] = X86_FEATURE.SMEP;
      fd.setCpuid2(cpuid.map((e) => (e.function === 7 ? { ...e, ebx: (e.ebx & ~(1 << smep)) >>> 0 } : e)));
      expect(getMsr(fd, M.IA32_VMX_CR4_FIXED1)).toBe(0x0067_27ffn);
      fd.setCpuid2(cpuid.map((e) => (e.function === 1 ? { ...e, ecx: (e.ecx & ~0x20) >>> 0 } : e)));
      expect(getMsr(fd, M.IA32_VMX_BASIC)).toBeUndefined();
      expect(setMsr(fd, M.IA32_VMX_VMCS_ENUM, 0n)).toBe(false);
    });
  });
});

describe('KVM_SET_MSRS of a capability MSR', () => {
  const accept = (index: number, data: bigint): void => {
    withVm(idle, function* ({ vcpu: { fd } }) {
      expect(setMsr(fd, index, data)).toBe(true);
      expect(getMsr(fd, index)).toBe(data);
    });
  };
  const refuse = (index: number, data: bigint): void => {
    withVm(idle, function* ({ vcpu: { fd } }) {
      expect([setMsr(fd, index, data), getMsr(fd, index)]).toEqual([false, expectedOf.get(index)]);
    });
  };
  const of = (index: number): bigint => expectedOf.get(index)!;
  const without = (index: number, bits: bigint): [number, bigint] => [index, of(index) & ~bits];
  const with_ = (index: number, bits: bigint): [number, bigint] => [index, of(index) | bits];

  it.each([
    ['its own value', M.IA32_VMX_BASIC, of(M.IA32_VMX_BASIC)],
    ['BASIC without TRUE controls', ...without(M.IA32_VMX_BASIC, 1n << 55n)],
    ['BASIC with another memory type', ...without(M.IA32_VMX_BASIC, 6n << 50n)],
    ['BASIC with a larger region', ...with_(M.IA32_VMX_BASIC, 1n << 32n)],
    ['a control that may no longer be 1', ...without(M.IA32_VMX_TRUE_PROCBASED_CTLS, 0x80n << 32n)],
    ['a control that must be 1 now', ...with_(M.IA32_VMX_TRUE_PROCBASED_CTLS, 0x80n)],
    ['no secondary control at all', M.IA32_VMX_PROCBASED_CTLS2, 0n],
    ['MISC without HLT', ...without(M.IA32_VMX_MISC, 0x40n)],
    ['CR0_FIXED0 with more bits', ...with_(M.IA32_VMX_CR0_FIXED0, 1n << 63n)],
    ['CR4_FIXED0 with more bits', ...with_(M.IA32_VMX_CR4_FIXED0, 0x20n)],
    ['VMCS_ENUM, whatever it is', M.IA32_VMX_VMCS_ENUM, 0xffff_ffff_ffff_ffffn],
    ['EPT without 1-GByte pages', ...without(M.IA32_VMX_EPT_VPID_CAP, 0x2_0000n)],
    ['no VM function', M.IA32_VMX_VMFUNC, 0n],
  ] as const)('takes %s', (_what, index, data) => accept(index, data));

  it.each([
    ['BASIC with a reserved bit', ...with_(M.IA32_VMX_BASIC, 1n << 63n)],
    ['BASIC with bit 47', ...with_(M.IA32_VMX_BASIC, 1n << 47n)],
    ['BASIC with bit 31', ...with_(M.IA32_VMX_BASIC, 1n << 31n)],
    ['BASIC with 32-bit addresses', ...with_(M.IA32_VMX_BASIC, 1n << 48n)],
    ['BASIC with dual-monitor treatment', ...with_(M.IA32_VMX_BASIC, 1n << 49n)],
    ['BASIC with another revision', ...with_(M.IA32_VMX_BASIC, 1n)],
    [
      'BASIC with a smaller region',
      M.IA32_VMX_BASIC,
      (of(M.IA32_VMX_BASIC) & ~(0x1fffn << 32n)) | (0xfffn << 32n),
    ],
    ['a control more', ...with_(M.IA32_VMX_PROCBASED_CTLS2, 0x400n << 32n)],
    ['a default1 control that may be 0', ...without(M.IA32_VMX_TRUE_EXIT_CTLS, 1n)],
    ['MISC with shutdown', ...with_(M.IA32_VMX_MISC, 0x80n)],
    ['MISC with bit 9', ...with_(M.IA32_VMX_MISC, 0x200n)],
    ['MISC with another timer rate', ...with_(M.IA32_VMX_MISC, 2n)],
    ['MISC with CR3 targets', ...with_(M.IA32_VMX_MISC, 1n << 16n)],
    ['MISC with longer MSR areas', ...with_(M.IA32_VMX_MISC, 1n << 25n)],
    ['MISC with an MSEG revision', ...with_(M.IA32_VMX_MISC, 1n << 32n)],
    ['CR0_FIXED0 with fewer bits', ...without(M.IA32_VMX_CR0_FIXED0, 0x20n)],
    ['CR0_FIXED1', M.IA32_VMX_CR0_FIXED1, of(M.IA32_VMX_CR0_FIXED1)],
    ['CR4_FIXED1', M.IA32_VMX_CR4_FIXED1, of(M.IA32_VMX_CR4_FIXED1)],
    ['a control MSR that follows from the TRUE one', M.IA32_VMX_PINBASED_CTLS, of(M.IA32_VMX_PINBASED_CTLS)],
    ['EPT of five levels', ...with_(M.IA32_VMX_EPT_VPID_CAP, 0x80n)],
    ['another INVVPID type', ...with_(M.IA32_VMX_EPT_VPID_CAP, 1n << 44n)],
    ['another VM function', M.IA32_VMX_VMFUNC, 2n],
    ['VM function 63', M.IA32_VMX_VMFUNC, 1n << 63n],
  ] as const)('refuses %s', (_what, index, data) => refuse(index, data));

  it('takes another timer rate where there is no timer', () => {
    withVm(idle, function* ({ vcpu: { fd } }) {
      const pin = without(M.IA32_VMX_TRUE_PINBASED_CTLS, 0x40n << 32n);
      expect([setMsr(fd, ...pin), setMsr(fd, ...with_(M.IA32_VMX_MISC, 2n))]).toEqual([true, true]);
    });
  });
});

describe('IA32_FEATURE_CONTROL', () => {
  const F = FEAT_CTL;
  const F_MSR = M.IA32_FEATURE_CONTROL;

  it('is 0 until somebody sets it; a lock keeps the guest out and not userspace', () => {
    const vmxOn = F.LOCKED | F.VMX_ENABLED_OUTSIDE_SMX;
    const code = guest((g) => {
      const value = g.local(u64, 0);
      for (const bits of [F.LMCE_ENABLED, F.SGX_ENABLED, 0x8, F.VMX_ENABLED_OUTSIDE_SMX, vmxOn, vmxOn])
        GUEST_SYNC(g, wrmsr_safe(g, F_MSR, bits));
      rdmsr_safe(g, F_MSR, value);
      GUEST_SYNC(g, value);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const GP = BigInt(VECTOR.GP);
      expect(getMsr(vcpu.fd, F_MSR)).toBe(0n);
      const got: bigint[] = [];
      for (let i = 0; i < 7; i++) got.push((yield* nextSync(vcpu))[0]!);
      expect(got).toEqual([GP, GP, GP, 0n, 0n, GP, BigInt(vmxOn)]);
      expect([setMsr(vcpu.fd, F_MSR, 0n), getMsr(vcpu.fd, F_MSR)]).toEqual([true, 0n]);
    });
  });

  it('takes from userspace what KVM knows, whatever CPUID says', () => {
    withVm(idle, function* ({ vcpu: { fd } }) {
      const known = Object.values(F);
      const taken = Array.from({ length: 64 }, (_, bit) => 1n << BigInt(bit)).filter((v) =>
        setMsr(fd, F_MSR, v),
      );
      expect(taken.map(Number)).toEqual(known);
    });
  });

  it('has no VMX bits for a guest without VMX', () => {
    const code = guest((g) => {
      GUEST_SYNC(g, wrmsr_safe(g, F_MSR, F.VMX_ENABLED_OUTSIDE_SMX));
      GUEST_SYNC(g, wrmsr_safe(g, F_MSR, F.LOCKED));
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        expect([(yield* nextSync(vcpu))[0], (yield* nextSync(vcpu))[0]]).toEqual([BigInt(VECTOR.GP), 0n]);
      },
      NO_NESTED,
    );
  });
});

describe('CR4.VMXE', () => {
  it('is there for L1, and reads as it was written', () => {
    const code = guest((g) => {
      GUEST_SYNC(g, get_cr4(g).and(CR4.VMXE));
      GUEST_SYNC(g, setCr4(g, CR4.VMXE));
      GUEST_SYNC(g, get_cr4(g).and(CR4.VMXE));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const got: bigint[] = [];
      for (let i = 0; i < 3; i++) got.push((yield* nextSync(vcpu))[0]!);
      expect(got).toEqual([0n, 0n, BigInt(CR4.VMXE)]);
    });
  });
});
