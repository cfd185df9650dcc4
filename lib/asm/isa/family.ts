// SPDX-License-Identifier: GPL-2.0-only
/**
 * Rows of the instruction tables, and families: instructions that differ in one number of their opcode, which the
 * manual's opcode maps lay out in order. In a family's opcode column `n` stands for that number:
 * `/n` is the ModRM digit, `04+8n` an opcode in the ALU block, `0F 80+n` one in a block of sixteen conditions.
 */

/** Mnemonic, operands, opcode: the first columns of an SDM instruction page. */
export type Row<M extends string = string> = readonly [mnemonic: M, operands: string, opcode: string];

const byte = (value: number): string => value.toString(16).toUpperCase().padStart(2, '0');

const substitute = (opcode: string, n: number): string =>
  opcode
    .replace(/([0-9A-F]{2})\+(8?)n/, (_, first: string, eight: string) =>
      byte(parseInt(first, 16) + n * (eight === '' ? 1 : 8)),
    )
    .replace('/n', `/${n}`);

/** One set of rows for each member of the family. */
export const family = <const N extends Readonly<Record<string, number>>>(
  members: N,
  rows: readonly (readonly [operands: string, opcode: string])[],
): readonly Row<keyof N & string>[] =>
  Object.entries(members).flatMap(([mnemonic, n]) =>
    rows.map(([operands, opcode]): Row<keyof N & string> => [mnemonic, operands, substitute(opcode, n)]),
  );

/** Condition codes and their synonyms. SDM, "Condition Codes" table of the encodings. */
// prettier-ignore
export const CONDITION = {
  o: 0x0, no: 0x1,
  b: 0x2, c: 0x2, nae: 0x2, ae: 0x3, nb: 0x3, nc: 0x3,
  e: 0x4, z: 0x4, ne: 0x5, nz: 0x5,
  be: 0x6, na: 0x6, a: 0x7, nbe: 0x7,
  s: 0x8, ns: 0x9,
  p: 0xa, pe: 0xa, np: 0xb, po: 0xb,
  l: 0xc, nge: 0xc, ge: 0xd, nl: 0xd,
  le: 0xe, ng: 0xe, g: 0xf, nle: 0xf,
} as const;

/** A condition's name, as in `jne` or `setbe`. */
export type Condition = keyof typeof CONDITION;

/** The family of an instruction over all conditions: `conditional('j', ...)` is jo, jno, jb, ... */
export const conditional = <const P extends string>(
  prefix: P,
  rows: readonly (readonly [operands: string, opcode: string])[],
): readonly Row<`${P}${Condition}`>[] =>
  family(
    Object.fromEntries(Object.entries(CONDITION).map(([cc, n]) => [`${prefix}${cc}`, n])) as Record<
      `${P}${Condition}`,
      number
    >,
    rows,
  );
