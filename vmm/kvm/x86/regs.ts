// SPDX-License-Identifier: GPL-2.0-only
/** KVM_GET/SET_REGS and KVM_GET/SET_SREGS. Mirrors __get_regs() to __set_sregs() of arch/x86/kvm/x86.c, 6.12. */
import {
  kvmRegs,
  kvmSegment,
  kvmSregs,
  type KvmRegs,
  type KvmSegment,
  type KvmSregs,
} from '../../../lib/uapi/regs.ts';
import { KVM_MP_STATE } from '../../../lib/uapi/vcpu_state.ts';
import { CR0, CR4, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmMmuResetContext } from '../mmu/mmu.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import {
  high,
  kvmReadCr0,
  kvmReadCr3,
  kvmReadCr4,
  kvmRegisterRead,
  kvmRegisterWrite,
  kvmRipRead,
  kvmRipWrite,
  low,
  markDirty,
  pair,
  VCPU_EXREG,
} from './cache_regs.ts';
import { kvmIsValidCr0, kvmIsValidCr4 } from './cr.ts';
import { kvmLapicGetCr8, kvmLapicSetTpr, kvmSetApicBase, lapicInKernel } from './lapic.ts';

const GPR_NAMES = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
] as const;

/** KVM_GET_REGS. */
export function kvmGetRegs(vcpu: Vcpu): KvmRegs {
  const regs = kvmRegs();
  for (const [n, name] of GPR_NAMES.entries()) regs[name] = kvmRegisterRead(vcpu, n);
  regs.rip = kvmRipRead(vcpu);
  regs.rflags = BigInt(vcpu.kvm.module.ops.getRflags(vcpu));
  return regs;
}

/** KVM_SET_REGS: an exception that waited for injection is dropped, as its context is gone. */
export function kvmSetRegs(vcpu: Vcpu, regs: KvmRegs): void {
  for (const [n, name] of GPR_NAMES.entries()) {
    const value = BigInt.asUintN(64, regs[name]);
    kvmRegisterWrite(vcpu, n, low(value), high(value));
  }
  markDirty(vcpu, VCPU_EXREG.RSP);
  kvmRipWrite(vcpu, BigInt.asUintN(64, regs.rip));
  vcpu.kvm.module.ops.setRflags(vcpu, Number(regs.rflags & 0xffff_ffffn) | RFLAGS.FIXED);
  vcpu.arch.exception.pending = false;
  vcpu.arch.exceptionVmexit.pending = false;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
}

const SEGMENTS = [
  ['es', SEGN.ES],
  ['cs', SEGN.CS],
  ['ss', SEGN.SS],
  ['ds', SEGN.DS],
  ['fs', SEGN.FS],
  ['gs', SEGN.GS],
  ['ldt', SEGN.LDTR],
  ['tr', SEGN.TR],
] as const;

/** KVM_GET_SREGS. */
export function kvmGetSregs(vcpu: Vcpu): KvmSregs {
  const { ops } = vcpu.kvm.module;
  const { arch } = vcpu;
  const sregs = kvmSregs();
  for (const [name, n] of SEGMENTS) {
    const segment: KvmSegment = kvmSegment();
    ops.getSegment(vcpu, n, segment);
    sregs[name] = segment;
  }
  sregs.idt = ops.getIdt(vcpu);
  sregs.gdt = ops.getGdt(vcpu);
  sregs.cr0 = BigInt(kvmReadCr0(vcpu));
  sregs.cr2 = pair(arch.cr2Lo, arch.cr2Hi);
  sregs.cr3 = BigInt(kvmReadCr3(vcpu));
  sregs.cr4 = BigInt(kvmReadCr4(vcpu));
  sregs.cr8 = BigInt(kvmLapicGetCr8(vcpu));
  sregs.efer = BigInt(arch.efer);
  sregs.apic_base = BigInt(arch.apicBase);
  if (arch.interrupt.injected && !arch.interrupt.soft) {
    sregs.interrupt_bitmap[arch.interrupt.nr >> 6]! |= 1n << BigInt(arch.interrupt.nr & 63);
  }
  return sregs;
}

/** kvm_is_valid_sregs(): what the processor could not be in. */
function isValidSregs(vcpu: Vcpu, sregs: KvmSregs): boolean {
  const efer = Number(sregs.efer);
  if ((efer & EFER.LME) !== 0 && (sregs.cr0 & BigInt(CR0.PG)) !== 0n) {
    // 64-bit paging: PAE is on, LMA follows, CR3 fits.
    if ((sregs.cr4 & BigInt(CR4.PAE)) === 0n || (efer & EFER.LMA) === 0) return false;
    if (sregs.cr3 >> BigInt(vcpu.arch.maxphyaddr) !== 0n) return false;
  } else if ((efer & EFER.LMA) !== 0 || sregs.cs.l !== 0) {
    return false;
  }
  return kvmIsValidCr4(vcpu, sregs.cr4) && kvmIsValidCr0(vcpu, sregs.cr0);
}

/** KVM_SET_SREGS; 1: refused, nothing changed but possibly the APIC base. */
export function kvmSetSregs(vcpu: Vcpu, sregs: KvmSregs): number {
  if (!isValidSregs(vcpu, sregs)) return 1;
  if (kvmSetApicBase(vcpu, sregs.apic_base, 'host') !== 0) return 1;
  const { ops } = vcpu.kvm.module;
  const { arch } = vcpu;
  const before = [kvmReadCr0(vcpu), kvmReadCr3(vcpu), kvmReadCr4(vcpu), arch.efer].join();
  ops.setIdt(vcpu, sregs.idt);
  ops.setGdt(vcpu, sregs.gdt);
  arch.cr2Lo = low(sregs.cr2);
  arch.cr2Hi = high(sregs.cr2);
  arch.cr3 = Number(sregs.cr3);
  markDirty(vcpu, VCPU_EXREG.CR3);
  kvmLapicSetTpr(vcpu, Number(sregs.cr8 & 0xfn));
  ops.setEfer(vcpu, Number(sregs.efer));
  ops.setCr0(vcpu, Number(sregs.cr0 & 0xffff_ffffn));
  ops.setCr4(vcpu, Number(sregs.cr4 & 0xffff_ffffn));
  if ([arch.cr0, arch.cr3, arch.cr4, arch.efer].join() !== before) {
    kvmMmuResetContext(vcpu);
    kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
  }
  for (const [name, n] of SEGMENTS) ops.setSegment(vcpu, n, sregs[name]);
  const pending = sregs.interrupt_bitmap.findIndex((word) => word !== 0n);
  if (pending >= 0) queueInterrupt(vcpu, pending * 64 + lowestBit(sregs.interrupt_bitmap[pending]!));
  // The bootstrap processor starts at the reset vector; older userspace sets only the registers.
  const atReset =
    kvmRipRead(vcpu) === 0xfff0n &&
    sregs.cs.selector === 0xf000 &&
    sregs.cs.base === 0xffff_0000n &&
    (sregs.cr0 & BigInt(CR0.PE)) === 0n;
  if (vcpu.vcpuId === vcpu.kvm.arch.bspVcpuId && atReset) arch.mpState = KVM_MP_STATE.RUNNABLE;
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return 0;
}

function lowestBit(word: bigint): number {
  let n = 0;
  while (((word >> BigInt(n)) & 1n) === 0n) n++;
  return n;
}

/** kvm_queue_interrupt(): as if the vector had been acknowledged already. */
function queueInterrupt(vcpu: Vcpu, vector: number): void {
  vcpu.arch.interrupt.injected = true;
  vcpu.arch.interrupt.soft = false;
  vcpu.arch.interrupt.nr = vector;
}

/** KVM_INTERRUPT: for VMs without an in-kernel APIC; false if there is one. */
export function kvmIoctlInterrupt(vcpu: Vcpu, vector: number): boolean {
  if (lapicInKernel(vcpu)) return false;
  queueInterrupt(vcpu, vector);
  kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return true;
}
