// SPDX-License-Identifier: GPL-2.0-only
/** Debug registers as the guest sees them: kvm_get_dr() and kvm_set_dr() of arch/x86/kvm/x86.c, 6.12. */
import { X86_FEATURE } from '../../../lib/x86/cpuid.ts';
import { DR6, DR7 } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import { pair } from './cache_regs.ts';
import { guestHas } from './cpuid_entry.ts';

const DR6_VOLATILE = 0x0001_e00f;
/** Clear after a debug exception inside a transaction; reads as one where there are none. */
const DR6_RTM = 0x0001_0000;
const DR7_VOLATILE = 0xffff_2bff;

/** DR4 and DR5 are DR6 and DR7; the caller has checked CR4.DE. */
export function kvmGetDr(vcpu: Vcpu, dr: number): bigint {
  const { arch } = vcpu;
  if (dr < 4) return pair(arch.db[2 * dr]!, arch.db[2 * dr + 1]!);
  return BigInt((dr === 4 || dr === 6 ? arch.dr6 : arch.dr7) >>> 0);
}

/** 1: the value sets reserved bits. */
export function kvmSetDr(vcpu: Vcpu, dr: number, value: bigint): number {
  const { arch } = vcpu;
  if (dr < 4) {
    arch.db[2 * dr] = Number(BigInt.asIntN(32, value));
    arch.db[2 * dr + 1] = Number(BigInt.asIntN(32, value >> 32n));
    return 0;
  }
  if (value >> 32n !== 0n) return 1;
  const low = Number(value);
  if (dr === 4 || dr === 6) {
    const rtm = guestHas(vcpu, X86_FEATURE.RTM) ? 0 : DR6_RTM;
    arch.dr6 = (low & DR6_VOLATILE) | (DR6.FIXED_1 & ~DR6_VOLATILE) | rtm;
  } else kvmSetDr7(vcpu, low);
  return 0;
}

/** kvm_set_dr() of DR7, whose bits 63:32 are zero. */
export function kvmSetDr7(vcpu: Vcpu, value: number): void {
  const { arch } = vcpu;
  arch.dr7 = (value & DR7_VOLATILE) | DR7.FIXED_1;
  vcpu.kvm.module.ops.setDr7(vcpu, arch.dr7 >>> 0);
}
