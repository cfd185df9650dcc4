// SPDX-License-Identifier: GPL-2.0-only
/** kvm_inject_page_fault() of arch/x86/kvm/x86.c, 6.12: a page fault for the guest whose linear address it is. */
import type { Vcpu } from '../kvm_host.ts';
import { high, low } from './cache_regs.ts';
import { kvmInjectEmulatedException } from './events.ts';
import type { X86Exception } from './x86_exception.ts';

export function kvmInjectPageFault(vcpu: Vcpu, fault: X86Exception): void {
  const cr2 = { lo: low(fault.linear), hi: high(fault.linear) };
  kvmInjectEmulatedException(vcpu, fault.vector, fault.errorCode, cr2);
}
