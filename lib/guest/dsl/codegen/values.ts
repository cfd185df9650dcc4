// SPDX-License-Identifier: GPL-2.0-only
/** What the parts of the code generator want from the one that computes trees (eval.ts). */
import type { Operand } from '../../../asm/operands.ts';
import type { Node } from '../ir.ts';
import type { IntSize } from '../types.ts';
import type { RegMask, RegNum } from './registers.ts';

/** An operand, and the registers that its address or value occupies. */
export interface Held {
  readonly op: Operand;
  readonly used: RegMask;
}

/** Computes trees into registers and operands. */
export interface Values {
  /** Computes `node` into `dst`; destroys registers in `free` at most. */
  value(node: Node, dst: RegNum, free: RegMask): void;
  /** The node as an operand of `size` bytes, with help of the free registers; undefined if there are none left. */
  operand(node: Node, size: IntSize, free: RegMask): Held | undefined;
  /** How many registers a node wants; an estimate. */
  need(node: Node): number;
}
