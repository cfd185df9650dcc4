// SPDX-License-Identifier: GPL-2.0-only
/** Ucalls of guest code as the host sees them. Expected: lib/ucall_common.c of tools/testing/selftests/kvm. */
import { describe, expect, it } from 'vitest';
import {
  GUEST_DONE,
  GUEST_PRINTF,
  GUEST_SYNC,
  GUEST_SYNC_ARGS,
  GUEST_UCALL_NONE,
  guestFn,
  guestGlobal,
  u32,
  u64,
  UCALL,
  ucall_alloc,
  ucall_pool,
} from '../../lib/guest/index.ts';
import { run } from './library_box.ts';

describe('ucalls', () => {
  it('reach the host with command and arguments, in order', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      GUEST_SYNC(g, 1);
      GUEST_SYNC_ARGS(g, 2, x, x.add(1), 3, -1);
      GUEST_UCALL_NONE(g);
      GUEST_DONE(g);
    });
    const { box } = run(fn, 40n);
    expect(box.ucalls.map(({ cmd }) => cmd)).toEqual([UCALL.SYNC, UCALL.SYNC, UCALL.NONE, UCALL.DONE]);
    const [first, second] = box.ucalls;
    expect(first!.args.slice(1, 3)).toEqual([1n, 0n]);
    expect(box.image.cstring(first!.args[0]!)).toBe('hello');
    expect(second!.args.slice(1, 6)).toEqual([2n, 40n, 41n, 3n, 2n ** 64n - 1n]);
  });

  it('print with the guest as formatter', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => GUEST_PRINTF(g, 'x=%#lx %d\n', x, -3));
    const { box } = run(fn, 0xabcn);
    expect(box.ucalls).toHaveLength(1);
    expect(box.ucalls[0]!.cmd).toBe(UCALL.PRINTF);
    expect(box.ucalls[0]!.buffer).toBe('x=0xabc -3\n');
  });

  it('give their struct back', () => {
    const i = guestGlobal('i', u32);
    const fn = guestFn('guest_code', [], (g) => g.forRange(i, 0, 600, 1, () => GUEST_SYNC(g, i)));
    const { box } = run(fn);
    expect(box.ucalls).toHaveLength(600);
    expect(box.ucalls.at(-1)!.args[1]).toBe(599n);
  });

  it('report it if there is no pool', () => {
    const fn = guestFn('guest_code', [], (g) => {
      g.set(ucall_pool, 0);
      ucall_alloc(g);
    });
    const { box } = run(fn);
    expect(box.ucalls.map(({ cmd }) => cmd)).toEqual([-1]);
  });
});
