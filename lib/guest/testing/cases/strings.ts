// SPDX-License-Identifier: GPL-2.0-only
/** The guest library's memory functions, and guest_vsnprintf against the text that C's printf gives. */
import {
  array,
  at,
  guest_vsnprintf,
  memcmp,
  memcpy,
  memset,
  s64,
  str,
  strlen,
  u64,
  u8,
} from '../../index.ts';
import { type Cases, U64 } from './case_list.ts';

/** Cases of memory functions. */
export function strings(t: Cases): void {
  t.add('memset, memcpy and memcmp', [16n], 0xabab_abab_abab_abacn, (g, n) => {
    const [a, b] = [g.local(array(u8, 16)), g.local(array(u8, 16))];
    memset(g, a, 0xab, n);
    memcpy(g, b, a, n);
    const same = g.let(memcmp(g, a, b, n));
    g.set(b.at(15), 0xaa);
    const more = g.let(memcmp(g, a, b, n));
    g.return(at(u64, b.addr()).add(same.cast(s64)).add(more.cast(s64)));
  });
}

/** Formats of guest_vsnprintf with values and the text that C's printf gives. */
const FORMATS: readonly (readonly [string, readonly (bigint | string)[], string])[] = [
  ['plain', [], 'plain'],
  ['%d %d', [5n, -5n], '5 -5'],
  ['%u', [-1n], '4294967295'],
  ['%ld', [-(2n ** 63n)], '-9223372036854775808'],
  ['%lu %llu', [-1n, 10n], '18446744073709551615 10'],
  ['%x %X %#x', [0xbeefn, 0xbeefn, 0xbeefn], 'beef BEEF 0xbeef'],
  ['%#lx|%#lX', [0xfedc_ba98_7654_3210n, 0xabn], '0xfedcba9876543210|0xAB'],
  ['%08x|%8x|%-8x|', [0x1fn, 0x1fn, 0x1fn], '0000001f|      1f|1f      |'],
  ['%#010x', [0x1fn], '0x0000001f'],
  ['%+d % d %+d', [7n, 7n, -7n], '+7  7 -7'],
  ['%05d|%-5d|%5d', [-42n, -42n, -42n], '-0042|-42  |  -42'],
  ['%.4d %8.4d %.0s', [42n, 42n, 'gone'], '0042     0042 '],
  ['%o %#o', [8n, 8n], '10 010'],
  ['%hd %hu', [0x1_ffffn, 0x1_ffffn], '-1 65535'],
  ['%c%c', [0x48n, 0x69n], 'Hi'],
  ['%3c|%-3c|', [0x48n, 0x69n], '  H|i  |'],
  ['%s, %s!', ['hello', 'world'], 'hello, world!'],
  ['%8s|%-8s|%.2s', ['abc', 'abc', 'abc'], '     abc|abc     |ab'],
  ['%*d|%-*d|', [5n, 42n, 5n, 42n], '   42|42   |'],
  ['%.*s', [3n, 'abcdef'], 'abc'],
  ['%p', [0x1234n], '0x00000000001234'],
  ['100%%', [], '100%'],
  ['%d%%', [50n], '50%'],
  ['%i', [-1n], '-1'],
  ['%y', [], '%y'],
  ['end %', [], 'end %'],
];

/** Cases of guest_vsnprintf. */
export function formats(t: Cases): void {
  for (const [fmt, values, text] of FORMATS) {
    t.add(`guest_vsnprintf formats '${fmt}'`, [], BigInt(text.length), (g) => {
      const va = g.local(array(u64, 6));
      values.forEach((value, i) =>
        g.set(va.at(i), typeof value === 'string' ? str(value).cast(u64) : U64(value)),
      );
      const buffer = g.local(array(u8, 128));
      const length = g.let(guest_vsnprintf(g, buffer, 128, str(fmt), va));
      g.if(memcmp(g, buffer, str(text), text.length + 1).ne(0), () => g.return(-1));
      g.return(length.cast(s64).cast(u64));
    });
  }
  t.add('guest_vsnprintf cuts off what does not fit', [], 7n, (g) => {
    const buffer = g.local(array(u8, 16));
    memset(g, buffer, 0xee, 16);
    guest_vsnprintf(g, buffer, 8, str('0123456789'), 0);
    g.if(memcmp(g, buffer, str('0123456'), 8).lor(buffer.at(8).ne(0xee)), () => g.return(-1));
    g.return(strlen(g, buffer));
  });
}
