// SPDX-License-Identifier: GPL-2.0-only
/**
 * Reading an instruction's bytes and its prefixes. Running out of bytes, or over 15 of them, is remembered, so that the
 * caller looks once at the end. SDM, "Instruction Prefixes" and "REX Prefixes".
 */
import { DECODE } from './ops.ts';

const MAX_INSN_BYTES = 15;

export class Cursor {
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly end: number;
  pos: number;
  /** DECODE.OK, or the first thing that went wrong with the bytes. */
  status: number = DECODE.OK;
  rex = 0;
  /** 0xf2, 0xf3 or 0: the last one counts. */
  rep = 0;
  lock = false;
  /** 66. */
  operandSize = false;
  /** 67. */
  addressSize = false;
  /** 4 for FS, 5 for GS, or -1: the others have no meaning in 64-bit mode. */
  seg = -1;

  constructor(bytes: Uint8Array, start: number, end: number) {
    this.bytes = bytes;
    this.start = start;
    this.end = end;
    this.pos = start;
  }

  u8(): number {
    if (this.pos - this.start >= MAX_INSN_BYTES) this.#stop(DECODE.TOO_LONG);
    else if (this.pos >= this.end) this.#stop(DECODE.TRUNCATED);
    return this.status === DECODE.OK ? this.bytes[this.pos++]! : 0;
  }

  #stop(status: number): void {
    if (this.status === DECODE.OK) this.status = status;
  }

  i8(): number {
    return (this.u8() << 24) >> 24;
  }

  u16(): number {
    return this.u8() | (this.u8() << 8);
  }

  i32(): number {
    return this.u16() | (this.u16() << 16);
  }

  /** Consume all prefixes; the first byte of the opcode. A REX prefix counts only directly before the opcode. */
  prefixes(): number {
    for (;;) {
      const byte = this.u8();
      if ((byte & 0xf0) === 0x40) {
        this.rex = byte;
        continue;
      }
      if (!this.#legacy(byte)) return byte;
      this.rex = 0;
    }
  }

  #legacy(byte: number): boolean {
    switch (byte) {
      case 0x26:
      case 0x2e:
      case 0x36:
      case 0x3e:
        return true;
      case 0x64:
      case 0x65:
        this.seg = byte - 0x60;
        return true;
      case 0x66:
        this.operandSize = true;
        return true;
      case 0x67:
        this.addressSize = true;
        return true;
      case 0xf0:
        this.lock = true;
        return true;
      case 0xf2:
      case 0xf3:
        this.rep = byte;
        return true;
      default:
        return false;
    }
  }
}
