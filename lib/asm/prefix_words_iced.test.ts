// SPDX-License-Identifier: GPL-2.0-only
/** Prefix words (lock, rep and the like) before every mnemonic that takes them, as iced-x86 decodes them. */
import { describe, expect, it } from 'vitest';
import { encode } from './encode.ts';
import { FORMS, PREFIX_WORDS } from './isa.ts';
import { mem, type Operand, R } from './operands.ts';
import { decodeOne, link, ourMnemonic } from './testing/iced_view.ts';

const LOCK_OPERANDS: readonly (readonly Operand[])[] = [
  [],
  [mem(64, { base: R.rdi })],
  [mem(64, { base: R.rdi }), R.rsi],
];

const takes = (mnemonic: string, ops: readonly Operand[]): boolean =>
  FORMS.get(mnemonic)!.some(({ slots }) => slots.length === ops.length);

describe('prefix words', () => {
  const cases = [...PREFIX_WORDS].flatMap(([word, { mnemonics }]) =>
    [...mnemonics].map((m) => [word, m] as const),
  );

  it.each(cases)('%s %s is seen by iced', (word, mnemonic) => {
    const ops =
      mnemonic === 'cmpxchg16b'
        ? [mem(128, { base: R.rdi })]
        : LOCK_OPERANDS.find((o) => takes(mnemonic, o))!;
    decodeOne(link(encode(`${word} ${mnemonic}`, ops).encoding), (instruction) => {
      expect(ourMnemonic(instruction)).toBe(mnemonic);
      expect(instruction.hasLockPrefix).toBe(word === 'lock');
      expect(instruction.hasRepPrefix || instruction.hasRepePrefix).toBe(/^rep[ez]?$/.test(word));
      expect(instruction.hasRepnePrefix).toBe(/^repn/.test(word));
    });
  });

  it('stand before every other prefix and REX', () => {
    const ops = [mem(16, { base: R.r8, seg: R.gs }), R.r9w];
    const { bytes } = encode('lock xadd', ops).encoding;
    expect(bytes).toEqual([0xf0, 0x65, 0x66, 0x45, 0x0f, 0xc1, 0x08]);
  });
});
