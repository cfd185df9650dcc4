// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random guest programs with their expected result: a small abstract syntax that is compiled by the DSL and interpreted here with
 * big integers by the rules of C (ISO/IEC 9899: integer promotions, usual arithmetic conversions). The interpreter shares no
 * code with the compiler. Undefined behaviour is avoided by construction: counts are masked, divisors made odd.
 */
import { mem, R } from '../../asm/operands.ts';
import { fixed } from '../dsl/asm_spec.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { type Expr, lit, type Place, select } from '../dsl/expr.ts';
import { guestFn } from '../dsl/function.ts';
import type { FnLinkable } from '../dsl/ir.ts';
import { struct } from '../dsl/struct.ts';
import { array, type IntType, ptr, s16, s32, s64, s8, u16, u32, u64, u8 } from '../dsl/types.ts';

const TYPES = [u8, u16, u32, u64, s8, s16, s32, s64] as const;
const BINARY = ['add', 'sub', 'mul', 'and', 'or', 'xor', 'div', 'mod', 'shl', 'shr'] as const;
const COMPARE = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const;
const LOGIC = ['land', 'lor'] as const;

type BinaryName = (typeof BINARY)[number] | (typeof COMPARE)[number] | (typeof LOGIC)[number];

type Ast =
  | { readonly k: 'var'; readonly index: number }
  | { readonly k: 'field'; readonly index: number }
  | { readonly k: 'element'; readonly index: Ast }
  | { readonly k: 'lit'; readonly value: bigint; readonly type: IntType }
  | { readonly k: 'bin'; readonly op: BinaryName; readonly l: Ast; readonly r: Ast }
  | { readonly k: 'un'; readonly op: 'neg' | 'bnot' | 'lnot'; readonly x: Ast }
  | { readonly k: 'cast'; readonly type: IntType; readonly x: Ast }
  | { readonly k: 'select'; readonly c: Ast; readonly a: Ast; readonly b: Ast };

type Target = Extract<Ast, { k: 'var' | 'field' | 'element' }>;

type Statement =
  | { readonly s: 'set'; readonly target: Target; readonly value: Ast }
  | {
      readonly s: 'compound';
      readonly target: Target;
      readonly op: '+=' | '-=' | '&=' | '|=' | '^=';
      readonly value: Ast;
    }
  | { readonly s: 'call'; readonly target: Target; readonly args: readonly Ast[] }
  | { readonly s: 'asm'; readonly target: Target; readonly x: Ast; readonly y: Ast }
  | {
      readonly s: 'if';
      readonly c: Ast;
      readonly then: readonly Statement[];
      readonly else: readonly Statement[];
    }
  | {
      readonly s: 'loop';
      readonly kind: 'for' | 'while' | 'do';
      readonly times: number;
      readonly stop: Ast;
      readonly body: readonly Statement[];
    };

/** Parameters of the function that random programs call; more than there are argument registers. */
const MIX_PARAMS = [u8, s16, u64, s32, s64, u32, s8, u16] as const;
const mix = guestFn('random_mix', MIX_PARAMS, u64, (g, ...params) => {
  const sum = g.local(u64, 7);
  for (const param of params) g.set(sum, sum.mul(13).add((param as Expr<IntType>).cast(s64).cast(u64)));
  g.return(sum);
});

const VARS = 12;
const ELEMENTS = 8;
/** Fields and an array in memory. */
const Memory = struct('struct memory', {
  f0: u8,
  f1: s16,
  f2: u32,
  f3: s64,
  f4: s8,
  f5: u16,
  f6: s32,
  f7: u64,
  elements: array(u32, ELEMENTS),
});
const FIELDS = [u8, s16, u32, s64, s8, u16, s32, u64] as const;
/** Bytes that a random program works on. */
export const MEMORY_SIZE = Memory.size;

/** A seeded source of small numbers (xorshift). */
export class Random {
  private state: number;

  constructor(seed: number) {
    this.state = (seed * 0x9e3779b1 + 1) >>> 0 || 1;
    for (let i = 0; i < 8; i++) this.next();
  }

  next(): number {
    let x = this.state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.state = x >>> 0;
    return this.state;
  }

  below(n: number): number {
    return this.next() % n;
  }

  of<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  bits(): bigint {
    const value = (BigInt(this.next()) << 32n) | BigInt(this.next());
    // Small, large and special values in turns.
    return [value, value & 0xffn, BigInt.asUintN(64, -(value & 0xffn)), 1n << (value & 63n)][this.below(4)]!;
  }
}

const wrap = (type: IntType, value: bigint): bigint =>
  type.signed ? BigInt.asIntN(type.size * 8, value) : BigInt.asUintN(type.size * 8, value);

const promoted = (type: IntType): IntType => (type.size < 4 ? s32 : type);

function usual(a: IntType, b: IntType): IntType {
  const [x, y] = [promoted(a), promoted(b)];
  const size = Math.max(x.size, y.size);
  const signed = (x.size < size || x.signed) && (y.size < size || y.signed);
  return size === 8 ? (signed ? s64 : u64) : signed ? s32 : u32;
}

interface Value {
  readonly type: IntType;
  readonly value: bigint;
}

/** The state of the interpreter. */
class State {
  readonly vars: bigint[];
  readonly types: readonly IntType[];
  readonly fields: bigint[] = FIELDS.map(() => 0n);
  readonly elements: bigint[] = new Array<bigint>(ELEMENTS).fill(0n);

  constructor(types: readonly IntType[], vars: readonly bigint[]) {
    this.types = types;
    this.vars = [...vars];
  }

  eval(ast: Ast): Value {
    switch (ast.k) {
      case 'var':
        return { type: this.types[ast.index]!, value: this.vars[ast.index]! };
      case 'field':
        return { type: FIELDS[ast.index]!, value: this.fields[ast.index]! };
      case 'element':
        return { type: u32, value: this.elements[Number(this.eval(ast.index).value)]! };
      case 'lit':
        return ast;
      case 'cast':
        return { type: ast.type, value: wrap(ast.type, this.eval(ast.x).value) };
      case 'select': {
        const [a, b] = [this.eval(ast.a), this.eval(ast.b)];
        const type = usual(a.type, b.type);
        return { type, value: wrap(type, this.eval(ast.c).value !== 0n ? a.value : b.value) };
      }
      case 'un':
        return this.unary(ast.op, this.eval(ast.x));
      case 'bin':
        return this.binary(ast.op, this.eval(ast.l), this.eval(ast.r));
    }
  }

  private unary(op: 'neg' | 'bnot' | 'lnot', x: Value): Value {
    if (op === 'lnot') return { type: s32, value: x.value === 0n ? 1n : 0n };
    const type = promoted(x.type);
    return { type, value: wrap(type, op === 'neg' ? -x.value : ~x.value) };
  }

  private binary(op: BinaryName, l: Value, r: Value): Value {
    if (op === 'land' || op === 'lor') {
      const [a, b] = [l.value !== 0n, r.value !== 0n];
      return { type: s32, value: (op === 'land' ? a && b : a || b) ? 1n : 0n };
    }
    const shift = op === 'shl' || op === 'shr';
    const type = shift ? promoted(l.type) : usual(l.type, r.type);
    const [a, b] = [wrap(type, l.value), shift ? r.value : wrap(type, r.value)];
    const compare = { eq: a === b, ne: a !== b, lt: a < b, le: a <= b, gt: a > b, ge: a >= b };
    if (op in compare) return { type: s32, value: compare[op as keyof typeof compare] ? 1n : 0n };
    const result = {
      add: () => a + b,
      sub: () => a - b,
      mul: () => a * b,
      and: () => a & b,
      or: () => a | b,
      xor: () => a ^ b,
      div: () => a / b,
      mod: () => a % b,
      shl: () => a << b,
      shr: () => a >> b,
    }[op as (typeof BINARY)[number]];
    return { type, value: wrap(type, result()) };
  }

  private assign(target: Target, value: bigint): void {
    if (target.k === 'var') this.vars[target.index] = wrap(this.types[target.index]!, value);
    else if (target.k === 'field') this.fields[target.index] = wrap(FIELDS[target.index]!, value);
    else this.elements[Number(this.eval(target.index).value)] = wrap(u32, value);
  }

  run(statements: readonly Statement[]): void {
    for (const statement of statements) this.step(statement);
  }

  private step(statement: Statement): void {
    switch (statement.s) {
      case 'set':
        this.assign(statement.target, this.eval(statement.value).value);
        return;
      case 'compound': {
        const op = { '+=': 'add', '-=': 'sub', '&=': 'and', '|=': 'or', '^=': 'xor' } as const;
        const sum = this.binary(op[statement.op], this.eval(statement.target), this.eval(statement.value));
        this.assign(statement.target, sum.value);
        return;
      }
      case 'call': {
        const args = statement.args.map((arg, i) => wrap(MIX_PARAMS[i]!, this.eval(arg).value));
        this.assign(
          statement.target,
          args.reduce((sum, arg) => BigInt.asUintN(64, sum * 13n + arg), 7n),
        );
        return;
      }
      case 'asm': {
        const [x, y] = [this.eval(statement.x).value, this.eval(statement.y).value];
        this.assign(statement.target, BigInt.asUintN(64, x + 3n * y));
        return;
      }
      case 'if':
        this.run(this.eval(statement.c).value !== 0n ? statement.then : statement.else);
        return;
      case 'loop':
        for (let i = 0; i < statement.times; i++) {
          this.run(statement.body);
          if (this.eval(statement.stop).value !== 0n) break;
        }
    }
  }

  /** The value that the compiled function returns. */
  checksum(): bigint {
    let sum = 0n;
    for (const value of [...this.vars, ...this.fields, ...this.elements]) {
      sum = BigInt.asUintN(64, sum * 31n + BigInt.asUintN(64, value));
    }
    return sum;
  }
}

class Generator {
  private readonly random: Random;

  constructor(random: Random) {
    this.random = random;
  }

  ast(depth: number): Ast {
    const { random } = this;
    if (depth === 0) return this.leaf();
    const pick = random.below(20);
    if (pick < 2) return this.leaf();
    if (pick < 4) return { k: 'cast', type: random.of(TYPES), x: this.ast(depth - 1) };
    if (pick < 6) return { k: 'un', op: random.of(['neg', 'bnot', 'lnot'] as const), x: this.ast(depth - 1) };
    if (pick < 7)
      return { k: 'select', c: this.ast(depth - 1), a: this.ast(depth - 1), b: this.ast(depth - 1) };
    const op = pick < 9 ? random.of(LOGIC) : pick < 12 ? random.of(COMPARE) : random.of(BINARY);
    const [l, r] = [this.ast(depth - 1), this.ast(depth - 1)];
    if (op === 'shl' || op === 'shr') return { k: 'bin', op, l, r: this.masked(r, 31n) };
    if (op === 'div' || op === 'mod') return this.division(op, l, r);
    return { k: 'bin', op, l, r };
  }

  private masked(x: Ast, mask: bigint): Ast {
    return { k: 'bin', op: 'and', l: x, r: { k: 'lit', value: mask, type: s32 } };
  }

  /** The divisor is positive and not zero: neither a fault nor an overflow. */
  private division(op: 'div' | 'mod', l: Ast, r: Ast): Ast {
    return {
      k: 'bin',
      op,
      l,
      r: { k: 'bin', op: 'or', l: this.masked(r, 0xffn), r: { k: 'lit', value: 1n, type: s32 } },
    };
  }

  private leaf(): Ast {
    const pick = this.random.below(8);
    if (pick < 2) return this.literal();
    return this.target(0);
  }

  private literal(): Ast {
    const value = this.random.bits();
    if (value < 0x8000_0000n) return { k: 'lit', value, type: s32 };
    if (value <= 0xffff_ffffn) return { k: 'lit', value, type: u32 };
    return value < 1n << 63n ? { k: 'lit', value, type: s64 } : { k: 'lit', value, type: u64 };
  }

  private target(depth: number): Target {
    const pick = this.random.below(8);
    if (pick < 5) return { k: 'var', index: this.random.below(VARS) };
    if (pick < 7) return { k: 'field', index: this.random.below(FIELDS.length) };
    const x: Ast = depth > 0 ? this.ast(depth) : { k: 'var', index: this.random.below(VARS) };
    return { k: 'element', index: this.masked(x, BigInt(ELEMENTS - 1)) };
  }

  block(count: number, nesting: number): Statement[] {
    return Array.from({ length: 1 + this.random.below(count) }, () => this.statement(nesting));
  }

  private statement(nesting: number): Statement {
    const { random } = this;
    const pick = random.below(10);
    if (nesting > 0 && pick < 2) {
      return {
        s: 'if',
        c: this.ast(2),
        then: this.block(2, nesting - 1),
        else: random.below(2) ? this.block(2, nesting - 1) : [],
      };
    }
    if (nesting > 0 && pick < 4) {
      const kind = random.of(['for', 'while', 'do'] as const);
      return {
        s: 'loop',
        kind,
        times: 1 + random.below(4),
        stop: this.ast(1),
        body: this.block(3, nesting - 1),
      };
    }
    const target = this.target(1);
    if (pick === 4) return { s: 'call', target, args: MIX_PARAMS.map(() => this.ast(2)) };
    if (pick === 5) return { s: 'asm', target, x: this.ast(2), y: this.ast(2) };
    if (pick < 7)
      return {
        s: 'compound',
        target,
        op: random.of(['+=', '-=', '&=', '|=', '^='] as const),
        value: this.ast(2),
      };
    return { s: 'set', target, value: this.ast(random.below(9)) };
  }
}

type Places = {
  readonly vars: readonly Place<IntType>[];
  readonly memory: Place<ReturnType<typeof ptr<typeof Memory>>>;
};

/** Compiles the syntax by the DSL. */
class Compiler {
  private readonly g: GuestCode;
  private readonly places: Places;

  constructor(g: GuestCode, places: Places) {
    this.g = g;
    this.places = places;
  }

  private place(target: Target): Place<IntType> {
    if (target.k === 'var') return this.places.vars[target.index]!;
    const fields = this.places.memory.f;
    if (target.k === 'element') return fields.elements.at(this.expr(target.index));
    return [fields.f0, fields.f1, fields.f2, fields.f3, fields.f4, fields.f5, fields.f6, fields.f7][
      target.index
    ]!;
  }

  private expr(ast: Ast): Expr {
    switch (ast.k) {
      case 'lit':
        return lit(ast.value);
      case 'cast':
        return this.expr(ast.x).cast(ast.type);
      case 'un':
        return this.expr(ast.x)[ast.op]();
      case 'bin':
        return this.expr(ast.l)[ast.op](this.expr(ast.r));
      case 'select':
        return select(this.expr(ast.c), this.expr(ast.a), this.expr(ast.b));
      default:
        return this.place(ast);
    }
  }

  block(statements: readonly Statement[]): void {
    for (const statement of statements) this.statement(statement);
  }

  private statement(statement: Statement): void {
    const { g } = this;
    switch (statement.s) {
      case 'set': {
        const place = this.place(statement.target);
        g.set(place, this.expr(statement.value).cast(place.type));
        return;
      }
      case 'compound':
        g.set(this.place(statement.target), statement.op, this.expr(statement.value));
        return;
      case 'call': {
        const place = this.place(statement.target);
        const result = g.call(mix, ...statement.args.map((arg) => this.expr(arg)));
        g.set(place, result.cast(place.type));
        return;
      }
      case 'asm': {
        const place = this.place(statement.target);
        g.set(place, this.sum(statement.x, statement.y).cast(place.type));
        return;
      }
      case 'if': {
        const otherwise = statement.else.length > 0 ? () => this.block(statement.else) : undefined;
        g.if(this.expr(statement.c), () => this.block(statement.then), otherwise);
        return;
      }
      case 'loop':
        this.loop(statement);
        return;
    }
  }

  /** x + 3y by inline assembly that takes preserved registers and destroys others. */
  private sum(x: Ast, y: Ast): Expr {
    const wide = (ast: Ast): Expr => this.expr(ast).cast(s64).cast(u64);
    return this.g.asm({
      in: { x: fixed('rbx', wide(x)), y: wide(y) },
      out: { total: fixed('r12', u64) },
      clobbers: ['r13', 'rcx'],
      emit: (a, r) => {
        const rbx = r.reg64('x');
        const total = r.reg64('total');
        a.emit('lea', total, mem(0, { base: r.reg64('y'), index: r.reg64('y'), scale: 2 }));
        a.emit('add', total, rbx);
        a.emit('xor', R.r13d, R.r13d);
        a.emit('xor', R.ecx, R.ecx);
        a.emit('xor', rbx, rbx);
      },
    }).total;
  }

  private loop({ kind, times, stop, body }: Extract<Statement, { s: 'loop' }>): void {
    const { g } = this;
    const i = g.local(u32, 0);
    const turn = (): void => {
      this.block(body);
      g.if(this.expr(stop), () => g.break());
    };
    const count = (): void => g.inc(i);
    const turnAndCount = (): void => {
      turn();
      count();
    };
    if (kind === 'for') g.for(i.lt(times), count, turn);
    else if (kind === 'while') g.while(i.lt(times), turnAndCount);
    else g.doWhile(turnAndCount, i.lt(times));
  }

  checksum(): void {
    const { g } = this;
    const sum = g.local(u64, 0);
    const memory = this.places.memory.f;
    const fields = FIELDS.map((_, index) => this.place({ k: 'field', index }));
    const elements = Array.from({ length: ELEMENTS }, (_, i) => memory.elements.at(i));
    for (const place of [...this.places.vars, ...fields, ...elements]) {
      g.set(sum, sum.mul(31).add((place as Expr<IntType>).cast(place.type.signed ? s64 : u64)));
    }
    g.return(sum);
  }
}

/** A random program: a function of a pointer to MEMORY_SIZE zero bytes, and what it must return. */
export interface RandomProgram {
  readonly fn: FnLinkable;
  readonly expected: bigint;
}

/** Makes the program of a seed. */
export function randomProgram(seed: number): RandomProgram {
  const random = new Random(seed);
  const types = Array.from({ length: VARS }, () => random.of(TYPES));
  const initial = types.map((type) => wrap(type, random.bits()));
  const statements = new Generator(random).block(8, 2);
  const state = new State(types, initial);
  state.run(statements);
  const fn = guestFn(`random_program_${seed}`, [ptr(Memory)], u64, (g, memory) => {
    const vars = types.map((type, i) => g.local(type, lit(initial[i]!).cast(type)));
    const compiler = new Compiler(g, { vars, memory });
    compiler.block(statements);
    compiler.checksum();
  });
  return { fn: fn, expected: state.checksum() };
}
