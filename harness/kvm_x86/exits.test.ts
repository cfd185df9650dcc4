// SPDX-License-Identifier: GPL-2.0-only
/**
 * A guest that breaks, and instructions that L0 answers without userspace. Expected: Documentation/virt/kvm/api.rst and
 * x86/hypercalls.rst; SDM, "Double Fault Exception".
 */
import { describe, expect, it } from 'vitest';
import {
  DescPtr,
  GUEST_DONE,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  KVM_ASM_SAFE,
  kvm_hypercall,
  lidt,
} from '../../lib/guest/index.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { exitName, guest, nextSync, withVm } from './small_vm.ts';

describe('a guest that breaks', () => {
  it('beyond a double fault shuts down', () => {
    const code = guest((g) => {
      const desc = g.local(DescPtr);
      g.set(desc.f.size, 0);
      lidt(g, desc.addr());
      g.asm({ emit: (a) => a.emit('ud2') });
    });
    withVm(code, function* ({ vcpu }) {
      yield* vcpuRun(vcpu);
      expect(exitName(vcpu)).toBe('SHUTDOWN');
    });
  });

  it('by a request of userspace shuts down, too', () => {
    withVm(
      guest((g) => GUEST_SYNC(g, 1)),
      function* ({ vm, vcpu }) {
        yield* vm.fd.enableCap({ cap: KVM_CAP.X86_TRIPLE_FAULT_EVENT, flags: 0, args: [1n, 0n, 0n, 0n] });
        yield* nextSync(vcpu);
        const events = vcpu.fd.getVcpuEvents();
        vcpu.fd.setVcpuEvents({ ...events, triple_fault: { pending: 1 } });
        expect(vcpu.fd.getVcpuEvents().triple_fault.pending).toBe(1);
        vcpu.fd.setVcpuEvents({ ...events, triple_fault: { pending: 0 } });
        expect(vcpu.fd.getVcpuEvents().triple_fault.pending).toBe(0);
        vcpu.fd.setVcpuEvents({ ...events, triple_fault: { pending: 1 } });
        yield* vcpuRun(vcpu);
        expect(exitName(vcpu)).toBe('SHUTDOWN');
      },
    );
  });
});

describe('instructions that L0 answers', () => {
  it('VMCALL says ENOSYS, MWAIT is nothing by a quirk, RDPMC and VMXOFF fault', () => {
    const code = guest((g) => {
      const fault = (insn: 'mwait' | 'rdpmc' | 'vmxoff') =>
        KVM_ASM_SAFE(g, { clobbers: ['rax', 'rcx', 'rdx'], emit: (a) => a.emit(insn as 'rdpmc') }).vector;
      GUEST_SYNC_ARGS(
        g,
        kvm_hypercall(g, 77),
        kvm_hypercall(g, 1),
        fault('mwait'),
        fault('rdpmc'),
        fault('vmxoff'),
      );
      g.asm({ emit: (a) => (['wbinvd', 'invd'] as const).forEach((insn) => a.emit(insn)) });
      GUEST_SYNC(g, fault('mwait'));
      GUEST_DONE(g);
    });
    withVm(code, function* ({ vm, vcpu }) {
      // Documentation/virt/kvm/x86/hypercalls.rst: -KVM_ENOSYS is -1000.
      const got = yield* nextSync(vcpu);
      expect(got.map((v) => BigInt.asIntN(64, v))).toEqual([
        -1000n,
        0n,
        0n,
        BigInt(VECTOR.GP),
        BigInt(VECTOR.UD),
      ]);
      yield* vm.fd.enableCap({ cap: KVM_CAP.DISABLE_QUIRKS2, flags: 0, args: [0x40n, 0n, 0n, 0n] });
      expect((yield* nextSync(vcpu))[0]).toBe(BigInt(VECTOR.UD));
    });
  });
});
