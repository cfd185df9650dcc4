// SPDX-License-Identifier: GPL-2.0-only
/** Writes random programs in the DSL, which compiles them. */
import { mem, R } from '../../../asm/operands.ts';
import { fixed } from '../../dsl/asm_spec.ts';
import type { GuestCode } from '../../dsl/builder.ts';
import { type Expr, lit, type Place, select } from '../../dsl/expr.ts';
import { guestFn } from '../../dsl/function.ts';
import { type IntType, ptr, s64, u32, u64 } from '../../dsl/types.ts';
import { type Ast, ELEMENTS, FIELDS, Memory, MIX_PARAMS, type Statement, type Target } from './syntax.ts';

/** The function that random programs call; the interpreter has its own. */
const mix = guestFn('random_mix', MIX_PARAMS, u64, (g, ...params) => {
  const sum = g.local(u64, 7);
  for (const param of params) g.set(sum, sum.mul(13).add((param as Expr<IntType>).cast(s64).cast(u64)));
  g.return(sum);
});

type Places = {
  readonly vars: readonly Place<IntType>[];
  readonly memory: Place<ReturnType<typeof ptr<typeof Memory>>>;
};

/** Compiles the syntax by the DSL. */
export class Compiler {
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
