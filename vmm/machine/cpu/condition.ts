// SPDX-License-Identifier: GPL-2.0-only
/** Conditions and the carry for the interpreter's loop, which keeps the lazy flags in locals: the rarer combinations. */
import { carryFlag, condition } from './flags.ts';
import { S } from './state.ts';

function spill(
  s: Int32Array,
  op: number,
  al: number,
  ah: number,
  bl: number,
  bh: number,
  rl: number,
  rh: number,
): void {
  s[S.FLAG_OP] = op;
  s[S.FLAG_A] = al;
  s[S.FLAG_A + 1] = ah;
  s[S.FLAG_B] = bl;
  s[S.FLAG_B + 1] = bh;
  s[S.FLAG_R] = rl;
  s[S.FLAG_R + 1] = rh;
}

/** Whether condition `cc` holds for flags given as FLAG_OP, A, B and R. */
export function lazyCondition(
  s: Int32Array,
  cc: number,
  op: number,
  al: number,
  ah: number,
  bl: number,
  bh: number,
  rl: number,
  rh: number,
): boolean {
  spill(s, op, al, ah, bl, bh, rl, rh);
  return condition(s, cc);
}

/** CF, 0 or 1. */
export function lazyCarry(
  s: Int32Array,
  op: number,
  al: number,
  ah: number,
  bl: number,
  bh: number,
  rl: number,
  rh: number,
): number {
  spill(s, op, al, ah, bl, bh, rl, rh);
  return carryFlag(s);
}
