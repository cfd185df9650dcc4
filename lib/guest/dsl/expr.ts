// SPDX-License-Identifier: GPL-2.0-only
/**
 * Expressions and places of guest code. An expression is a recipe: it is evaluated by the statement that uses it, each time
 * it is used (`g.let(e)` fixes a value). Every use of a place in memory is one load; nothing is cached, so every access
 * is volatile. Operators follow C: promotion, usual conversions, pointer arithmetic in elements.
 */
import { GuestCodeError } from './error.ts';
import { bin, cmp, constNode, un } from './fold.ts';
import type { BinOp, CondCode, Linkable, LValue, Node } from './ir.ts';
import {
  commonType,
  condition,
  convert,
  convertInt,
  promote,
  rvalue,
  type Operand,
  type RValue,
} from './rvalue.ts';
import { isStruct, type Fields, type StructType } from './struct.ts';
import { isArray, isInt, isPtr, isScalar, ptr, s32, s64, u64, u8 } from './types.ts';
import type { AnyType, ArrayType, IntType, PtrType } from './types.ts';

/** The members of a struct as places. */
export type PlacesOf<F extends Fields> = { readonly [K in keyof F]: Place<F[K]> };
/** `.f` of a struct or of a pointer to one. */
export type FieldsOf<T> = T extends PtrType<infer S> ? FieldsOf1<S> : FieldsOf1<T>;
type FieldsOf1<T> = T extends StructType<infer F> ? PlacesOf<F> : unknown;
/** What an array holds or a pointer points to. */
export type ElementOf<T> =
  T extends ArrayType<infer E> ? E : T extends PtrType<infer E> ? E : T extends IntType ? never : AnyType;
/** The type of a sum: a pointer stays one. */
export type SumOf<T> = T extends PtrType
  ? T
  : T extends ArrayType<infer E>
    ? PtrType<E>
    : T extends IntType
      ? IntType
      : AnyType;

const CC_UNSIGNED = { lt: 'b', le: 'be', gt: 'a', ge: 'ae', eq: 'e', ne: 'ne' } as const;
const CC_SIGNED = { lt: 'l', le: 'le', gt: 'g', ge: 'ge', eq: 'e', ne: 'ne' } as const;
type Relation = keyof typeof CC_SIGNED;

function scaled(value: RValue, size: number): Node {
  return bin('mul', 8, convertInt(value, s64), constNode(8, BigInt(size)));
}

function asInt(operand: Operand, op: string): RValue & { readonly type: IntType } {
  const value = rvalue(operand);
  if (!isInt(value.type)) throw new GuestCodeError(`operator ${op} on ${value.type.name}`);
  return { type: value.type, node: value.node };
}

/** An expression of type `T`. */
export class Expr<T extends AnyType = AnyType> {
  readonly type: T;
  private readonly tree: Node | undefined;

  constructor(type: T, tree: Node | undefined) {
    this.type = type;
    this.tree = tree;
  }

  /** The value; arrays decay to pointers. */
  rvalue(): RValue {
    if (this.tree === undefined || !isScalar(this.type)) {
      throw new GuestCodeError(`${this.type.name} is used as a value`);
    }
    return { type: this.type, node: this.tree };
  }

  /** `a + b`; a pointer moves by elements. */
  add(b: Operand): Expr<SumOf<T>> {
    const l = this.rvalue();
    const r = rvalue(b);
    if (isPtr(l.type)) {
      if (isPtr(r.type)) throw new GuestCodeError(`${l.type.name} + ${r.type.name}`);
      return expr(l.type, bin('add', 8, l.node, scaled(r, l.type.to.size))) as unknown as Expr<SumOf<T>>;
    }
    if (isPtr(r.type)) {
      return expr(r.type, bin('add', 8, r.node, scaled(l, r.type.to.size))) as unknown as Expr<SumOf<T>>;
    }
    return this.arith('add', b) as unknown as Expr<SumOf<T>>;
  }

  /** `a - b`; the difference of two pointers counts elements. */
  sub(b: Operand): Expr<SumOf<T>> {
    const l = this.rvalue();
    const r = rvalue(b);
    if (!isPtr(l.type)) return this.arith('sub', b) as unknown as Expr<SumOf<T>>;
    if (!isPtr(r.type)) {
      const by = un('neg', 8, scaled(r, l.type.to.size));
      return expr(l.type, bin('add', 8, l.node, by)) as unknown as Expr<SumOf<T>>;
    }
    throw new GuestCodeError(`${l.type.name} - ${r.type.name}: use .diff() for the distance of two pointers`);
  }

  /** The distance of two pointers in elements. */
  diff(b: Operand): Expr<IntType> {
    const l = this.rvalue();
    const r = rvalue(b);
    if (!isPtr(l.type) || !isPtr(r.type) || l.type.to.size !== r.type.to.size) {
      throw new GuestCodeError(`distance of ${l.type.name} and ${r.type.name}`);
    }
    const size = BigInt(l.type.to.size);
    const bytes = bin('sub', 8, l.node, r.node);
    const exact = (size & (size - 1n)) === 0n;
    const count = exact ? BigInt(size.toString(2).length - 1) : size;
    return expr(s64, bin(exact ? 'sar' : 'sdiv', 8, bytes, constNode(8, count)));
  }

  /** `a * b`. */
  mul(b: Operand): Expr<IntType> {
    return this.arith('mul', b);
  }
  /** `a / b`. */
  div(b: Operand): Expr<IntType> {
    return this.arithSigned('udiv', 'sdiv', b);
  }
  /** `a % b`. */
  mod(b: Operand): Expr<IntType> {
    return this.arithSigned('umod', 'smod', b);
  }
  /** `a & b`. */
  and(b: Operand): Expr<IntType> {
    return this.arith('and', b);
  }
  /** `a | b`. */
  or(b: Operand): Expr<IntType> {
    return this.arith('or', b);
  }
  /** `a ^ b`. */
  xor(b: Operand): Expr<IntType> {
    return this.arith('xor', b);
  }
  /** `~a`. */
  bnot(): Expr<IntType> {
    return this.unary('not', '~');
  }
  /** `-a`. */
  neg(): Expr<IntType> {
    return this.unary('neg', '-');
  }
  /** `a << b`. */
  shl(b: Operand): Expr<IntType> {
    return this.shift('shl', b);
  }
  /** `a >> b`: arithmetic if `a` is signed. */
  shr(b: Operand): Expr<IntType> {
    const signed = promote(asInt(this, '>>').type).signed;
    return this.shift(signed ? 'sar' : 'shr', b);
  }

  /** `a == b`. */
  eq(b: Operand): Expr<IntType> {
    return this.compare('eq', b);
  }
  /** `a != b`. */
  ne(b: Operand): Expr<IntType> {
    return this.compare('ne', b);
  }
  /** `a < b`. */
  lt(b: Operand): Expr<IntType> {
    return this.compare('lt', b);
  }
  /** `a <= b`. */
  le(b: Operand): Expr<IntType> {
    return this.compare('le', b);
  }
  /** `a > b`. */
  gt(b: Operand): Expr<IntType> {
    return this.compare('gt', b);
  }
  /** `a >= b`. */
  ge(b: Operand): Expr<IntType> {
    return this.compare('ge', b);
  }

  /** `a && b`: `b` is evaluated only if `a` is not zero. */
  land(b: Operand): Expr<IntType> {
    return expr(s32, { k: 'land', width: 4, l: condition(this), r: condition(b) });
  }
  /** `a || b`: `b` is evaluated only if `a` is zero. */
  lor(b: Operand): Expr<IntType> {
    return expr(s32, { k: 'lor', width: 4, l: condition(this), r: condition(b) });
  }
  /** `!a`. */
  lnot(): Expr<IntType> {
    return expr(s32, { k: 'lnot', width: 4, x: condition(this) });
  }

  /** `(type)a`. */
  cast<C extends AnyType>(type: C): Expr<C> {
    const value = this.rvalue();
    if (isInt(type)) return expr(type, convertInt(value, type));
    if (isPtr(type)) return expr(type, convertInt(value, u64));
    throw new GuestCodeError(`cast to ${type.name}`);
  }

  /** `*p`. */
  deref(): Place<ElementOf<T>> {
    return this.at(0);
  }

  /** `p[i]`. */
  at(index: Operand): Place<ElementOf<T>> {
    const base = this.rvalue();
    if (!isPtr(base.type)) throw new GuestCodeError(`${this.type.name} is neither pointer nor array`);
    const element = base.type.to as ElementOf<T> & AnyType;
    if (element.kind === 'void' || element.kind === 'fn')
      throw new GuestCodeError(`access through ${base.type.name}`);
    this.checkIndex(index);
    const addr = bin('add', 8, base.node, scaled(asInt(index, '[]'), element.size));
    return new Place(element, { kind: 'mem', addr });
  }

  /** The members: `sync.f.start_flag`, of a struct as of a pointer to one. */
  get f(): FieldsOf<T> {
    const { struct, base } = this.structBase();
    return new Proxy(
      {},
      {
        get: (_target, name) => {
          const field = struct.field(String(name));
          return new Place(field.type, {
            kind: 'mem',
            addr: bin('add', 8, base, constNode(8, BigInt(field.offset))),
          });
        },
      },
    ) as FieldsOf<T>;
  }

  private structBase(): { struct: StructType; base: Node } {
    const type: AnyType = this.type;
    if (this instanceof Place && isStruct(type)) return { struct: type, base: this.address() };
    if (isPtr(type) && isStruct(type.to)) return { struct: type.to, base: this.rvalue().node };
    throw new GuestCodeError(`${type.name} has no fields`);
  }

  private checkIndex(index: Operand): void {
    if (!isArray(this.type) || (typeof index !== 'number' && typeof index !== 'bigint')) return;
    // One past the end is allowed for its address only, as in C; the DSL cannot tell the two apart.
    if (index < 0 || index > this.type.length)
      throw new GuestCodeError(`index ${index} of ${this.type.name}`);
  }

  private arith(op: BinOp, b: Operand): Expr<IntType> {
    const l = asInt(this, op);
    const r = asInt(b, op);
    const type = commonType(l.type, r.type);
    const width = type.size === 8 ? 8 : 4;
    return expr(type, bin(op, width, convertInt(l, type), convertInt(r, type)));
  }

  private arithSigned(unsigned: BinOp, signed: BinOp, b: Operand): Expr<IntType> {
    const type = commonType(asInt(this, unsigned).type, asInt(b, unsigned).type);
    return this.arith(type.signed ? signed : unsigned, b);
  }

  private unary(op: 'neg' | 'not', name: string): Expr<IntType> {
    const value = asInt(this, name);
    const type = promote(value.type);
    return expr(type, un(op, type.size === 8 ? 8 : 4, convertInt(value, type)));
  }

  private shift(op: BinOp, b: Operand): Expr<IntType> {
    const value = asInt(this, op);
    const type = promote(value.type);
    const width = type.size === 8 ? 8 : 4;
    const count = convertInt(asInt(b, op), type);
    return expr(type, bin(op, width, convertInt(value, type), count));
  }

  private compare(relation: Relation, b: Operand): Expr<IntType> {
    const l = this.rvalue();
    const r = rvalue(b);
    if (isPtr(l.type) || isPtr(r.type)) return this.comparePointers(relation, b);
    const type = commonType(l.type, r.type);
    const cc: CondCode = (type.signed ? CC_SIGNED : CC_UNSIGNED)[relation];
    return expr(s32, cmp(cc, type.size === 8 ? 8 : 4, convertInt(l, type), convertInt(r, type)));
  }

  private comparePointers(relation: Relation, b: Operand): Expr<IntType> {
    const l = this.rvalue();
    const r = rvalue(b);
    // An integer beside a pointer: compare addresses.
    const type = isPtr(l.type) && isPtr(r.type) ? l.type : u64;
    const what = `comparison of ${l.type.name} and ${r.type.name}`;
    return expr(s32, cmp(CC_UNSIGNED[relation], 8, convert(this, type, what), convert(b, type, what)));
  }
}

/** Something that can be assigned to (`g.set`) and has an address. */
export class Place<T extends AnyType = AnyType> extends Expr<T> {
  readonly lvalue: LValue;

  constructor(type: T, lvalue: LValue) {
    super(type, undefined);
    this.lvalue = lvalue;
  }

  override rvalue(): RValue {
    const { type, lvalue } = this;
    if (isArray(type)) return { type: ptr(type.of), node: this.address() };
    if (!isScalar(type))
      throw new GuestCodeError(`${type.name} is used as a value: take a field or its .addr()`);
    const width = type.size === 8 ? 8 : 4;
    if (lvalue.kind === 'local') return { type, node: { k: 'local', width, local: lvalue.local } };
    const signed = isInt(type) && type.signed;
    return { type, node: { k: 'load', width, size: type.size, signed, addr: lvalue.addr } };
  }

  /** `&place`. */
  addr(): Expr<PtrType<T>> {
    return expr(ptr(this.type), this.address());
  }

  /** The address as a tree; a local moves to memory for it. */
  address(): Node {
    if (this.lvalue.kind === 'mem') return this.lvalue.addr;
    this.lvalue.local.inMemory = true;
    return { k: 'localAddr', width: 8, local: this.lvalue.local, offset: 0 };
  }
}

/** An expression from a tree. */
export const expr = <T extends AnyType>(type: T, tree: Node): Expr<T> => new Expr(type, tree);

/** An operand as an expression: gives literals their operators. */
export function lit(value: Operand): Expr {
  const { type, node } = rvalue(value);
  return expr(type, node);
}

/** A literal of a given type. */
export const imm = <T extends AnyType>(type: T, value: number | bigint): Expr<T> =>
  expr(type, convert(value, type, `literal of ${type.name}`));

/** `c ? a : b`; only the chosen side is evaluated. */
export function select(c: Operand, a: Operand, b: Operand): Expr {
  const l = rvalue(a);
  const r = rvalue(b);
  const type = isInt(l.type) && isInt(r.type) ? commonType(l.type, r.type) : isPtr(l.type) ? l.type : r.type;
  const what = 'select';
  return expr(type, {
    k: 'select',
    width: type.size === 8 ? 8 : 4,
    c: condition(c),
    a: convert(lit(a), type, what),
    b: convert(lit(b), type, what),
  });
}

/** `*(type *)address`: memory at an address that is an integer. */
export function at<T extends AnyType>(type: T, address: Operand): Place<T> {
  const node = isPtr(rvalue(address).type) ? rvalue(address).node : convert(address, u64, 'address');
  return new Place(type, { kind: 'mem', addr: node });
}

/** A string constant: `const char *`. Equal strings share one address. */
export function str(text: string): Expr<PtrType<IntType>> {
  const target: Linkable = { linkKind: 'string', symbol: text };
  return expr(ptr(u8), { k: 'sym', width: 8, target, addend: 0 });
}

/** One load, as Linux's READ_ONCE(); every access is volatile, the name is for the reader. */
export const READ_ONCE = <T extends AnyType>(place: Place<T>): Expr<T> => place;
