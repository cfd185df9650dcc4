// SPDX-License-Identifier: GPL-2.0-only
/**
 * Flags that an instruction leaves undefined, from the "Flags Affected" paragraphs of the SDM's instruction pages. The
 * comparison leaves them out and goes on with the machine's choice.
 */
import { RFLAGS } from '../../lib/x86/registers.ts';

const { CF, PF, AF, ZF, SF, OF } = RFLAGS;

/** Undefined flags by instruction; shifts and rotates have further rules about the count. */
// prettier-ignore
export const UNDEFINED = {
  AND_OR_XOR_TEST:   AF,
  MUL_IMUL:          PF | AF | ZF | SF,
  DIV_IDIV:          CF | PF | AF | ZF | SF | OF,
  BIT_TEST:          PF | AF | SF | OF,
  BIT_SCAN:          CF | PF | AF | SF | OF,
  LZCNT_TZCNT:       PF | AF | SF | OF,
  SHIFT:             AF,           // with a count other than zero
  SHIFT_MANY:        OF,           // with a count other than one
  SHIFT_ALL_OUT:     CF,           // SHL and SHR with a count of the operand's size or more
  ROTATE_MANY:       OF,           // with a count other than one
  DOUBLE_SHIFT:      AF,
  DOUBLE_SHIFT_MANY: OF,
  DOUBLE_SHIFT_OVER: CF | PF | AF | ZF | SF | OF, // with a count beyond the operand's size
} as const;
