// SPDX-License-Identifier: GPL-2.0-only
/** Findings of the scheduler about the code under test: nobody can go on, or nothing ever ends. */
import { SanitizerError } from '../../machine/errors.ts';

/** Every task waits and no event is in sight. Names all of them and what they wait for. */
export class DeadlockError extends SanitizerError {
  override readonly name = 'DeadlockError';
}

/** The run used up its budget of turns or cycles. */
export class LivelockError extends SanitizerError {
  override readonly name = 'LivelockError';
}
