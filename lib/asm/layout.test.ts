// SPDX-License-Identifier: GPL-2.0-only
/**
 * Relaxation over random programs. The expectation is the arithmetic of a relative branch (SDM, "JMP"): target equals
 * the end of the branch plus its displacement; and that no branch is long that could have been short.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Assembler, type Image } from './assembler.ts';
import { lab } from './operands.ts';

type Piece =
  | { readonly what: 'space'; readonly count: number }
  | { readonly what: 'align'; readonly to: number }
  | { readonly what: 'branch'; readonly to: number };

const piece = (aligned: 'aligned' | 'plain'): fc.Arbitrary<Piece> => {
  const space = fc.nat(90).map((count): Piece => ({ what: 'space', count }));
  const branch = fc.nat(40).map((to): Piece => ({ what: 'branch', to }));
  const align = fc.constantFrom(2, 16, 64).map((to): Piece => ({ what: 'align', to }));
  return aligned === 'aligned' ? fc.oneof(space, branch, align) : fc.oneof(space, branch);
};

/** Label `i` stands before piece `i`; branches to labels beyond the end go to the last one. */
const assemble = (pieces: readonly Piece[], base: bigint): Image => {
  const a = new Assembler();
  pieces.forEach((p, i) => {
    a.label(`l${i}`);
    if (p.what === 'space') a.space(p.count, 0xcc);
    else if (p.what === 'align') a.align(p.to);
    else a.emit(i % 2 ? 'jmp' : 'jne', lab(`l${Math.min(p.to, pieces.length)}`));
  });
  a.label(`l${pieces.length}`);
  return a.finish({ base });
};

interface Branch {
  readonly short: boolean;
  readonly end: bigint;
  readonly target: bigint;
  readonly wanted: bigint;
}

/** The branches of an image, their targets computed from the bytes. */
const branches = (image: Image): readonly Branch[] =>
  image.lines
    .filter(({ instruction }) => instruction.startsWith('j'))
    .map(({ address, length, ops }) => {
      const view = new DataView(image.bytes.buffer, Number(address - image.base), length);
      const end = address + BigInt(length);
      const displacement = length === 2 ? view.getInt8(1) : view.getInt32(length - 4, true);
      const wanted = image.symbols.get((ops[0] as { name: string }).name)!;
      return { short: length === 2, end, target: end + BigInt(displacement), wanted };
    });

const check = (aligned: 'aligned' | 'plain', judge: (image: Image) => void): void =>
  fc.assert(
    fc.property(fc.array(piece(aligned), { maxLength: 40 }), fc.nat(100), (pieces, base) => {
      judge(assemble(pieces, BigInt(base)));
    }),
    { seed: 0x6c61_796f, numRuns: 300 },
  );

describe('relaxation', () => {
  it('makes every branch reach its label, with alignments between them', () => {
    check('aligned', (image) => {
      for (const { target, wanted } of branches(image)) expect(target).toBe(wanted);
    });
  });

  it('leaves no branch long that would reach with one byte', () => {
    check('plain', (image) => {
      for (const { short, end, wanted } of branches(image)) {
        const distance = wanted - end;
        if (!short) expect(distance < -128n || distance > 127n).toBe(true);
      }
    });
  });

  it('aligns to addresses', () => {
    check('aligned', (image) => {
      for (const { instruction, ops, address, length } of image.lines) {
        if (instruction === '.align') expect((address + BigInt(length)) % BigInt(ops[0] as number)).toBe(0n);
      }
    });
  });
});
