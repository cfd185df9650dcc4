// SPDX-License-Identifier: GPL-2.0-only
/**
 * An exit in the middle of an event's delivery that L0 can neither emulate nor restart: userspace is told. Mirrors
 * kvm_prepare_event_vectoring_exit() of arch/x86/kvm/x86.c, 6.14; 6.12 let emulation go on after an EPT violation.
 */
import { KVM_EXIT, KVM_INTERNAL_ERROR } from '../../../lib/uapi/run.ts';
import type { Gpa } from '../../../lib/x86/addr.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmExitInfo } from '../kvm_host_x86.ts';

/** Bit 31 of the vectoring information: VMX's IDT-vectoring information and SVM's EXITINTINFO agree in it. */
const VALID = 0x8000_0000 | 0;

function exitInfo(vcpu: Vcpu): KvmExitInfo {
  const info: KvmExitInfo = { reason: 0, info1: 0, info2: 0, intrInfo: 0, errorCode: 0 };
  vcpu.kvm.module.ops.getExitInfo(vcpu, info);
  return info;
}

/** Whether the last exit cut short the delivery of an event. */
export const exitIsVectoring = (vcpu: Vcpu): boolean => (exitInfo(vcpu).info2 & VALID) !== 0;

/** kvm_prepare_event_vectoring_exit(): KVM_EXIT_INTERNAL_ERROR with the address, or INVALID_GPA. Returns 0. */
export function kvmPrepareEventVectoringExit(vcpu: Vcpu, address: Gpa): number {
  const { run } = vcpu;
  const { reason, info1, info2 } = exitInfo(vcpu);
  run.exit_reason = KVM_EXIT.INTERNAL_ERROR;
  run.internal.suberror = KVM_INTERNAL_ERROR.DELIVERY_EV;
  run.internal.data[0] = BigInt(info2 >>> 0);
  run.internal.data[1] = BigInt(reason >>> 0);
  run.internal.data[2] = BigInt(info1);
  run.internal.data[3] = BigInt.asUintN(64, BigInt(address));
  run.internal.data[4] = BigInt(vcpu.arch.lastVmentryCpu);
  run.internal.ndata = 5;
  return 0;
}
