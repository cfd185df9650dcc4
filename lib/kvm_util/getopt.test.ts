// SPDX-License-Identifier: GPL-2.0-only
/** Option parsing: getopt(3), and atoi_paranoid() of the selftests' test_util.c. */
import { describe, expect, it } from 'vitest';
import { atoiNonNegative, atoiParanoid, atoiPositive, getopt, parseSize } from './getopt.ts';
import { UsageError } from './test_util.ts';

describe('getopt', () => {
  it('takes arguments joined and apart, and clusters of flags', () => {
    expect(getopt(['-vd', '-s512', '-f', '3', 'rest', '-v'], 'vds:f:')).toEqual({
      options: [
        { opt: 'v', arg: '' },
        { opt: 'd', arg: '' },
        { opt: 's', arg: '512' },
        { opt: 'f', arg: '3' },
      ],
      rest: ['rest', '-v'],
    });
  });

  it('ends the options at --', () => {
    expect(getopt(['-v', '--', '-x'], 'v')).toEqual({ options: [{ opt: 'v', arg: '' }], rest: ['-x'] });
  });

  it('takes a negative number as an argument', () => {
    expect(getopt(['-s', '-1'], 's:').options).toEqual([{ opt: 's', arg: '-1' }]);
  });

  it.each([
    [['-x'], "invalid option -- 'x'"],
    [['-:'], "invalid option -- ':'"],
    [['-s'], "option requires an argument -- 's'"],
  ])('refuses %j', (argv, message) => {
    expect(() => getopt(argv, 'vs:')).toThrow(new UsageError(message));
  });
});

describe('atoi', () => {
  it('takes decimal and hex', () => {
    expect([atoiParanoid('12'), atoiParanoid('-3'), atoiParanoid('0x10'), atoiParanoid('+7')]).toEqual([
      12, -3, 16, 7,
    ]);
  });

  it.each(['abc', '', '12x', '1.5', '0x'])('refuses %j as no number', (text) => {
    expect(() => atoiParanoid(text)).toThrow(/not a number/);
  });

  it('refuses what does not fit an int', () => {
    expect(() => atoiParanoid('2147483648')).toThrow(/not in range/);
    expect(atoiParanoid('-2147483648')).toBe(-2147483648);
    expect(() => atoiParanoid('-2147483649')).toThrow(/not in range/);
  });

  it('names the option that must be positive or non-negative', () => {
    expect(() => atoiPositive('Test length', '0')).toThrow("Test length must be greater than 0, got '0'");
    expect(atoiPositive('x', '1')).toBe(1);
    expect(() => atoiNonNegative('First test', '-1')).toThrow("First test must be non-negative, got '-1'");
    expect(atoiNonNegative('x', '0')).toBe(0);
  });
});

describe('parse_size', () => {
  it('takes bytes, KiB, MiB and GiB', () => {
    expect(['12', '0x10', '3k', '5M', '1g'].map(parseSize)).toEqual([12, 16, 3 << 10, 5 << 20, 2 ** 30]);
  });
  it.each(['', '0', '-1', '1T', 'M', '1.5G', '99999999999999999'])('refuses %j', (text) => {
    expect(() => parseSize(text)).toThrow(new UsageError(`size '${text}' invalid`));
  });
});
