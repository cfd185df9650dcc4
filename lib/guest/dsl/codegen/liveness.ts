// SPDX-License-Identifier: GPL-2.0-only
/**
 * How long each local lives and how often it is used, over the numbered statements of a function. One interval per local,
 * widened over loops; weights grow tenfold with each loop around a use. Exact data flow is left out: an interval is safe.
 */
import type { AsmOperand, Cond, FnBody, Local, Node, Stmt } from '../ir.ts';

/**
 * The life of one local, in half steps: statement n reads at 2n and writes at 2n + 1, so that a variable may take over the
 * register of one that is read for the last time. 0 is the function's entry.
 */
export interface Life {
  first: number;
  last: number;
  weight: number;
  /** How many times its value is read. */
  reads: number;
}

/** A point where registers are lost: a call, or inline assembly. */
export interface Barrier {
  readonly at: number;
  readonly kind: 'call' | 'asm';
  readonly stmt: Stmt;
}

/** Lives, barriers and the number of each statement and condition. */
export interface Liveness {
  readonly lives: ReadonlyMap<Local, Life>;
  readonly barriers: readonly Barrier[];
  readonly position: ReadonlyMap<Stmt | Cond, number>;
  /** Variables that begin as a copy of another one. */
  readonly copies: ReadonlyMap<Local, Local>;
}

/** The subtrees of a node. */
export function children(node: Node): readonly Node[] {
  switch (node.k) {
    case 'load':
      return [node.addr];
    case 'bin':
    case 'cmp':
    case 'land':
    case 'lor':
      return [node.l, node.r];
    case 'un':
    case 'ext':
    case 'lnot':
      return [node.x];
    case 'select':
      return [node.c, node.a, node.b];
    default:
      return [];
  }
}

interface Loop {
  readonly start: number;
  readonly touched: Set<Local>;
}

class Walker {
  readonly lives = new Map<Local, Life>();
  readonly barriers: Barrier[] = [];
  readonly position = new Map<Stmt | Cond, number>();
  readonly copies = new Map<Local, Local>();
  private readonly loops: Loop[] = [];
  private now = 0;

  touch(local: Local, use: 'read' | 'write'): void {
    const at = this.now * 2 + (use === 'write' ? 1 : 0);
    const life = this.lives.get(local) ?? { first: at, last: at, weight: 0, reads: 0 };
    life.last = Math.max(life.last, at);
    life.weight += 10 ** Math.min(this.loops.length, 6);
    if (use === 'read') life.reads += 1;
    this.lives.set(local, life);
    for (const loop of this.loops) loop.touched.add(local);
  }

  private tree(node: Node | undefined): void {
    if (!node) return;
    if (node.k === 'local' || node.k === 'localAddr') this.touch(node.local, 'read');
    for (const child of children(node)) this.tree(child);
  }

  block(stmts: readonly Stmt[]): void {
    for (const stmt of stmts) this.stmt(stmt);
  }

  private cond(cond: Cond): void {
    this.block(cond.pre);
    this.now += 1;
    this.position.set(cond, this.now);
    this.tree(cond.node);
  }

  private barrier(stmt: Stmt & { s: 'call' | 'asm' }): void {
    this.barriers.push({ at: this.now, kind: stmt.s, stmt });
  }

  private stmt(stmt: Stmt): void {
    this.now += 1;
    this.position.set(stmt, this.now);
    switch (stmt.s) {
      case 'decl':
        this.touch(stmt.local, 'write');
        return;
      case 'assign':
        this.tree(stmt.value);
        if (stmt.value.k === 'local') this.copies.set(stmt.local, stmt.value.local);
        {
          this.touch(stmt.local, 'write');
          return;
        }
      case 'store':
        this.tree(stmt.addr);
        {
          this.tree(stmt.value);
          return;
        }
      case 'return':
        this.tree(stmt.value);
        return;
      case 'if':
        this.cond(stmt.cond);
        this.block(stmt.then);
        {
          this.block(stmt.else);
          return;
        }
      case 'loop':
        this.loop(stmt);
        return;
      case 'call':
        this.barrier(stmt);
        this.tree(stmt.target);
        stmt.args.forEach((arg) => this.tree(arg));
        if (stmt.result) this.touch(stmt.result, 'write');
        return;
      case 'asm':
        this.barrier(stmt);
        {
          this.asmOperands(stmt.operands);
          return;
        }
      default:
        return;
    }
  }

  private asmOperands(operands: readonly AsmOperand[]): void {
    for (const operand of operands) {
      this.tree(operand.input);
      if (operand.output) this.touch(operand.output, 'write');
    }
  }

  private loop(stmt: Stmt & { s: 'loop' }): void {
    const loop: Loop = { start: this.now * 2, touched: new Set() };
    this.loops.push(loop);
    if (stmt.test === 'top') this.cond(stmt.cond);
    this.block(stmt.body);
    this.block(stmt.step);
    if (stmt.test === 'bottom') this.cond(stmt.cond);
    this.now += 1;
    this.loops.pop();
    const end = this.now * 2 + 1;
    for (const local of loop.touched) this.carry(local, loop.start, end);
    this.done.push([loop.start, end]);
  }

  private readonly done: [number, number][] = [];

  /** What is alive before the loop is alive until its end: the next turn may want it. */
  private carry(local: Local, start: number, end: number): void {
    const life = this.lives.get(local)!;
    if (life.first < start) life.last = Math.max(life.last, end);
  }

  /** What is born in a loop and outlives it must survive the turns before its birth as well. */
  widen(): void {
    for (const [start, end] of this.done) {
      for (const life of this.lives.values()) {
        if (life.first >= start && life.first <= end && life.last > end) life.first = start;
      }
    }
  }
}

/** Computes the lives of a function's locals. */
export function liveness(body: FnBody): Liveness {
  const walker = new Walker();
  for (const param of body.params) walker.touch(param, 'read');
  for (const life of walker.lives.values()) life.reads = 0;
  walker.block(body.stmts);
  walker.widen();
  return walker;
}
