// SPDX-License-Identifier: GPL-2.0-only
/**
 * The life of every frame: who has it, who took it away, and how often it changed hands (its epoch). Whoever keeps a
 * physical address remembers the epoch too; a mismatch is a use after free, and both stories can be told.
 */
import { BugError, SanitizerError } from '../errors.ts';
import { PAGE_SHIFT, type Pfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { FRAME_HINT_BASE, FRAME_STATE_BASE, RAM_BASE } from '../layout.ts';

/** States of a frame. UNMANAGED frames have no struct page: the host kernel does not map them. */
export const FRAME = { RESERVED: 0, FREE: 1, ALLOCATED: 2, UNMANAGED: 3 } as const;

/** FrameTable.fastHint of a frame that several fast-TLB slots may point at. */
export const FAST_ANYWHERE = 0xffff;

export class FrameTable {
  readonly nrFrames: number;
  readonly state: Uint8Array;
  readonly epoch: Uint32Array;
  /**
   * Where fast TLBs may point at the frame, kept by the MMU, so that freeing knows where to look: 0 nowhere, n at slot
   * n - 1, FAST_ANYWHERE at several slots.
   */
  readonly fastHint: Uint16Array;
  /** How many frames have been retired so far. Who caches a translation keeps this number: it covers every size. */
  retirements = 0;
  /** The value of `retirements` after the frame's last retirement. */
  readonly retiredAt: Uint32Array;
  /** Somebody allocates frames. Until then (bare machine) all of RAM is open to whoever runs. */
  managed = false;
  /** Called when a frame stops being what it was; set by the machine to drop fast-TLB entries. */
  onRetire: (frame: Pfn) => void = () => {};
  readonly #takenBy: Int32Array;
  readonly #leftBy: Int32Array;
  readonly #names: string[] = ['nobody'];
  readonly #nameIds = new Map<string, number>([['nobody', 0]]);

  /** `buffer`: the machine's memory, whose reserved part then holds what other than TypeScript reads, too. */
  constructor(memBytes: number, buffer?: ArrayBuffer) {
    this.nrFrames = memBytes >>> PAGE_SHIFT;
    const [state, hint] =
      buffer === undefined
        ? [new ArrayBuffer(this.nrFrames), new ArrayBuffer(this.nrFrames * 2)]
        : [buffer, buffer];
    this.state = new Uint8Array(state, buffer === undefined ? 0 : FRAME_STATE_BASE, this.nrFrames);
    this.epoch = new Uint32Array(this.nrFrames);
    this.fastHint = new Uint16Array(hint, buffer === undefined ? 0 : FRAME_HINT_BASE, this.nrFrames);
    this.retiredAt = new Uint32Array(this.nrFrames);
    this.#takenBy = new Int32Array(this.nrFrames);
    this.#leftBy = new Int32Array(this.nrFrames);
    this.state.fill(FRAME.FREE, RAM_BASE >>> PAGE_SHIFT);
  }

  /** A small number for an owner's name; pass it to `take` and `retire`. */
  intern(name: string): number {
    const known = this.#nameIds.get(name);
    if (known !== undefined) return known;
    this.#nameIds.set(name, this.#names.length);
    return this.#names.push(name) - 1;
  }

  /** A free frame gets an owner. `state` is ALLOCATED or UNMANAGED. */
  take(frame: Pfn, owner: number, state: number = FRAME.ALLOCATED): void {
    if (this.state[frame] !== FRAME.FREE) throw new BugError(`frame taken twice: ${this.story(frame)}`);
    this.state[frame] = state;
    this.managed = true;
    this.#takenBy[frame] = owner;
  }

  /** The owner gives the frame up; every remembered epoch is stale from now on. */
  retire(frame: Pfn, by: number): void {
    const state = this.state[frame];
    if (state !== FRAME.ALLOCATED && state !== FRAME.UNMANAGED) {
      throw new SanitizerError(`double free: ${this.story(frame)}, now freed by ${this.#names[by]!}`);
    }
    this.state[frame] = FRAME.FREE;
    this.epoch[frame] = this.epoch[frame]! + 1;
    this.retiredAt[frame] = ++this.retirements;
    this.#leftBy[frame] = by;
    if (this.fastHint[frame] === 0) return;
    this.onRetire(frame);
    this.fastHint[frame] = 0;
  }

  /** Whether somebody who saw the frame at `epoch` may still use it. */
  isCurrent(frame: Pfn, epoch: number): boolean {
    return this.epoch[frame] === epoch && this.state[frame] !== FRAME.FREE;
  }

  /** Whether a translation cached when `retirements` was `seen` may still be used for the frame. */
  isCurrentSince(frame: number, seen: number): boolean {
    return this.retiredAt[frame]! <= seen && !(this.managed && this.state[frame] === FRAME.FREE);
  }

  /** Both stories of a frame in one line. */
  story(frame: Pfn): string {
    const states = ['reserved', 'free', 'allocated', 'unmanaged'];
    const state = states[this.state[frame] ?? 0] ?? 'outside of RAM';
    const taken = this.#names[this.#takenBy[frame] ?? 0] ?? 'nobody';
    const left = this.#names[this.#leftBy[frame] ?? 0] ?? 'nobody';
    return `pfn ${hex(frame)} is ${state}, epoch ${this.epoch[frame] ?? 0}, last taken by ${taken}, last freed by ${left}`;
  }
}
