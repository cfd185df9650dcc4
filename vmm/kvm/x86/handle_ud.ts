// SPDX-License-Identifier: GPL-2.0-only
/**
 * UD of a guest: handle_ud() of arch/x86/kvm/x86.c, 6.12. With kvm.force_emulation_prefix=1 the bytes of UD2 and "kvm" before an
 * instruction make L0 emulate it.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmRipAdvance } from './cache_regs.ts';
import { isFault, fetchInsn } from './emulate_ctxt.ts';
import { kvmEmulateInstruction } from './emulate.ts';
import { kvmQueueException } from './events.ts';

/** __KVM_EMULATE_PREFIX: UD2, "kvm". */
const PREFIX = [0x0f, 0x0b, 0x6b, 0x76, 0x6d] as const;

function hasPrefix(vcpu: Vcpu): boolean {
  const bytes = fetchInsn(vcpu);
  return !isFault(bytes) && PREFIX.every((byte, i) => bytes[i] === byte);
}

/** handle_ud(): 1 to go on, 0 to go to userspace. */
export function handleUd(vcpu: Vcpu): number {
  if (vcpu.kvm.module.params['kvm.force_emulation_prefix'] !== 0 && hasPrefix(vcpu)) {
    kvmRipAdvance(vcpu, PREFIX.length);
    return kvmEmulateInstruction(vcpu);
  }
  kvmQueueException(vcpu, VECTOR.UD);
  return 1;
}
