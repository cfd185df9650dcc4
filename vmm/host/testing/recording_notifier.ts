// SPDX-License-Identifier: GPL-2.0-only
/** An mmu_notifier that writes down what it is told, for tests. */
import type { MmuNotifier, MmuNotifierRange } from '../mm/mmu_notifier.ts';
import type { Steps } from '../steps.ts';

export interface RecordingOptions {
  readonly name?: string;
  /** Runs inside invalidateRangeStart; its result is the callback's. */
  readonly onStart?: (range: MmuNotifierRange) => Steps<number>;
  readonly onEnd?: (range: MmuNotifierRange) => void;
}

export class RecordingNotifier implements MmuNotifier {
  readonly name: string;
  readonly log: string[] = [];
  readonly ranges: MmuNotifierRange[] = [];
  readonly #options: RecordingOptions;

  constructor(options: RecordingOptions = {}) {
    this.name = options.name ?? 'recorder';
    this.#options = options;
  }

  *invalidateRangeStart(range: MmuNotifierRange): Steps<number> {
    this.log.push('start');
    this.ranges.push(range);
    return this.#options.onStart === undefined ? 0 : yield* this.#options.onStart(range);
  }

  *invalidateRangeEnd(range: MmuNotifierRange): Steps<void> {
    this.#options.onEnd?.(range);
    this.log.push('end');
  }

  *release(): Steps<void> {
    this.log.push('release');
  }
}
