// SPDX-License-Identifier: GPL-2.0-only
/** Code for a whole function: prologue, statements, epilogue. System V ABI for x86-64, without frame pointer and red zone. */
import type { Assembler } from '../../../asm/assembler.ts';
import { mem, R } from '../../../asm/operands.ts';
import type { Instruction } from '../../../asm/isa.ts';
import type { Cond, FnBody, Linkable, Local, Node, Stmt } from '../ir.ts';
import type { IntSize } from '../types.ts';
import { branch } from './branch.ts';
import { freeAt, genAsm, genCall, storeLocal } from './calls.ts';
import { FnContext, immediate } from './context.ts';
import { type CodeMark, Emitter, gp } from './emitter.ts';
import { Evaluator } from './eval.ts';
import { assignHomes } from './homes.ts';
import { children } from './liveness.ts';
import { ARG_REGS, CALLEE_SAVED, has, pick, REG_NUM, without, type RegMask } from './registers.ts';

interface LoopLabels {
  readonly next: string;
  readonly end: string;
}

const IN_PLACE = new Set(['add', 'sub', 'and', 'or', 'xor']);

class FnCodegen {
  private readonly em: Emitter;
  private readonly ctx: FnContext;
  private readonly ev: Evaluator;
  private readonly body: FnBody;
  private readonly loops: LoopLabels[] = [];
  private readonly exit: string;

  constructor(body: FnBody, labelOf: (target: Linkable) => string) {
    this.body = body;
    this.em = new Emitter(body.symbol);
    this.ctx = new FnContext(this.em, assignHomes(body), labelOf);
    this.ev = new Evaluator(this.ctx, (node, label, when, free) =>
      branch(this.ctx, this.ev, node, label, when, free),
    );
    this.exit = this.em.fresh('exit');
  }

  generate(a: Assembler<CodeMark>): void {
    this.block(this.body.stmts);
    this.em.label(this.exit);
    const saved = CALLEE_SAVED.filter((reg) => has(this.ctx.homes.saved, reg));
    const frame = this.frameBytes(saved.length);
    this.epilogue(saved, frame);
    a.mark({ site: this.body.site, fn: this.body.symbol });
    const prologue = new Emitter(this.body.symbol);
    for (const reg of saved) prologue.emit('push', gp(reg, 8));
    if (frame > 0) prologue.emit('sub', R.rsp, frame);
    this.params(prologue, frame + saved.length * 8 + 8);
    prologue.replay(a);
    this.em.replay(a);
  }

  /** The stack pointer is a multiple of 16 at each call; the return address is on the stack already. */
  private frameBytes(pushes: number): number {
    const used = this.ctx.frameBytes();
    const calls = this.ctx.homes.live.barriers.some(({ kind }) => kind === 'call');
    if (used === 0 && !calls) return 0;
    const misfit = (used + pushes * 8 + 8) % 16;
    return misfit === 0 ? used : used + 16 - misfit;
  }

  private epilogue(saved: readonly number[], frame: number): void {
    if (frame > 0) this.em.emit('add', R.rsp, frame);
    for (const reg of [...saved].reverse()) this.em.emit('pop', gp(reg, 8));
    this.em.emit('ret');
  }

  private params(prologue: Emitter, stackArgs: number): void {
    this.body.params.forEach((param, i) => {
      const reg = ARG_REGS[i];
      const life = this.ctx.homes.live.lives.get(param);
      if (life?.reads === 0) return;
      if (reg !== undefined) {
        storeLocal(this.ctx, param, reg, prologue);
        return;
      }
      prologue.emit('mov', R.rax, mem(64, { base: R.rsp, disp: stackArgs + (i - ARG_REGS.length) * 8 }));
      storeLocal(this.ctx, param, REG_NUM.rax, prologue);
    });
  }

  private block(stmts: readonly Stmt[]): void {
    for (const stmt of stmts) this.stmt(stmt);
  }

  private free(at: Stmt | Cond): RegMask {
    return freeAt(this.ctx, this.ctx.homes.live.position.get(at)!);
  }

  private stmt(stmt: Stmt): void {
    if (stmt.s === 'decl') return;
    this.em.mark(stmt.site);
    switch (stmt.s) {
      case 'assign':
        this.assign(stmt.local, stmt.value, this.free(stmt));
        return;
      case 'store':
        this.store(stmt, this.free(stmt));
        return;
      case 'if':
        this.ifStmt(stmt);
        return;
      case 'loop':
        this.loop(stmt);
        return;
      case 'break':
        this.em.jump(this.loops.at(-1)!.end);
        return;
      case 'continue':
        this.em.jump(this.loops.at(-1)!.next);
        return;
      case 'return':
        if (stmt.value) this.ev.value(stmt.value, REG_NUM.rax, without(this.free(stmt), REG_NUM.rax));
        {
          this.em.jump(this.exit);
          return;
        }
      case 'call':
        genCall(this.ctx, this.ev, stmt);
        return;
      case 'asm':
        genAsm(this.ctx, this.ev, stmt);
        return;
    }
  }

  private assign(local: Local, value: Node, free: RegMask): void {
    const home = this.ctx.homeReg(local);
    if (home === undefined) {
      const addr = { k: 'localAddr', width: 8, local, offset: 0 } as const;
      this.storeTo(addr, local.type.size as IntSize, value, free);
      return;
    }
    if (
      value.k === 'bin' &&
      value.l.k === 'local' &&
      value.l.local === local &&
      this.inPlaceReg(value, home, free)
    )
      return;
    if (value.k === 'local' || !this.readsRegister(value, home)) {
      this.ev.value(value, home, without(free, home));
      return;
    }
    const temp = pick(free)!;
    this.ev.value(value, temp, without(free, temp));
    this.em.emit('mov', gp(home, value.width), gp(temp, value.width));
  }

  /** Whether a variable of the tree lives in the register: then the tree cannot be computed there. */
  private readsRegister(node: Node, reg: number): boolean {
    return (
      (node.k === 'local' && this.ctx.homeReg(node.local) === reg) ||
      children(node).some((child) => this.readsRegister(child, reg))
    );
  }

  /** `add home, operand` instead of computing the sum elsewhere. */
  private inPlaceReg(value: Node & { k: 'bin' }, home: number, free: RegMask): boolean {
    if (!IN_PLACE.has(value.op)) return false;
    const held = this.ev.operand(value.r, value.width, free);
    if (!held) return false;
    this.em.emit(value.op as Instruction, gp(home, value.width), held.op);
    return true;
  }

  private store(stmt: Stmt & { s: 'store' }, free: RegMask): void {
    this.storeTo(stmt.addr, stmt.size, stmt.value, free);
  }

  private storeTo(addr: Node, size: IntSize, given: Node, free: RegMask): void {
    // What the store cuts off anyway need not be extended.
    let value = given;
    while (value.k === 'ext' && value.from >= size) value = value.x;
    if (value.k === 'bin' && this.inPlaceMem(addr, size, value, free)) return;
    const imm = value.k === 'const' ? immediate(value, size) : undefined;
    const direct = this.ctx.direct(value, size);
    if (imm !== undefined || (typeof direct === 'object' && direct.kind === 'reg')) {
      this.em.emit('mov', this.destination(addr, size, free), imm ?? direct!);
      return;
    }
    const temp = pick(free)!;
    this.ev.value(value, temp, without(free, temp));
    this.em.emit('mov', this.destination(addr, size, without(free, temp)), gp(temp, size));
  }

  private destination(addr: Node, size: IntSize, free: RegMask): ReturnType<typeof mem> {
    return this.ev.address(addr, size, free)!.op;
  }

  /** `add [mem], operand` where the place is read and written once each. */
  private inPlaceMem(addr: Node, size: IntSize, value: Node & { k: 'bin' }, free: RegMask): boolean {
    const { op, l, r } = value;
    const same =
      (l.k === 'load' && l.addr === addr && l.size === size) ||
      (l.k === 'local' &&
        addr.k === 'localAddr' &&
        l.local === addr.local &&
        addr.offset === 0 &&
        l.local.type.size === size);
    if (!IN_PLACE.has(op) || !same) return false;
    const imm = r.k === 'const' ? immediate(r, size) : undefined;
    const temp = pick(free)!;
    let operand: ReturnType<typeof gp> | number = imm ?? gp(temp, size);
    const direct = this.ctx.direct(r, size);
    if (imm === undefined && typeof direct === 'object' && direct.kind === 'reg') operand = direct;
    else if (imm === undefined) this.ev.value(r, temp, without(free, temp));
    this.em.emit(op as Instruction, this.destination(addr, size, without(free, temp)), operand);
    return true;
  }

  private cond(cond: Cond, label: string, when: 'holds' | 'fails'): void {
    this.block(cond.pre);
    branch(this.ctx, this.ev, cond.node, label, when, this.free(cond));
  }

  private ifStmt(stmt: Stmt & { s: 'if' }): void {
    const end = this.em.fresh('endif');
    if (this.guardedJump(stmt, end)) return;
    const other = stmt.else.length > 0 ? this.em.fresh('else') : end;
    this.cond(stmt.cond, other, 'fails');
    this.block(stmt.then);
    if (stmt.else.length > 0) {
      this.em.jump(end);
      this.em.label(other);
      this.block(stmt.else);
    }
    this.em.label(end);
  }

  /** `if (c) break;` is one conditional jump. */
  private guardedJump(stmt: Stmt & { s: 'if' }, end: string): boolean {
    const [only, ...more] = stmt.then;
    if (!only || more.length > 0 || stmt.else.length > 0) return false;
    const loop = this.loops.at(-1);
    const label = only.s === 'break' ? loop?.end : only.s === 'continue' ? loop?.next : undefined;
    if (label === undefined) return false;
    this.cond(stmt.cond, label, 'holds');
    this.em.label(end);
    return true;
  }

  private loop(stmt: Stmt & { s: 'loop' }): void {
    const top = this.em.fresh('loop');
    const test = this.em.fresh('test');
    const labels = { next: this.em.fresh('next'), end: this.em.fresh('end') };
    const entersAtTest = stmt.test === 'top' && !(stmt.cond.node.k === 'const' && stmt.cond.pre.length === 0);
    if (stmt.test === 'top' && !entersAtTest && stmt.cond.node.k === 'const' && stmt.cond.node.value === 0n)
      return;
    if (entersAtTest) this.em.jump(test);
    this.em.label(top);
    this.loops.push(labels);
    this.block(stmt.body);
    this.loops.pop();
    this.em.label(labels.next);
    this.block(stmt.step);
    this.em.label(test);
    this.em.mark(stmt.site);
    this.cond(stmt.cond, top, 'holds');
    this.em.label(labels.end);
  }
}

/** Compiles a function and appends it to the image; its label must be bound already. */
export function compileFunction(
  a: Assembler<CodeMark>,
  body: FnBody,
  labelOf: (target: Linkable) => string,
): void {
  new FnCodegen(body, labelOf).generate(a);
}
