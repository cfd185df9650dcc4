// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exits during the delivery of an event. What userspace sees is that of Documentation/virt/kvm/api.rst,
 * "KVM_EXIT_INTERNAL_ERROR", and kvm_prepare_event_vectoring_exit().
 */
import { describe, expect, it } from 'vitest';
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../../lib/uapi/run.ts';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { gpa } from '../../../lib/x86/addr.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmExitInfo } from '../kvm_host_x86.ts';
import { kvmMmuReload } from '../mmu/mmu.ts';
import { createVcpu, drive, setSlot, testVm } from '../testing/test_kvm.ts';
import { exitIsVectoring } from './event_vectoring.ts';
import { kvmHandleGpaFault } from './page_fault.ts';

const MMIO = 0x4000_00d0;

/** A vCPU whose last exit was an EPT violation with the given IDT-vectoring information. */
function withVcpu(idtVectoring: number, body: (vcpu: Vcpu) => void): void {
  const vm = testVm();
  const ops = vm.kvm.module.ops as { getExitInfo: (vcpu: Vcpu, out: KvmExitInfo) => void };
  ops.getExitInfo = (_vcpu, out) => {
    Object.assign(out, { reason: EXIT_REASON.EPT_VIOLATION, info1: 0x181, info2: idtVectoring });
  };
  drive(
    vm,
    (function* () {
      yield* setSlot(vm);
      const vcpu = yield* createVcpu(vm);
      vcpu.srcuIdx = vm.kvm.srcu.readLock();
      kvmMmuReload(vcpu);
      vcpu.arch.lastVmentryCpu = 1;
      body(vcpu);
      vm.kvm.srcu.readUnlock(vcpu.srcuIdx);
    })(),
  );
}

const DELIVERING_GP = INTR_INFO.VALID_MASK | INTR_TYPE.HARD_EXCEPTION | VECTOR.GP;

describe('An exit during event delivery', () => {
  it('goes to userspace with the address, if the address is MMIO', () => {
    withVcpu(DELIVERING_GP, (vcpu) => {
      expect(kvmHandleGpaFault(vcpu, gpa(MMIO), PFERR.USER)).toBe(0);
      const { run } = vcpu;
      expect(run.exit_reason).toBe(KVM_EXIT.INTERNAL_ERROR);
      expect(run.internal.suberror).toBe(KVM_INTERNAL_ERROR.DELIVERY_EV);
      expect(run.internal.data.slice(0, run.internal.ndata)).toEqual([
        BigInt(DELIVERING_GP >>> 0),
        BigInt(EXIT_REASON.EPT_VIOLATION),
        0x181n,
        BigInt(MMIO),
        1n,
      ]);
    });
  });

  it('is an ordinary fault, if there is memory', () => {
    withVcpu(DELIVERING_GP, (vcpu) => {
      expect(kvmHandleGpaFault(vcpu, gpa(0x2000), PFERR.USER)).toBe(1);
      expect(vcpu.run.exit_reason).toBe(KVM_EXIT.UNKNOWN);
    });
  });

  it('is recognised by the valid bit alone', () => {
    withVcpu(DELIVERING_GP, (vcpu) => expect(exitIsVectoring(vcpu)).toBe(true));
    withVcpu(INTR_TYPE.HARD_EXCEPTION | VECTOR.GP, (vcpu) => expect(exitIsVectoring(vcpu)).toBe(false));
  });
});
