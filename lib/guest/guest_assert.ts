// SPDX-License-Identifier: GPL-2.0-only
/**
 * GUEST_ASSERT and GUEST_PRINTF, after include/ucall_common.h and ucall_assert() and ucall_fmt() of lib/ucall_common.c in
 * tools/testing/selftests/kvm. Expression, TypeScript file and level are strings of the image; operands are formatted in the
 * guest. The level is an addition: upstream does not say whether L1 or L2 has failed.
 */
import type { GuestCode } from './dsl/builder.ts';
import { GuestCodeError } from './dsl/error.ts';
import { type Expr, lit, str } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import { rvalue, type Operand } from './dsl/rvalue.ts';
import { captureSite } from './dsl/srcloc.ts';
import { array, isInt, ptr, s64, u64, u8 } from './dsl/types.ts';
import { guest_vsnprintf } from './guest_sprintf.ts';
import { macroArguments } from './source_text.ts';
import {
  GUEST_ASSERT_ARG,
  UCALL,
  ucall_alloc,
  ucall_arch_do_ucall,
  UCALL_BUFFER_LEN,
  ucall_free,
} from './ucall.ts';

/** How many values a format may have. */
const MAX_FMT_ARGS = 6;
const FMT_ARGS = [u64, u64, u64, u64, u64, u64] as const;

/** A formatted ucall. */
const ucall_fmt = guestFn('ucall_fmt', [u64, ptr(u8), ...FMT_ARGS], (g, cmd, fmt, ...values) => {
  const va = g.local(array(u64, MAX_FMT_ARGS));
  values.forEach((value, i) => g.set(va.at(i), value));
  const uc = g.let(ucall_alloc(g));
  g.set(uc.f.cmd, cmd);
  guest_vsnprintf(g, uc.f.buffer, UCALL_BUFFER_LEN, fmt, va);
  ucall_arch_do_ucall(g, uc.f.hva);
  ucall_free(g, uc);
});

/** A failed assertion: expression, file, line, level, and a formatted text. */
const ucall_assert = guestFn(
  'ucall_assert',
  [ptr(u8), ptr(u8), u64, ptr(u8), ptr(u8), ...FMT_ARGS],
  (g, exp, file, line, level, fmt, ...values) => {
    const va = g.local(array(u64, MAX_FMT_ARGS));
    values.forEach((value, i) => g.set(va.at(i), value));
    const uc = g.let(ucall_alloc(g));
    const { args } = uc.f;
    g.set(uc.f.cmd, UCALL.ABORT);
    g.set(args.at(GUEST_ASSERT_ARG.ERROR_STRING), exp);
    g.set(args.at(GUEST_ASSERT_ARG.FILE), file);
    g.set(args.at(GUEST_ASSERT_ARG.LINE), line);
    g.set(args.at(GUEST_ASSERT_ARG.LEVEL), level);
    guest_vsnprintf(g, uc.f.buffer, UCALL_BUFFER_LEN, fmt, va);
    ucall_arch_do_ucall(g, uc.f.hva);
    ucall_free(g, uc);
  },
);

/** A value as the 64 bits that a format takes. */
function wide(value: Operand): Expr {
  const { type } = rvalue(value);
  return isInt(type) && type.signed ? lit(value).cast(s64).cast(u64) : lit(value).cast(u64);
}

function formatArgs(args: readonly Operand[]): Operand[] {
  if (args.length > MAX_FMT_ARGS)
    throw new GuestCodeError(`format with ${args.length} values, ${MAX_FMT_ARGS} at most`);
  return [...args.map(wide), ...FMT_ARGS.slice(args.length).map(() => 0)];
}

interface Failure {
  readonly macro: string;
  /** The expression from the texts of the macro's arguments. */
  readonly text: (args: readonly string[]) => string;
  readonly fmt: string;
  readonly values: (args: readonly string[]) => readonly Operand[];
}

/** Emits the report of a failure at the line of the macro. */
function fail(g: GuestCode, { macro, text, fmt, values }: Failure): void {
  const loc = captureSite().loc();
  const args = macroArguments(loc, macro);
  const operands = formatArgs(values(args));
  g.call(ucall_assert, str(text(args)), str(loc.file), loc.line, str(g.level), str(fmt), ...operands);
}

/** Prints through the host. */
export const GUEST_PRINTF = (g: GuestCode, fmt: string, ...args: Operand[]): void => {
  g.call(ucall_fmt, UCALL.PRINTF, str(fmt), ...formatArgs(args));
};

/** Fails the test with a formatted text. */
export const GUEST_FAIL = (g: GuestCode, fmt: string, ...args: Operand[]): void =>
  fail(g, { macro: 'GUEST_FAIL', text: () => 'Unconditional guest failure', fmt, values: () => args });

/** Fails the test with a formatted text if the condition is false. */
export function __GUEST_ASSERT(g: GuestCode, condition: Operand, fmt: string, ...values: Operand[]): void {
  const text = ([condition = 'condition']: readonly string[]): string => condition;
  g.if(lit(condition).lnot(), () => fail(g, { macro: '__GUEST_ASSERT', text, fmt, values: () => values }));
}

/** Fails the test if the condition is false. */
export function GUEST_ASSERT(g: GuestCode, condition: Operand): void {
  const text = ([condition = 'condition']: readonly string[]): string => condition;
  g.if(lit(condition).lnot(), () => fail(g, { macro: 'GUEST_ASSERT', text, fmt: '', values: () => [] }));
}

/** Evaluates an operand once. */
function once(g: GuestCode, value: Operand): Expr {
  const { node } = rvalue(value);
  return node.k === 'const' || node.k === 'sym' ? lit(value) : g.let(lit(value));
}

function assertRelation(g: GuestCode, a: Operand, b: Operand, relation: 'EQ' | 'NE'): void {
  const [holds, op, broken] =
    relation === 'EQ' ? (['eq', '==', '!='] as const) : (['ne', '!=', '=='] as const);
  const l = once(g, a);
  const r = once(g, b);
  const failure: Failure = {
    macro: `GUEST_ASSERT_${relation}`,
    text: ([left = 'a', right = 'b']) => `${left} ${op} ${right}`,
    fmt: `%#lx ${broken} %#lx (%s ${broken} %s)`,
    values: ([left = 'a', right = 'b']) => [l, r, str(left), str(right)],
  };
  g.if(l[holds](r).lnot(), () => fail(g, failure));
}

/** Fails the test, with both values, if they differ. */
export const GUEST_ASSERT_EQ = (g: GuestCode, a: Operand, b: Operand): void => assertRelation(g, a, b, 'EQ');

/** Fails the test, with both values, if they are equal. */
export const GUEST_ASSERT_NE = (g: GuestCode, a: Operand, b: Operand): void => assertRelation(g, a, b, 'NE');
