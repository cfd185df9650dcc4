// SPDX-License-Identifier: GPL-2.0-only
/**
 * One instruction of the reference interpreter: its bytes as they are fetched, prefixes, ModRM, and its operands. SDM,
 * "Instruction Format" and "REX Prefixes". Nothing is kept from one instruction to the next.
 */
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { GPR, RFLAGS } from '../../lib/x86/registers.ts';
import { maskOf, parity, type Size, signExtend, signOf, truncate } from './bits.ts';
import type { Linear, Place, Segment } from './linear.ts';
import { BeyondReference, GuestException, type SystemOperands } from './outcome.ts';
import type { RefPaging } from './paging.ts';
import type { RefState } from './state.ts';

/** Executes an instruction whose bytes have all been read. */
export type Execute = () => void;
/** Reads the rest of an instruction, after its opcode, and says how it is executed. */
export type Decode = (x: Exec) => Execute;
/** Opcode (with 0F, 0F38 in front) and what to do. */
export type OpRow = readonly [opcode: number, decode: Decode];

/** Longest instruction. SDM, "Instruction Format". */
const MAX_LENGTH = 15;

interface ModRm {
  readonly mod: number;
  readonly reg: number;
  readonly rm: number;
  readonly hasSib: boolean;
  readonly scale: number;
  /** Register numbers with their REX bits; -1: none. */
  readonly base: number;
  readonly index: number;
  readonly ripRelative: boolean;
  readonly disp: bigint;
}

export class Exec {
  readonly state: RefState;
  readonly linear: Linear;
  readonly paging: RefPaging;
  readonly bytes: number[] = [];
  operandSize16 = false;
  addressSize32 = false;
  lock = false;
  /** The last of F2 and F3, or 0. */
  repeat = 0;
  segment: 'none' | 'fs' | 'gs' = 'none';
  rex = 0;
  opcode = 0;
  /** A string instruction has iterations left: RIP stays. */
  again = false;
  /** A near branch: where RIP goes. */
  target: bigint | undefined;
  /** The instruction is for the system room. */
  stop: SystemOperands | undefined;
  /** Flags that the manual leaves undefined. */
  undefinedFlags = 0;
  /** A register, or bytes of memory, that the manual leaves undefined. */
  undefinedReg = -1;
  undefinedPlace: Place | undefined;
  /** The memory operand that modifyRm() is working on. */
  modified: Place | undefined;
  /** Stores that were made before a fault stay: they are beyond the stack pointer, which does not move. */
  keepsStores = false;
  /** The form with a memory destination takes LOCK. */
  lockable = false;
  /** Cycles that it costs even if it faults. */
  faultCycles = 0;
  /** What the instruction costs besides its one cycle. */
  extra: 'none' | 'lock' | 'div' | 'fence' = 'none';
  #page = -1n;
  #physical = 0;
  /** The ModRM byte, once it has been read; what follows it may still have to be. */
  #modrmByte = -1;
  #modrm: ModRm | undefined;

  constructor(state: RefState, linear: Linear, paging: RefPaging) {
    this.paging = paging;
    this.state = state;
    this.linear = linear;
  }

  // --- the instruction's bytes

  /** The next byte of the instruction. */
  byte(): number {
    if (this.bytes.length === MAX_LENGTH) throw new GuestException(VECTOR.GP);
    const at = BigInt.asUintN(64, this.state.rip + BigInt(this.bytes.length));
    if (at >> 12n !== this.#page) {
      this.#physical = this.linear.place(at, 1, 'exec', 'data')[0]!;
      this.#page = at >> 12n;
    } else this.#physical++;
    const value = Number(this.linear.get([this.#physical]));
    this.bytes.push(value);
    return value;
  }

  /** The next `size` bytes, unsigned. */
  immediate(size: number): bigint {
    this.finishModRm();
    return this.#littleEndian(size);
  }

  #littleEndian(size: number): bigint {
    let value = 0n;
    for (let n = 0; n < size; n++) value |= BigInt(this.byte()) << BigInt(8 * n);
    return value;
  }

  /** The next `size` bytes, sign-extended to `to` bytes. */
  signedImmediate(size: number, to: number): bigint {
    return signExtend(this.immediate(size), size, to);
  }

  /** An immediate of the operand size, but never more than four bytes: sign-extended to eight. */
  immediateZ(size: Size): bigint {
    return this.signedImmediate(size === 8 ? 4 : size, size);
  }

  /** Address of the next instruction, once all bytes have been read. */
  get next(): bigint {
    return BigInt.asUintN(64, this.state.rip + BigInt(this.bytes.length));
  }

  // --- prefixes

  rexBit(name: 'w' | 'r' | 'x' | 'b'): number {
    const shift = { w: 3, r: 2, x: 1, b: 0 }[name];
    return (this.rex >> shift) & 1;
  }

  /** 2, 4 or 8. */
  get operandSize(): Size {
    if (this.rexBit('w') === 1) return 8;
    return this.operandSize16 ? 2 : 4;
  }

  /** 2 or 8: of instructions that refer to the stack. SDM, "Default 64-Bit Operand Size". */
  get stackSize(): Size {
    return this.rexBit('w') === 0 && this.operandSize16 ? 2 : 8;
  }

  get addressSize(): Size {
    return this.addressSize32 ? 4 : 8;
  }

  // --- ModRM

  /** The ModRM byte with SIB and displacement; read on first use. */
  get modrm(): ModRm {
    this.#modrm ??= this.#readModRm();
    return this.#modrm;
  }

  #readModRm(): ModRm {
    const byte = this.#firstByte();
    const mod = byte >> 6;
    const reg = ((byte >> 3) & 7) | (this.rexBit('r') << 3);
    const low = byte & 7;
    const rm = low | (this.rexBit('b') << 3);
    const none = { mod, reg, rm, hasSib: false, scale: 0, base: -1, index: -1, ripRelative: false, disp: 0n };
    if (mod === 3) return none;
    let { base, index, scale } = none;
    const hasSib = low === 4;
    let ripRelative = false;
    let dispSize = [0, 1, 4][mod]!;
    if (hasSib) {
      const sib = this.byte();
      scale = sib >> 6;
      index = ((sib >> 3) & 7) | (this.rexBit('x') << 3);
      if (index === 4) index = -1;
      base = (sib & 7) | (this.rexBit('b') << 3);
      if ((sib & 7) === 5 && mod === 0) {
        base = -1;
        dispSize = 4;
      }
    } else if (low === 5 && mod === 0) {
      ripRelative = true;
      dispSize = 4;
    } else base = rm;
    const disp = signExtend(this.#littleEndian(dispSize), Math.max(dispSize, 1), 8);
    return { mod, reg, rm, hasSib, scale, base, index, ripRelative, disp };
  }

  /** Read the ModRM byte, for an instruction whose operands are looked at only when it is executed. */
  needModRm(): void {
    this.#modrm ??= this.#readModRm();
  }

  #firstByte(): number {
    if (this.#modrmByte < 0) this.#modrmByte = this.byte();
    return this.#modrmByte;
  }

  /** Read SIB and displacement if only the ModRM byte has been looked at. */
  finishModRm(): void {
    if (this.#modrmByte >= 0) this.needModRm();
  }

  /** ModRM.reg without REX: the opcode extension. An invalid one is known before SIB and displacement are read. */
  get digit(): number {
    return (this.#firstByte() >> 3) & 7;
  }

  get isMemory(): boolean {
    return this.#firstByte() >> 6 !== 3;
  }

  /** Effective address of the memory operand; all bytes must have been read. */
  effectiveAddress(): bigint {
    const { base, index, scale, ripRelative, disp } = this.modrm;
    let sum = disp;
    if (ripRelative) sum += this.next;
    if (base >= 0) sum += this.state.gpr[base]!;
    if (index >= 0) sum += this.state.gpr[index]! << BigInt(scale);
    return truncate(sum, this.addressSize);
  }

  /** An offset with the base of the segment that an override names; other bases are zero in 64-bit mode. */
  withSegment(offset: bigint): bigint {
    if (this.segment === 'fs') return BigInt.asUintN(64, offset + this.state.fsBase);
    if (this.segment === 'gs') return BigInt.asUintN(64, offset + this.state.gsBase);
    return offset;
  }

  /** Which fault a non-canonical memory operand raises: it is in SS if its base is RSP or RBP. */
  get operandSegment(): Segment {
    const { base } = this.modrm;
    return this.segment === 'none' && (base === GPR.RSP || base === GPR.RBP) ? 'stack' : 'data';
  }

  /** Linear address of the memory operand. */
  operandAddress(): bigint {
    return this.withSegment(this.effectiveAddress());
  }

  // --- operands

  /** A general-purpose register, `size` bytes. Without REX, byte registers 4 to 7 are AH, CH, DH, BH. */
  getReg(n: number, size: number): bigint {
    const { gpr } = this.state;
    if (size === 1 && this.rex === 0 && n >= 4) return truncate(gpr[n - 4]! >> 8n, 1);
    return truncate(gpr[n]!, size);
  }

  setReg(n: number, size: number, value: bigint): void {
    const { gpr } = this.state;
    if (size === 1 && this.rex === 0 && n >= 4) {
      gpr[n - 4] = (gpr[n - 4]! & ~0xff00n) | (truncate(value, 1) << 8n);
    } else if (size <= 2) gpr[n] = (gpr[n]! & ~maskOf(size)) | truncate(value, size);
    else gpr[n] = truncate(value, size);
  }

  /** The ModRM.rm operand. */
  getRm(size: number): bigint {
    if (!this.isMemory) return this.getReg(this.modrm.rm, size);
    return this.linear.load(this.operandAddress(), size, this.operandSegment);
  }

  setRm(size: number, value: bigint): void {
    if (!this.isMemory) this.setReg(this.modrm.rm, size, value);
    else this.linear.store(this.operandAddress(), size, value, this.operandSegment);
  }

  /** Read, change and write the ModRM.rm operand; memory is translated once, for a write. */
  modifyRm(size: number, change: (old: bigint) => bigint): void {
    if (!this.isMemory) {
      this.setReg(this.modrm.rm, size, change(this.getReg(this.modrm.rm, size)));
      return;
    }
    const place = this.linear.place(this.operandAddress(), size, 'write', this.operandSegment);
    this.modified = place;
    this.linear.set(place, change(this.linear.get(place)));
  }

  // --- stack

  /** Push `size` bytes. RSP is 64 bits wide in 64-bit mode. */
  push(value: bigint, size: number): void {
    const { gpr } = this.state;
    const top = BigInt.asUintN(64, gpr[GPR.RSP]! - BigInt(size));
    this.linear.store(top, size, value, 'stack');
    gpr[GPR.RSP] = top;
  }

  pop(size: number): bigint {
    const { gpr } = this.state;
    const value = this.linear.load(gpr[GPR.RSP]!, size, 'stack');
    gpr[GPR.RSP] = BigInt.asUintN(64, gpr[GPR.RSP]! + BigInt(size));
    return value;
  }

  /** Near transfer of control; a target that is not canonical faults at the branch. */
  branch(target: bigint): void {
    if (!this.linear.isCanonical(target)) throw new GuestException(VECTOR.GP);
    this.target = target;
  }

  // --- flags

  flag(name: keyof typeof RFLAGS): boolean {
    return (this.state.rflags & RFLAGS[name]) !== 0;
  }

  setFlag(name: keyof typeof RFLAGS, on: boolean | number): void {
    const set = on === true || on === 1;
    this.state.rflags = set ? this.state.rflags | RFLAGS[name] : this.state.rflags & ~RFLAGS[name];
  }

  /** SF, ZF and PF according to a result. */
  setResultFlags(result: bigint, size: number): void {
    this.setFlag('SF', signOf(result, size));
    this.setFlag('ZF', truncate(result, size) === 0n);
    this.setFlag('PF', parity(result));
  }

  // --- ways out

  invalid(): never {
    throw new GuestException(VECTOR.UD);
  }

  beyond(what: string): never {
    throw new BeyondReference(what);
  }

  /** An instruction of the system room; with its ModRM operands if it has any. `reg`: ModRM.reg is one of them. */
  system(op: string, reg?: number): void {
    const register = reg === undefined ? {} : { reg };
    if (this.#modrm === undefined) this.stop = { op, ...register };
    else if (!this.isMemory) this.stop = { op, ...register, rm: this.modrm.rm };
    else this.stop = { op, ...register, rm: -1, linear: this.operandAddress() };
  }
}
