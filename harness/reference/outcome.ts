// SPDX-License-Identifier: GPL-2.0-only
/**
 * How a step of the reference interpreter ends, and what is thrown inside of it: a guest exception, or something that the
 * reference does not know. Unlike the machine, which returns codes, the reference unwinds by throwing.
 */

/** Operands of a system instruction, as far as the ModRM byte gives them. */
export interface SystemOperands {
  /** The instruction's name as in SYSOP. */
  readonly op: string;
  /** ModRM.reg with REX.R, if there is a ModRM byte. */
  readonly reg?: number;
  /** ModRM.rm with REX.B of a register operand, -1 for memory. */
  readonly rm?: number;
  /** Linear address of a memory operand, segment base included. */
  readonly linear?: bigint;
}

/** An exception: `cr2` only for PF. */
export interface FaultOutcome {
  readonly kind: 'fault';
  readonly vector: number;
  readonly errorCode: number;
  readonly cr2: bigint | undefined;
  /** Bytes of the instruction, 0 if it could not be decoded. */
  readonly length: number;
}

/** What one step did. */
export type Outcome =
  | { readonly kind: 'done'; readonly length: number }
  | FaultOutcome
  | { readonly kind: 'system'; readonly length: number; readonly operands: SystemOperands }
  | { readonly kind: 'unsupported'; readonly what: string };

/** A guest exception on its way out of the instruction. */
export class GuestException extends Error {
  override readonly name: string = 'GuestException';
  readonly vector: number;
  readonly errorCode: number;
  readonly cr2: bigint | undefined;

  constructor(vector: number, errorCode = 0, cr2?: bigint) {
    super(`vector ${vector}`);
    this.vector = vector;
    this.errorCode = errorCode;
    this.cr2 = cr2;
  }
}

/** The instruction or the access is beyond the reference: x87, SSE, devices. Says nothing about the machine. */
export class BeyondReference extends Error {
  override readonly name: string = 'BeyondReference';
}
