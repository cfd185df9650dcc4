// SPDX-License-Identifier: GPL-2.0-only
/**
 * memset, memcpy, memcmp, strlen, strnlen as guest functions, byte by byte as tools/testing/selftests/kvm/lib/string_override.c
 * has them; memset and memcpy use the string instructions instead of a loop.
 */
import { fixed } from './dsl/asm_spec.ts';
import { guestFn } from './dsl/function.ts';
import { ptr, s32, u64, u8, voidType } from './dsl/types.ts';

/** Fills `count` bytes; gives `s`. */
export const memset = guestFn('memset', [ptr(voidType), s32, u64], ptr(voidType), (g, s, c, count) => {
  g.asm({
    in: { dst: fixed('rdi', s), value: fixed('rax', c), count: fixed('rcx', count) },
    clobbers: ['rdi', 'rcx'],
    emit: (a) => a.emit('rep stosb'),
  });
  g.return(s);
});

/** Copies `count` bytes that do not overlap; gives `dest`. */
export const memcpy = guestFn(
  'memcpy',
  [ptr(voidType), ptr(voidType), u64],
  ptr(voidType),
  (g, dest, src, count) => {
    g.asm({
      in: { dst: fixed('rdi', dest), src: fixed('rsi', src), count: fixed('rcx', count) },
      clobbers: ['rdi', 'rsi', 'rcx'],
      emit: (a) => a.emit('rep movsb'),
    });
    g.return(dest);
  },
);

/** Compares `count` bytes: below, at or above zero as the first difference is. */
export const memcmp = guestFn('memcmp', [ptr(voidType), ptr(voidType), u64], s32, (g, cs, ct, count) => {
  const a = g.local(ptr(u8), cs);
  const b = g.local(ptr(u8), ct);
  const i = g.local(u64);
  g.forRange(i, 0, count, 1, () => g.if(a.at(i).ne(b.at(i)), () => g.return(a.at(i).sub(b.at(i)))));
  g.return(0);
});

/** The length of a string. */
export const strlen = guestFn('strlen', [ptr(u8)], u64, (g, s) => {
  const n = g.local(u64, 0);
  g.while(s.at(n).ne(0), () => g.inc(n));
  g.return(n);
});

/** The length of a string, `count` at most. */
export const strnlen = guestFn('strnlen', [ptr(u8), u64], u64, (g, s, count) => {
  const n = g.local(u64, 0);
  g.while(n.lt(count).land(s.at(n).ne(0)), () => g.inc(n));
  g.return(n);
});
