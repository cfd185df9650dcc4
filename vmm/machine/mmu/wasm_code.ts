// SPDX-License-Identifier: GPL-2.0-only
/**
 * A small WebAssembly encoder: expressions as functions from operands to bytes, and a module of one function over an
 * imported memory. WebAssembly core specification, "Binary Format". Only what quick_walk.ts needs.
 */
import { BugError } from '../errors.ts';
import type { WasmMemory } from '../memory/phys_mem.ts';

/** Bytes of an instruction sequence. */
export type Code = readonly number[];

const I32 = 0x7f;
const VOID = 0x40;

function unsigned(n: number): number[] {
  const bytes = [];
  let rest = n >>> 0;
  for (; rest > 0x7f; rest >>>= 7) bytes.push((rest & 0x7f) | 0x80);
  return [...bytes, rest];
}

function signed(n: number): number[] {
  const bytes = [];
  let rest = n | 0;
  while (rest < -64 || rest > 63) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>= 7;
  }
  return [...bytes, rest & 0x7f];
}

const f64Bytes = (n: number): number[] => [...new Uint8Array(new Float64Array([n]).buffer)];
const sized = (bytes: Code): number[] => [...unsigned(bytes.length), ...bytes];
const section = (id: number, items: readonly Code[]): number[] => [
  id,
  ...sized([...unsigned(items.length), ...items.flat()]),
];
const name = (text: string): number[] => sized([...new TextEncoder().encode(text)]);
const binary =
  (opcode: number) =>
  (a: Code, b: Code): Code => [...a, ...b, opcode];
const load =
  (opcode: number, align: number) =>
  (address: Code, offset = 0): Code => [...address, opcode, align, ...unsigned(offset)];
const store =
  (opcode: number, align: number) =>
  (address: Code, offset: number, value: Code): Code => [
    ...address,
    ...value,
    opcode,
    align,
    ...unsigned(offset),
  ];

/** Operations on 32-bit integers. Addresses are bytes; `offset` of a load or store is added without wrapping. */
export const i32 = {
  const: (n: number): Code => [0x41, ...signed(n)],
  eqz: (a: Code): Code => [...a, 0x45],
  eq: binary(0x46),
  ne: binary(0x47),
  ltS: binary(0x48),
  ltU: binary(0x49),
  gtU: binary(0x4b),
  geS: binary(0x4e),
  geU: binary(0x4f),
  add: binary(0x6a),
  sub: binary(0x6b),
  mul: binary(0x6c),
  and: binary(0x71),
  or: binary(0x72),
  xor: binary(0x73),
  shl: binary(0x74),
  shrS: binary(0x75),
  shrU: binary(0x76),
  load: load(0x28, 2),
  load8: load(0x2d, 0),
  load16: load(0x2f, 1),
  store: store(0x36, 2),
  store16: store(0x3b, 1),
} as const;

/** Operations on doubles. */
export const f64 = {
  const: (n: number): Code => [0x44, ...f64Bytes(n)],
  add: binary(0xa0),
  load: load(0x2b, 3),
  store: store(0x39, 3),
} as const;

/** Control. */
export const wasm = {
  /** `a` if `condition`, else `b`; both are evaluated. */
  select: (condition: Code, a: Code, b: Code): Code => [...a, ...b, ...condition, 0x1b],
  when: (condition: Code, ...body: readonly Code[]): Code => [...condition, 0x04, VOID, ...body.flat(), 0x0b],
  either: (condition: Code, yes: Code, no: Code): Code => [
    ...condition,
    0x04,
    VOID,
    ...yes,
    0x05,
    ...no,
    0x0b,
  ],
  loopWhile: (condition: Code, ...body: readonly Code[]): Code => [
    ...[0x02, VOID, 0x03, VOID],
    ...i32.eqz(condition),
    ...[0x0d, 1],
    ...body.flat(),
    ...[0x0c, 0, 0x0b, 0x0b],
  ],
  ret: (value: Code): Code => [...value, 0x0f],
} as const;

/** A local variable or a parameter. */
export interface Local {
  readonly get: Code;
  set(value: Code): Code;
}

/** Hands out the locals of one function: its 32-bit parameters first. */
export class Locals {
  readonly nrParams: number;
  #next = 0;

  constructor(nrParams: number) {
    this.nrParams = nrParams;
  }

  next(): Local {
    const n = unsigned(this.#next++);
    return { get: [0x20, ...n], set: (value) => [...value, 0x21, ...n] };
  }

  get nrLocals(): number {
    return this.#next - this.nrParams;
  }
}

interface Instance {
  readonly exports: Readonly<Record<string, unknown>>;
}
interface WasmCompiler {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object, imports: object) => Instance;
}

/** Compile a function with integer parameters, locals and result, over `memory`. */
export function compileFunction(memory: WasmMemory, locals: Locals, body: Code): unknown {
  const pages = memory.buffer.byteLength / 0x1_0000;
  const params = new Array<number>(locals.nrParams).fill(I32);
  const code = [1, ...unsigned(locals.nrLocals), I32, ...body, 0x0b];
  const bytes = Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [[0x60, ...sized(params), 1, I32]]),
    ...section(2, [[...name('m'), ...name('m'), 2, 1, ...unsigned(pages), ...unsigned(pages)]]),
    ...section(3, [[0]]),
    ...section(7, [[...name('f'), 0, 0]]),
    ...section(10, [sized(code)]),
  ]);
  const { Module, Instance } = (globalThis as unknown as { WebAssembly: WasmCompiler }).WebAssembly;
  const made = new Instance(new Module(bytes), { m: { m: memory } }).exports['f'];
  if (typeof made !== 'function') throw new BugError('the module has no function');
  return made;
}
