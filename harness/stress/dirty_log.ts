// SPDX-License-Identifier: GPL-2.0-only
/**
 * One slot's dirty log against the guest's own record of what it wrote: a write that began after the last collection had
 * ended, and ended before this one began, must be in it.
 */
import { KVM_MEM, kvmDirtyBitmapBytes } from '../../lib/uapi/memory.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { vmMemRegionSetFlags } from '../../lib/kvm_util/kvm_util.ts';
import { BugError } from '../../vmm/machine/errors.ts';
import { AREA, AREA_PAGES, RECORDED_PAGES } from './layout.ts';
import type { StressRun } from './scenario.ts';

export interface LoggedArea {
  readonly area: keyof typeof AREA;
  readonly firstRecord: number;
  readonly records: number;
}

export class DirtyLog {
  readonly #t: StressRun;
  readonly #what: LoggedArea;
  #on = false;
  #busy = false;
  /** `intent` when the log was last empty. */
  #since: Uint32Array = new Uint32Array(RECORDED_PAGES);

  constructor(t: StressRun, what: LoggedArea) {
    this.#t = t;
    this.#what = what;
  }

  /** Do something to the slot unless another thread does. */
  *exclusive(body: () => Steps<void>): Steps<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      yield* body();
    } finally {
      this.#busy = false;
    }
  }

  /** The log is empty now. */
  begin(): void {
    this.#since = this.#record('intent');
    for (let i = 0; i < this.#what.records; i++) this.#t.writtenByHost.delete(this.#what.firstRecord + i);
  }

  /** Turn logging on, collect, or, now and then, turn it off. */
  *step(): Steps<void> {
    const t = this.#t;
    yield* this.exclusive(
      function* (this: DirtyLog): Steps<void> {
        const { slot } = AREA[this.#what.area];
        if (this.#on && t.draw(6) !== 0) return yield* this.#collect(slot);
        this.#on = !this.#on;
        yield* vmMemRegionSetFlags(t.vm, slot, this.#on ? KVM_MEM.LOG_DIRTY_PAGES : 0);
        if (this.#on) this.begin();
      }.bind(this),
    );
  }

  *#collect(slot: number): Steps<void> {
    const { vm, scenario } = this.#t;
    const dirty_bitmap = new Uint8Array(kvmDirtyBitmapBytes(AREA_PAGES));
    const done = this.#record('done');
    const skip = new Set(this.#t.writtenByHost);
    const since = this.#since;
    yield* vm.fd.getDirtyLog({ slot, dirty_bitmap });
    this.begin();
    this.#verify(dirty_bitmap, done, since, skip);
    if ((scenario.manualProtect ?? 'get') === 'get') return;
    yield* vm.fd.clearDirtyLog({ slot, first_page: 0, num_pages: AREA_PAGES, dirty_bitmap });
    // Pages that were not in the bitmap have not been cleared: what was written to them since is in the next.
    const after = this.#record('intent');
    for (let i = 0; i < this.#what.records; i++) {
      const record = this.#what.firstRecord + i;
      if (isSet(dirty_bitmap, i)) this.#since[record] = after[record]!;
    }
  }

  #verify(bitmap: Uint8Array, done: Uint32Array, since: Uint32Array, skip: ReadonlySet<number>): void {
    for (let page = 0; page < this.#what.records; page++) {
      const record = this.#what.firstRecord + page;
      if (done[record]! <= since[record]! || skip.has(record)) continue;
      this.#t.count('logged');
      if (isSet(bitmap, page)) continue;
      throw new BugError(
        `${this.#what.area} page ${page} is not in the dirty log: write ${done[record]!} had ended, ${since[record]!} had begun when the log was empty`,
      );
    }
  }

  #record(symbol: 'intent' | 'done'): Uint32Array {
    const bytes = this.#t.host.memory.read(this.#t.symbolHva(symbol), 4 * RECORDED_PAGES);
    return new Uint32Array(bytes.slice().buffer);
  }
}

const isSet = (bitmap: Uint8Array, page: number): boolean => (bitmap[page >>> 3]! & (1 << (page & 7))) !== 0;
