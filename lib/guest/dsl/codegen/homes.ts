// SPDX-License-Identifier: GPL-2.0-only
/**
 * Where each local lives: a callee-saved register, a caller-saved one if nothing destroys it meanwhile, or a stack slot. The
 * heaviest locals choose first; locals whose lives do not meet share a register.
 */
import type { FnBody, Local } from '../ir.ts';
import { isScalar } from '../types.ts';
import { liveness, type Life, type Liveness } from './liveness.ts';
import { ARG_REGS, bitOf, CALLEE_MASK, CALLEE_SAVED, has, LEAF_HOMES, REG_NUM } from './registers.ts';
import type { RegMask, RegNum } from './registers.ts';

/** A register, or an offset from the stack pointer. */
export type Home =
  { readonly kind: 'reg'; readonly reg: RegNum } | { readonly kind: 'slot'; readonly offset: number };

/** The homes of a function's locals. */
export interface Homes {
  readonly of: ReadonlyMap<Local, Home>;
  readonly live: Liveness;
  /** Callee-saved registers that the function must preserve. */
  readonly saved: RegMask;
  /** Bytes at the bottom of the frame: outgoing arguments, then slots. */
  readonly slotBytes: number;
  /** Caller-saved registers that hold a variable at a statement. */
  busyAt(position: number): RegMask;
}

interface Interval {
  readonly first: number;
  readonly last: number;
}

const meets = (a: Interval, b: Interval): boolean => a.first <= b.last && b.first <= a.last;
const alignUp = (value: number, align: number): number => Math.ceil(value / align) * align;

class Allocator {
  readonly of = new Map<Local, Home>();
  readonly busy = new Map<RegNum, Interval[]>();
  private readonly live: Liveness;
  private readonly body: FnBody;
  private readonly barriers: readonly Interval[];

  constructor(body: FnBody, live: Liveness) {
    this.body = body;
    this.live = live;
    // A call's result is fetched when all is over; several results of inline assembly would be in each other's way.
    this.barriers = live.barriers.map(({ at, kind }) => ({
      first: at * 2,
      last: at * 2 + (kind === 'asm' ? 1 : 0),
    }));
    for (const { at, stmt } of live.barriers) {
      if (stmt.s !== 'asm') continue;
      const fixed = stmt.operands.flatMap((operand) => (operand.reg ? [operand.reg] : []));
      for (const name of [...fixed, ...stmt.clobbers])
        this.claim(REG_NUM[name], { first: at * 2, last: at * 2 + 1 });
    }
  }

  private claim(reg: RegNum, interval: Interval): void {
    const list = this.busy.get(reg);
    if (list) list.push(interval);
    else this.busy.set(reg, [interval]);
  }

  private isFree(reg: RegNum, life: Interval): boolean {
    return !(this.busy.get(reg) ?? []).some((other) => meets(other, life));
  }

  /** A parameter may stay where it arrives, but must not wander to the arrival register of another. */
  private leafHomes(local: Local): readonly RegNum[] {
    const index = this.body.params.indexOf(local);
    if (index < 0) return LEAF_HOMES;
    const arrival = ARG_REGS[index];
    return arrival !== undefined && LEAF_HOMES.includes(arrival) ? [arrival] : [];
  }

  private candidates(local: Local, life: Life): readonly RegNum[] {
    const interrupted = this.barriers.some((barrier) => meets(barrier, life));
    const all = interrupted ? CALLEE_SAVED : [...this.leafHomes(local), ...CALLEE_SAVED];
    // A copy begins where its original ends: in the same register it costs nothing.
    const partner = this.live.copies.get(local);
    const home = partner && this.of.get(partner);
    return home?.kind === 'reg' && all.includes(home.reg) ? [home.reg, ...all] : all;
  }

  registers(): void {
    const order = [...this.live.lives].filter(([local]) => !local.inMemory && isScalar(local.type));
    order.sort(([a, x], [b, y]) => y.weight - x.weight || a.id - b.id);
    for (const [local, life] of order) {
      const reg = this.candidates(local, life).find((candidate) => this.isFree(candidate, life));
      if (reg === undefined) continue;
      this.claim(reg, life);
      this.of.set(local, { kind: 'reg', reg });
    }
  }

  /** Gives slots to the rest; returns the end of the slots. */
  slots(start: number): number {
    let offset = start;
    for (const local of this.live.lives.keys()) {
      if (this.of.has(local)) continue;
      offset = alignUp(offset, Math.max(1, local.type.align));
      this.of.set(local, { kind: 'slot', offset });
      offset += local.type.size;
    }
    return alignUp(offset, 8);
  }
}

function outgoingBytes(live: Liveness): number {
  const counts = live.barriers.map(({ stmt }) =>
    stmt.s === 'call' ? stmt.args.length - ARG_REGS.length : 0,
  );
  return Math.max(0, ...counts) * 8;
}

function savedRegisters(allocator: Allocator): RegMask {
  let mask = 0;
  for (const [reg, intervals] of allocator.busy) {
    if (intervals.length > 0) mask |= bitOf(reg);
  }
  return mask & CALLEE_MASK;
}

/** Chooses homes for the locals of a function. */
export function assignHomes(body: FnBody): Homes {
  const live = liveness(body);
  const allocator = new Allocator(body, live);
  allocator.registers();
  const slotBytes = allocator.slots(outgoingBytes(live));
  const leaf = [...allocator.of].flatMap(([local, home]) =>
    home.kind === 'reg' && !has(CALLEE_MASK, home.reg)
      ? [{ reg: home.reg, life: live.lives.get(local)! }]
      : [],
  );
  const busyAt = (position: number): RegMask =>
    leaf.reduce(
      (mask, { reg, life }) =>
        life.first <= position * 2 + 1 && position * 2 <= life.last ? mask | bitOf(reg) : mask,
      0,
    );
  return { of: allocator.of, live, saved: savedRegisters(allocator), slotBytes, busyAt };
}
