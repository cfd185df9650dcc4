// SPDX-License-Identifier: GPL-2.0-only
/**
 * Runs random programs with big integers by the rules of C (ISO/IEC 9899: integer promotions, usual arithmetic conversions).
 * It shares no code with the compiler.
 */
import { type IntType, s32, s64, u32, u64 } from '../../dsl/types.ts';
import {
  type Ast,
  BINARY,
  type BinaryName,
  ELEMENTS,
  FIELDS,
  MIX_PARAMS,
  type Statement,
  type Target,
} from './syntax.ts';

/** The value after conversion to a type. */
export const wrap = (type: IntType, value: bigint): bigint =>
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
export class State {
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

  private compound({ target, op, value }: Extract<Statement, { s: 'compound' }>): void {
    const name = ({ '+=': 'add', '-=': 'sub', '&=': 'and', '|=': 'or', '^=': 'xor' } as const)[op];
    this.assign(target, this.binary(name, this.eval(target), this.eval(value)).value);
  }

  private step(statement: Statement): void {
    switch (statement.s) {
      case 'set':
        this.assign(statement.target, this.eval(statement.value).value);
        return;
      case 'compound':
        this.compound(statement);
        return;
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
