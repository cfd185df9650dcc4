// SPDX-License-Identifier: GPL-2.0-only
/** Comparisons: `cmp` and `test` of two trees, down to a single register at hand. */
import type { Operand } from '../../../asm/operands.ts';
import type { Node } from '../ir.ts';
import type { IntSize } from '../types.ts';
import type { FnContext } from './context.ts';
import { gp } from './emitter.ts';
import { bitOf, count, pick, without, type RegMask } from './registers.ts';
import type { Held, Values } from './values.ts';

const isReg = (op: Operand): boolean => typeof op === 'object' && op.kind === 'reg';
const isMem = (op: Operand): boolean => typeof op === 'object' && op.kind === 'mem';

/** Sets the flags by a comparison. */
export function compare(ctx: FnContext, ev: Values, node: Node & { k: 'cmp' }, free: RegMask): void {
  const { l, r, opSize, cc } = node;
  const zero = r.k === 'const' && r.value === 0n && (cc === 'e' || cc === 'ne');
  if (zero && l.k === 'bin' && l.op === 'and' && opSize === l.width) {
    pair(ctx, ev, 'test', l.l, l.r, opSize, free);
    return;
  }
  pair(ctx, ev, 'cmp', l, r, opSize, free);
}

/** `cmp` or `test` of two trees. */
function pair(
  ctx: FnContext,
  ev: Values,
  insn: 'cmp' | 'test',
  l: Node,
  r: Node,
  size: IntSize,
  free: RegMask,
): void {
  // Each side wants two registers at most once it is reduced to an operand.
  if (count(free) < 4) {
    pairBySpill(ctx, ev, insn, l, r, size, free);
    return;
  }
  const { em } = ctx;
  const rightFirst = ev.need(r) > ev.need(l) && ctx.direct(r, size) === undefined;
  const early = rightFirst ? inRegister(ev, r, size, free) : undefined;
  const left = ev.operand(l, size, free & ~(early?.used ?? 0))!;
  const rest = free & ~left.used;
  const zero = r.k === 'const' && r.value === 0n && insn === 'cmp';
  if (zero && isReg(left.op)) {
    em.emit('test', left.op, left.op);
    return;
  }
  const right =
    early ?? (isReg(left.op) ? ev.operand(r, size, rest)! : immediateOrRegister(ctx, ev, r, size, rest));
  // `test` takes a memory operand on its left only; the order does not matter to it.
  const swap = insn === 'test' && isMem(right.op);
  em.emit(insn, swap ? right.op : left.op, swap ? left.op : right.op);
}

function immediateOrRegister(ctx: FnContext, ev: Values, node: Node, size: IntSize, free: RegMask): Held {
  const direct = ctx.direct(node, size);
  return typeof direct === 'number' ? { op: direct, used: 0 } : inRegister(ev, node, size, free);
}

function inRegister(ev: Values, node: Node, size: IntSize, free: RegMask): Held {
  const temp = pick(free)!;
  ev.value(node, temp, without(free, temp));
  return { op: gp(temp, size), used: bitOf(temp) };
}

/** A comparison with one register at hand: the right side waits in memory. */
function pairBySpill(
  ctx: FnContext,
  ev: Values,
  insn: 'cmp' | 'test',
  l: Node,
  r: Node,
  size: IntSize,
  free: RegMask,
): void {
  const { em } = ctx;
  const slot = ctx.takeSpill();
  const temp = pick(free)!;
  ev.value(r, temp, without(free, temp));
  em.emit('mov', ctx.spillMem(slot, 8), gp(temp, 8));
  ev.value(l, temp, without(free, temp));
  em.emit(
    insn,
    ...(insn === 'test'
      ? [ctx.spillMem(slot, size), gp(temp, size)]
      : [gp(temp, size), ctx.spillMem(slot, size)]),
  );
  ctx.dropSpill(slot);
}
