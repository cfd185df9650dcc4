// SPDX-License-Identifier: GPL-2.0-only
/**
 * Global variables of guest code, in .data if initialised, else in .bss. The host reaches them by the image's symbols
 * (sync_global_to_guest). An initialiser may hold the address of another symbol.
 */
import { GuestCodeError } from './error.ts';
import { Place } from './expr.ts';
import type { Linkable } from './ir.ts';
import { isStruct } from './struct.ts';
import { isArray, isScalar } from './types.ts';
import type { AnyType } from './types.ts';

/** An initialiser: as in C, what is left out is zero. */
export type Init =
  number | bigint | Uint8Array | Linkable | readonly Init[] | { readonly [field: string]: Init };

/** Data in the image. */
export interface GlobalLinkable extends Linkable {
  readonly linkKind: 'data';
  readonly type: AnyType;
  readonly init: Init | undefined;
}

/** A global variable: a place that has a symbol. */
export class GuestGlobal<T extends AnyType = AnyType> extends Place<T> {
  readonly data: GlobalLinkable;

  constructor(data: GlobalLinkable, type: T) {
    super(type, { kind: 'mem', addr: { k: 'sym', width: 8, target: data, addend: 0 } });
    this.data = data;
  }

  /** The symbol, for the image's symbol table. */
  get symbol(): string {
    return this.data.symbol;
  }
}

/** Defines a global variable. */
export function guestGlobal<T extends AnyType>(symbol: string, type: T, init?: Init): GuestGlobal<T> {
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(symbol)) throw new GuestCodeError(`'${symbol}' is not a symbol name`);
  if (type.kind === 'void' || type.kind === 'fn')
    throw new GuestCodeError(`global ${symbol} of type ${type.name}`);
  return new GuestGlobal({ linkKind: 'data', symbol, type, init }, type);
}

/** Initialised data: bytes, and the places where the address of a symbol goes. */
export interface DataImage {
  readonly bytes: Uint8Array;
  readonly relocs: readonly { readonly offset: number; readonly target: Linkable }[];
}

const isLinkable = (init: Init): init is Linkable =>
  (typeof init === 'function' || typeof init === 'object') && 'linkKind' in init;

interface Sink {
  readonly symbol: string;
  readonly bytes: Uint8Array;
  readonly relocs: { offset: number; target: Linkable }[];
}

function writeScalar(sink: Sink, type: AnyType, offset: number, init: number | bigint): void {
  const value = BigInt(init);
  const width = BigInt(type.size * 8);
  if (value < -(1n << (width - 1n)) || value >= 1n << width) {
    throw new GuestCodeError(`${sink.symbol}: ${value} does not fit ${type.name}`);
  }
  for (let i = 0; i < type.size; i++) sink.bytes[offset + i] = Number((value >> BigInt(i * 8)) & 0xffn);
}

function writeFields(sink: Sink, type: AnyType, offset: number, init: Readonly<Record<string, Init>>): void {
  if (!isStruct(type)) throw new GuestCodeError(`${sink.symbol}: ${type.name} has no fields`);
  for (const [name, value] of Object.entries(init)) {
    const field = type.field(name);
    write(sink, field.type, offset + field.offset, value);
  }
}

function writeElements(sink: Sink, type: AnyType, offset: number, init: readonly Init[]): void {
  if (!isArray(type)) throw new GuestCodeError(`${sink.symbol}: ${type.name} is no array`);
  if (init.length > type.length)
    throw new GuestCodeError(`${sink.symbol}: too many elements for ${type.name}`);
  init.forEach((value, i) => write(sink, type.of, offset + i * type.of.size, value));
}

function write(sink: Sink, type: AnyType, offset: number, init: Init): void {
  if (typeof init === 'number' || typeof init === 'bigint') {
    if (!isScalar(type)) throw new GuestCodeError(`${sink.symbol}: a number for ${type.name}`);
    writeScalar(sink, type, offset, init);
  } else if (isLinkable(init)) {
    if (type.size !== 8 || !isScalar(type))
      throw new GuestCodeError(`${sink.symbol}: an address for ${type.name}`);
    sink.relocs.push({ offset, target: init });
  } else if (init instanceof Uint8Array) {
    if (init.length > type.size) throw new GuestCodeError(`${sink.symbol}: too many bytes for ${type.name}`);
    sink.bytes.set(init, offset);
  } else if (Array.isArray(init)) {
    writeElements(sink, type, offset, init as readonly Init[]);
  } else {
    writeFields(sink, type, offset, init as Readonly<Record<string, Init>>);
  }
}

/** Lays out an initialiser. */
export function encodeInit(data: GlobalLinkable): DataImage {
  const sink: Sink = { symbol: data.symbol, bytes: new Uint8Array(data.type.size), relocs: [] };
  if (data.init !== undefined) write(sink, data.type, 0, data.init);
  return sink;
}
