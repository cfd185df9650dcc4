// SPDX-License-Identifier: GPL-2.0-only
/** From a fault of the guest-physical tables to a handled exit: the end of kvm_mmu_page_fault(), 6.12. */
import type { Gpa } from '../../../lib/x86/addr.ts';
import type { Steps } from '../../host/steps.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { MaybeSteps } from '../kvm_host_x86.ts';
import { kvmMmuPageFault } from '../mmu/fault.ts';
import { RET_PF } from '../mmu/page_fault.ts';
import { kvmMmuUnprotectGfn } from '../mmu/shadow_work.ts';
import { TP } from '../trace_events.ts';
import { kvmRipRead } from './cache_regs.ts';
import { kvmEmulateInstruction } from './emulate.ts';
import { exitIsVectoring, kvmPrepareEventVectoringExit } from './event_vectoring.ts';

/** 1: go on; 0: to userspace; below zero: errno. */
export function kvmHandleGpaFault(vcpu: Vcpu, address: Gpa, errorCode: number): MaybeSteps<number> {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_PAGE_FAULT] !== 0)
    trace.record(TP.KVM_PAGE_FAULT, vcpu.vcpuId, kvmRipRead(vcpu), address, errorCode);
  const r = kvmMmuPageFault(vcpu, address, errorCode);
  return typeof r === 'number' ? finish(vcpu, address, r) : finishLater(vcpu, address, r);
}

function finish(vcpu: Vcpu, address: Gpa, r: number): number {
  if (r < 0) return r;
  if (r !== RET_PF.EMULATE) return 1;
  // X86EMUL_UNHANDLEABLE_VECTORING: the instruction at RIP is not what accessed the address.
  if (exitIsVectoring(vcpu)) return vectoring(vcpu, address);
  const done = kvmEmulateInstruction(vcpu);
  vcpu.arch.retryGfn = -1;
  return done;
}

/** An event cannot be delivered through what would have to be emulated, unless a table is all that is in the way. */
function vectoring(vcpu: Vcpu, address: Gpa): number {
  const { retryGfn } = vcpu.arch;
  vcpu.arch.retryGfn = -1;
  if (retryGfn >= 0 && kvmMmuUnprotectGfn(vcpu.kvm, retryGfn)) return 1;
  return kvmPrepareEventVectoringExit(vcpu, address);
}

function* finishLater(vcpu: Vcpu, address: Gpa, steps: Steps<number>): Steps<number> {
  return finish(vcpu, address, yield* steps);
}
