// SPDX-License-Identifier: GPL-2.0-only
/** The abstract syntax of random programs, and the variables, fields and functions that they have. */
import { struct } from '../../dsl/struct.ts';
import { array, type IntType, s16, s32, s64, s8, u16, u32, u64, u8 } from '../../dsl/types.ts';

/** Types of variables and casts. */
export const TYPES = [u8, u16, u32, u64, s8, s16, s32, s64] as const;
/** Operators by kind. */
export const BINARY = ['add', 'sub', 'mul', 'and', 'or', 'xor', 'div', 'mod', 'shl', 'shr'] as const;
export const COMPARE = ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const;
export const LOGIC = ['land', 'lor'] as const;

/** An operator, by its name in the DSL. */
export type BinaryName = (typeof BINARY)[number] | (typeof COMPARE)[number] | (typeof LOGIC)[number];

/** An expression. */
export type Ast =
  | { readonly k: 'var'; readonly index: number }
  | { readonly k: 'field'; readonly index: number }
  | { readonly k: 'element'; readonly index: Ast }
  | { readonly k: 'lit'; readonly value: bigint; readonly type: IntType }
  | { readonly k: 'bin'; readonly op: BinaryName; readonly l: Ast; readonly r: Ast }
  | { readonly k: 'un'; readonly op: 'neg' | 'bnot' | 'lnot'; readonly x: Ast }
  | { readonly k: 'cast'; readonly type: IntType; readonly x: Ast }
  | { readonly k: 'select'; readonly c: Ast; readonly a: Ast; readonly b: Ast };

/** What can be assigned to. */
export type Target = Extract<Ast, { k: 'var' | 'field' | 'element' }>;

/** A statement. */
export type Statement =
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
export const MIX_PARAMS = [u8, s16, u64, s32, s64, u32, s8, u16] as const;

/** How many variables a program has. */
export const VARS = 12;
/** How many elements the array in memory has. */
export const ELEMENTS = 8;
/** Fields and an array in memory. */
export const Memory = struct('struct memory', {
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
/** The types of the fields f0 to f7. */
export const FIELDS = [u8, s16, u32, s64, s8, u16, s32, u64] as const;
