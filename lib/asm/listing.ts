// SPDX-License-Identifier: GPL-2.0-only
/**
 * The listing of an image: labels, then address, bytes and text of every line, as objdump -d prints it.
 * Long data wraps after eight bytes a line.
 */
import type { Image, Line } from './assembler.ts';
import { instructionText } from './text.ts';

const PER_LINE = 8;
const MAX_DATA = 64;

const hexBytes = (bytes: Uint8Array): string =>
  Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join(' ');

const lineText = (image: Image, { address, length, instruction, ops }: Line): readonly string[] => {
  const start = Number(address - image.base);
  const out: string[] = [];
  const shown = Math.min(length, MAX_DATA);
  for (let i = 0; i === 0 || i < shown; i += PER_LINE) {
    const bytes = hexBytes(image.bytes.subarray(start + i, start + Math.min(i + PER_LINE, shown)));
    const head = `${(address + BigInt(i)).toString(16).padStart(16, '0')}  ${bytes.padEnd(3 * PER_LINE - 1)}`;
    out.push(i === 0 ? `${head}  ${instructionText(instruction, ops)}` : head.trimEnd());
  }
  if (shown < length) out.push(`${' '.repeat(18)}... ${length - shown} more bytes`);
  return out;
};

/** The image as text, one line for each instruction and directive. */
export const listing = (image: Image): string => {
  const names = new Map<bigint, string[]>();
  for (const [name, address] of image.labels) names.set(address, [...(names.get(address) ?? []), name]);
  const out: string[] = [];
  const labelsAt = (address: bigint): void => {
    for (const name of names.get(address) ?? []) out.push(`${name}:`);
    names.delete(address);
  };
  for (const line of image.lines) {
    labelsAt(line.address);
    out.push(...lineText(image, line));
  }
  labelsAt(image.base + BigInt(image.bytes.length));
  return `${out.join('\n')}\n`;
};
