// SPDX-License-Identifier: GPL-2.0-only
/**
 * Accesses of the emulator to guest-physical memory: RAM, the in-kernel local APIC, or userspace by KVM_EXIT_MMIO.
 * emulator_read_emulated(), emulator_write_emulated() and complete_emulated_mmio() of arch/x86/kvm/x86.c, 6.12.
 */
import { KVM_EXIT } from '../../../lib/uapi/run.ts';
import { KVM_X86_QUIRK } from '../../../lib/uapi/memory.ts';
import { gpa, offsetInPage, PAGE_SIZE, type Gpa } from '../../../lib/x86/addr.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_TRACE_MMIO, TP } from '../trace_events.ts';
import { apicPageOffset, vcpuApic } from './lapic.ts';
import { kvmVcpuReadGuest, kvmVcpuWriteGuest } from './guest_access.ts';

/** One piece of an access: `address` and where its bytes lie in the operand. */
export interface MmioPiece {
  readonly address: Gpa;
  readonly offset: number;
  readonly length: number;
}

const valueOf = (bytes: Uint8Array): bigint => bytes.reduceRight((sum, b) => (sum << 8n) | BigInt(b), 0n);

function traceMmio(vcpu: Vcpu, type: number, address: number, bytes: Uint8Array): void {
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_MMIO] !== 0) trace.record(TP.KVM_MMIO, type, bytes.length, address, valueOf(bytes));
}

/** What lies at the APIC base: registers, or in another mode than xAPIC a hole, or by a quirk of VMs userspace's memory. */
function xapicMode(vcpu: Vcpu): 'registers' | 'hole' | 'userspace' {
  const { apic } = vcpuApic(vcpu);
  if (apic.isEnabled() && !apic.isX2apic()) return 'registers';
  return (vcpu.kvm.arch.disabledQuirks & KVM_X86_QUIRK.LAPIC_MMIO_HOLE) === 0 ? 'hole' : 'userspace';
}

/** The xAPIC page: aligned 32-bit accesses reach the registers. SDM, "APIC Register Address Space". */
function apicRead(vcpu: Vcpu, piece: MmioPiece, out: Uint8Array): boolean {
  const offset = apicPageOffset(vcpu, piece.address);
  if (offset < 0) return false;
  const mode = xapicMode(vcpu);
  if (mode === 'userspace') return false;
  if (mode === 'hole') {
    out.fill(0xff);
    return true;
  }
  // No register is wider than 32 bits or straddles its 16 bytes.
  if ((offset & 0xf) + piece.length > 4) {
    out.fill(0);
    return true;
  }
  const value = vcpuApic(vcpu).apic.read(offset & ~0xf);
  for (let i = 0; i < piece.length; i++) {
    out[i] = value >>> (8 * ((offset & 0xf) + i));
  }
  return true;
}

function apicWrite(vcpu: Vcpu, piece: MmioPiece, bytes: Uint8Array): boolean {
  const offset = apicPageOffset(vcpu, piece.address);
  if (offset < 0) return false;
  const mode = xapicMode(vcpu);
  if (mode !== 'registers') return mode === 'hole';
  if (piece.length === 4 && (offset & 0xf) === 0) {
    vcpuApic(vcpu).apic.write(offset, new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, true));
  }
  return true;
}

/** The pieces of an operand that starts at `first` and, where it crosses a page, goes on at `second`. */
export function mmioPieces(first: Gpa, second: Gpa | undefined, size: number): MmioPiece[] {
  const head = Math.min(size, PAGE_SIZE - offsetInPage(first));
  const pieces = [{ address: first, offset: 0, length: head }];
  if (head < size) pieces.push({ address: second ?? gpa(first + head), offset: head, length: size - head });
  return pieces;
}

/** Read one piece; false: only userspace can answer. */
export function readPiece(vcpu: Vcpu, piece: MmioPiece, out: Uint8Array): boolean {
  if (kvmVcpuReadGuest(vcpu, piece.address, out) === 0) return true;
  if (apicRead(vcpu, piece, out)) {
    traceMmio(vcpu, KVM_TRACE_MMIO.READ, piece.address, out);
    return true;
  }
  traceMmio(vcpu, KVM_TRACE_MMIO.READ_UNSATISFIED, piece.address, out);
  return false;
}

/** Write one piece; false: it is userspace's. */
export function writePiece(vcpu: Vcpu, piece: MmioPiece, bytes: Uint8Array): boolean {
  if (kvmVcpuWriteGuest(vcpu, piece.address, bytes) === 0) return true;
  traceMmio(vcpu, KVM_TRACE_MMIO.WRITE, piece.address, bytes);
  return apicWrite(vcpu, piece, bytes);
}

/** Fill kvm_run for the piece that is next; at most 8 bytes at a time. */
function prepareExit(vcpu: Vcpu): void {
  const frag = vcpu.mmioFragments[vcpu.mmioCurFragment]!;
  const { mmio } = vcpu.run;
  vcpu.run.exit_reason = KVM_EXIT.MMIO;
  mmio.phys_addr = frag.gpa;
  mmio.len = Math.min(8, frag.len);
  mmio.is_write = vcpu.mmioIsWrite;
  if (vcpu.mmioIsWrite !== 0) mmio.data.set(frag.data.subarray(frag.offset, frag.offset + mmio.len));
}

/** Go to userspace for `pieces`; `then` continues once all of them are answered. Returns 0. */
export function mmioExit(
  vcpu: Vcpu,
  pieces: readonly MmioPiece[],
  operand: Uint8Array,
  write: 0 | 1,
  then: (vcpu: Vcpu) => number,
): number {
  vcpu.mmioFragments.length = 0;
  for (const p of pieces)
    vcpu.mmioFragments.push({ gpa: p.address, data: operand, offset: p.offset, len: p.length });
  vcpu.mmioNrFragments = pieces.length;
  vcpu.mmioCurFragment = 0;
  vcpu.mmioIsWrite = write;
  vcpu.mmioNeeded = 1;
  vcpu.stat.mmio_exits++;
  vcpu.arch.completeUserspaceIo = (v) => completeEmulatedMmio(v, then);
  prepareExit(vcpu);
  return 0;
}

/** complete_emulated_mmio(): take what userspace read, go on with the next piece or with the instruction. */
function completeEmulatedMmio(vcpu: Vcpu, then: (vcpu: Vcpu) => number): number {
  const frag = vcpu.mmioFragments[vcpu.mmioCurFragment]!;
  const { mmio } = vcpu.run;
  if (vcpu.mmioIsWrite === 0) {
    frag.data.set(mmio.data.subarray(0, mmio.len), frag.offset);
    traceMmio(vcpu, KVM_TRACE_MMIO.READ, frag.gpa, mmio.data.subarray(0, mmio.len));
  }
  frag.gpa += mmio.len;
  frag.offset += mmio.len;
  frag.len -= mmio.len;
  if (frag.len === 0) vcpu.mmioCurFragment++;
  if (vcpu.mmioCurFragment >= vcpu.mmioNrFragments) {
    vcpu.mmioNeeded = 0;
    return then(vcpu);
  }
  vcpu.arch.completeUserspaceIo = (v) => completeEmulatedMmio(v, then);
  prepareExit(vcpu);
  return 0;
}
