// SPDX-License-Identifier: GPL-2.0-only
/** The end of an instruction that L0 carried out: kvm_skip_emulated_instruction() of arch/x86/kvm/x86.c, 6.12. */
import { DR6, RFLAGS } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmInjectGp, kvmQueueDebugException } from './events.ts';

/** kvm_vcpu_do_singlestep(): a guest that steps gets its DB after this instruction as after any other. */
export function kvmSingleStep(vcpu: Vcpu, rflagsBefore: number): void {
  if ((rflagsBefore & RFLAGS.TF) !== 0) kvmQueueDebugException(vcpu, DR6.BS);
}

/** kvm_skip_emulated_instruction(). */
export function kvmSkipEmulatedInstruction(vcpu: Vcpu): number {
  const { ops } = vcpu.kvm.module;
  const rflags = ops.getRflags(vcpu);
  const r = ops.skipEmulatedInstruction(vcpu);
  kvmSingleStep(vcpu, rflags);
  return r;
}

/** kvm_complete_insn_gp(): a refused operand is the guest's fault. */
export function kvmCompleteInsnGp(vcpu: Vcpu, err: number): number {
  if (err === 0) return kvmSkipEmulatedInstruction(vcpu);
  kvmInjectGp(vcpu, 0);
  return 1;
}
