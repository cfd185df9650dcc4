// SPDX-License-Identifier: GPL-2.0-only
/**
 * The model-specific registers of one CPU: a table of definitions by number. RDMSR and WRMSR semantics without CPL and
 * interception, so that L0's TypeScript, VM entry's MSR lists and guest instructions share them.
 */
import { BugError } from '../../errors.ts';
import { APIC_BASE_MSR, APIC_END_MSR } from '../../../../lib/x86/apic.ts';
import { hex } from '../../../../lib/x86/bits.ts';
import type { Cpu } from '../cpu.ts';

/** One register. A missing `write` makes it read-only: WRMSR is a GP. */
export interface MsrDef {
  readonly name: string;
  /** Value into out[0] (low), out[1] (high). */
  read(cpu: Cpu, out: Int32Array): void;
  /** False: GP, nothing changed. */
  write?(cpu: Cpu, lo: number, hi: number): boolean;
}

/** A register that only stores: writable bits by mask, others must keep their value or the write is a GP. */
export interface StoredMsr {
  readonly name: string;
  readonly resetLo?: number;
  readonly resetHi?: number;
  /** Writable bits; all by default. */
  readonly maskLo?: number;
  readonly maskHi?: number;
  /** A further check of the whole value. */
  readonly valid?: (lo: number, hi: number) => boolean;
}

export class MsrFile {
  readonly #defs = new Map<number, MsrDef>();
  readonly #resets: (() => void)[] = [];
  readonly #cells = new Map<number, Int32Array>();

  /** Add or replace a register. */
  define(msr: number, def: MsrDef): void {
    this.#defs.set(msr, def);
  }

  /** Add a register that stores its value. */
  store(msr: number, stored: StoredMsr): void {
    const { name, valid, resetLo = 0, resetHi = 0, maskLo = -1, maskHi = -1 } = stored;
    const value = Int32Array.of(resetLo, resetHi);
    this.#resets.push(() => value.set([resetLo, resetHi]));
    this.#cells.set(msr, value);
    this.define(msr, {
      name,
      read: (_cpu, out) => out.set(value),
      write: (_cpu, lo, hi) => {
        const fixed = ((lo ^ value[0]!) & ~maskLo) | ((hi ^ value[1]!) & ~maskHi);
        if (fixed !== 0 || (valid !== undefined && !valid(lo, hi))) return false;
        value[0] = lo;
        value[1] = hi;
        return true;
      },
    });
  }

  /** Add a read-only constant. */
  constant(msr: number, name: string, lo: number, hi: number): void {
    this.define(msr, { name, read: (_cpu, out) => out.set([lo, hi]) });
  }

  /** The value (low, high) of a register that only stores, for whoever has checked what it writes there. */
  cell(msr: number): Int32Array {
    const value = this.#cells.get(msr);
    if (value === undefined) throw new BugError(`${this.nameOf(msr)} is not a stored register`);
    return value;
  }

  /** The stored registers' values as after RESET; the others belong to their owners. */
  reset(): void {
    for (const reset of this.#resets) reset();
  }

  has(msr: number): boolean {
    return this.#defs.has(msr >>> 0);
  }

  nameOf(msr: number): string {
    return this.#defs.get(msr >>> 0)?.name ?? `MSR ${hex(msr)}`;
  }

  /** RDMSR; false: GP. */
  read(cpu: Cpu, msr: number, out: Int32Array): boolean {
    if (isX2apic(msr)) return cpu.apic.readMsr(msr, out);
    const def = this.#defs.get(msr >>> 0);
    if (def === undefined) return false;
    def.read(cpu, out);
    return true;
  }

  /** WRMSR; false: GP, nothing changed. */
  write(cpu: Cpu, msr: number, lo: number, hi: number): boolean {
    if (isX2apic(msr)) return cpu.apic.writeMsr(msr, lo | 0, hi | 0);
    const def = this.#defs.get(msr >>> 0);
    return def?.write?.(cpu, lo | 0, hi | 0) ?? false;
  }

  /** A value as bigint, for tests and L0; the register must exist. */
  get(cpu: Cpu, msr: number): bigint {
    const out = new Int32Array(2);
    if (!this.read(cpu, msr, out)) throw new BugError(`no ${this.nameOf(msr)}`);
    return (BigInt(out[1]! >>> 0) << 32n) | BigInt(out[0]! >>> 0);
  }
}

function isX2apic(msr: number): boolean {
  return msr >= APIC_BASE_MSR && msr < APIC_END_MSR;
}
