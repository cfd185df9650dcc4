// SPDX-License-Identifier: GPL-2.0-only
/** The notation of the tables: what a row says and what it may not say. Expectations are the SDM's legend of it. */
import { describe, expect, it } from 'vitest';
import { AsmError } from './errors.ts';
import { parseForm } from './forms.ts';
import { FORMS } from './isa.ts';
import { family } from './isa/family.ts';

describe('a row', () => {
  it('is taken apart into prefixes, REX.W, opcode, digit and places', () => {
    const form = parseForm(['crc', 'r64, r/m64, imm8sx', 'o16 F3 REX.W + 0F 38 66 /r ib']);
    expect(form.prefixes).toEqual([0x66, 0xf3]);
    expect(form.rexW).toBe(true);
    expect(form.opcode).toEqual([0x0f, 0x38, 0x66]);
    expect(form.modrm).toBe('r');
    expect(form.slots.map(({ place }) => place)).toEqual(['reg', 'rm', 'imm']);
    expect(form.operandSize).toBe(64);
  });

  it('puts a control, debug or segment register into ModRM.reg on either side', () => {
    const places = (operands: string): readonly string[] =>
      parseForm(['mov', operands, '0F 20 /r']).slots.map(({ place }) => place);
    expect(places('r64, CR')).toEqual(['rm', 'reg']);
    expect(places('CR, r64')).toEqual(['reg', 'rm']);
    expect(places('SregDest, r32')).toEqual(['reg', 'rm']);
  });

  it('puts a register into the opcode for +rd and into ModRM.rm for a digit', () => {
    expect(parseForm(['bswap', 'r32', '0F C8+rd']).slots[0]?.place).toBe('opcode');
    expect(parseForm(['rdrand', 'r32', '0F C7 /6']).slots[0]?.place).toBe('rm');
  });

  it('with an unknown word is refused', () => {
    expect(() => parseForm(['x', 'r128', '90'])).toThrow(
      new AsmError('r128', 'not a word of the operand column'),
    );
    expect(() => parseForm(['x', '', '9'])).toThrow(new AsmError('9', 'not a word of the opcode column'));
  });
});

describe('a family', () => {
  it('substitutes the member’s number in digit and opcode', () => {
    expect(
      family({ a: 0, b: 7 }, [
        ['', '80 /n'],
        ['', '04+8n ib'],
        ['', '0F 40+n'],
      ]),
    ).toEqual([
      ['a', '', '80 /0'],
      ['a', '', '04 ib'],
      ['a', '', '0F 40'],
      ['b', '', '80 /7'],
      ['b', '', '3C ib'],
      ['b', '', '0F 47'],
    ]);
  });
});

describe('the tables', () => {
  it('hold no row twice', () => {
    for (const [mnemonic, forms] of FORMS) {
      const texts = forms.map(({ row }) => row.join(' | '));
      expect(new Set(texts).size, mnemonic).toBe(texts.length);
    }
  });
});
