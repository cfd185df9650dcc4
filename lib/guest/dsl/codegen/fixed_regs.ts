// SPDX-License-Identifier: GPL-2.0-only
/** Operations that want certain registers: shifts by a variable (rcx), divisions (rax and rdx). */
import type { Instruction } from '../../../asm/isa.ts';
import { R } from '../../../asm/operands.ts';
import type { BinNode } from '../ir.ts';
import type { FnContext } from './context.ts';
import { gp } from './emitter.ts';
import { bitOf, has, pick, REG_NUM, without, type RegMask, type RegNum } from './registers.ts';
import type { Values } from './values.ts';

const { rax: RAX, rcx: RCX, rdx: RDX } = REG_NUM;

/** Runs `body` while `regs` are its own: what is not free and not `dst` is saved and restored. */
function withFixed(
  ctx: FnContext,
  regs: readonly RegNum[],
  dst: RegNum,
  free: RegMask,
  body: (free: RegMask) => void,
): void {
  const { em } = ctx;
  const taken = regs.filter((reg) => reg !== dst && !has(free, reg));
  let left = regs.reduce((mask, reg) => without(mask, reg), free);
  const saved = taken.map((reg) => {
    const temp = pick(left);
    if (temp !== undefined) left = without(left, temp);
    const place = temp === undefined ? ctx.takeSpill() : -1;
    const where = temp === undefined ? ctx.spillMem(place, 8) : gp(temp, 8);
    em.emit('mov', where, gp(reg, 8));
    return { reg, where, place };
  });
  body(left);
  for (const { reg, where, place } of saved) {
    em.emit('mov', gp(reg, 8), where);
    if (place >= 0) ctx.dropSpill(place);
  }
}

/** A shift; a variable count must be in cl. */
export function shift(ctx: FnContext, ev: Values, node: BinNode, dst: RegNum, free: RegMask): void {
  const { op, l, r, width } = node;
  const { em } = ctx;
  const insn = op as Instruction;
  if (r.k === 'const') {
    ev.value(l, dst, free);
    em.emit(insn, gp(dst, width), Number(r.value & BigInt(width * 8 - 1)));
    return;
  }
  if (dst === RCX) {
    elsewhere(ctx, ev, node, dst, free);
    return;
  }
  withFixed(ctx, [RCX], dst, free, (left) => {
    ev.value(r, RCX, left | bitOf(dst));
    ev.value(l, dst, left);
    em.emit(insn, gp(dst, width), R.cl);
  });
}

/** A shift whose result belongs in rcx: computes it in another register. */
function elsewhere(ctx: FnContext, ev: Values, node: BinNode, dst: RegNum, free: RegMask): void {
  const other = pick(free) ?? RAX;
  withFixed(ctx, has(free, other) ? [] : [other], dst, free, () => {
    shift(ctx, ev, node, other, without(free, other) | bitOf(dst));
    ctx.em.emit('mov', gp(dst, node.width), gp(other, node.width));
  });
}

/** A division or remainder: dividend in rdx:rax, results in rax and rdx. */
export function divide(ctx: FnContext, ev: Values, node: BinNode, dst: RegNum, free: RegMask): void {
  const { op, l, r, width } = node;
  const { em } = ctx;
  const signed = op === 'sdiv' || op === 'smod';
  withFixed(ctx, [RAX, RDX], dst, free, (left) => {
    const direct = ctx.direct(r, width);
    const ready = typeof direct === 'object' ? direct : undefined;
    // The divisor can wait in neither rax nor rdx.
    const temp = ready ? undefined : pick(without(left, dst));
    const slot = ready || temp !== undefined ? -1 : ctx.takeSpill();
    const all = left | bitOf(RAX) | bitOf(RDX) | bitOf(dst);
    const divisor = ready ?? (temp === undefined ? ctx.spillMem(slot, width) : gp(temp, width));
    if (!ready) ev.value(r, temp ?? RAX, without(all, temp ?? RAX));
    if (slot >= 0) em.emit('mov', divisor, gp(RAX, width));
    const rest = temp === undefined ? all : without(all, temp);
    ev.value(l, RAX, without(rest, RAX));
    if (signed) em.emit(width === 8 ? 'cqo' : 'cdq');
    else em.emit('xor', R.edx, R.edx);
    em.emit(signed ? 'idiv' : 'div', divisor);
    const result = op === 'udiv' || op === 'sdiv' ? RAX : RDX;
    if (result !== dst) em.emit('mov', gp(dst, width), gp(result, width));
    if (slot >= 0) ctx.dropSpill(slot);
  });
}
