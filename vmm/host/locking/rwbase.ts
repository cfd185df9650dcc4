// SPDX-License-Identifier: GPL-2.0-only
/**
 * The holders of a lock that either one writer or several readers may have: what RwLock and RwSem share. The name is that
 * of kernel/locking/rwbase_rt.c. Who is let in, and when, is up to each lock.
 */
import { BugError } from '../../machine/errors.ts';
import type { ExecContext } from '../exec_context.ts';
import { LockBase } from './lock_base.ts';

export abstract class RwBase extends LockBase {
  readonly #readers: ExecContext[] = [];
  #writer: ExecContext | null = null;

  get writer(): ExecContext | null {
    return this.#writer;
  }

  get readers(): readonly ExecContext[] {
    return this.#readers;
  }

  /** lockdep_assert_held(): for reading or writing. */
  assertHeld(): void {
    const context = this.sched.context;
    if (this.#writer !== context && !this.#readers.includes(context)) {
      throw new BugError(`${this.name} is not held by ${context.describe()}`);
    }
  }

  /** lockdep_assert_held_write(). */
  assertHeldWrite(): void {
    const context = this.sched.context;
    if (this.#writer !== context)
      throw new BugError(`${this.name} is not held for writing by ${context.describe()}`);
  }

  /** Whether nobody has it. */
  protected get free(): boolean {
    return this.#writer === null && this.#readers.length === 0;
  }

  protected addReader(context: ExecContext): void {
    this.#readers.push(context);
  }

  /** Forget a reader; an error if `context` is none. */
  protected removeReader(context: ExecContext): void {
    const index = this.#readers.lastIndexOf(context);
    if (index < 0) throw this.wrongUnlock(context, 'read-unlocks');
    if (index === this.#readers.length - 1) this.#readers.pop();
    else this.#readers.splice(index, 1);
  }

  protected setWriter(context: ExecContext): void {
    this.#writer = context;
  }

  /** Forget the writer; an error if `context` is not it. */
  protected clearWriter(context: ExecContext, verb: string): void {
    if (this.#writer !== context) throw this.wrongUnlock(context, verb);
    this.#writer = null;
  }

  protected refuseRecursion(context: ExecContext): void {
    if (this.#writer === context || (this.#readers.length !== 0 && this.#readers.includes(context))) {
      throw new BugError(
        `recursive lock: ${context.describe()} takes ${this.name} again, which is ${this.story()}`,
      );
    }
  }

  protected story(): string {
    if (this.#writer !== null) return `held for writing by ${this.#writer.describe()}`;
    if (this.#readers.length === 0) return 'held by nobody';
    return `held for reading by ${this.#readers.map((reader) => reader.describe()).join(', ')}`;
  }
}
