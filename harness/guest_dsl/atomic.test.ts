// SPDX-License-Identifier: GPL-2.0-only
/** Atomic operations of the guest library on globals. Expected: the SDM, "Instruction Set Reference". */
import { describe, expect, it } from 'vitest';
import {
  atomic_add,
  atomic_and,
  atomic_inc,
  atomic_or,
  atomic_store,
  atomic_sub,
  cmpxchg,
  ExRegs,
  guestFn,
  guestGlobal,
  ptr,
  READ_ONCE,
  u32,
  u64,
  WRITE_ONCE,
  xchg,
} from '../../lib/guest/index.ts';
import { run } from './library_box.ts';

describe('atomic operations', () => {
  it('change the place and give the old value where there is one', () => {
    const cell = guestGlobal('cell', u32, 0xf0);
    const fn = guestFn('guest_code', [], u64, (g) => {
      atomic_add(g, cell, 0x10); // 0x100
      atomic_inc(g, cell); // 0x101
      atomic_sub(g, cell, 2); // 0xff
      atomic_and(g, cell, 0x3c); // 0x3c
      atomic_or(g, cell, 0x80); // 0xbc
      const old = xchg(g, cell, 1);
      atomic_store(g, cell, 7);
      WRITE_ONCE(g, cell, READ_ONCE(cell).add(1));
      g.return(old.cast(u64).shl(32).or(cell.cast(u64)));
    });
    expect(run(fn).result).toBe(0xbc_0000_0008n);
  });

  it('work on pointers, and on scalars only', () => {
    const pointer = guestGlobal('pointer', ptr(u64));
    const fn = guestFn('guest_code', [], u64, (g) => {
      const old = cmpxchg(g, pointer, 0, 0x1234);
      g.return(old.add(pointer.cast(u64)));
    });
    expect(run(fn).result).toBe(0x1234n);
    const bad = guestFn('bad', [], (g) => atomic_inc(g, g.local(ExRegs)));
    expect(() => bad.body()).toThrow('atomic operation on struct ex_regs');
  });
});
