// SPDX-License-Identifier: GPL-2.0-only
/**
 * The local APIC's timer: one-shot, periodic and TSC-deadline mode, with the divide configuration. Time is the host's
 * cycles; a count-down is one deadline, never a tick. SDM, "APIC Timer".
 */
import { APIC_LVT, APIC_REG } from '../../../lib/x86/apic.ts';
import type { ApicHost } from './local_apic.ts';

export class ApicTimer {
  /** When the timer fires, in the host's cycles; Infinity if it is stopped. */
  deadline = Infinity;
  /** IA32_TSC_DEADLINE. */
  tscDeadlineLo = 0;
  tscDeadlineHi = 0;
  readonly #page: Int32Array;
  readonly #host: ApicHost;
  readonly #tscPerTick: number;
  readonly #fire: () => void;

  constructor(page: Int32Array, host: ApicHost, tscPerTick: number, fire: () => void) {
    this.#page = page;
    this.#host = host;
    this.#tscPerTick = tscPerTick;
    this.#fire = fire;
  }

  /** Deliver what is due by now. */
  poll(): void {
    const now = this.#host.now();
    if (now < this.deadline) return;
    const mode = this.#mode();
    if (mode === APIC_LVT.TIMER_PERIODIC) {
      const period = this.#period();
      const missed = Math.floor((now - this.deadline) / period) + 1;
      this.#arm(this.deadline + missed * period);
    } else {
      if (mode === APIC_LVT.TIMER_TSCDEADLINE) this.#clearTscDeadline();
      this.#arm(Infinity);
    }
    this.#fire();
  }

  /** TMCCT: ticks left. */
  currentCount(): number {
    this.poll();
    if (this.deadline === Infinity || this.#mode() === APIC_LVT.TIMER_TSCDEADLINE) return 0;
    return Math.ceil((this.deadline - this.#host.now()) / this.#cyclesPerCount()) | 0;
  }

  /** TMICT: starts the count-down, or stops it with 0; ignored in TSC-deadline mode. */
  writeInitialCount(value: number): void {
    if (this.#mode() === APIC_LVT.TIMER_TSCDEADLINE) return;
    this.poll();
    this.#page[APIC_REG.TMICT >> 2] = value;
    this.#arm(value === 0 ? Infinity : this.#host.now() + this.#period());
  }

  /** TDCR: the remaining count goes on at the new rate. */
  writeDivide(value: number): void {
    const left = this.currentCount() >>> 0;
    this.#page[APIC_REG.TDCR >> 2] = value;
    if (left !== 0) this.#arm(this.#host.now() + left * this.#cyclesPerCount());
  }

  /** LVTT was written; a change to or from TSC-deadline mode disarms the timer. */
  modeWritten(oldLvtt: number): void {
    const old = oldLvtt & APIC_LVT.TIMER_MODE_MASK;
    const mode = this.#mode();
    if (old === mode || (old !== APIC_LVT.TIMER_TSCDEADLINE && mode !== APIC_LVT.TIMER_TSCDEADLINE)) return;
    this.stop();
  }

  /** WRMSR IA32_TSC_DEADLINE: ignored outside of TSC-deadline mode, 0 disarms, the past fires at once. */
  writeTscDeadline(lo: number, hi: number): void {
    if (this.#mode() !== APIC_LVT.TIMER_TSCDEADLINE) return;
    this.tscDeadlineLo = lo;
    this.tscDeadlineHi = hi;
    this.rearm();
  }

  /** Compute the deadline again: the TSC was written, or the registers were loaded from outside. */
  rearm(): void {
    if (this.#mode() === APIC_LVT.TIMER_TSCDEADLINE) {
      const armed = (this.tscDeadlineLo | this.tscDeadlineHi) !== 0;
      this.#arm(armed ? this.#host.tscToCycles(this.tscDeadlineLo, this.tscDeadlineHi) : Infinity);
      this.poll();
      return;
    }
    const count = this.#page[APIC_REG.TMICT >> 2]!;
    this.#arm(count === 0 ? Infinity : this.#host.now() + this.#period());
  }

  stop(): void {
    this.#clearTscDeadline();
    this.#page[APIC_REG.TMICT >> 2] = 0;
    this.#arm(Infinity);
  }

  /** The TSC was moved: a TSC deadline comes nearer or goes away. */
  tscChanged(): void {
    if (this.#mode() === APIC_LVT.TIMER_TSCDEADLINE) this.rearm();
  }

  #arm(deadline: number): void {
    if (deadline === this.deadline) return;
    this.deadline = deadline;
    this.#host.timerChanged?.(deadline);
  }

  #clearTscDeadline(): void {
    this.tscDeadlineLo = 0;
    this.tscDeadlineHi = 0;
  }

  #mode(): number {
    return this.#page[APIC_REG.LVTT >> 2]! & APIC_LVT.TIMER_MODE_MASK;
  }

  /** Divide configuration: bits 3, 1, 0 select 2, 4, 8, 16, 32, 64, 128, 1. SDM, "Divide Configuration Register". */
  #cyclesPerCount(): number {
    const tdcr = this.#page[APIC_REG.TDCR >> 2]!;
    const shift = (((tdcr & 0x3) | ((tdcr & 0x8) >> 1)) + 1) & 0x7;
    return this.#tscPerTick * (1 << shift);
  }

  #period(): number {
    return (this.#page[APIC_REG.TMICT >> 2]! >>> 0) * this.#cyclesPerCount();
  }
}
