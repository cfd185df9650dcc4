// SPDX-License-Identifier: GPL-2.0-only
/** What the assembler says when it refuses. */
import { expect } from 'vitest';
import { AsmError } from '../errors.ts';

/** The message of the AsmError that `act` throws; any other error fails the test. */
export function asmMessage(act: () => unknown): string {
  let result: unknown;
  try {
    result = act();
  } catch (error) {
    expect(error).toBeInstanceOf(AsmError);
    return (error as AsmError).message;
  }
  return `no error: ${String(result)}`;
}
