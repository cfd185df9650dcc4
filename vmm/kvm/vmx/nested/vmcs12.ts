// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct vmcs12 in L0's memory: the cached copy of the VMCS that L1 loaded by VMPTRLD. Fields are named by their encodings
 * and read as words; a 16- or 32-bit field has no upper half. Mirrors arch/x86/kvm/vmx/vmcs12.h, 6.12.
 */
import { VMCS_WIDTH, vmcsFieldWidth } from '../../../../lib/x86/vmx/field.ts';
import {
  VMCS12_ABORT_OFFSET,
  VMCS12_LAUNCH_STATE_OFFSET,
  VMCS12_REVISION_OFFSET,
  VMCS12_SIZE,
  vmcs12Offset,
} from './vmcs12_layout.ts';

const TWO_32 = 0x1_0000_0000;

export class Vmcs12 {
  /** The whole of it, as it lies in L1's memory. */
  readonly bytes = new Uint8Array(VMCS12_SIZE);
  /** The same by words, for groups of fields. */
  readonly i32 = new Int32Array(this.bytes.buffer);
  readonly u16 = new Uint16Array(this.bytes.buffer);

  get revisionId(): number {
    return this.i32[VMCS12_REVISION_OFFSET >> 2]!;
  }

  set revisionId(value: number) {
    this.i32[VMCS12_REVISION_OFFSET >> 2] = value;
  }

  get abort(): number {
    return this.i32[VMCS12_ABORT_OFFSET >> 2]!;
  }

  /** Zero after VMCLEAR, one after VMLAUNCH. */
  get launchState(): number {
    return this.i32[VMCS12_LAUNCH_STATE_OFFSET >> 2]!;
  }

  set launchState(value: number) {
    this.i32[VMCS12_LAUNCH_STATE_OFFSET >> 2] = value;
  }

  /** Bits 31:0 as a signed word; of a 16-bit field its value. */
  lo(field: number): number {
    const offset = vmcs12Offset(field);
    return (field & 0x6000) === 0 ? this.u16[offset >> 1]! : this.i32[offset >> 2]!;
  }

  /** Bits 63:32 as a signed word, 0 if the field has none. */
  hi(field: number): number {
    return (vmcsFieldWidth(field) & 1) === 1 ? this.i32[(vmcs12Offset(field) >> 2) + 1]! : 0;
  }

  /** Bits 31:0, unsigned. */
  u32(field: number): number {
    return this.lo(field) >>> 0;
  }

  /** The field as a number: exact below 2^53. */
  num(field: number): number {
    return (this.hi(field) >>> 0) * TWO_32 + (this.lo(field) >>> 0);
  }

  u64(field: number): bigint {
    return (BigInt(this.hi(field) >>> 0) << 32n) | BigInt(this.lo(field) >>> 0);
  }

  /** vmcs12_write_any(): what does not fit the field's width is dropped. */
  setPair(field: number, lo: number, hi: number): void {
    const offset = vmcs12Offset(field);
    const width = vmcsFieldWidth(field);
    if (width === VMCS_WIDTH.U16) {
      this.u16[offset >> 1] = lo;
      return;
    }
    this.i32[offset >> 2] = lo;
    if ((width & 1) === 1) this.i32[(offset >> 2) + 1] = hi;
  }

  /** A field whose bits 63:32 become 0, if it has them. */
  set32(field: number, value: number): void {
    this.setPair(field, value, 0);
  }

  /** A number below 2^53. */
  setNum(field: number, value: number): void {
    this.setPair(field, value | 0, Math.floor(value / TWO_32) | 0);
  }

  set64(field: number, value: bigint): void {
    this.setPair(field, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
  }
}
