// SPDX-License-Identifier: GPL-2.0-only
/**
 * Defects, as opposed to outcomes. Guest faults are state and VMX results are values; what is thrown here means that
 * the emulator, the harness or the modelled kernel is wrong.
 */

/** The emulator or the harness broke one of its own rules. */
export class BugError extends Error {
  override readonly name: string = 'BugError';
}

/** The guest used something that is not modelled. Carries the bytes, the RIP and the level. */
export class UnimplementedError extends Error {
  override readonly name: string = 'UnimplementedError';
}

/** The system under test (host kernel or L0) broke a rule that the machine checks: a sanitizer's finding. */
export class SanitizerError extends Error {
  override readonly name: string = 'SanitizerError';
}
