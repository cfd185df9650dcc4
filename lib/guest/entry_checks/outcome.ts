// SPDX-License-Identifier: GPL-2.0-only
/** How a case ended, as the guest records it and as text, for entries and for single instructions. */
import { VECTOR } from '../../x86/exceptions.ts';
import { struct } from '../dsl/struct.ts';
import { u32, u64 } from '../dsl/types.ts';

/** Kinds of outcome. NONE: the case was never reached. */
export const OUTCOME = {
  NONE: 0,
  SKIPPED: 1, // a capability that the case needs is not there
  ENTERED: 2,
  VMFAIL_INVALID: 3,
  VMFAIL_VALID: 4, // number: the VM-instruction error
  ENTRY_FAILURE: 5, // number: the basic exit reason
  FAULT: 6, // number: the vector; qualification: the error code
  SUCCEED: 7,
  EXIT: 8, // number: the basic exit reason of an instruction of L2
} as const;

/** One recorded outcome. */
export const OutcomeRecord = struct('struct check_outcome', { kind: u32, number: u32, qualification: u64 });

export interface Outcome {
  readonly kind: number;
  readonly number: number;
  readonly qualification: bigint;
}

/** An outcome; the qualification of most is 0. */
export const outcome = (kind: number, number = 0, qualification = 0): Outcome => ({
  kind,
  number,
  qualification: BigInt(qualification),
});

const vectorName = (vector: number): string =>
  Object.entries(VECTOR).find(([, number]) => number === vector)?.[0] ?? `vector ${vector}`;

/** The text of an outcome; 'skipped' is one of them. */
export function outcomeText({ kind, number, qualification }: Outcome): string {
  switch (kind) {
    case OUTCOME.SKIPPED:
      return 'skipped';
    case OUTCOME.ENTERED:
      return 'entered';
    case OUTCOME.VMFAIL_INVALID:
      return 'VMfailInvalid';
    case OUTCOME.VMFAIL_VALID:
      return `VMfailValid ${number}`;
    case OUTCOME.ENTRY_FAILURE:
      return `entry failure ${number} qualification ${qualification}`;
    case OUTCOME.FAULT:
      return `${vectorName(number)}(${qualification})`;
    case OUTCOME.SUCCEED:
      return 'VMsucceed';
    case OUTCOME.EXIT:
      return `VM exit ${number}`;
    default:
      return 'not run';
  }
}
