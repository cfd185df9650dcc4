// SPDX-License-Identifier: GPL-2.0-only
/**
 * The one error of the assembler: a line that cannot be assembled.
 * The message is a single line: the instruction as it was written, a colon, and the rule it breaks.
 */

/** A line that has no encoding, a label that cannot be resolved, or a value that does not fit its field. */
export class AsmError extends Error {
  override readonly name = 'AsmError';
  /** The offending instruction, label or directive, as text. */
  readonly subject: string;
  /** The rule it breaks, without the subject. */
  readonly rule: string;

  constructor(subject: string, rule: string) {
    super(`${subject}: ${rule}`);
    this.subject = subject;
    this.rule = rule;
  }
}
