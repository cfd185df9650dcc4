// SPDX-License-Identifier: GPL-2.0-only
/** Calls and inline assembly: operands into the registers that the ABI or the instruction demands, results to their homes. */
import { lab, mem, R } from '../../../asm/operands.ts';
import type { AsmRegs, AsmSink } from '../asm_spec.ts';
import { GuestCodeError } from '../error.ts';
import type { AsmOperand, Local, Node, Stmt } from '../ir.ts';
import { isInt, type IntSize } from '../types.ts';
import { type FnContext, immediate } from './context.ts';
import { type Emitter, gp } from './emitter.ts';
import type { Evaluator } from './eval.ts';
import {
  ARG_REGS,
  bitOf,
  CALLER_MASK,
  CALLER_SAVED,
  has,
  maskOf,
  pick,
  REG_NUM,
  without,
} from './registers.ts';
import type { RegMask, RegNum } from './registers.ts';

interface Move {
  readonly node: Node;
  readonly dst: RegNum;
}

/** Computes several values into distinct registers: what needs code first, what stands ready last. */
function placeAll(ctx: FnContext, ev: Evaluator, moves: readonly Move[], free: RegMask): RegMask {
  const isReady = (move: Move): boolean => ctx.direct(move.node, move.node.width) !== undefined;
  let left = free;
  for (const ready of [false, true]) {
    for (const move of moves.filter((candidate) => isReady(candidate) === ready)) {
      ev.value(move.node, move.dst, without(left, move.dst));
      left = without(left, move.dst);
    }
  }
  return left;
}

/** Puts a register into a local's home, extended as its type wants it. */
export function storeLocal(ctx: FnContext, local: Local, reg: RegNum, em: Emitter = ctx.em): void {
  const size = local.type.size as IntSize;
  const home = ctx.homeReg(local);
  if (home === undefined) {
    em.emit('mov', ctx.slot(local, size), gp(reg, size));
    return;
  }
  const signed = isInt(local.type) && local.type.signed;
  if (size < 4) em.emit(signed ? 'movsx' : 'movzx', gp(home, 4), gp(reg, size));
  // A 32-bit move to itself still clears the upper half.
  else if (home !== reg || size === 4) em.emit('mov', gp(home, size), gp(reg, size));
}

const isWanted = (ctx: FnContext, local: Local): boolean => (ctx.homes.live.lives.get(local)?.reads ?? 0) > 0;

/** Arguments beyond the sixth are eight bytes each at the bottom of the frame. */
function stackArg(ctx: FnContext, ev: Evaluator, arg: Node, offset: number): void {
  const place = mem(64, { base: R.rsp, disp: offset });
  const imm = arg.k === 'const' ? immediate(arg, arg.width) : undefined;
  if (imm !== undefined) {
    ctx.em.emit('mov', place, imm);
    return;
  }
  const reg = ctx.nodeReg(arg);
  if (reg === undefined) ev.value(arg, REG_NUM.rax, CALLER_MASK);
  ctx.em.emit('mov', place, gp(reg ?? REG_NUM.rax, 8));
}

/** A call by the System V ABI. */
export function genCall(ctx: FnContext, ev: Evaluator, stmt: Stmt & { s: 'call' }): void {
  const { em } = ctx;
  stmt.args.slice(ARG_REGS.length).forEach((arg, i) => stackArg(ctx, ev, arg, i * 8));
  const moves = stmt.args.slice(0, ARG_REGS.length).map((node, i) => ({ node, dst: ARG_REGS[i]! }));
  const { target } = stmt;
  if (target.k === 'sym') {
    placeAll(ctx, ev, moves, CALLER_MASK);
    em.emit('call', lab(ctx.labelOf(target.target)));
  } else {
    placeAll(ctx, ev, [...moves, { node: target, dst: REG_NUM.rax }], CALLER_MASK);
    em.emit('call', R.rax);
  }
  if (stmt.result && isWanted(ctx, stmt.result)) storeLocal(ctx, stmt.result, REG_NUM.rax);
}

/** Gives each operand of inline assembly a register. */
function chooseRegisters(stmt: Stmt & { s: 'asm' }, free: RegMask): Map<string, RegNum> {
  const taken = maskOf([
    ...stmt.clobbers.map((name) => REG_NUM[name]),
    ...stmt.operands.flatMap((operand) => (operand.reg ? [REG_NUM[operand.reg]] : [])),
  ]);
  let left = free & ~taken;
  const regs = new Map<string, RegNum>();
  for (const { name, reg } of stmt.operands) {
    const chosen = reg === undefined ? pick(left) : REG_NUM[reg];
    if (chosen === undefined)
      throw new GuestCodeError('inline assembly has more operands than registers', stmt.site);
    left = without(left, chosen);
    regs.set(name, chosen);
  }
  return regs;
}

function asmRegs(
  ctx: FnContext,
  operands: readonly AsmOperand[],
  regs: ReadonlyMap<string, RegNum>,
): AsmRegs<string> {
  const scope = ctx.em.fresh('asm');
  const find = (name: string): AsmOperand => operands.find((operand) => operand.name === name)!;
  return {
    reg: (name) => gp(regs.get(name)!, find(name).size),
    reg64: (name) => gp(regs.get(name)!, 8),
    local: (name) => `${scope}.${name}`,
  };
}

/** Inline assembly. */
export function genAsm(ctx: FnContext, ev: Evaluator, stmt: Stmt & { s: 'asm' }): void {
  const { em } = ctx;
  const regs = chooseRegisters(stmt, CALLER_MASK);
  const moves = stmt.operands.flatMap(({ name, input }) =>
    input ? [{ node: input, dst: regs.get(name)! }] : [],
  );
  placeAll(ctx, ev, moves, CALLER_MASK);
  const sink: AsmSink = {
    emit: (insn, ...ops) => em.emit(insn, ...ops),
    label: (name) => em.label(name),
  };
  stmt.emit(sink, asmRegs(ctx, stmt.operands, regs));
  const outputs = stmt.operands.filter(({ output }) => output && isWanted(ctx, output));
  for (const { name, output } of outputs) storeLocal(ctx, output!, regs.get(name)!);
}

/** Registers that hold no variable at a statement. */
export const freeAt = (ctx: FnContext, position: number): RegMask =>
  CALLER_SAVED.reduce((mask, reg) => (has(ctx.homes.busyAt(position), reg) ? mask : mask | bitOf(reg)), 0);
