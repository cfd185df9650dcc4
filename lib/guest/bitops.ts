// SPDX-License-Identifier: GPL-2.0-only
/** Atomic bit operations on bitmaps of 64-bit words, after tools/include/linux/bitops.h and its x86 atomics. */
import { mem, withSize } from '../asm/operands.ts';
import type { GuestCode } from './dsl/builder.ts';
import { at, type Expr, lit } from './dsl/expr.ts';
import type { Operand } from './dsl/rvalue.ts';
import { type IntType, u64, u8 } from './dsl/types.ts';

function bitOperands(g: GuestCode, nr: Operand, addr: Operand): { word: Expr; bit: Expr } {
  const wide = lit(nr).cast(u64);
  const index = wide.rvalue().node.k === 'const' ? wide : g.let(wide);
  const word = at(u64, lit(addr).cast(u64).add(index.shr(6).shl(3))).addr();
  return { word, bit: index.and(63) };
}

/** Sets a bit; gives its old value. */
export function test_and_set_bit(g: GuestCode, nr: Operand, addr: Operand): Expr<IntType> {
  return g.asm({
    in: bitOperands(g, nr, addr),
    out: { old: u8 },
    emit: (a, r) => {
      a.emit('lock bts', mem(64, { base: r.reg64('word') }), r.reg64('bit'));
      a.emit('setb', withSize(r.reg64('old'), 8));
    },
  }).old;
}

/** Clears a bit; gives its old value. */
export function test_and_clear_bit(g: GuestCode, nr: Operand, addr: Operand): Expr<IntType> {
  return g.asm({
    in: bitOperands(g, nr, addr),
    out: { old: u8 },
    emit: (a, r) => {
      a.emit('lock btr', mem(64, { base: r.reg64('word') }), r.reg64('bit'));
      a.emit('setb', withSize(r.reg64('old'), 8));
    },
  }).old;
}

/** Sets a bit. */
export function set_bit(g: GuestCode, nr: Operand, addr: Operand): void {
  g.asm({
    in: bitOperands(g, nr, addr),
    emit: (a, r) => a.emit('lock bts', mem(64, { base: r.reg64('word') }), r.reg64('bit')),
  });
}

/** Clears a bit. */
export function clear_bit(g: GuestCode, nr: Operand, addr: Operand): void {
  g.asm({
    in: bitOperands(g, nr, addr),
    emit: (a, r) => a.emit('lock btr', mem(64, { base: r.reg64('word') }), r.reg64('bit')),
  });
}

/** Whether a bit is set; not atomic, as in Linux. */
export function test_bit(nr: Operand, addr: Operand): Expr<IntType> {
  const index = lit(nr).cast(u64);
  return at(u64, lit(addr).cast(u64).add(index.shr(6).shl(3)))
    .shr(index.and(63))
    .and(1);
}
