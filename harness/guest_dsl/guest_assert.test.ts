// SPDX-License-Identifier: GPL-2.0-only
/** Guest assertions that hold and that fail. Expected: include/ucall_common.h in tools/testing/selftests/kvm. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  __GUEST_ASSERT,
  GUEST_ASSERT,
  GUEST_ASSERT_ARG,
  GUEST_ASSERT_EQ,
  GUEST_ASSERT_NE,
  GUEST_FAIL,
  guestFn,
  guestUnit,
  u64,
  UCALL,
} from '../../lib/guest/index.ts';
import { run } from './library_box.ts';

const sourceLines = (): string[] => readFileSync(new URL(import.meta.url), 'utf8').split('\n');

describe('guest assertions', () => {
  const strings = ['ERROR_STRING', 'FILE', 'LEVEL'] as const;

  it('say nothing if they hold', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      GUEST_ASSERT(g, x.eq(5));
      GUEST_ASSERT_EQ(g, x, 5);
      GUEST_ASSERT_NE(g, x, 6);
      __GUEST_ASSERT(g, x.ne(6), 'x is %lu', x);
    });
    expect(run(fn, 5n).box.ucalls).toEqual([]);
  });

  it('report expression, file, line, level and both operands', () => {
    const fn = guestUnit('L2').fn('l2_guest_code', [u64], (g, x) => {
      GUEST_ASSERT_EQ(g, x.add(1), 5);
    });
    const { box } = run(fn, 0x10n);
    const { cmd, args, buffer } = box.ucalls[0]!;
    expect(cmd).toBe(UCALL.ABORT);
    expect(strings.map((name) => box.image.cstring(args[GUEST_ASSERT_ARG[name]]!))).toEqual([
      'x.add(1) == 5',
      'harness/guest_dsl/guest_assert.test.ts',
      'L2',
    ]);
    expect(buffer).toBe('0x11 != 0x5 (x.add(1) != 5)');
    const line = Number(args[GUEST_ASSERT_ARG.LINE]);
    expect(sourceLines()[line - 1]).toContain('GUEST_ASSERT_EQ(g, x.add(1), 5)');
  });

  it('report each kind with its own text', () => {
    const fn = guestFn('guest_code', [u64], (g, x) => {
      GUEST_ASSERT(g, x.eq(6));
      GUEST_ASSERT_NE(g, x, 5);
      __GUEST_ASSERT(g, x.gt(7), 'x is %lu', x);
      GUEST_FAIL(g, 'reason %d', 7);
    });
    const { box } = run(fn, 5n);
    const seen = box.ucalls.map(({ args, buffer }) => [box.image.cstring(args[0]!), buffer]);
    expect(seen).toEqual([
      ['x.eq(6)', ''],
      ['x != 5', '0x5 == 0x5 (x == 5)'],
      ['x.gt(7)', 'x is 5'],
      ['Unconditional guest failure', 'reason 7'],
    ]);
  });
});
