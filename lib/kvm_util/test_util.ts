// SPDX-License-Identifier: GPL-2.0-only
/**
 * How a selftest says what happened: after tools/testing/selftests/kvm/include/test_util.h. A failed assertion, a
 * missing requirement and a refused option are three different things and never mixed.
 */
import { hex } from '../x86/bits.ts';

/** The thing under test did not do what it must. KTAP `not ok`. */
export class TestFailure extends Error {
  override readonly name = 'TestFailure';
}

/** A requirement of the test is not met. KTAP `ok # SKIP`. */
export class TestSkip extends Error {
  override readonly name = 'TestSkip';
}

/** The test refuses its options; or, with `help`, was asked for its usage. The message is upstream's meaning. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly help: boolean;

  constructor(message: string, options: { help?: boolean } = {}) {
    super(message);
    this.help = options.help ?? false;
  }
}

/** Fail unless `condition` holds. The message says what was expected and what was there. */
export function TEST_ASSERT(condition: boolean, message: string | (() => string)): asserts condition {
  if (!condition) throw new TestFailure(typeof message === 'string' ? message : message());
}

const show = (v: number | bigint | string | boolean): string =>
  typeof v === 'number' || typeof v === 'bigint' ? `${String(v)} (${hex(v)})` : String(v);

/** Fail unless both are equal; the message carries both in decimal and in hex. */
export function TEST_ASSERT_EQ<T extends number | bigint | string | boolean>(
  actual: T,
  expected: T,
  what = 'value',
): void {
  if (actual !== expected) throw new TestFailure(`${what}: got ${show(actual)}, expected ${show(expected)}`);
}

export function TEST_FAIL(message: string): never {
  throw new TestFailure(message);
}

/** Skip the test unless `condition` holds. */
export function TEST_REQUIRE(condition: boolean, requirement: string): asserts condition {
  if (!condition) throw new TestSkip(`Requirement not met: ${requirement}`);
}
