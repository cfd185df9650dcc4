// SPDX-License-Identifier: GPL-2.0-only
/**
 * A small WebAssembly encoder: expressions as functions from operands to bytes, and a module over an imported
 * memory. WebAssembly core specification, "Binary Format". Only what mmu/quick_walk.ts and cpu/quick_run.ts need.
 */
import { BugError } from './errors.ts';
import type { WasmMemory } from './memory/phys_mem.ts';

/** Bytes of an instruction sequence. */
export type Code = readonly number[];

const I32 = 0x7f;
const I64 = 0x7e;
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
  gtS: binary(0x4a),
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

/** Operations on 64-bit integers; comparisons give a 32-bit one. Words of `cpu.s` are aligned to four bytes only. */
export const i64 = {
  eq: binary(0x51),
  ltS: binary(0x53),
  ltU: binary(0x54),
  leS: binary(0x57),
  leU: binary(0x58),
  add: binary(0x7c),
  sub: binary(0x7d),
  load: load(0x29, 2),
  store: store(0x37, 2),
  eqz: (a: Code): Code => [...a, 0x50],
  low: (a: Code): Code => [...a, 0xa7],
  high: (a: Code): Code => [...a, ...[0x42, 32], 0x88, 0xa7],
  fromSigned: (a: Code): Code => [...a, 0xac],
} as const;

/** Operations on doubles. */
export const f64 = {
  const: (n: number): Code => [0x44, ...f64Bytes(n)],
  add: binary(0xa0),
  fromSigned: (a: Code): Code => [...a, 0xb7],
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
  /** The body whose numbers have `value`, or `others`. */
  choose: (
    value: Code,
    bodies: readonly (readonly [numbers: readonly number[], body: Code])[],
    others: Code,
  ): Code => {
    const nr = bodies.length;
    const last = Math.max(...bodies.flatMap(([numbers]) => numbers));
    const label = (n: number): number =>
      (bodies.findIndex(([numbers]) => numbers.includes(n)) + nr + 1) % (nr + 1);
    const labels = Array.from({ length: last + 1 }, (_, n) => unsigned(label(n)));
    return [
      ...Array.from({ length: nr + 2 }, () => [0x02, VOID]).flat(),
      ...[...value, 0x0e, ...unsigned(last + 1), ...labels.flat(), ...unsigned(nr)],
      ...bodies.flatMap(([, body], n) => [0x0b, ...body, 0x0c, ...unsigned(nr - n)]),
      ...[0x0b, ...others, 0x0b],
    ];
  },
  /** Function number `callee` of the module. */
  call: (callee: number, ...args: readonly Code[]): Code => [...args.flat(), 0x10, ...unsigned(callee)],
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
  readonly #types: number[] = [];

  constructor(nrParams: number) {
    this.nrParams = nrParams;
  }

  #add(type: number): Local {
    const n = unsigned(this.#types.length);
    this.#types.push(type);
    return { get: [0x20, ...n], set: (value) => [...value, 0x21, ...n] };
  }

  next(): Local {
    return this.#add(I32);
  }

  /** A local of 64 bits. */
  nextLong(): Local {
    return this.#add(I64);
  }

  /** Their declarations: one group each. */
  get declarations(): Code {
    const types = this.#types.slice(this.nrParams);
    return [...unsigned(types.length), ...types.flatMap((type) => [1, type])];
  }
}

/** A function with integer parameters and result. */
export interface WasmFunction {
  readonly locals: Locals;
  readonly body: Code;
}

interface Instance {
  readonly exports: Readonly<Record<string, unknown>>;
}
interface WasmCompiler {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object, imports: object) => Instance;
}

/** Compile functions over `memory`; the last is given back. */
export function compileModule(memory: WasmMemory, functions: readonly WasmFunction[]): unknown {
  const pages = memory.buffer.byteLength / 0x1_0000;
  const typeOf = ({ locals }: WasmFunction): Code => [
    0x60,
    ...sized(new Array<number>(locals.nrParams).fill(I32)),
    ...[1, I32],
  ];
  const last = functions.length - 1;
  const bytes = Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, functions.map(typeOf)),
    ...section(2, [[...name('m'), ...name('m'), 2, 1, ...unsigned(pages), ...unsigned(pages)]]),
    ...section(
      3,
      functions.map((_, n) => unsigned(n)),
    ),
    ...section(7, [[...name('f'), 0, ...unsigned(last)]]),
    ...section(
      10,
      functions.map(({ locals, body }) => sized([...locals.declarations, ...body, 0x0b])),
    ),
  ]);
  const { Module, Instance } = (globalThis as unknown as { WebAssembly: WasmCompiler }).WebAssembly;
  const made = new Instance(new Module(bytes), { m: { m: memory } }).exports['f'];
  if (typeof made !== 'function') throw new BugError('the module has no function');
  return made;
}
