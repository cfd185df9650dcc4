// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random guest programs with their expected result: a small abstract syntax that is compiled by the DSL and interpreted by the
 * rules of C.
 */
import { lit } from '../dsl/expr.ts';
import { guestFn } from '../dsl/function.ts';
import type { FnLinkable } from '../dsl/ir.ts';
import { ptr, u64 } from '../dsl/types.ts';
import { Compiler } from './random_program/compiler.ts';
import { Generator } from './random_program/generator.ts';
import { State, wrap } from './random_program/interpreter.ts';
import { Random } from './random_program/random.ts';
import { Memory, TYPES, VARS } from './random_program/syntax.ts';

/** Bytes that a random program works on. */
export const MEMORY_SIZE = Memory.size;

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
