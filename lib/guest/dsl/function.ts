// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest functions. `guestFn` gives a TypeScript function: called with a body under construction it appends a call, so that
 * functions and macros of the guest library look alike (`memset(g, p, 0, 4096)`). A body is built when an image first
 * needs it, so functions may refer to each other in any order.
 */
import type { Instruction } from '../../asm/isa.ts';
import type { Operand as AsmArg } from '../../asm/operands.ts';
import { GuestCode } from './builder.ts';
import { GuestCodeError } from './error.ts';
import type { Expr, Place } from './expr.ts';
import type { FnBody, FnLinkable, Linkable } from './ir.ts';
import type { Operand } from './rvalue.ts';
import { captureSite, type Site } from './srcloc.ts';
import { fnType, voidType } from './types.ts';
import type { AnyType, FnType, VoidType } from './types.ts';

/** One operand for each parameter. */
export type OperandsOf<P extends readonly AnyType[]> = { readonly [K in keyof P]: Operand };
/** One place for each parameter. */
export type PlacesOfParams<P extends readonly AnyType[]> = { readonly [K in keyof P]: Place<P[K]> };
/** What a call gives: nothing to use after a void function. */
export type CallResult<R extends AnyType> = R extends VoidType ? undefined : Expr<R>;
/** A body: `g` and the parameters. */
export type FnBuilder<P extends readonly AnyType[]> = (g: GuestCode, ...params: PlacesOfParams<P>) => void;

/** A guest function: call it to emit a call, pass it to take its address. */
export interface GuestFn<
  P extends readonly AnyType[] = readonly AnyType[],
  R extends AnyType = AnyType,
> extends FnLinkable {
  (g: GuestCode, ...args: OperandsOf<P>): CallResult<R>;
  readonly linkKind: 'fn';
  readonly type: FnType<P, R>;
  /** Who runs it. */
  readonly level: string;
  /** Where it is defined. */
  readonly site: Site;
  /** The body, built on first use. */
  body(): FnBody;
}

/** Declares guest functions. */
export interface DefineFn {
  <const P extends readonly AnyType[]>(name: string, params: P, body: FnBuilder<P>): GuestFn<P, VoidType>;
  <const P extends readonly AnyType[], R extends AnyType>(
    name: string,
    params: P,
    ret: R,
    body: FnBuilder<P>,
  ): GuestFn<P, R>;
}

type AnyBuilder = (g: GuestCode, ...params: Place[]) => void;

/** The name is known to srcloc.ts as the border between guest code and whoever links it. */
function buildGuestBody(symbol: string, level: string, type: FnType, site: Site, build: AnyBuilder): FnBody {
  const g = new GuestCode(symbol, level, type, site);
  build(g, ...g.paramPlaces());
  return g.finish();
}

function checkSymbol(symbol: string): void {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(symbol)) throw new GuestCodeError(`'${symbol}' is not a symbol name`);
}

function define(level: string, symbol: string, type: FnType, build: AnyBuilder): GuestFn {
  checkSymbol(symbol);
  const site = captureSite();
  let built: FnBody | undefined;
  const body = (): FnBody => (built ??= buildGuestBody(symbol, level, type, site, build));
  const call = (g: GuestCode, ...args: Operand[]): Expr | undefined => {
    const result = g.call(self, ...args);
    return type.ret.kind === 'void' ? undefined : result;
  };
  const self = Object.assign(call, {
    linkKind: 'fn' as const,
    symbol,
    type,
    level,
    site,
    body,
  }) as unknown as GuestFn;
  return self;
}

/** Functions of one privilege or nesting level; a failed guest assertion prints the level. */
export function guestUnit(level: string): { readonly fn: DefineFn } {
  const fn = (
    name: string,
    params: readonly AnyType[],
    ...rest: [AnyBuilder] | [AnyType, AnyBuilder]
  ): GuestFn =>
    rest.length === 1
      ? define(level, name, fnType(params, voidType), rest[0])
      : define(level, name, fnType(params, rest[0]), rest[1]);
  return { fn: fn as unknown as DefineFn };
}

/** Defines a function that L1 runs: `guestFn(name, params, [return type,] (g, ...params) => { ... })`. */
export const guestFn: DefineFn = guestUnit('L1').fn;

/** What raw assembly may do. */
export interface RawAsm {
  emit(mnemonic: Instruction, ...operands: AsmArg[]): void;
  /** Binds a label; make it unique by the function's name. */
  label(name: string): void;
  align(alignment: number): void;
  /** Appends a 64-bit datum: a value or the address of a label. */
  u64(value: number | bigint | { readonly label: string }): void;
  /** The label of a function or global, which thereby becomes part of the image. */
  ref(target: Linkable): string;
}

/** A function or table in raw assembly. */
export interface GuestAsm extends FnLinkable {
  readonly linkKind: 'asm';
  readonly write: (a: RawAsm) => void;
}

/** Defines a symbol by raw assembly; `type` makes it callable by `g.call`. */
export function guestAsm(
  symbol: string,
  write: (a: RawAsm) => void,
  type: FnType = fnType([], voidType),
): GuestAsm {
  checkSymbol(symbol);
  return { linkKind: 'asm', symbol, type, write };
}
