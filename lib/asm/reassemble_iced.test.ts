// SPDX-License-Identifier: GPL-2.0-only
/**
 * What iced-x86 decodes out of arbitrary bytes can be written here and is not longer. This also shows that no form of a known
 * mnemonic is missing, but for those listed in NOT_HERE.
 */
import fc from 'fast-check';
import { Code, type Instruction, Mnemonic, OpKind } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { encode, type Encoded } from './encode.ts';
import { AsmError } from './errors.ts';
import { FORMS } from './isa.ts';
import { type Operand, withSize } from './operands.ts';
import { canonicalMnemonic, decodeOne, link, operandOf, ourMnemonic, regOf } from './testing/iced_view.ts';
import { instructionText, operandText } from './text.ts';

const SEED = 0x6e65_7374;

/** Forms that iced knows of a mnemonic of ours and the tables leave out. */
const NOT_HERE: ReadonlySet<string> = new Set([
  // Undefined result, or the same as another form for more bytes.
  ...['Bswap_r16', 'Movsx_r16_rm16', 'Movzx_r16_rm16', 'Movsxd_r16_rm16', 'Movsxd_r32_rm32'],
  ...['Ud1_r16_rm16', 'Ud1_r64_rm64'],
  // 64-bit absolute addresses.
  ...['Mov_AL_moffs8', 'Mov_AX_moffs16', 'Mov_EAX_moffs32', 'Mov_RAX_moffs64'],
  ...['Mov_moffs8_AL', 'Mov_moffs16_AX', 'Mov_moffs32_EAX', 'Mov_moffs64_RAX'],
  // Far branches, but for the plain far return.
  ...['Call_m1616', 'Call_m1632', 'Call_m1664', 'Jmp_m1616', 'Jmp_m1632', 'Jmp_m1664'],
  ...['Retfw', 'Retfw_imm16', 'Retfd_imm16', 'Retfq_imm16'],
  // 16-bit stack operations of which the text does not tell the width.
  ...['Enterw_imm16_imm8', 'Push_imm16', 'Pushw_imm8', 'Pushw_FS', 'Pushw_GS', 'Popw_FS', 'Popw_GS'],
]);

/** Whether the operand size does not count, because 16 bits are read whatever it is. */
const readsSelector = ({ mnemonic, op0Kind, op0Register }: Instruction): boolean =>
  /^(lldt|ltr|verr|verw|lmsw)$/.test(Mnemonic[mnemonic].toLowerCase()) ||
  (mnemonic === Mnemonic.Mov && op0Kind === OpKind.Register && regOf(op0Register)?.cls === 'sreg');

const asSelector = (op: Operand): Operand =>
  typeof op === 'object' && op.kind === 'reg' && op.cls === 'gp' ? withSize(op, 16) : op;

/** Our operands for what iced decoded; undefined if one has no counterpart here. */
const ourOperands = (instruction: Instruction): readonly Operand[] | undefined => {
  const forms = FORMS.get(ourMnemonic(instruction))!;
  if (forms.every((form) => form.slots.length === 0)) return [];
  const ops: Operand[] = [];
  for (let i = 0; i < instruction.opCount; i++) {
    const op = operandOf(instruction, i);
    if (op === undefined) return undefined;
    ops.push(op);
  }
  return readsSelector(instruction) ? ops.map(asSelector) : ops;
};

/** The operands of xchg commute: one order for both. */
const inOrder = (mnemonic: string, ops: readonly Operand[]): readonly Operand[] =>
  mnemonic === 'xchg' ? ops.toSorted((a, b) => (operandText(a) < operandText(b) ? -1 : 1)) : ops;

const linkShortest = ({ encoding, long }: Encoded): Uint8Array => {
  if (!long) return link(encoding);
  try {
    return link(encoding);
  } catch {
    return link(long);
  }
};

/** Assembles what iced decoded; its code's name if that is not possible, undefined if it was not ours to begin with. */
const reassemble = (instruction: Instruction): string | undefined => {
  const mnemonic = ourMnemonic(instruction);
  if (instruction.isInvalid || !FORMS.has(mnemonic)) return undefined;
  try {
    const ops = ourOperands(instruction);
    if (!ops || (mnemonic === 'xchg' && ops[0] === ops[1])) return undefined;
    const again = linkShortest(encode(mnemonic, ops));
    return decodeOne(again, (second) => {
      // The same text with another stack width (enter, ret, push with o16) is another instruction.
      if (second.stackPointerIncrement !== instruction.stackPointerIncrement) return Code[instruction.code];
      const said = instructionText(mnemonic, ops);
      expect(canonicalMnemonic(ourMnemonic(second)), said).toBe(canonicalMnemonic(mnemonic));
      expect(inOrder(mnemonic, ourOperands(second)!), said).toEqual(inOrder(mnemonic, ops));
      expect(again.length, said).toBeLessThanOrEqual(instruction.length);
      return undefined;
    });
  } catch (error) {
    if (error instanceof AsmError) return Code[instruction.code];
    throw error;
  }
};

const PREFIXES: readonly (readonly number[])[] = [
  [],
  [0x66],
  [0xf2],
  [0xf3],
  [0x48],
  [0x66, 0x48],
  [0xf3, 0x48],
  [0x45],
  [0x4f],
];
const NO_PREFIX = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);
const ONE_BYTE = Array.from({ length: 256 }, (_, i) => i).filter(
  (i) => !NO_PREFIX.has(i) && (i < 0x40 || i > 0x4f),
);
const OPCODES: readonly (readonly number[])[] = [
  ...ONE_BYTE.map((i) => [i]),
  ...Array.from({ length: 256 }, (_, i) => [0x0f, i]),
  ...[0x80, 0x81, 0x82].map((i) => [0x0f, 0x38, i]),
];

/** Opcodes whose whole instruction hangs on the ModRM byte: try all of its values. */
const GROUPS: ReadonlySet<string> = new Set(['255', '15,0', '15,1', '15,174', '15,199']);

/** ModRM bytes to try: each digit with each mod, and any r/m. */
const MODRM: readonly number[] = Array.from(
  { length: 32 },
  (_, i) => ((i >> 3) << 6) | ((i & 7) << 3) | ((i * 5) & 7),
);
const EVERY_BYTE: readonly number[] = Array.from({ length: 256 }, (_, i) => i);

describe('what iced decodes', () => {
  it('can be written, is not longer here, and decodes to the same again', () => {
    const tails = fc.sample(fc.uint8Array({ minLength: 13, maxLength: 13 }), { seed: SEED, numRuns: 64 });
    const missing = new Set<string>();
    for (const prefix of PREFIXES) {
      for (const opcode of OPCODES) {
        const all = GROUPS.has(opcode.join());
        for (const modrm of all ? EVERY_BYTE : MODRM) {
          const bytes = Uint8Array.from([...prefix, ...opcode, modrm, ...tails[modrm & 63]!]);
          const code = decodeOne(bytes, reassemble);
          if (code !== undefined) missing.add(code);
        }
      }
    }
    expect([...missing].sort()).toEqual([...NOT_HERE].sort());
  });
});
