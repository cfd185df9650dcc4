// SPDX-License-Identifier: GPL-2.0-only
/**
 * Code for expression trees. `value(node, dst, free)` computes a node into `dst` and may destroy the registers in `free`, and
 * nothing else; what the instruction set wants in rax, rcx or rdx is saved around it if it is taken. When no register is
 * left, an operand waits in a spill slot. A 32-bit value always has the upper half of its register clear.
 */
import type { Instruction } from '../../../asm/isa.ts';
import { mem, type Mem, type Operand } from '../../../asm/operands.ts';
import type { BinNode, ConstNode, ExtNode, LoadNode, Node, SelectNode, Width } from '../ir.ts';
import type { IntSize } from '../types.ts';
import { type FnContext, immediate, localLoad } from './context.ts';
import { compare } from './compare.ts';
import { gp } from './emitter.ts';
import { divide, shift } from './fixed_regs.ts';
import { children } from './liveness.ts';
import { bitOf, pick, without, type RegMask, type RegNum } from './registers.ts';
import type { Held, Values } from './values.ts';

/** Jumps to a label if a node is true (`holds`) or false (`fails`); else falls through. */
export type Branch = (node: Node, label: string, when: 'holds' | 'fails', free: RegMask) => void;

const COMMUTATIVE = new Set(['add', 'and', 'or', 'xor', 'mul']);
const INSN = { add: 'add', sub: 'sub', and: 'and', or: 'or', xor: 'xor', mul: 'imul' } as const;
type PlainOp = keyof typeof INSN;

const isPlain = (op: string): op is PlainOp => op in INSN;

/** Generates code for trees. */
export class Evaluator implements Values {
  private readonly ctx: FnContext;
  private readonly branch: Branch;
  private readonly needs = new WeakMap<Node, number>();

  constructor(ctx: FnContext, branch: Branch) {
    this.ctx = ctx;
    this.branch = branch;
  }

  /** Computes `node` into `dst`. */
  value(node: Node, dst: RegNum, free: RegMask): void {
    const spare = without(free, dst);
    switch (node.k) {
      case 'const':
        this.constant(node, dst);
        return;
      case 'local':
        this.local(node, dst);
        return;
      case 'localAddr':
      case 'sym':
        this.lea(this.ctx.directMem(node, 0)!, dst);
        return;
      case 'load':
        this.load(node, dst, spare);
        return;
      case 'bin':
        this.binary(node, dst, spare);
        return;
      case 'un':
        this.value(node.x, dst, spare);
        this.ctx.em.emit(node.op, gp(dst, node.width));
        return;
      case 'ext':
        this.extend(node, dst, spare);
        return;
      case 'select':
        this.select(node, dst, spare);
        return;
      default:
        this.truth(node, dst, spare);
        return;
    }
  }

  /** The node as an operand of `size` bytes, with help of the free registers; undefined if there are none left. */
  operand(node: Node, size: IntSize, free: RegMask): Held | undefined {
    const direct = this.ctx.direct(node, size);
    if (direct !== undefined) return { op: direct, used: 0 };
    if (node.k === 'load' && node.size >= size) {
      const held = this.address(node.addr, size, free);
      if (held) return held;
    }
    const temp = pick(free);
    if (temp === undefined) return undefined;
    this.value(node, temp, without(free, temp));
    return { op: gp(temp, size), used: bitOf(temp) };
  }

  /** A memory operand at the address, with help of the free registers; undefined if there are too few. */
  address(addr: Node, size: IntSize | 0, free: RegMask): (Held & { readonly op: Mem }) | undefined {
    const parts = this.ctx.addressParts(addr);
    const wanted = [parts.base, parts.index].filter((part) => part && this.ctx.nodeReg(part) === undefined);
    const first = pick(free);
    const second = first === undefined ? undefined : pick(without(free, first));
    if ((wanted.length > 0 && first === undefined) || (wanted.length > 1 && second === undefined))
      return undefined;
    const regs = new Map<Node, RegNum>();
    const order = [...wanted].sort((a, b) => this.need(b!) - this.need(a!));
    let left = free;
    for (const part of order) {
      const reg = pick(left)!;
      this.value(part!, reg, without(left, reg));
      left = without(left, reg);
      regs.set(part!, reg);
    }
    const regOf = (part: Node | undefined): RegNum | undefined =>
      part && (this.ctx.nodeReg(part) ?? regs.get(part));
    return { op: this.ctx.memOf(parts, regOf(parts.base), regOf(parts.index), size), used: free & ~left };
  }

  /** How many registers a node wants; only an estimate that chooses which side goes first. */
  need(node: Node): number {
    const known = this.needs.get(node);
    if (known !== undefined) return known;
    const counts = children(node)
      .map((child) => this.need(child))
      .sort((a, b) => b - a);
    const [a = 0, b = 0] = counts;
    const leaf = counts.length === 0 ? (node.k === 'local' || node.k === 'const' ? 0 : 1) : 0;
    const result = Math.max(leaf, a, a === b && counts.length > 1 ? a + 1 : 1);
    this.needs.set(node, counts.length === 0 ? leaf : result);
    return this.needs.get(node)!;
  }

  private constant(node: ConstNode, dst: RegNum): void {
    const { em } = this.ctx;
    if (node.value === 0n) em.emit('xor', gp(dst, 4), gp(dst, 4));
    else if (node.value <= 0xffff_ffffn) em.emit('mov', gp(dst, 4), node.value);
    else em.emit('mov', gp(dst, 8), immediate(node, 8) ?? node.value);
  }

  private local(node: Node & { k: 'local' }, dst: RegNum): void {
    const reg = this.ctx.homeReg(node.local);
    if (reg === dst) return;
    if (reg !== undefined) {
      this.ctx.em.emit('mov', gp(dst, node.width), gp(reg, node.width));
      return;
    }
    const { size, signed } = localLoad(node.local);
    this.loadFrom(this.ctx.slot(node.local, size), dst, size, signed, node.width);
  }

  private lea(op: Mem, dst: RegNum): void {
    this.ctx.em.emit('lea', gp(dst, 8), op);
  }

  /** Loads `size` bytes from an operand (register or memory), extended to `width`. */
  private loadFrom(op: Operand, dst: RegNum, size: IntSize, signed: boolean, width: Width): void {
    const { em } = this.ctx;
    if (size === 8) em.emit('mov', gp(dst, 8), op);
    else if (size === 4 && (!signed || width === 4)) em.emit('mov', gp(dst, 4), op);
    else if (size === 4) em.emit('movsxd', gp(dst, 8), op);
    else if (signed) em.emit('movsx', gp(dst, width), op);
    else em.emit('movzx', gp(dst, 4), op);
  }

  private load(node: LoadNode, dst: RegNum, free: RegMask): void {
    const held = this.address(node.addr, node.size, free | bitOf(dst));
    let op: Mem;
    if (held) op = held.op;
    else {
      this.value(node.addr, dst, free);
      op = mem(node.size * 8, { base: gp(dst, 8) });
    }
    this.loadFrom(op, dst, node.size, node.signed, node.width);
  }

  private extend(node: ExtNode, dst: RegNum, free: RegMask): void {
    const direct = this.ctx.direct(node.x, node.from);
    const op = direct !== undefined && typeof direct === 'object' ? direct : undefined;
    if (op) {
      this.loadFrom(op, dst, node.from, node.signed, node.width);
      return;
    }
    this.value(node.x, dst, free);
    const known = node.from === 4 && !node.signed && node.x.width === 4;
    if (!known) this.loadFrom(gp(dst, node.from), dst, node.from, node.signed, node.width);
  }

  private select(node: SelectNode, dst: RegNum, free: RegMask): void {
    const { em } = this.ctx;
    const other = em.fresh('else');
    const end = em.fresh('end');
    this.branch(node.c, other, 'fails', free | bitOf(dst));
    this.value(node.a, dst, free);
    em.jump(end);
    em.label(other);
    this.value(node.b, dst, free);
    em.label(end);
  }

  /** A condition as 0 or 1. */
  private truth(node: Node, dst: RegNum, free: RegMask): void {
    const { em } = this.ctx;
    if (node.k === 'cmp') {
      compare(this.ctx, this, node, free | bitOf(dst));
      em.emit(`set${node.cc}`, gp(dst, 1));
      em.emit('movzx', gp(dst, 4), gp(dst, 1));
      return;
    }
    const no = em.fresh('no');
    const end = em.fresh('end');
    this.branch(node, no, 'fails', free | bitOf(dst));
    em.emit('mov', gp(dst, 4), 1);
    em.jump(end);
    em.label(no);
    em.emit('xor', gp(dst, 4), gp(dst, 4));
    em.label(end);
  }

  private binary(node: BinNode, dst: RegNum, free: RegMask): void {
    const { op, l, r, width } = node;
    if (op === 'shl' || op === 'shr' || op === 'sar') {
      shift(this.ctx, this, node, dst, free);
      return;
    }
    if (!isPlain(op)) {
      divide(this.ctx, this, node, dst, free);
      return;
    }
    if (op === 'add' && this.leaAdd(node, dst)) return;
    if (op === 'mul' && r.k === 'const') {
      const constant = immediate(r, width);
      if (constant !== undefined) {
        this.mulConst(l, constant, dst, free, width);
        return;
      }
    }
    this.plain(INSN[op], node, dst, free);
  }

  private mulConst(l: Node, constant: number, dst: RegNum, free: RegMask, width: Width): void {
    const direct = this.ctx.direct(l, width);
    const source = typeof direct === 'object' ? direct : undefined;
    if (!source) this.value(l, dst, free);
    this.ctx.em.emit('imul', gp(dst, width), source ?? gp(dst, width), constant);
  }

  /** `lea` adds two registers, or a register and a constant, into a third one. */
  private leaAdd(node: BinNode, dst: RegNum): boolean {
    const { l, r, width } = node;
    const base = this.ctx.direct(l, width);
    const other = this.ctx.direct(r, width);
    if (typeof base !== 'object' || base.kind !== 'reg' || base.num === dst) return false;
    const address = { base: gp(base.num, 8) };
    if (typeof other === 'number') {
      this.ctx.em.emit('lea', gp(dst, width), mem(0, { ...address, disp: other }));
      return true;
    }
    if (typeof other !== 'object' || other.kind !== 'reg') return false;
    this.ctx.em.emit('lea', gp(dst, width), mem(0, { ...address, index: gp(other.num, 8) }));
    return true;
  }

  /** add, sub, and, or, xor, imul: one destination, one operand. */
  private plain(insn: Instruction, node: BinNode, dst: RegNum, free: RegMask): void {
    const { width } = node;
    const { em } = this.ctx;
    const swap =
      COMMUTATIVE.has(node.op) &&
      this.ctx.direct(node.l, width) !== undefined &&
      this.ctx.direct(node.r, width) === undefined;
    const [l, r] = swap ? [node.r, node.l] : [node.l, node.r];
    const direct = this.ctx.direct(r, width);
    if (direct !== undefined) {
      this.value(l, dst, free);
      em.emit(insn, gp(dst, width), direct);
      return;
    }
    const temp = pick(free);
    if (temp === undefined) {
      this.plainBySpill(insn, l, r, width, dst);
      return;
    }
    if (this.need(r) > this.need(l)) {
      this.value(r, temp, without(free, temp) | bitOf(dst));
      this.value(l, dst, without(free, temp));
      em.emit(insn, gp(dst, width), gp(temp, width));
      return;
    }
    this.value(l, dst, free);
    const held = this.operand(r, width, free)!;
    em.emit(insn, gp(dst, width), held.op);
  }

  private plainBySpill(insn: Instruction, l: Node, r: Node, width: Width, dst: RegNum): void {
    const { em } = this.ctx;
    this.value(r, dst, 0);
    const slot = this.ctx.takeSpill();
    em.emit('mov', this.ctx.spillMem(slot, width), gp(dst, width));
    this.value(l, dst, 0);
    em.emit(insn, gp(dst, width), this.ctx.spillMem(slot, width));
    this.ctx.dropSpill(slot);
  }
}
