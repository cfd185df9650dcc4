// SPDX-License-Identifier: GPL-2.0-only
/** Draws random programs. Undefined behaviour is avoided by construction: counts are masked, divisors made odd. */
import { s32, s64, u32, u64 } from '../../dsl/types.ts';
import type { Random } from './random.ts';
import {
  type Ast,
  BINARY,
  COMPARE,
  ELEMENTS,
  FIELDS,
  LOGIC,
  MIX_PARAMS,
  type Statement,
  type Target,
  TYPES,
  VARS,
} from './syntax.ts';

/** Draws from one source, in an order that makes the program of a seed: keep it. */
export class Generator {
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

  /** One to `count` statements, with others inside them down to `nesting`. */
  block(count: number, nesting: number): Statement[] {
    return Array.from({ length: 1 + this.random.below(count) }, () => this.statement(nesting));
  }

  private branch(nesting: number): Statement {
    return {
      s: 'if',
      c: this.ast(2),
      then: this.block(2, nesting),
      else: this.random.below(2) ? this.block(2, nesting) : [],
    };
  }

  private loop(nesting: number): Statement {
    const kind = this.random.of(['for', 'while', 'do'] as const);
    return {
      s: 'loop',
      kind,
      times: 1 + this.random.below(4),
      stop: this.ast(1),
      body: this.block(3, nesting),
    };
  }

  private statement(nesting: number): Statement {
    const { random } = this;
    const pick = random.below(10);
    if (nesting > 0 && pick < 2) return this.branch(nesting - 1);
    if (nesting > 0 && pick < 4) return this.loop(nesting - 1);
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
