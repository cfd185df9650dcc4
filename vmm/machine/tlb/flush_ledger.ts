// SPDX-License-Identifier: GPL-2.0-only
/**
 * What was flushed: how often each kind of invalidation was asked for, how many mappings it found, how often it found
 * none (a wasted flush), and for whom. The cause is named by whoever is about to flush (L0: "nested entry", ...).
 */
import { BugError } from '../errors.ts';

/** Kinds of invalidation. */
// prettier-ignore
export const FLUSH = {
  INVLPG: 0, MOV_CR3: 1, MOV_CR4: 2, MOV_CR0: 3,
  INVPCID_ADDR: 4, INVPCID_SINGLE: 5, INVPCID_ALL_GLOBAL: 6, INVPCID_ALL: 7,
  INVVPID_ADDR: 8, INVVPID_SINGLE: 9, INVVPID_ALL: 10, INVVPID_SINGLE_RETAIN: 11,
  INVEPT_SINGLE: 12, INVEPT_ALL: 13,
  VMX_TRANSITION: 14, // VM entry, VM exit or EPTP switching without VPID
  PAGE_FAULT: 15,     // the drop that a page fault implies
  EPT_VIOLATION: 16,  // the drop that an EPT violation implies
  RESET: 17,
} as const;

const NR_KINDS = 18;
const MAX_CAUSES = 64;
const HISTORY = 256;

/** One invalidation, for reports. */
export interface FlushEvent {
  readonly kind: number;
  readonly cause: string;
  readonly cycle: number;
  /** VPID, PCID or EP4TA that was asked for; -1: not by tag. */
  readonly tag: number;
  readonly dropped: number;
}

export class FlushLedger {
  /** Number of the cause that the next flushes count for; see causeId(). */
  cause = 0;
  readonly #causes: string[] = [''];
  readonly #calls = new Float64Array(NR_KINDS * MAX_CAUSES);
  readonly #dropped = new Float64Array(NR_KINDS * MAX_CAUSES);
  readonly #empty = new Float64Array(NR_KINDS * MAX_CAUSES);
  readonly #history = new Float64Array(HISTORY * 5);
  #events = 0;

  /** A small number for a cause's name, to be stored in `cause`. */
  causeId(name: string): number {
    const known = this.#causes.indexOf(name);
    if (known >= 0) return known;
    if (this.#causes.length === MAX_CAUSES)
      throw new BugError(`more than ${MAX_CAUSES} flush causes: ${name}`);
    return this.#causes.push(name) - 1;
  }

  record(kind: number, tag: number, dropped: number, cycle: number): void {
    const n = kind * MAX_CAUSES + this.cause;
    this.#calls[n] = this.#calls[n]! + 1;
    this.#dropped[n] = this.#dropped[n]! + dropped;
    if (dropped === 0) this.#empty[n] = this.#empty[n]! + 1;
    const at = (this.#events++ % HISTORY) * 5;
    this.#history[at] = kind;
    this.#history[at + 1] = this.cause;
    this.#history[at + 2] = cycle;
    this.#history[at + 3] = tag;
    this.#history[at + 4] = dropped;
  }

  /** Sums of one kind, over all causes or for one. */
  totals(kind: number, cause?: string): { calls: number; dropped: number; empty: number } {
    const sum = { calls: 0, dropped: 0, empty: 0 };
    for (const [id, name] of this.#causes.entries()) {
      if (cause !== undefined && name !== cause) continue;
      const n = kind * MAX_CAUSES + id;
      sum.calls += this.#calls[n]!;
      sum.dropped += this.#dropped[n]!;
      sum.empty += this.#empty[n]!;
    }
    return sum;
  }

  /** The last invalidations, oldest first. */
  history(): FlushEvent[] {
    const events: FlushEvent[] = [];
    for (let n = Math.max(0, this.#events - HISTORY); n < this.#events; n++) {
      const [kind, cause, cycle, tag, dropped] = this.#history.subarray(
        (n % HISTORY) * 5,
        (n % HISTORY) * 5 + 5,
      );
      events.push({ kind: kind!, cause: this.#causes[cause!]!, cycle: cycle!, tag: tag!, dropped: dropped! });
    }
    return events;
  }
}
