// SPDX-License-Identifier: GPL-2.0-only
/** What a guest assertion leaves in the image: expression, file, level and format as string constants. */
import { describe, expect, it } from 'vitest';
import {
  __GUEST_ASSERT,
  GUEST_ASSERT,
  GUEST_ASSERT_ARG,
  GUEST_ASSERT_EQ,
  GUEST_ASSERT_NE,
  GUEST_FAIL,
  GUEST_PRINTF,
  GUEST_SYNC_ARGS,
  GuestCodeError,
  guestFn,
  type FnLinkable,
  guestUnit,
  linkImage,
  u64,
  ucall,
  UCALL,
  UCALL_MAX_ARGS,
  Ucall,
  UcallHeader,
} from './index.ts';
import type { GuestCode } from './dsl/builder.ts';

function stringsOf(fn: FnLinkable): string[] {
  const image = linkImage({ base: 0x40_0000, entry: fn });
  const rodata = image.sections[1]!;
  const start = Number(rodata.start - image.base);
  return new TextDecoder().decode(image.bytes.subarray(start, start + rodata.size)).split('\0');
}

describe('guest assertions', () => {
  it('carry expression text, file and level', () => {
    const fn = guestUnit('L2').fn('l2_guest_code', [u64], (g, x) => {
      GUEST_ASSERT(g, x.add(1).eq(5));
    });
    const strings = stringsOf(fn);
    expect(strings).toContain('x.add(1).eq(5)');
    expect(strings).toContain('lib/guest/guest_assert.test.ts');
    expect(strings).toContain('L2');
  });

  it('of equality carry both operands as text', () => {
    const fn = guestFn('eq', [u64, u64], (g, first, second) => {
      GUEST_ASSERT_EQ(g, first, second.and(0xff));
      GUEST_ASSERT_NE(g, first.sub(1), 7);
    });
    const strings = stringsOf(fn);
    for (const text of [
      'first == second.and(0xff)',
      'first',
      'second.and(0xff)',
      '%#lx != %#lx (%s != %s)',
    ]) {
      expect(strings).toContain(text);
    }
    for (const text of ['first.sub(1) != 7', 'first.sub(1)', '7', '%#lx == %#lx (%s == %s)']) {
      expect(strings).toContain(text);
    }
    expect(strings).toContain('L1');
  });

  it('with a format keep it as it is', () => {
    const fn = guestFn('fmt', [u64], (g, x) => {
      __GUEST_ASSERT(g, x.lt(3), 'x is %lu', x);
      GUEST_FAIL(g, 'never %d', 1);
      GUEST_PRINTF(g, 'hello\n');
    });
    const strings = stringsOf(fn);
    for (const text of ['x.lt(3)', 'x is %lu', 'never %d', 'Unconditional guest failure', 'hello\n']) {
      expect(strings).toContain(text);
    }
  });

  it('refuse more values than fit', () => {
    const build = (body: (g: GuestCode) => void) => (): unknown => guestFn('f', [], body).body();
    expect(build((g) => GUEST_PRINTF(g, '%d', 1, 2, 3, 4, 5, 6, 7))).toThrow(
      'format with 7 values, 6 at most',
    );
    expect(build((g) => ucall(g, UCALL.SYNC, 1, 2, 3, 4, 5, 6, 7, 8))).toThrow('ucall with 8 arguments');
    expect(build((g) => GUEST_FAIL(g, '%d', 1, 2, 3, 4, 5, 6, 7))).toThrow(GuestCodeError);
  });
});

describe('the ucall structures', () => {
  it('have the layout of include/ucall_common.h', () => {
    expect(['cmd', 'args', 'buffer', 'hva'].map((name) => Ucall.offsetof(name))).toEqual([0, 8, 64, 1088]);
    expect(Ucall.size).toBe(1096);
    expect(UcallHeader.offsetof('ucalls')).toBe(64);
    expect(UcallHeader.size).toBe(64 + 512 * 1096);
    expect(Object.keys(GUEST_ASSERT_ARG)).toHaveLength(4);
    expect(UCALL_MAX_ARGS).toBe(7);
  });

  it('are used by all macros', () => {
    const fn = guestFn('sync', [], (g) => GUEST_SYNC_ARGS(g, 1, 2, 3, 4, 5));
    expect(stringsOf(fn)).toContain('hello');
  });
});
