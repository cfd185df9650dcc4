// SPDX-License-Identifier: GPL-2.0-only
/** Printing of register values by name: failure messages never show a bare number. */

/** A table of single-bit masks or of codes, by the manual's name. */
export type NameTable = Readonly<Record<string, number>>;

/** `0x` and at least `digits` hex digits; bigint and number alike, numbers as unsigned. */
export function hex(value: number | bigint, digits = 1): string {
  const unsigned = typeof value === 'number' && value < 0 ? value >>> 0 : value;
  return `0x${unsigned.toString(16).padStart(digits, '0')}`;
}

/** The set bits of `value` by the names of `table`, unknown bits in hex: `PAE|VMXE|0x80000`; `0` if none. */
export function bitNames(table: NameTable, value: number | bigint): string {
  let rest = BigInt.asUintN(64, BigInt(value));
  const names: string[] = [];
  for (const [name, mask] of Object.entries(table)) {
    const bit = BigInt(mask);
    const single = bit !== 0n && (bit & (bit - 1n)) === 0n;
    if (!single || (rest & bit) === 0n) continue;
    names.push(name);
    rest &= ~bit;
  }
  if (rest !== 0n) names.push(hex(rest));
  return names.length === 0 ? '0' : names.join('|');
}

/** The name of a code in `table`, or the code in hex. */
export function codeName(table: NameTable, code: number): string {
  for (const [name, value] of Object.entries(table)) {
    if (value === code) return name;
  }
  return hex(code);
}
