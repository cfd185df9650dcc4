// SPDX-License-Identifier: GPL-2.0-only
/**
 * MSRs and CPUID from both sides, and their refusals. Expected: SDM, "Model-Specific Registers", "IA32_TSC_ADJUST MSR";
 * KVM's kvm_get_msr_common(), kvm_set_msr_common(), kvm_cpuid(), Documentation/virt/kvm/api.rst.
 */
import { describe, expect, it } from 'vitest';
import {
  __cpuid,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  rdmsr,
  rdmsr_safe,
  rdtsc,
  u64,
  wrmsr,
  wrmsr_safe,
} from '../../lib/guest/index.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_MSR_EXIT_REASON } from '../../lib/uapi/cpuid_msr.ts';
import { errnoName } from '../../lib/uapi/errno.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { MISC_ENABLE, MSR } from '../../lib/x86/msr.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { errnoOf, exitName, guest, nextSync, withVm } from './small_vm.ts';

const GP = BigInt(VECTOR.GP);
/** No processor has it. */
const UNKNOWN_MSR = 0x4000_f000;

describe('RDMSR and WRMSR', () => {
  it('keep what is written to MSRs that the guest owns', () => {
    const values: [number, bigint][] = [
      [MSR.IA32_SYSENTER_CS, 0x33n],
      [MSR.IA32_SYSENTER_ESP, 0xffff_8000_0000_1000n],
      [MSR.STAR, 0x23_0008_0000_0000n],
      [MSR.LSTAR, 0xffff_ffff_8000_0000n],
      [MSR.SYSCALL_MASK, 0x700n],
      [MSR.TSC_AUX, 0x1234n],
      [MSR.KERNEL_GS_BASE, 0x7000n],
      [MSR.IA32_CR_PAT, 0x0007_0406_0007_0106n],
    ];
    const code = guest((g) => {
      for (const [msr, value] of values) {
        wrmsr(g, msr, value);
        GUEST_SYNC(g, rdmsr(g, msr));
      }
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      for (const [index, value] of values) {
        expect([index, (yield* nextSync(vcpu))[0]]).toEqual([index, value]);
        expect(vcpu.fd.getMsrs([index])).toEqual([{ index, data: value }]);
      }
    });
  });

  it('raise GP for values that the SDM forbids', () => {
    const bad: [number, bigint][] = [
      [MSR.EFER, 1n << 20n],
      [MSR.EFER, 0x800n],
      [MSR.IA32_CR_PAT, 2n],
      [MSR.IA32_APICBASE, 0xfee0_0400n],
      [MSR.IA32_APICBASE, 0xfee0_0801n],
      [MSR.LSTAR, 1n << 60n],
      [MSR.TSC_AUX, 1n << 32n],
      [MSR.IA32_MISC_ENABLE, 0n],
      [MSR.IA32_FEAT_CTL, 0x8n],
      [0x480, 0n],
      [0x492, 0n],
      [0x808, 0x1n],
      [UNKNOWN_MSR, 0n],
    ];
    const code = guest((g) => {
      for (const [msr, value] of bad) GUEST_SYNC(g, wrmsr_safe(g, msr, value));
      const value = g.local(u64, 0);
      GUEST_SYNC_ARGS(g, rdmsr_safe(g, UNKNOWN_MSR, value), rdmsr_safe(g, 0x802, value), 0, 0, 0);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      for (const [msr] of bad) expect([msr, (yield* nextSync(vcpu))[0]]).toEqual([msr, GP]);
      // An x2APIC register is not there in xAPIC mode.
      expect((yield* nextSync(vcpu)).slice(0, 2)).toEqual([GP, GP]);
    });
  });

  it('move TSC and TSC_ADJUST together; userspace sets either alone', () => {
    const code = guest((g) => {
      wrmsr(g, MSR.IA32_TSC, 1n << 40n);
      GUEST_SYNC_ARGS(g, rdtsc(g).shr(40), rdmsr(g, MSR.IA32_TSC_ADJUST).shr(32), 0, 0, 0);
      wrmsr(g, MSR.IA32_TSC_ADJUST, 0);
      GUEST_SYNC_ARGS(g, rdtsc(g).shr(36), rdmsr(g, MSR.IA32_TSC_ADJUST), 0, 0, 0);
      GUEST_SYNC_ARGS(
        g,
        rdtsc(g).shr(40),
        rdmsr(g, MSR.IA32_TSC_ADJUST),
        rdmsr(g, MSR.IA32_TSC).shr(40),
        0,
        0,
      );
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      // The difference that the write makes: almost 2^40.
      expect((yield* nextSync(vcpu)).slice(0, 2)).toEqual([1n, 0xffn]);
      expect((yield* nextSync(vcpu)).slice(0, 2)).toEqual([0n, 0n]);
      const data = 1n << 41n;
      expect(
        vcpu.fd.setMsrs([
          { index: MSR.IA32_TSC, data },
          { index: MSR.IA32_TSC_ADJUST, data: 5n },
        ]),
      ).toBe(2);
      expect((yield* nextSync(vcpu)).slice(0, 3)).toEqual([2n, 5n, 2n]);
    });
  });

  it('hold the feature bits of userspace: no TSC_ADJUST, no NX, no x2APIC without CPUID', () => {
    const code = guest((g) => {
      const efer = rdmsr(g, MSR.EFER);
      GUEST_SYNC_ARGS(
        g,
        wrmsr_safe(g, MSR.EFER, efer),
        wrmsr_safe(g, MSR.IA32_TSC_ADJUST, 5),
        rdmsr(g, MSR.IA32_TSC_ADJUST),
        wrmsr_safe(g, MSR.IA32_APICBASE, 0xfee0_0d00n),
        0,
      );
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const entries = vcpu.fd.getCpuid2();
      for (const e of entries) {
        if (e.function === 1) e.ecx &= ~(1 << 21);
        if (e.function === 7) e.ebx &= ~2;
        if (e.function === 0x8000_0001) e.edx &= ~(1 << 20);
      }
      vcpu.fd.setCpuid2(entries);
      expect((yield* nextSync(vcpu)).slice(0, 4)).toEqual([GP, 0n, 0n, GP]);
    });
  });

  it('that L0 refuses go to userspace, if it wants to know of that kind', () => {
    const code = guest((g) => {
      const value = g.local(u64, 0);
      const vector = g.let(rdmsr_safe(g, UNKNOWN_MSR, value));
      GUEST_SYNC_ARGS(g, vector, value, 0, 0, 0);
      GUEST_SYNC(g, wrmsr_safe(g, UNKNOWN_MSR, 0x1122));
      GUEST_SYNC(g, wrmsr_safe(g, MSR.IA32_CR_PAT, 2));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vm, vcpu }) {
      const { UNKNOWN, INVAL } = KVM_MSR_EXIT_REASON;
      const cap = (mask: number) =>
        vm.fd.enableCap({ cap: KVM_CAP.X86_USER_SPACE_MSR, flags: 0, args: [BigInt(mask), 0n, 0n, 0n] });
      yield* cap(UNKNOWN);
      const { run } = vcpu.fd;
      yield* vcpuRun(vcpu);
      expect([exitName(vcpu), run.msr.reason, run.msr.index]).toEqual(['X86_RDMSR', UNKNOWN, UNKNOWN_MSR]);
      run.msr.data = 0x1_0000_0002n;
      expect((yield* nextSync(vcpu)).slice(0, 2)).toEqual([0n, 0x1_0000_0002n]);
      yield* vcpuRun(vcpu);
      expect([exitName(vcpu), run.msr.data]).toEqual(['X86_WRMSR', 0x1122n]);
      run.msr.error = 1;
      expect((yield* nextSync(vcpu))[0]).toBe(GP);
      // A bad value is of another kind: GP, without an exit, until userspace asks for it.
      expect((yield* nextSync(vcpu))[0]).toBe(GP);
      yield* cap(INVAL);
      expect(vcpu.fd.setMsrs([{ index: UNKNOWN_MSR, data: 0n }])).toBe(0);
      expect(vcpu.fd.getMsrs([MSR.EFER, UNKNOWN_MSR, MSR.STAR])).toHaveLength(1);
    });
  });

  it('of unknown MSRs do nothing with kvm.ignore_msrs, but bad values still fault', () => {
    const code = guest((g) => {
      const value = g.local(u64, 5);
      const vector = g.let(rdmsr_safe(g, UNKNOWN_MSR, value));
      GUEST_SYNC_ARGS(g, vector, value, wrmsr_safe(g, UNKNOWN_MSR, 7), wrmsr_safe(g, MSR.IA32_CR_PAT, 2), 0);
      GUEST_DONE(g);
    });
    withVm(
      code,
      function* ({ vcpu }) {
        expect(yield* nextSync(vcpu)).toEqual([0n, 0n, 0n, GP, 0n]);
        expect(vcpu.fd.setMsrs([{ index: UNKNOWN_MSR, data: 1n }])).toBe(1);
        expect(vcpu.fd.getMsrs([UNKNOWN_MSR])).toEqual([{ index: UNKNOWN_MSR, data: 0n }]);
      },
      { params: ['kvm.ignore_msrs=1'] },
    );
  });

  it('read the constants, and keep the read-only bits of MISC_ENABLE', () => {
    const keep = MISC_ENABLE.PEBS_UNAVAIL | MISC_ENABLE.BTS_UNAVAIL;
    const code = guest((g) => {
      wrmsr(g, MSR.IA32_MISC_ENABLE, keep | MISC_ENABLE.FAST_STRING | MISC_ENABLE.EMON);
      wrmsr(g, MSR.IA32_UCODE_REV, 0);
      GUEST_SYNC_ARGS(
        g,
        rdmsr(g, MSR.IA32_MISC_ENABLE),
        rdmsr(g, MSR.IA32_UCODE_REV),
        rdmsr(g, MSR.IA32_FEAT_CTL),
        rdmsr(g, MSR.IA32_TSC_DEADLINE),
        rdmsr(g, MSR.EFER),
      );
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vcpu }) {
      const got = yield* nextSync(vcpu);
      expect(got).toEqual([BigInt(keep | MISC_ENABLE.FAST_STRING), 0x1_0000_0000n, 0n, 0n, 0xd00n]);
    });
  });
});

describe('CPUID', () => {
  it('gives userspace values, state bits, and the highest basic leaf beyond the range', () => {
    const code = guest((g) => {
      const regs = (leaf: number, index = 0) => {
        const r = __cpuid(g, leaf, index);
        GUEST_SYNC_ARGS(g, r.eax, r.ebx, r.ecx, r.edx, 0);
      };
      regs(0x10);
      regs(0x77);
      regs(0x4000_0000);
      regs(0x8fff_ffff);
      regs(0xb, 7);
      regs(0x13);
      GUEST_DONE(g);
    });
    withVm(code, function* ({ host, vcpu }) {
      const row = (leaf: number, index: number, eax: number, ebx: number, ecx: number, edx: number) => ({
        function: leaf,
        index,
        flags: leaf === 0xb ? 1 : 0,
        eax,
        ebx,
        ecx,
        edx,
      });
      vcpu.fd.setCpuid2([
        row(0, 0, 0x16, 1, 2, 3),
        row(0x16, 0, 0x111, 0x222, 0x333, 0x444),
        row(0x10, 0, 9, 8, 7, 6),
        row(0xb, 1, 0, 0, 0, 0x55),
        row(0x4000_0000, 0, 0x4000_0001, 5, 5, 5),
        row(0x8000_0000, 0, 0x8000_0008, 0, 0, 0),
      ]);
      host.module.trace.enable(/^kvm_cpuid$/);
      const next = function* () {
        return (yield* nextSync(vcpu)).slice(0, 4);
      };
      const highest = [0x111n, 0x222n, 0x333n, 0x444n];
      expect(yield* next()).toEqual([9n, 8n, 7n, 6n]);
      expect(yield* next()).toEqual(highest);
      expect(yield* next()).toEqual([0x4000_0001n, 5n, 5n, 5n]);
      expect(yield* next()).toEqual(highest);
      expect(yield* next()).toEqual([0n, 0n, 7n, 0x55n]);
      expect(yield* next()).toEqual([0n, 0n, 0n, 0n]);
      expect(host.module.trace.text().map((l) => l.replace(/^.*rdx \w+, /, ''))).toEqual([
        'cpuid entry found',
        'cpuid entry not found, used max basic',
        'cpuid entry found',
        'cpuid entry not found, used max basic',
        'cpuid entry not found',
        'cpuid entry not found',
      ]);
    });
  });

  it('data are refused when they are too many, impossible, or change after the first run', () => {
    withVm(
      guest((g) => GUEST_SYNC(g, 1)),
      function* ({ vcpu }) {
        const { fd } = vcpu;
        const entries = fd.getCpuid2();
        const set = (list: typeof entries): string => errnoName(errnoOf(() => fd.setCpuid2(list)));
        expect(set(Array.from({ length: 257 }, () => entries[0]!))).toBe('E2BIG');
        const widths = entries.map((e) => (e.function === 0x8000_0008 ? { ...e, eax: 0x2a27 } : e));
        expect(set(widths)).toBe('EINVAL');
        yield* nextSync(vcpu);
        expect(errnoOf(() => fd.setCpuid2(entries))).toBe(0);
        expect(set(entries.slice(1))).toBe('EINVAL');
        expect(set(entries.map((e) => ({ ...e, eax: e.eax ^ 1 })))).toBe('EINVAL');
      },
    );
  });
});
