// SPDX-License-Identifier: GPL-2.0-only
/**
 * Lock order check after kernel/locking/lockdep.c: an order seen once binds for the whole run. Locks of one class (the
 * same name) share their place in the order. Leaves out irq-safety states and nesting inside one class.
 */
import { BugError } from '../../machine/errors.ts';
import type { ExecContext, HeldLock } from '../exec_context.ts';

const MAX_CLASSES = 4096;

export class LockDep {
  readonly #names: string[] = [];
  readonly #ids = new Map<string, number>();
  /** Pairs (before * MAX_CLASSES + after) that were checked already: the hot path. */
  readonly #seen = new Set<number>();
  readonly #after: Set<number>[] = [];

  /** The class of locks called `name`. */
  classOf(name: string): number {
    const known = this.#ids.get(name);
    if (known !== undefined) return known;
    const id = this.#names.length;
    if (id === MAX_CLASSES) throw new BugError(`more than ${MAX_CLASSES} lock classes`);
    this.#ids.set(name, id);
    this.#names.push(name);
    this.#after.push(new Set());
    return id;
  }

  /** `context` takes `lock`: remember the order relative to what it holds, and refuse one that contradicts another. */
  acquire(context: ExecContext, lock: HeldLock): void {
    const held = context.held;
    for (let i = 0; i < held.length; i++) this.#order(held[i]!, lock, context);
    held.push(lock);
  }

  /** A trylock cannot wait, so it proves no order. */
  acquireNoOrder(context: ExecContext, lock: HeldLock): void {
    context.held.push(lock);
  }

  /** `context` gave `lock` back; any order of release is right. */
  release(context: ExecContext, lock: HeldLock): void {
    const held = context.held;
    const index = held.lastIndexOf(lock);
    if (index < 0) throw new BugError(`"${context.name}" releases ${lock.name}, which it does not hold`);
    if (index === held.length - 1) held.pop();
    else held.splice(index, 1);
  }

  #order(before: HeldLock, after: HeldLock, context: ExecContext): void {
    const from = before.classId;
    const to = after.classId;
    if (from === to || this.#seen.has(from * MAX_CLASSES + to)) return;
    const path = this.#path(to, from);
    if (path !== null) {
      const chain = path.map((id) => this.#names[id]!).join(' -> ');
      throw new BugError(
        `lock order: ${context.describe()} takes ${after.name}, but elsewhere the order is ${chain}`,
      );
    }
    this.#seen.add(from * MAX_CLASSES + to);
    this.#after[from]!.add(to);
  }

  /** A known order that leads from class `from` to class `to`. */
  #path(from: number, to: number): number[] | null {
    const cameFrom = new Map<number, number>([[from, -1]]);
    const queue = [from];
    for (let at = queue.shift(); at !== undefined; at = queue.shift()) {
      if (at === to) return unwind(cameFrom, to);
      for (const next of this.#after[at]!) {
        if (cameFrom.has(next)) continue;
        cameFrom.set(next, at);
        queue.push(next);
      }
    }
    return null;
  }
}

function unwind(cameFrom: ReadonlyMap<number, number>, to: number): number[] {
  const path: number[] = [];
  for (let at = to; at !== -1; at = cameFrom.get(at)!) path.unshift(at);
  return path;
}
