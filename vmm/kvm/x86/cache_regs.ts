// SPDX-License-Identifier: GPL-2.0-only
/**
 * Registers of a vCPU that live in the VMCS until somebody asks: kvm_cache_regs.h, 6.12. GPRs other than RSP are always
 * in vcpu.arch.regs; RSP, RIP, RFLAGS, segments, CR0, CR3 and CR4 are fetched once per exit.
 */
import { GPR } from '../../../lib/x86/registers.ts';
import type { Vcpu } from '../kvm_host.ts';
import { VCPU_REGS_RIP } from '../kvm_host_x86.ts';

/** enum kvm_reg: bits of regsAvail and regsDirty. */
// prettier-ignore
export const VCPU_EXREG = {
  RSP:      0x01,
  RIP:      0x02,
  CR0:      0x04,
  CR3:      0x08,
  CR4:      0x10,
  RFLAGS:   0x20,
  ALL:      0x3f,
} as const;

const cached = (vcpu: Vcpu, reg: number): void => {
  if ((vcpu.arch.regsAvail & reg) === 0) vcpu.kvm.module.ops.cacheReg(vcpu, reg);
};

/** kvm_register_read_raw(): makes sure that `regs` holds GPR n. */
export function kvmRegisterCache(vcpu: Vcpu, n: number): void {
  if (n === GPR.RSP) cached(vcpu, VCPU_EXREG.RSP);
}

/** Low half of a GPR, unsigned. */
export function kvmRegisterRead32(vcpu: Vcpu, n: number): number {
  kvmRegisterCache(vcpu, n);
  return vcpu.arch.regs[2 * n]! >>> 0;
}

export function kvmRegisterRead(vcpu: Vcpu, n: number): bigint {
  kvmRegisterCache(vcpu, n);
  return pair(vcpu.arch.regs[2 * n]!, vcpu.arch.regs[2 * n + 1]!);
}

/** kvm_register_write(): lo and hi of a GPR. */
export function kvmRegisterWrite(vcpu: Vcpu, n: number, lo: number, hi: number): void {
  vcpu.arch.regs[2 * n] = lo;
  vcpu.arch.regs[2 * n + 1] = hi;
  if (n === GPR.RSP) markDirty(vcpu, VCPU_EXREG.RSP);
}

export function kvmRipRead(vcpu: Vcpu): bigint {
  cached(vcpu, VCPU_EXREG.RIP);
  return pair(vcpu.arch.regs[VCPU_REGS_RIP]!, vcpu.arch.regs[VCPU_REGS_RIP + 1]!);
}

/** Makes sure that `regs` holds RIP. */
export const kvmRipCache = (vcpu: Vcpu): void => cached(vcpu, VCPU_EXREG.RIP);

export function kvmRipWritePair(vcpu: Vcpu, lo: number, hi: number): void {
  vcpu.arch.regs[VCPU_REGS_RIP] = lo;
  vcpu.arch.regs[VCPU_REGS_RIP + 1] = hi;
  markDirty(vcpu, VCPU_EXREG.RIP);
}

export function kvmRipWrite(vcpu: Vcpu, rip: bigint): void {
  vcpu.arch.regs[VCPU_REGS_RIP] = Number(BigInt.asIntN(32, rip));
  vcpu.arch.regs[VCPU_REGS_RIP + 1] = Number(BigInt.asIntN(32, rip >> 32n));
  markDirty(vcpu, VCPU_EXREG.RIP);
}

/** RIP moves past an instruction of `length` bytes. */
export function kvmRipAdvance(vcpu: Vcpu, length: number): void {
  cached(vcpu, VCPU_EXREG.RIP);
  const regs = vcpu.arch.regs;
  const lo = regs[VCPU_REGS_RIP]!;
  const sum = (lo + length) | 0;
  regs[VCPU_REGS_RIP] = sum;
  if (sum >>> 0 < lo >>> 0) regs[VCPU_REGS_RIP + 1] = regs[VCPU_REGS_RIP + 1]! + 1;
  markDirty(vcpu, VCPU_EXREG.RIP);
}

export function kvmReadCr0(vcpu: Vcpu): number {
  if (vcpu.arch.cr0GuestOwnedBits !== 0) cached(vcpu, VCPU_EXREG.CR0);
  return vcpu.arch.cr0;
}

export function kvmReadCr3(vcpu: Vcpu): number {
  cached(vcpu, VCPU_EXREG.CR3);
  return vcpu.arch.cr3;
}

export function kvmReadCr4(vcpu: Vcpu): number {
  if (vcpu.arch.cr4GuestOwnedBits !== 0) cached(vcpu, VCPU_EXREG.CR4);
  return vcpu.arch.cr4;
}

export function markAvail(vcpu: Vcpu, reg: number): void {
  vcpu.arch.regsAvail |= reg;
}

export function markDirty(vcpu: Vcpu, reg: number): void {
  vcpu.arch.regsAvail |= reg;
  vcpu.arch.regsDirty |= reg;
}

/** vcpu->arch.hflags: the vCPU runs L2. */
export const HF_GUEST_MASK = 0x20;

/** is_guest_mode(): L2 is active. */
export const isGuestMode = (vcpu: Vcpu): boolean => (vcpu.arch.hflags & HF_GUEST_MASK) !== 0;

/** enter_guest_mode(). */
export function enterGuestMode(vcpu: Vcpu): void {
  vcpu.arch.hflags |= HF_GUEST_MASK;
  vcpu.stat.guest_mode = 1;
}

/** leave_guest_mode(). */
export function leaveGuestMode(vcpu: Vcpu): void {
  vcpu.arch.hflags &= ~HF_GUEST_MASK;
  vcpu.stat.guest_mode = 0;
}

/** 64 bits from two words. */
export const pair = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
/** Bits 31:0 and 63:32 of a 64-bit value as int32. */
export const low = (value: bigint): number => Number(BigInt.asIntN(32, value));
export const high = (value: bigint): number => Number(BigInt.asIntN(32, value >> 32n));
