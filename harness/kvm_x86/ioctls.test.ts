// SPDX-License-Identifier: GPL-2.0-only
/** Refusals and round trips of the vCPU and VM ioctls. Expected: Documentation/virt/kvm/api.rst and kvm_arch_vcpu_ioctl(). */
import { describe, expect, it } from 'vitest';
import { GUEST_DONE } from '../../lib/guest/index.ts';
import { ioctlErrno } from '../../lib/kvm_util/ioctl_errno.ts';
import { vmCreateBarebones } from '../../lib/kvm_util/vm_create.ts';
import { __vmVcpuAdd } from '../../lib/kvm_util/x86/processor.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { errnoName } from '../../lib/uapi/errno.ts';
import type { KvmSregs } from '../../lib/uapi/regs.ts';
import { KVM_MP_STATE, KVM_VCPUEVENT_VALID, type KvmVcpuEvents } from '../../lib/uapi/vcpu_state.ts';
import { APIC_REG } from '../../lib/x86/apic.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR0, CR4, EFER } from '../../lib/x86/registers.ts';
import { createEmulatedHost, validateParams } from '../../vmm/emulated.ts';
import { errnoOf, guest, smallHost, withVm, type SmallVm } from './small_vm.ts';

const refusal = (call: () => unknown): string => {
  const errno = errnoOf(call);
  return errno === 0 ? 'success' : errnoName(errno);
};

/** A VM that does not run. */
const idle = (body: (small: SmallVm) => Steps<void>, irqchip: 'kernel' | 'none' = 'kernel') =>
  withVm(
    guest((g) => GUEST_DONE(g)),
    body,
    { irqchip },
  );

describe('KVM_SET_SREGS', () => {
  const bad: [string, (s: KvmSregs) => Partial<KvmSregs>][] = [
    ['CR0.PG without PE', (s) => ({ cr0: s.cr0 & ~BigInt(CR0.PE) })],
    ['CR0.NW without CD', (s) => ({ cr0: s.cr0 | BigInt(CR0.NW) })],
    ['CR0 above 32 bits', (s) => ({ cr0: s.cr0 | (1n << 40n) })],
    ['LME and PG without PAE', () => ({ cr4: 0n })],
    ['LME and PG without LMA', (s) => ({ efer: s.efer & ~BigInt(EFER.LMA) })],
    ['CR3 beyond MAXPHYADDR', () => ({ cr3: 1n << 51n })],
    ['LMA without paging', (s) => ({ cr0: s.cr0 & ~BigInt(CR0.PG >>> 0) })],
    ['CS.L outside of long mode', (s) => ({ efer: 0n, cr0: s.cr0 & ~BigInt(CR0.PG >>> 0) })],
    ['CR4.SMXE without the feature', (s) => ({ cr4: s.cr4 | BigInt(CR4.SMXE) })],
    ['a reserved bit of the APIC base', (s) => ({ apic_base: s.apic_base | 1n })],
    ['x2APIC mode without enable', (s) => ({ apic_base: (s.apic_base & ~0x800n) | 0x400n })],
  ];

  it.each(bad)('refuses %s with EINVAL and changes nothing', (_what, change) => {
    idle(function* ({ vcpu: { fd } }) {
      const before = fd.getSregs();
      expect(refusal(() => fd.setSregs({ ...before, ...change(before) }))).toBe('EINVAL');
      expect(fd.getSregs()).toEqual(before);
    });
  });

  it('gives back what it took, and all bits of an unusable segment', () => {
    idle(function* ({ vcpu: { fd } }) {
      const sregs = fd.getSregs();
      sregs.fs = { ...sregs.fs, base: 0x1234_5000n, unusable: 1, dpl: 3, type: 3 };
      sregs.cr2 = 0xffff_8000_0000_0000n;
      sregs.cr8 = 5n;
      sregs.apic_base |= 0x400n;
      fd.setSregs(sregs);
      expect(fd.getSregs()).toEqual({ ...sregs, fs: { ...sregs.fs, present: 0 } });
      fd.setSregs({ ...sregs, apic_base: sregs.apic_base & ~0x400n });
      expect(fd.getSregs().apic_base).toBe(sregs.apic_base & ~0x400n);
    });
  });

  it('queues the interrupt of its bitmap', () => {
    idle(function* ({ vcpu: { fd } }) {
      const sregs = fd.getSregs();
      sregs.interrupt_bitmap = [0n, 0n, 0n, 1n << 3n];
      fd.setSregs(sregs);
      expect(fd.getVcpuEvents().interrupt).toEqual({ injected: 1, nr: 195, soft: 0, shadow: 0 });
    }, 'none');
  });

  it('makes the bootstrap processor runnable at the reset vector', () => {
    const host = smallHost();
    host.runMain(function* () {
      const vm = yield* vmCreateBarebones(host);
      vm.fd.createIrqchip();
      const { fd } = yield* __vmVcpuAdd(vm, 0);
      fd.setMpState({ mp_state: KVM_MP_STATE.UNINITIALIZED });
      fd.setSregs(fd.getSregs());
      expect(fd.getMpState().mp_state).toBe(KVM_MP_STATE.RUNNABLE);
    });
  });
});

describe('KVM_SET_VCPU_EVENTS', () => {
  const P = KVM_VCPUEVENT_VALID;
  const ex = (over: Partial<KvmVcpuEvents['exception']>): Partial<KvmVcpuEvents> => ({
    exception: { injected: 0, nr: 0, has_error_code: 0, pending: 0, error_code: 0, ...over },
  });
  const bad: [string, Partial<KvmVcpuEvents>][] = [
    ['an unknown flag', { flags: 0x40 }],
    ['a payload without its capability', { flags: P.PAYLOAD }],
    ['a triple fault without its capability', { flags: P.TRIPLE_FAULT }],
    ['vector 32 as an exception', ex({ injected: 1, nr: 32 })],
    ['an NMI as an exception', ex({ injected: 1, nr: VECTOR.NMI })],
  ];
  it.each(bad)('refuses %s with EINVAL', (_what, change) => {
    idle(function* ({ vcpu: { fd } }) {
      const events = fd.getVcpuEvents();
      expect(refusal(() => fd.setVcpuEvents({ ...events, ...change }))).toBe('EINVAL');
      expect(fd.getVcpuEvents()).toEqual(events);
    });
  });

  it('gives back what it took; a pending exception shows as injected to userspace without payloads', () => {
    idle(function* ({ vm, vcpu: { fd } }) {
      const nmi = { injected: 0, pending: 1, masked: 1 };
      const given = {
        ...fd.getVcpuEvents(),
        ...ex({ injected: 1, nr: VECTOR.GP, has_error_code: 1, error_code: 8 }),
        nmi,
      };
      given.interrupt = { injected: 0, nr: 0, soft: 0, shadow: 1 };
      given.flags |= P.SIPI_VECTOR;
      fd.setVcpuEvents(given);
      const back = fd.getVcpuEvents();
      expect([back.exception, back.nmi, back.interrupt]).toEqual([given.exception, nmi, given.interrupt]);
      yield* vm.fd.enableCap({ cap: KVM_CAP.EXCEPTION_PAYLOAD, flags: 0, args: [1n, 0n, 0n, 0n] });
      fd.setVcpuEvents({
        ...back,
        ...ex({ pending: 1, nr: VECTOR.DB }),
        flags: P.PAYLOAD,
        exception_has_payload: 1,
        exception_payload: 0x4000n,
      });
      const payload = fd.getVcpuEvents();
      expect([
        payload.exception.pending,
        payload.exception.injected,
        payload.exception_has_payload,
        payload.exception_payload,
      ]).toEqual([1, 0, 1, 0x4000n]);
      // Pending without the flag means nothing.
      fd.setVcpuEvents({ ...back, ...ex({ pending: 1, nr: VECTOR.UD }), flags: 0 });
      expect(fd.getVcpuEvents().exception.pending).toBe(0);
      yield* vm.fd.enableCap({ cap: KVM_CAP.EXCEPTION_PAYLOAD, flags: 0, args: [0n, 0n, 0n, 0n] });
      fd.setVcpuEvents({ ...back, ...ex({ injected: 1, nr: VECTOR.BP }), flags: 0 });
      expect(fd.getVcpuEvents().exception.injected).toBe(0);
    });
  });
});

describe('vCPU ioctls', () => {
  it('refuse what the VM has no irqchip for, or has one too many', () => {
    idle(function* ({ vcpu: { fd } }) {
      expect(refusal(() => fd.interrupt(0x20))).toBe('ENXIO');
      expect(refusal(() => fd.interrupt(256))).toBe('EINVAL');
      expect(refusal(() => fd.setMpState({ mp_state: 77 }))).toBe('EINVAL');
    });
    idle(function* ({ vcpu: { fd } }) {
      expect(refusal(() => fd.getLapic())).toBe('EINVAL');
      expect(refusal(() => fd.setLapic({ regs: new Uint8Array(0x400) }))).toBe('EINVAL');
      expect(refusal(() => fd.setMpState({ mp_state: KVM_MP_STATE.HALTED }))).toBe('EINVAL');
      expect(refusal(() => fd.setSregs({ ...fd.getSregs(), apic_base: 0xfee0_0900n }))).toBe('success');
    }, 'none');
  });

  it('refuse reserved bits of debug registers and XCR0, and flags', () => {
    idle(function* ({ vcpu: { fd } }) {
      const debug = fd.getDebugregs();
      for (const change of [{ flags: 1n }, { dr6: 1n << 32n }, { dr7: 1n << 32n }])
        expect(refusal(() => fd.setDebugregs({ ...debug, ...change }))).toBe('EINVAL');
      for (const [flags, value] of [
        [1, 1n],
        [0, 0n],
        [0, 2n],
        [0, 5n],
        [0, 1n << 62n],
      ] as const)
        expect(refusal(() => fd.setXcrs({ flags, xcrs: [{ xcr: 0, value }] }))).toBe('EINVAL');
      fd.setXcrs({ flags: 0, xcrs: [{ xcr: 0, value: 3n }] });
      fd.setXcrs({ flags: 0, xcrs: [] });
      expect(fd.getXcrs().xcrs).toEqual([{ xcr: 0, value: 3n }]);
      expect(refusal(() => fd.enableCap({ cap: 1, flags: 0, args: [0n, 0n, 0n, 0n] }))).toBe('EINVAL');
      expect(fd.getTscKhz()).toBeGreaterThan(1_000_000);
    });
  });

  it('carry the APIC page there and back, without the ID', () => {
    idle(function* ({ vcpu: { fd } }) {
      for (const mode of [0x900n, 0xd00n]) {
        fd.setSregs({ ...fd.getSregs(), apic_base: 0xfee0_0000n | mode });
        const image = fd.getLapic();
        const view = new DataView(image.regs.buffer);
        view.setUint32(APIC_REG.TASKPRI, 0x40, true);
        view.setUint32(APIC_REG.SPIV, 0x1ff, true);
        fd.setLapic(image);
        expect([fd.getSregs().cr8, fd.getLapic()]).toEqual([4n, image]);
      }
    });
  });

  it('fail with EIO once the VM is gone', () => {
    const host = smallHost();
    host.runMain(function* () {
      const vm = yield* vmCreateBarebones(host);
      const { fd }: KvmVcpu = yield* __vmVcpuAdd(vm, 0);
      yield* vm.fd.close();
      expect(refusal(() => fd.getRegs())).toBe('EIO');
      expect(errnoName(yield* ioctlErrno(fd.ioctlRun()))).toBe('EIO');
    });
  });
});

describe('VM and device ioctls', () => {
  it('refuse types, capabilities and a second irqchip', () => {
    const host = smallHost();
    host.runMain(function* () {
      expect(errnoName(yield* ioctlErrno(host.kvm.createVm(7)))).toBe('EINVAL');
      expect(host.kvm.getApiVersion()).toBe(12);
      expect(host.kvm.getMsrIndexList().length).toBeGreaterThan(10);
      const { fd } = yield* vmCreateBarebones(host);
      const cap = (number: number, arg: bigint, flags = 0) =>
        ioctlErrno(fd.enableCap({ cap: number, flags, args: [arg, 0n, 0n, 0n] }));
      expect(errnoName(yield* cap(9999, 0n))).toBe('EINVAL');
      expect(errnoName(yield* cap(KVM_CAP.X86_USER_SPACE_MSR, 8n))).toBe('EINVAL');
      expect(errnoName(yield* cap(KVM_CAP.EXCEPTION_PAYLOAD, 1n, 1))).toBe('EINVAL');
      expect(fd.checkExtension(KVM_CAP.MP_STATE)).toBe(1);
      expect(fd.checkExtension(9999)).toBe(0);
      fd.createIrqchip();
      expect(refusal(() => fd.createIrqchip())).toBe('EEXIST');
      const other = (yield* vmCreateBarebones(host)).fd;
      yield* other.createVcpu(0);
      expect(refusal(() => other.createIrqchip())).toBe('EINVAL');
      expect(errnoName(yield* ioctlErrno(other.createVcpu(0)))).toBe('EEXIST');
      expect(fd.statsFd().read(0, 24)).toHaveLength(24);
    });
  });

  it('know module parameters by name, and which of them cannot be', () => {
    const host = smallHost({ params: ['kvm_intel.vpid=0'] });
    expect([
      host.moduleParam('kvm_intel.vpid'),
      host.moduleParam('kvm_intel.ept'),
      host.moduleParam('nothing'),
    ]).toEqual(['N', 'Y', undefined]);
    expect(validateParams([])).toBeUndefined();
    expect(validateParams(['kvm_intel.ept=0'])).toContain('kvm_intel.ept');
    expect(validateParams(['no.such=1'])).toContain('no.such');
    expect(() => createEmulatedHost({ params: ['kvm_intel.ept=0'] })).toThrow('shadow paging');
  });
});
