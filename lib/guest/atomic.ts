// SPDX-License-Identifier: GPL-2.0-only
/** Atomic operations and fences, in the names of GNU C's builtins and of Linux. Widths are those of the place. */
import type { Instruction } from '../asm/isa.ts';
import { gpr as sized, mem, type Mem } from '../asm/operands.ts';
import { type AsmRegs, fixed } from './dsl/asm_spec.ts';
import type { GuestCode } from './dsl/builder.ts';
import { GuestCodeError } from './dsl/error.ts';
import { type Expr, lit, type Place } from './dsl/expr.ts';
import type { Operand } from './dsl/rvalue.ts';
import { type AnyType, type IntType, isInt, isPtr, u64 } from './dsl/types.ts';

type Width = 8 | 16 | 32 | 64;

function widthOf(place: Place): { readonly type: IntType; readonly bits: Width } {
  const type: AnyType = place.type;
  if (isPtr(type)) return { type: u64, bits: 64 };
  if (!isInt(type)) throw new GuestCodeError(`atomic operation on ${type.name}`);
  return { type, bits: (type.size * 8) as Width };
}

const memoryOf = (r: AsmRegs<'addr'>, bits: Width): Mem => mem(bits, { base: r.reg64('addr') });

/** An operand in the type of the place, with the casts that C would not ask for. */
const typed = (value: Operand, type: IntType): Expr => lit(value).cast(type);

/** Exchanges the place with a value; gives the old value. */
export function xchg(g: GuestCode, place: Place, value: Operand): Expr<IntType> {
  const { type, bits } = widthOf(place);
  return g.asm({
    in: { addr: place.addr(), v: typed(value, type) },
    out: { v: type },
    emit: (a, r) => a.emit('xchg', memoryOf(r, bits), sized(r.reg64('v').num, bits)),
  }).v;
}

/** Adds to the place; gives the old value. */
export function xadd(g: GuestCode, place: Place, value: Operand): Expr<IntType> {
  const { type, bits } = widthOf(place);
  return g.asm({
    in: { addr: place.addr(), v: typed(value, type) },
    out: { v: type },
    emit: (a, r) => a.emit('lock xadd', memoryOf(r, bits), sized(r.reg64('v').num, bits)),
  }).v;
}

/** Writes `desired` if the place holds `expected`; gives what it held. */
export function cmpxchg(g: GuestCode, place: Place, expected: Operand, desired: Operand): Expr<IntType> {
  const { type, bits } = widthOf(place);
  return g.asm({
    in: { addr: place.addr(), old: fixed('rax', typed(expected, type)), v: typed(desired, type) },
    out: { old: fixed('rax', type) },
    emit: (a, r) => a.emit('lock cmpxchg', memoryOf(r, bits), sized(r.reg64('v').num, bits)),
  }).old;
}

function lockedOp(g: GuestCode, insn: Instruction, place: Place, value: Operand): void {
  const { type, bits } = widthOf(place);
  g.asm({
    in: { addr: place.addr(), v: typed(value, type) },
    emit: (a, r) => a.emit(insn, memoryOf(r, bits), sized(r.reg64('v').num, bits)),
  });
}

/** Adds to the place atomically. */
export const atomic_add = (g: GuestCode, place: Place, value: Operand): void =>
  lockedOp(g, 'lock add', place, value);
/** Subtracts from the place atomically. */
export const atomic_sub = (g: GuestCode, place: Place, value: Operand): void =>
  lockedOp(g, 'lock sub', place, value);
/** Adds one atomically. */
export const atomic_inc = (g: GuestCode, place: Place): void => atomic_add(g, place, 1);
/** Ands the place atomically. */
export const atomic_and = (g: GuestCode, place: Place, value: Operand): void =>
  lockedOp(g, 'lock and', place, value);
/** Ors the place atomically. */
export const atomic_or = (g: GuestCode, place: Place, value: Operand): void =>
  lockedOp(g, 'lock or', place, value);

/** Stores with a full fence, as C11's seq_cst store does. */
export const atomic_store = (g: GuestCode, place: Place, value: Operand): void => {
  xchg(g, place, value);
};

/** One store, as Linux's WRITE_ONCE(); every access is volatile, the name is for the reader. */
export const WRITE_ONCE = (g: GuestCode, place: Place, value: Operand): void => g.set(place, value);

/** Full memory fence. */
export const mfence = (g: GuestCode): void => g.insn('mfence');
/** Load fence. */
export const lfence = (g: GuestCode): void => g.insn('lfence');
/** Store fence. */
export const sfence = (g: GuestCode): void => g.insn('sfence');
