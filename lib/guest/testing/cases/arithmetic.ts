// SPDX-License-Identifier: GPL-2.0-only
/** Integer types and operators by the rules of C: promotion, conversion, wrapping, division, shifts. */
import { lit, s16, s32, s64, s8, u16, u32, u64, u8 } from '../../index.ts';
import { type Cases, U64 } from './case_list.ts';

/** Cases of integer operators. */
export function arithmetic(t: Cases): void {
  const big = 0xfedc_ba98_7654_3210n;
  t.value('u64 addition wraps', [-1n, 2n], 1n, (a, b) => a.add(b));
  t.value('u32 addition wraps at 32 bits', [0xffff_ffffn, 2n], 1n, (a, b) => a.cast(u32).add(b.cast(u32)));
  t.value('u8 promotes to int and does not wrap', [200n, 100n], 300n, (a, b) => a.cast(u8).add(b.cast(u8)));
  t.value('s8 promotes with its sign', [0x80n], -128n, (a) => a.cast(s8).add(0));
  t.value('u16 stays positive', [0x8000n], 0x8000n, (a) => a.cast(u16).add(0));
  t.value('s16 is sign-extended', [0x8000n], -0x8000n, (a) => a.cast(s16).cast(s64));
  t.value('u32 is zero-extended to u64', [big], 0x7654_3210n, (a) => a.cast(u32).cast(u64));
  t.value('s32 is sign-extended to u64', [0x8000_0000n], -0x8000_0000n, (a) => a.cast(s32).cast(u64));
  t.value('int and unsigned meet as unsigned', [-1n, 1n], 0n, (a, b) => a.cast(s32).lt(b.cast(u32)));
  t.value('int and long meet as long', [-1n, 1n], 1n, (a, b) => a.cast(s32).lt(b.cast(s64)));
  t.value('unsigned and long meet as long', [0xffff_ffffn, -1n], 0n, (a, b) => a.cast(u32).lt(b.cast(s64)));
  t.value('signed division truncates to zero', [-7n, 2n], -3n, (a, b) => a.cast(s64).div(b.cast(s64)));
  t.value('signed remainder has the sign of the dividend', [-7n, 2n], -1n, (a, b) =>
    a.cast(s64).mod(b.cast(s64)),
  );
  t.value('signed division by a power of two truncates too', [-7n], -1n, (a) => a.cast(s64).div(4));
  t.value('unsigned division', [-7n, 2n], 0x7fff_ffff_ffff_fffcn, (a, b) => a.div(b));
  t.value('unsigned remainder by a power of two', [0x1234n], 0x34n, (a) => a.mod(0x100));
  t.value('multiplication by a constant', [big], U64(big * 1000n), (a) => a.mul(1000));
  t.value('multiplication by a power of two', [3n], 3n << 20n, (a) => a.mul(1 << 20));
  t.value('arithmetic shift of a negative int', [-16n], -4n, (a) => a.cast(s32).shr(2));
  t.value('logical shift of unsigned', [0xffff_fff0n], 0x3fff_fffcn, (a) => a.cast(u32).shr(2));
  t.value('variable shifts of a sum', [1n, 40n], 3n << 40n, (a, b) => a.add(2).shl(b));
  t.value('a shift count from a complex tree', [256n, 2n], 4n, (a, b) => a.shr(b.mul(b).add(b)));
  t.value('complement and negation', [5n], 5n, (a) => a.bnot().neg().sub(1));
  t.value('a 64-bit constant', [1n], big, (a) => a.mul(big));
  t.value('a negative constant is extended', [10n], 5n, (a) => a.add(-5));
  t.value('a 32-bit mask does not reach the upper half', [-1n], 0xffff_ffffn, (a) => a.and(0xffff_ffff));
  t.value('lit gives literals their operators', [], 7n, () => lit(3).add(4));
}
