// SPDX-License-Identifier: GPL-2.0-only
/**
 * Physical memory of the reference interpreter: an image of RAM with a log of the current instruction's stores, so that
 * an instruction that faults half-way can be undone. There are no devices.
 */
import { BeyondReference } from './outcome.ts';

/** One byte that an instruction has written: where, and what was there. */
export interface Store {
  readonly at: number;
  readonly old: number;
}

export class RefMemory {
  /** Physical address of the first byte. */
  readonly base: number;
  readonly bytes: Uint8Array;
  /** Stores of the instruction under way, oldest first. */
  readonly log: Store[] = [];
  readonly #walkLog: Store[] = [];
  /** Pages that have been stored to, by their offset in the image. */
  readonly touched = new Set<number>();

  constructor(base: number, size: number) {
    this.base = base;
    this.bytes = new Uint8Array(size);
  }

  /** Whether the physical address is RAM. */
  has(at: number): boolean {
    return at >= this.base && at < this.base + this.bytes.length;
  }

  /** One byte of RAM. */
  byte(at: number): number {
    return this.bytes[this.#offset(at)]!;
  }

  /** Store one byte on behalf of an instruction. */
  setByte(at: number, value: number): void {
    const offset = this.#offset(at);
    this.log.push({ at, old: this.bytes[offset]! });
    this.touched.add(offset & ~0xfff);
    this.bytes[offset] = value;
  }

  /** A paging-structure entry. */
  entry(at: number): bigint {
    let value = 0n;
    for (let n = 7; n >= 0; n--) value = (value << 8n) | BigInt(this.byte(at + n));
    return value;
  }

  /** Store a paging-structure entry on behalf of the walker: not undone with the instruction. */
  setEntry(at: number, value: bigint): void {
    const offset = this.#offset(at);
    for (let n = 0; n < 8; n++) {
      this.#walkLog.push({ at: at + n, old: this.bytes[offset + n]! });
      this.bytes[offset + n] = Number((value >> BigInt(8 * n)) & 0xffn);
    }
  }

  /** Forget the log: an instruction begins. */
  begin(): void {
    this.log.length = 0;
    this.#walkLog.length = 0;
  }

  /** Undo the instruction's stores. */
  rollback(): void {
    this.#undo(this.log);
  }

  /** Undo what the walks have stored, too: as if the instruction had not begun. */
  rollbackWalks(): void {
    this.#undo(this.#walkLog);
  }

  #undo(log: Store[]): void {
    for (let n = log.length - 1; n >= 0; n--) {
      const { at, old } = log[n]!;
      this.bytes[at - this.base] = old;
    }
    log.length = 0;
  }

  #offset(at: number): number {
    if (!this.has(at)) throw new BeyondReference(`physical address 0x${at.toString(16)} is not RAM`);
    return at - this.base;
  }
}
