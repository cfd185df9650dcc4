// SPDX-License-Identifier: GPL-2.0-only
/**
 * The builder of a guest function's body: `g` in `guestFn('guest_code', [...], (g, ...) => { ... })`. Each method appends one
 * statement; TypeScript closures are the blocks. A call is a statement too: `g.call` runs the callee there and then
 * and gives a fresh variable with its result. Left out: goto, switch fall-through, variable-length arrays.
 */
import type { Instruction } from '../../asm/isa.ts';
import { asmOperands, type AsmSpec } from './asm_spec.ts';
import { GuestCodeError } from './error.ts';
import { expr, Place, type Expr } from './expr.ts';
import type { Cond, FnBody, GpName, Local, Node, Stmt } from './ir.ts';
import { condition, convert, rvalue, type Operand } from './rvalue.ts';
import { captureSite, type Site } from './srcloc.ts';
import { isFn, isInt, isPtr, isScalar, voidType } from './types.ts';
import type { AnyType, FnType, IntType, PtrType } from './types.ts';

/** A block of statements. */
export type Block = () => void;
/** A condition; the function form may hold calls, which are then repeated with each test. */
export type CondArg = Operand | (() => Operand);
/** C's compound assignments. */
export type AssignOp = '=' | '+=' | '-=' | '*=' | '/=' | '%=' | '&=' | '|=' | '^=' | '<<=' | '>>=';
/** The outputs of inline assembly. */
export type AsmOutputs<O extends string> = { readonly [K in O]: Expr<IntType> };

const COMPOUND = {
  '+=': 'add',
  '-=': 'sub',
  '*=': 'mul',
  '/=': 'div',
  '%=': 'mod',
  '&=': 'and',
  '|=': 'or',
  '^=': 'xor',
  '<<=': 'shl',
  '>>=': 'shr',
} as const;

const isOperand = (cond: CondArg): cond is Operand => typeof cond !== 'function' || 'linkKind' in cond;

function checkLocal(type: AnyType): void {
  if (type.kind === 'void' || type.kind === 'fn') {
    throw new GuestCodeError(`local variable of type ${type.name}`);
  }
  // The ABI aligns the stack to 16 bytes, and the frame has no more.
  if (type.align > 16) throw new GuestCodeError(`local variable aligned to ${type.align}: make it a global`);
}

/** The body of one guest function under construction. */
export class GuestCode {
  /** The function's name. */
  readonly symbol: string;
  /** Who runs it: 'L1', 'L2', ...; printed by failed guest assertions. */
  readonly level: string;
  private readonly type: FnType;
  private readonly site: Site;
  private readonly locals: Local[] = [];
  private readonly params: Local[] = [];
  private current: Stmt[] = [];
  private loopDepth = 0;

  constructor(symbol: string, level: string, type: FnType, site: Site) {
    this.symbol = symbol;
    this.level = level;
    this.type = type;
    this.site = site;
    for (const param of type.params) this.params.push(this.newLocal(param));
  }

  /** The parameters as places. */
  paramPlaces(): Place[] {
    return this.params.map((local) => this.placeOf(local));
  }

  /** Ends the body. */
  finish(): FnBody {
    const { symbol, site, params, locals } = this;
    return { symbol, site, params, locals, stmts: this.current };
  }

  /** Declares a local variable; without `init` its value is indeterminate, as in C. */
  local<T extends AnyType>(type: T, init?: Operand): Place<T> {
    checkLocal(type);
    const local = this.newLocal(type);
    const place = this.placeOf(local) as Place<T>;
    if (init !== undefined) this.assign(place, init);
    else this.current.push({ s: 'decl', site: captureSite(), local });
    return place;
  }

  /** Evaluates an expression now and keeps the value in a fresh variable. */
  let<T extends AnyType>(value: Expr<T>): Place<T> {
    const { type } = rvalue(value);
    return this.local(type, value) as unknown as Place<T>;
  }

  /** `place = value`, or `place op= value`. */
  set(place: Place, value: Operand): void;
  set(place: Place, op: AssignOp, value: Operand): void;
  set(place: Place, ...rest: [Operand] | [AssignOp, Operand]): void {
    if (rest.length === 1) {
      this.assign(place, rest[0]);
      return;
    }
    const [op, value] = rest;
    if (op === '=') {
      this.assign(place, value);
      return;
    }
    this.checkPlace(place);
    const sum = place[COMPOUND[op]](value);
    // C converts the result back without a question; only a plain assignment checks.
    this.assign(place, isInt(place.type) ? sum.cast(place.type) : sum);
  }

  /** `place++`, or `place += by`. */
  inc(place: Place, by: Operand = 1): void {
    this.set(place, '+=', by);
  }

  /** `place--`, or `place -= by`. */
  dec(place: Place, by: Operand = 1): void {
    this.set(place, '-=', by);
  }

  /** `if (cond) { then } else { otherwise }`. */
  if(cond: CondArg, then: Block, otherwise?: Block): void {
    const site = captureSite();
    const test = this.cond(cond);
    const thenStmts = this.block(then);
    const elseStmts = otherwise ? this.block(otherwise) : [];
    this.current.push({ s: 'if', site, cond: test, then: thenStmts, else: elseStmts });
  }

  /** A chain of `case`s without fall-through; several values may share one block. */
  switch(
    value: Expr,
    cases: readonly (readonly [number | bigint | readonly (number | bigint)[], Block])[],
    otherwise?: Block,
  ): void {
    const subject = this.let(value);
    const emit = (index: number): void => {
      const entry = cases[index];
      if (!entry) return otherwise?.();
      const [labels, block] = entry;
      const values = Array.isArray(labels)
        ? (labels as readonly (number | bigint)[])
        : [labels as number | bigint];
      if (values.length === 0) throw new GuestCodeError('case without a value');
      const [first, ...more] = values;
      const test = more.reduce((sum, label) => sum.lor(subject.eq(label)), subject.eq(first!));
      this.if(test, block, () => emit(index + 1));
    };
    emit(0);
  }

  /** `while (cond) { body }`. */
  while(cond: CondArg, body: Block): void {
    this.loopStmt('top', captureSite(), cond, body, () => undefined);
  }

  /** `do { body } while (cond)`. */
  doWhile(body: Block, cond: CondArg): void {
    this.loopStmt('bottom', captureSite(), cond, body, () => undefined);
  }

  /** `for (;;) { body }`. */
  loop(body: Block): void {
    this.loopStmt('top', captureSite(), 1, body, () => undefined);
  }

  /** `for (; cond; step) { body }`: `continue` goes on with `step`. */
  for(cond: CondArg, step: Block, body: Block): void {
    this.loopStmt('top', captureSite(), cond, body, step);
  }

  /** `for (i = from; i < to; i += step) { body }`; `to` is evaluated each time. */
  forRange(i: Place, from: Operand, to: Operand, step: Operand, body: Block): void {
    this.assign(i, from);
    this.for(i.lt(to), () => this.set(i, '+=', step), body);
  }

  /** Leaves the innermost loop. */
  break(): void {
    if (this.loopDepth === 0) throw new GuestCodeError('break outside of a loop');
    this.current.push({ s: 'break', site: captureSite() });
  }

  /** Goes on with the next turn of the innermost loop. */
  continue(): void {
    if (this.loopDepth === 0) throw new GuestCodeError('continue outside of a loop');
    this.current.push({ s: 'continue', site: captureSite() });
  }

  /** `return value`. */
  return(value?: Operand): void {
    const { ret } = this.type;
    if (ret.kind === 'void' && value !== undefined)
      throw new GuestCodeError(`${this.symbol} returns nothing`);
    if (ret.kind !== 'void' && value === undefined)
      throw new GuestCodeError(`${this.symbol} must return ${ret.name}`);
    const node = value === undefined ? undefined : convert(value, ret, `return of ${this.symbol}`);
    this.current.push({ s: 'return', site: captureSite(), value: node });
  }

  /** Calls a function, or through a pointer to one; the result is a fresh variable. */
  call(callee: Operand, ...args: Operand[]): Expr {
    const target = rvalue(callee);
    if (!isPtr(target.type) || !isFn(target.type.to)) throw new GuestCodeError(`call of ${target.type.name}`);
    const { params, ret } = target.type.to;
    const name = target.node.k === 'sym' ? target.node.target.symbol : target.type.to.name;
    if (args.length !== params.length) {
      throw new GuestCodeError(`${name} takes ${params.length} arguments, not ${args.length}`);
    }
    const nodes = params.map((type, i) => convert(args[i]!, type, `argument ${i + 1} of ${name}`));
    const result = ret.kind === 'void' ? undefined : this.newLocal(ret);
    this.current.push({ s: 'call', site: captureSite(), target: target.node, args: nodes, result });
    return result ? this.placeOf(result) : expr(voidType, { k: 'const', width: 4, value: 0n });
  }

  /** Inline assembly; the outputs are fresh variables. */
  asm<I extends string = never, O extends string = never>(spec: AsmSpec<I, O>): AsmOutputs<O> {
    const outputs: Record<string, Expr> = {};
    const operands = asmOperands(spec, (type) => this.newLocal(type));
    for (const { name, output } of operands) {
      if (output) outputs[name] = this.placeOf(output);
    }
    const clobbers: readonly GpName[] = spec.clobbers ?? [];
    const emit = spec.emit as (sink: unknown, operands: unknown) => void;
    this.current.push({ s: 'asm', site: captureSite(), operands, clobbers, emit });
    return outputs as AsmOutputs<O>;
  }

  /** One instruction without operands: `g.insn('cli')`. */
  insn(mnemonic: Instruction): void {
    this.asm({ emit: (a) => a.emit(mnemonic) });
  }

  private newLocal(type: AnyType): Local {
    const local = { id: this.locals.length, type, inMemory: !isScalar(type) };
    this.locals.push(local);
    return local;
  }

  private placeOf(local: Local): Place {
    if (!local.inMemory) return new Place(local.type, { kind: 'local', local });
    return new Place(local.type, { kind: 'mem', addr: { k: 'localAddr', width: 8, local, offset: 0 } });
  }

  private checkPlace(place: Place): void {
    if (!(place instanceof Place)) throw new GuestCodeError('assignment to something that is not a place');
    if (!isScalar(place.type))
      throw new GuestCodeError(`assignment to ${place.type.name}: copy it by memcpy`);
  }

  private assign(place: Place, value: Operand): void {
    this.checkPlace(place);
    const node = convert(value, place.type, `assignment to ${place.type.name}`);
    const { lvalue } = place;
    const site = captureSite();
    if (lvalue.kind === 'local') this.current.push({ s: 'assign', site, local: lvalue.local, value: node });
    else this.store(place.type as IntType | PtrType, lvalue.addr, node, site);
  }

  private store(type: IntType | PtrType, addr: Node, value: Node, site: Site): void {
    this.current.push({ s: 'store', site, size: type.size, addr, value });
  }

  private block(body: Block): Stmt[] {
    const outer = this.current;
    const inner: Stmt[] = [];
    this.current = inner;
    try {
      body();
    } finally {
      this.current = outer;
    }
    return inner;
  }

  private cond(cond: CondArg): Cond {
    if (isOperand(cond)) return { pre: [], node: condition(cond) };
    let node: Node | undefined;
    const pre = this.block(() => (node = condition(cond())));
    return { pre, node: node! };
  }

  private loopStmt(test: 'top' | 'bottom', site: Site, cond: CondArg, body: Block, step: Block): void {
    // In source order: what a do-while's body declares is known to its condition.
    const first = test === 'top' ? this.cond(cond) : undefined;
    this.loopDepth += 1;
    const bodyStmts = this.block(body);
    this.loopDepth -= 1;
    const stepStmts = this.block(step);
    this.current.push({
      s: 'loop',
      site,
      test,
      cond: first ?? this.cond(cond),
      body: bodyStmts,
      step: stepStmts,
    });
  }
}
