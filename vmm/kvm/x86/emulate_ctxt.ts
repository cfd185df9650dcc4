// SPDX-License-Identifier: GPL-2.0-only
/**
 * One instruction that L0 emulates: its bytes fetched through the guest's tables, its operands located. struct
 * x86_emulate_ctxt of arch/x86/kvm/kvm_emulate.h, 6.12.
 */
import { PAGE_SIZE, type Gpa } from '../../../lib/x86/addr.ts';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { kvmSegment } from '../../../lib/uapi/regs.ts';
import { decodeAt } from '../../machine/cpu/decode/decoder.ts';
import type { DecodedInsn } from '../../machine/cpu/decode/insn.ts';
import { HIGH_BYTE } from '../../machine/cpu/decode/ops.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmReadCr4, kvmRegisterRead, kvmRegisterWrite, kvmRipRead, low, high } from './cache_regs.ts';
import { kvmGvaToGpa } from './gva.ts';
import { kvmVcpuReadGuest } from './guest_access.ts';

const MAX_INSN = 15;

/** An exception that emulation meets; page faults are X86Exceptions, whose owner gets them. */
export interface EmulatedFault {
  readonly vector: number;
  readonly errorCode: number;
  readonly linear: bigint;
}

export const isFault = (x: object): x is EmulatedFault => 'vector' in x;

/** The bytes at RIP, fewer where memory ends. */
export function fetchInsn(vcpu: Vcpu): Uint8Array | EmulatedFault {
  const rip = kvmRipRead(vcpu);
  const first = kvmGvaToGpa(vcpu, rip, PFERR.FETCH);
  if (!('gpa' in first)) return first;
  const head = Math.min(MAX_INSN, PAGE_SIZE - Number(rip & 0xfffn));
  const bytes = new Uint8Array(MAX_INSN);
  if (kvmVcpuReadGuest(vcpu, first.gpa, bytes.subarray(0, head)) < 0) return new Uint8Array(0);
  if (head === MAX_INSN) return bytes;
  const next = kvmGvaToGpa(vcpu, rip + BigInt(head), PFERR.FETCH);
  if (!('gpa' in next) || kvmVcpuReadGuest(vcpu, next.gpa, bytes.subarray(head)) < 0)
    return bytes.subarray(0, head);
  return bytes;
}

/** Decode the instruction at RIP; its bytes are kept for error reports. */
export function decodeGuestInsn(vcpu: Vcpu): { insn: DecodedInsn; bytes: Uint8Array } | EmulatedFault {
  const bytes = fetchInsn(vcpu);
  if (isFault(bytes)) return bytes;
  return { insn: decodeAt(bytes), bytes };
}

/** The linear address of the memory operand. */
export function linearAddress(vcpu: Vcpu, insn: DecodedInsn): bigint {
  const disp = (BigInt(insn.dispHi) << 32n) | BigInt(insn.disp >>> 0);
  let ea = disp;
  if (insn.ripRelative) ea += kvmRipRead(vcpu) + BigInt(insn.length);
  if (insn.base >= 0) ea += kvmRegisterRead(vcpu, insn.base);
  if (insn.index >= 0) ea += kvmRegisterRead(vcpu, insn.index) << BigInt(insn.scale);
  if (insn.addressSize === 4) ea = BigInt.asUintN(32, ea);
  if (insn.seg === SEGN.FS || insn.seg === SEGN.GS) {
    const segment = kvmSegment();
    vcpu.kvm.module.ops.getSegment(vcpu, insn.seg, segment);
    ea += segment.base;
  }
  return BigInt.asUintN(64, ea);
}

/** Guest-physical addresses of an operand: of its first byte and, if it crosses a page, of the next page. */
export interface OperandGpa {
  readonly first: Gpa;
  readonly second: Gpa | undefined;
}

/** SDM, "Canonical Addressing": the upper bits repeat the highest that paging translates. */
function isCanonical(vcpu: Vcpu, linear: bigint): boolean {
  const bits = (kvmReadCr4(vcpu) & CR4.LA57) !== 0 ? 57 : 48;
  return BigInt.asUintN(64, BigInt.asIntN(bits, linear)) === linear;
}

/** Translate an operand of `size` bytes at `linear`. */
export function translateOperand(
  vcpu: Vcpu,
  linear: bigint,
  size: number,
  access: number,
): OperandGpa | EmulatedFault {
  if (!isCanonical(vcpu, linear)) return { vector: VECTOR.GP, errorCode: 0, linear };
  const first = kvmGvaToGpa(vcpu, linear, access);
  if (!('gpa' in first)) return first;
  const head = PAGE_SIZE - Number(linear & 0xfffn);
  if (head >= size) return { first: first.gpa, second: undefined };
  const next = BigInt.asUintN(64, linear + BigInt(head));
  const second = kvmGvaToGpa(vcpu, next, access);
  return 'gpa' in second ? { first: first.gpa, second: second.gpa } : second;
}

/** A register operand by the decoder's number. */
export function readRegister(vcpu: Vcpu, n: number, bytes: number): bigint {
  if (n >= HIGH_BYTE) return (kvmRegisterRead(vcpu, n - HIGH_BYTE) >> 8n) & 0xffn;
  return BigInt.asUintN(bytes * 8, kvmRegisterRead(vcpu, n));
}

/** Write a register operand: 32-bit results clear the upper half, narrower ones keep the rest. */
export function writeRegister(vcpu: Vcpu, n: number, bytes: number, value: bigint): void {
  const number = n >= HIGH_BYTE ? n - HIGH_BYTE : n;
  const shift = n >= HIGH_BYTE ? 8n : 0n;
  const old = kvmRegisterRead(vcpu, number);
  const mask = ((1n << BigInt(bytes * 8)) - 1n) << shift;
  const merged = bytes >= 4 ? value : (old & ~mask) | ((value << shift) & mask);
  kvmRegisterWrite(vcpu, number, low(merged), high(merged));
}

/** The immediate as an unsigned operand of the given size. */
export const immediate = (insn: DecodedInsn, bytes: number): bigint =>
  BigInt.asUintN(bytes * 8, (BigInt(insn.immHi) << 32n) | BigInt(insn.immLo >>> 0));
