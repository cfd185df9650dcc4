// SPDX-License-Identifier: GPL-2.0-only
/** Every row of the tables against iced-x86: what a row encodes decodes to what was written, and is not longer than iced's. */
import fc from 'fast-check';
import { Code, Encoder, type Instruction, Mnemonic } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { encode, encodeForm, type Encoding } from './encode.ts';
import { type Form, parseForm } from './forms.ts';
import { ALU } from './isa/alu.ts';
import { BITS } from './isa/bits.ts';
import { FLOW } from './isa/flow.ts';
import { MOVE } from './isa/move.ts';
import { SYSTEM } from './isa/system.ts';
import { VIRT } from './isa/virt.ts';
import type { OperandKind } from './kinds.ts';
import { type Operand, withSize } from './operands.ts';
import { anyOperands } from './testing/any_operands.ts';
import { BASE, canonicalMnemonic, decodeOne, link, operandOf, TARGET } from './testing/iced_view.ts';
import { instructionText } from './text.ts';

const SEED = 0x6e65_7374;

/** What iced shows of an operand of ours: the spelling of immediates and of a displacement with label is one. */
const normal = (op: Operand, form: Form, kind: OperandKind): Operand => {
  if (typeof op !== 'object') {
    return kind.imm
      ? BigInt.asIntN(kind.imm.signExtended ? form.operandSize : kind.imm.bits, BigInt(op))
      : 1n;
  }
  if (op.kind === 'mem' && op.label !== undefined && (op.base ?? op.index)) {
    return { ...op, label: undefined, disp: Number(TARGET) + op.disp };
  }
  if (op.kind === 'label' && kind.imm) return BigInt.asIntN(kind.imm.bits, TARGET + BigInt(op.addend));
  // A 16-bit register where the operand size does not matter goes without prefix, which iced reads as 32 bits.
  return isSelector(form, kind) && op.kind === 'reg' ? withSize(op, 32) : op;
};

const isSelector = (form: Form, { text }: OperandKind): boolean =>
  text === 'r/m16' &&
  form.modrm !== 'none' &&
  !form.prefixes.includes(0x66) &&
  !/^mov[sz]x$/.test(form.row[0]);

/** Where the instruction leaves the size of memory open, it does not count. */
const sized = (op: Operand | undefined, kind: OperandKind): Operand | undefined =>
  typeof op === 'object' && op.kind === 'mem' && kind.mem === 0 ? { ...op, size: 0 } : op;

const iceAgrees = (instruction: Instruction, form: Form, ops: readonly Operand[], length: number): void => {
  const said = instructionText(form.row[0], ops);
  expect(Code[instruction.code], said).not.toBe('INVALID');
  expect(instruction.length, said).toBe(length);
  expect(Mnemonic[instruction.mnemonic].toLowerCase(), said).toBe(canonicalMnemonic(form.row[0]));
  // The operands of xchg commute; iced shows the r/m one, or the one in the opcode, first.
  const swapped = form.row[0] === 'xchg' && /implied|reg/.test(form.slots[0]!.place);
  const order = swapped ? [1, 0] : form.slots.map((_, i) => i);
  order.forEach((from, i) => {
    const { kind } = form.slots[from]!;
    if (i >= instruction.opCount) expect(kind.implied, said).toBe(true);
    else
      expect(sized(operandOf(instruction, i), kind), said).toEqual(
        sized(normal(ops[from]!, form, kind), kind),
      );
  });
};

const isNopInDisguise = ({ row, opcode }: Form, ops: readonly Operand[]): boolean =>
  row[0] === 'xchg' &&
  opcode[0] === 0x90 &&
  ops.every((op) => typeof op === 'object' && op.kind === 'reg' && op.num === 0);

describe.each([
  ['alu', ALU],
  ['bits', BITS],
  ['move', MOVE],
  ['flow', FLOW],
  ['system', SYSTEM],
  ['virt', VIRT],
])('rows of isa/%s', (_, rows) => {
  const forms = rows.map(parseForm);

  it('decode in iced to what was written', () => {
    for (const form of forms) {
      const property = fc.property(anyOperands(form), (ops) => {
        const encoding = encodeForm(form, ops, undefined) as Encoding;
        const bytes = link(encoding);
        expect(encode(form.row[0], ops).encoding.bytes.length).toBeLessThanOrEqual(bytes.length);
        if (isNopInDisguise(form, ops)) return;
        decodeOne(bytes, (instruction) => iceAgrees(instruction, form, ops, bytes.length));
      });
      fc.assert(property, { seed: SEED, numRuns: form.slots.length === 0 ? 1 : 14 });
    }
  });

  it('are no longer than what iced encodes for the same instruction', () => {
    const encoder = new Encoder(64);
    for (const form of forms) {
      const property = fc.property(anyOperands(form), (ops) => {
        const { encoding: short, long } = encode(form.row[0], ops);
        const encoding = long ?? short;
        const length = decodeOne(link(encoding), (instruction) => encoder.encode(instruction, BASE));
        const theirs = encoder.takeBuffer();
        expect(theirs.length).toBe(length);
        expect(encoding.bytes.length, instructionText(form.row[0], ops)).toBeLessThanOrEqual(length);
      });
      fc.assert(property, { seed: SEED + 1, numRuns: form.slots.length === 0 ? 1 : 8 });
    }
    encoder.free();
  });
});
