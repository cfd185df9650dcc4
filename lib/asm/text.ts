// SPDX-License-Identifier: GPL-2.0-only
/**
 * Instructions as text, in Intel syntax, for listings and error messages.
 * Not an input format: nothing parses it back.
 */
import type { Imm, Lab, Mem, Operand } from './operands.ts';

const hex = (value: number | bigint): string =>
  value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;

/** An immediate: decimal below ten, else hexadecimal. */
const immText = (value: Imm): string => (value > -10 && value < 10 ? value.toString() : hex(value));

const plus = (value: number): string => (value < 0 ? hex(value) : `+${hex(value)}`);

const labText = ({ name, addend }: Lab): string => (addend === 0 ? name : `${name}${plus(addend)}`);

const SIZE_NAME: Readonly<Record<number, string>> = { 8: 'byte', 16: 'word', 32: 'dword', 64: 'qword' };

const sizeText = (size: number): string => {
  if (size === 0) return '';
  const name = SIZE_NAME[size];
  return name === undefined ? `m${size} ptr ` : `${name} ptr `;
};

const memText = ({ size, base, index, scale, disp, seg, label }: Mem): string => {
  const parts: string[] = [];
  if (label !== undefined) parts.push(base || index ? label : `rip+${label}`);
  if (base) parts.push(base.name);
  if (index) parts.push(scale === 1 ? index.name : `${index.name}*${scale}`);
  const sum = parts.join('+');
  const address = sum === '' ? hex(disp) : disp === 0 ? sum : `${sum}${plus(disp)}`;
  return `${sizeText(size)}${seg ? `${seg.name}:` : ''}[${address}]`;
};

/** One operand as text. */
export const operandText = (op: Operand): string => {
  if (typeof op !== 'object') return immText(op);
  if (op.kind === 'reg') return op.name;
  return op.kind === 'mem' ? memText(op) : labText(op);
};

/** An instruction as text: `mov qword ptr [rax+0x10], rbx`. */
export const instructionText = (mnemonic: string, ops: readonly Operand[]): string =>
  ops.length === 0 ? mnemonic : `${mnemonic} ${ops.map(operandText).join(', ')}`;
