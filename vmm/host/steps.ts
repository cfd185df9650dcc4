// SPDX-License-Identifier: GPL-2.0-only
/**
 * Kernel code as steps: a generator that yields wherever another CPU may act. A bare `yield` hands control to the
 * scheduler, which may resume at once; blocking is putting the task on a wait queue and yielding.
 */

/** Code that can race or block, and its result. */
export type Steps<T> = Generator<void, T, void>;
