// SPDX-License-Identifier: GPL-2.0-only
/**
 * guest_vsnprintf: printf in the guest, so that text from L2 needs no page walk by the host. After the behaviour of
 * tools/testing/selftests/kvm/lib/guest_sprintf.c: flags - + space # 0, width and precision (also *), h l ll,
 * conversions c s p o x X d i u %. A va_list is a pointer to 64-bit values. Left out: %n.
 */
import type { GuestCode } from './dsl/builder.ts';
import { type Expr, type Place, select, str } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import { struct } from './dsl/struct.ts';
import { array, type IntType, ptr, s16, s32, s64, type PtrType, u16, u32, u64, u8 } from './dsl/types.ts';
import { strnlen } from './string.ts';

// prettier-ignore
const FLAG = {
  ZEROPAD: 0x01, // Pad with zeroes
  SIGN:    0x02, // The number is signed
  PLUS:    0x04, // Show the plus sign
  SPACE:   0x08, // A space instead of the plus sign
  LEFT:    0x10, // Left-justified
  SMALL:   0x20, // Lower-case digits; the bit that makes a letter lower-case
  SPECIAL: 0x40, // 0x or 0 in front
} as const;

const ch = (char: string): number => char.charCodeAt(0);

/** The output: where the next character goes, and the first byte that it must not reach. */
const Out = struct('struct out', { str: ptr(u8), end: ptr(u8) });
/** One conversion specification. */
const Spec = struct('struct spec', { flags: u32, width: s32, precision: s32, base: u32, qualifier: u8 });

/** Appends a character. DEVIATION: what does not fit is cut off; upstream fails a guest assertion. */
const put = guestFn('guest_put', [ptr(Out), u8], (g, out, c) => {
  g.if(out.f.str.lt(out.f.end), () => {
    g.set(out.f.str.deref(), c);
    g.inc(out.f.str);
  });
});

const pad = guestFn('guest_pad', [ptr(Out), s32, u8], (g, out, count, c) => {
  g.for(
    count.gt(0),
    () => g.dec(count),
    () => put(g, out, c),
  );
});

/** The sign of the number, or 0; makes the number positive. */
const signOf = guestFn('guest_sign', [ptr(u64), u32], u8, (g, num, flags) => {
  g.if(flags.and(FLAG.SIGN).eq(0), () => g.return(0));
  g.if(num.deref().cast(s64).lt(0), () => {
    g.set(num.deref(), num.deref().neg());
    g.return(ch('-'));
  });
  g.if(flags.and(FLAG.PLUS), () => g.return(ch('+')));
  g.return(select(flags.and(FLAG.SPACE), ch(' '), 0).cast(u8));
});

/** The digits of a number, last one first; gives their count. */
const digits = guestFn('guest_digits', [ptr(u8), u64, u32, u8], s32, (g, tmp, num, base, locase) => {
  const i = g.local(s32, 0);
  g.doWhile(() => {
    const digit = str('0123456789ABCDEF').at(num.mod(base));
    g.set(tmp.at(i), digit.or(locase).cast(u8));
    g.set(num, '/=', base);
    g.inc(i);
  }, num.ne(0));
  g.return(i);
});

const prefix = guestFn('guest_prefix', [ptr(Out), ptr(Spec)], (g, out, spec) => {
  g.if(spec.f.flags.and(FLAG.SPECIAL).eq(0).lor(spec.f.base.eq(10)), () => g.return());
  put(g, out, ch('0'));
  g.if(spec.f.base.eq(16), () => put(g, out, ch('x')));
});

/** How many characters the prefix takes. */
const prefixWidth = (spec: Expr<PtrType<typeof Spec>>): Expr =>
  select(spec.f.flags.and(FLAG.SPECIAL).eq(0).lor(spec.f.base.eq(10)), 0, select(spec.f.base.eq(16), 2, 1));

const number = guestFn('guest_number', [ptr(Out), ptr(Spec), u64], (g, out, spec, num) => {
  const tmp = g.local(array(u8, 66));
  const { flags, width, precision } = spec.f;
  g.if(flags.and(FLAG.LEFT), () => g.set(flags, '&=', ~FLAG.ZEROPAD));
  const value = g.local(u64, num);
  const sign = g.let(signOf(g, value.addr(), flags));
  const count = g.let(digits(g, tmp, value, spec.f.base, flags.and(FLAG.SMALL).cast(u8)));
  const zeroes = g.local(s32, select(precision.gt(count), precision.sub(count), 0));
  const fill = g.local(s32, width.sub(count).sub(zeroes).sub(sign.ne(0)).sub(prefixWidth(spec)));

  g.if(flags.and(FLAG.ZEROPAD | FLAG.LEFT).eq(0), () => pad(g, out, fill, ch(' ')));
  g.if(sign, () => put(g, out, sign));
  prefix(g, out, spec);
  g.if(flags.and(FLAG.ZEROPAD), () => pad(g, out, fill, ch('0')));
  pad(g, out, zeroes, ch('0'));
  g.while(count.gt(0), () => {
    g.dec(count);
    put(g, out, tmp.at(count));
  });
  g.if(flags.and(FLAG.LEFT), () => pad(g, out, fill, ch(' ')));
});

const text = guestFn('guest_text', [ptr(Out), ptr(Spec), ptr(u8)], (g, out, spec, s) => {
  const len = g.local(s32, strnlen(g, s, spec.f.precision.cast(s64).cast(u64)).cast(s32));
  const i = g.local(s32);
  g.if(spec.f.flags.and(FLAG.LEFT).eq(0), () => pad(g, out, spec.f.width.sub(len), ch(' ')));
  g.forRange(i, 0, len, 1, () => put(g, out, s.at(i)));
  g.if(spec.f.flags.and(FLAG.LEFT), () => pad(g, out, spec.f.width.sub(len), ch(' ')));
});

const isDigit = (c: Expr): Expr => c.ge(ch('0')).land(c.le(ch('9')));

/** Reads a width or precision: digits, or * for the next argument; gives where the format goes on. */
const readCount = guestFn(
  'guest_read_count',
  [ptr(u8), ptr(ptr(u64)), ptr(s32)],
  ptr(u8),
  (g, fmt, va, result) => {
    g.if(fmt.deref().eq(ch('*')), () => {
      g.set(result.deref(), va.deref().deref().cast(s32));
      g.inc(va.deref());
      g.return(fmt.add(1));
    });
    g.if(isDigit(fmt.deref()).lnot(), () => g.return(fmt));
    g.set(result.deref(), 0);
    g.while(isDigit(fmt.deref()), () => {
      g.set(result.deref(), result.deref().mul(10).add(fmt.deref()).sub(ch('0')));
      g.inc(fmt);
    });
    g.return(fmt);
  },
);

/** Reads the flags; gives where the format goes on. */
const readFlags = guestFn('guest_read_flags', [ptr(u8), ptr(Spec)], ptr(u8), (g, fmt, spec) => {
  const add = (flag: number) => (): void => g.set(spec.f.flags, '|=', flag);
  g.for(
    1,
    () => g.inc(fmt),
    () => {
      g.switch(
        fmt.deref(),
        [
          [ch('-'), add(FLAG.LEFT)],
          [ch('+'), add(FLAG.PLUS)],
          [ch(' '), add(FLAG.SPACE)],
          [ch('#'), add(FLAG.SPECIAL)],
          [ch('0'), add(FLAG.ZEROPAD)],
        ],
        () => g.return(fmt),
      );
    },
  );
  g.return(fmt);
});

/** Reads flags, width, precision and qualifier; gives where the conversion character is. */
const readSpec = guestFn(
  'guest_read_spec',
  [ptr(u8), ptr(ptr(u64)), ptr(Spec)],
  ptr(u8),
  (g, fmt, va, spec) => {
    const { flags, width, precision, qualifier } = spec.f;
    g.set(flags, 0);
    g.set(width, -1);
    g.set(precision, -1);
    g.set(qualifier, 0);
    g.set(fmt, readFlags(g, fmt, spec));
    g.set(fmt, readCount(g, fmt, va, width.addr()));
    g.if(width.lt(-1), () => {
      g.set(width, width.neg());
      g.set(flags, '|=', FLAG.LEFT);
    });
    g.if(fmt.deref().eq(ch('.')), () => {
      g.set(precision, 0);
      g.set(fmt, readCount(g, fmt.add(1), va, precision.addr()));
      g.if(precision.lt(0), () => g.set(precision, 0));
    });
    const c = g.let(fmt.deref());
    g.if(c.eq(ch('h')).lor(c.eq(ch('l'))), () => {
      g.set(qualifier, c);
      g.inc(fmt);
      g.if(fmt.deref().eq(c), () => g.inc(fmt));
    });
    g.return(fmt);
  },
);

/** The next argument as the qualifier and the sign make it. */
function integerArgument(g: GuestCode, spec: Place<typeof Spec>, raw: Expr): Place<IntType> {
  const num = g.local(u64);
  const signed = spec.f.flags.and(FLAG.SIGN);
  g.switch(
    spec.f.qualifier,
    [
      [ch('l'), () => g.set(num, raw)],
      [ch('h'), () => g.set(num, select(signed, raw.cast(s16).cast(s64), raw.cast(u16).cast(s64)).cast(u64))],
    ],
    () => g.set(num, select(signed, raw.cast(s32).cast(s64), raw.cast(u32).cast(s64)).cast(u64)),
  );
  return num;
}

type VaList = Place<PtrType<IntType>>;

const nextArg = (g: GuestCode, va: VaList): Expr => {
  const value = g.let(va.deref());
  g.inc(va);
  return value;
};

function convertPointer(g: GuestCode, out: Place<typeof Out>, spec: Place<typeof Spec>, va: VaList): void {
  g.if(spec.f.width.eq(-1), () => {
    // Sixteen digits and the 0x, as upstream pads it: the prefix counts.
    g.set(spec.f.width, 16);
    g.set(spec.f.flags, '|=', FLAG.SPECIAL | FLAG.SMALL | FLAG.ZEROPAD);
  });
  g.set(spec.f.base, 16);
  number(g, out.addr(), spec.addr(), nextArg(g, va));
}

function convertChar(g: GuestCode, out: Place<typeof Out>, spec: Place<typeof Spec>, va: VaList): void {
  const left = spec.f.flags.and(FLAG.LEFT);
  g.if(left.eq(0), () => pad(g, out.addr(), spec.f.width.sub(1), ch(' ')));
  put(g, out.addr(), nextArg(g, va).cast(u8));
  g.if(left, () => pad(g, out.addr(), spec.f.width.sub(1), ch(' ')));
}

/** Integer conversions by character: base and flags. */
const INTEGERS = [
  ['o', 8, 0],
  ['x', 16, FLAG.SMALL],
  ['X', 16, 0],
  ['d', 10, FLAG.SIGN],
  ['i', 10, FLAG.SIGN],
  ['u', 10, 0],
] as const;

/** Formats into `buf` of `n` bytes with the values at `va`; gives the length of the text. */
export const guest_vsnprintf = guestFn(
  'guest_vsnprintf',
  [ptr(u8), s32, ptr(u8), ptr(u64)],
  s32,
  (g, buf, n, fmt, va) => {
    const out = g.local(Out);
    const spec = g.local(Spec);
    g.set(out.f.str, buf);
    g.set(out.f.end, buf.add(n).sub(1));
    const integer = (base: number, flags: number) => (): void => {
      g.set(spec.f.base, base);
      g.set(spec.f.flags, '|=', flags);
      number(g, out.addr(), spec.addr(), integerArgument(g, spec, nextArg(g, va)));
    };
    g.for(
      fmt.deref(),
      () => g.inc(fmt),
      () => {
        g.if(fmt.deref().ne(ch('%')), () => {
          put(g, out.addr(), fmt.deref());
          g.continue();
        });
        g.set(fmt, readSpec(g, fmt.add(1), va.addr(), spec.addr()));
        g.switch(
          fmt.deref(),
          [
            [ch('c'), () => convertChar(g, out, spec, va)],
            [ch('s'), () => text(g, out.addr(), spec.addr(), nextArg(g, va).cast(ptr(u8)))],
            [ch('p'), () => convertPointer(g, out, spec, va)],
            [ch('%'), () => put(g, out.addr(), ch('%'))],
            ...INTEGERS.map(([c, base, flags]) => [ch(c), integer(base, flags)] as const),
          ],
          () => {
            put(g, out.addr(), ch('%'));
            g.if(fmt.deref().eq(0), () => g.break());
            put(g, out.addr(), fmt.deref());
          },
        );
      },
    );
    g.set(out.f.str.deref(), 0);
    g.return(out.f.str.cast(u64).sub(buf.cast(u64)).cast(s32));
  },
);
