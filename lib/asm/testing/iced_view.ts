// SPDX-License-Identifier: GPL-2.0-only
/**
 * What iced-x86 decodes, in our terms: mnemonics, registers and operands.
 * Names that differ on purpose: iced calls 48 90 and 66 90 nop, and a 16-bit selector register by its 32-bit name.
 */
import { Code, Decoder, type Instruction, MemorySizeExt, Mnemonic, OpKind, Register } from 'iced-x86';
import type { Encoding } from '../encode.ts';
import { applyFixup } from '../fixups.ts';
import { CONDITION } from '../isa/family.ts';
import { lab, mem, type Mem, type Operand, R, type Reg } from '../operands.ts';

/** Where instructions are decoded, and what their operands are relative to. */
export const BASE = 0x40_0000n;

/** Where the labels of generated operands point. */
export const TARGET = BASE + 0x50n;

/** Decodes one instruction at BASE for as long as `use` runs. */
export const decodeOne = <T>(bytes: Uint8Array, use: (instruction: Instruction) => T): T => {
  const decoder = new Decoder(64, bytes, 0);
  decoder.ip = BASE;
  const instruction = decoder.decode();
  try {
    return use(instruction);
  } finally {
    instruction.free();
    decoder.free();
  }
};

/** The bytes of an encoding at BASE, with every label at TARGET. */
export const link = ({ bytes, fields }: Encoding): Uint8Array => {
  const out = Uint8Array.from(bytes);
  for (const { at, kind, symbol, addend } of fields) {
    applyFixup(out, { offset: at, kind, symbol, addend }, BASE, TARGET);
  }
  return out;
};

/** One spelling for synonyms: iced's, which is that of the manual's first. */
const canonicalCondition = new Map<string, string>(
  Object.entries(CONDITION).map(([cc, n]) => [
    cc,
    ['o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'p', 'np', 'l', 'ge', 'le', 'g'][n]!,
  ]),
);

/** One mnemonic for synonyms. */
export const canonicalMnemonic = (mnemonic: string): string => {
  const match = /^(j|set|cmov)(.+)$/.exec(mnemonic);
  const condition = match && canonicalCondition.get(match[2]!);
  if (condition !== undefined && condition !== null) return `${match![1]!}${condition}`;
  return { sal: 'shl', iretw: 'iret', retfq: 'retf' }[mnemonic] ?? mnemonic;
};

const IMMEDIATE_WIDTH: Readonly<Partial<Record<OpKind, number>>> = {
  [OpKind.Immediate8]: 8,
  [OpKind.Immediate8_2nd]: 8,
  [OpKind.Immediate16]: 16,
  [OpKind.Immediate32]: 32,
  [OpKind.Immediate64]: 64,
  [OpKind.Immediate8to16]: 16,
  [OpKind.Immediate8to32]: 32,
  [OpKind.Immediate8to64]: 64,
  [OpKind.Immediate32to64]: 64,
};

/** Our register of iced's number, undefined where the assembler has none (vector registers, cr1, test registers). */
export const regOf = (register: Register): Reg | undefined => {
  const name = Register[register].toLowerCase().replace(/^(r\d+)l$/, '$1b');
  return (R as Readonly<Record<string, Reg>>)[name];
};

const memOf = (instruction: Instruction): Mem => {
  const { memoryBase, memoryIndex, memoryIndexScale, memoryDisplacement, segmentPrefix, memorySize } =
    instruction;
  const seg = segmentPrefix === Register.None ? undefined : regOf(segmentPrefix);
  const size = MemorySizeExt.size(memorySize) * 8;
  if (memoryBase === Register.RIP) {
    return mem(size, { label: 'target', disp: BigInt.asIntN(64, memoryDisplacement) - TARGET, seg });
  }
  const base = memoryBase === Register.None ? undefined : regOf(memoryBase)!;
  const index = memoryIndex === Register.None ? undefined : regOf(memoryIndex)!;
  const width = (base ?? index)?.size === 32 ? 32 : 64;
  const disp = BigInt.asIntN(width, memoryDisplacement);
  return mem(size, { base, index, scale: index ? memoryIndexScale : 1, disp, seg });
};

/** Operand `i` as one of ours, undefined if it has no counterpart. Immediates are signed at their own width. */
export const operandOf = (instruction: Instruction, i: number): Operand | undefined => {
  const kind = instruction.opKind(i);
  if (kind === OpKind.Register) return regOf(instruction.opRegister(i));
  if (kind === OpKind.Memory) return memOf(instruction);
  if (kind === OpKind.NearBranch64)
    return lab('target', Number(BigInt.asIntN(64, instruction.nearBranch64 - TARGET)));
  const width = IMMEDIATE_WIDTH[kind];
  return width === undefined ? undefined : BigInt.asIntN(width, instruction.immediate(i));
};

/** The mnemonic of what iced decoded, as the tables spell it. */
export const ourMnemonic = ({ mnemonic, code }: Instruction): string =>
  ({ [Code.Retfq]: 'retfq' })[code as number] ?? Mnemonic[mnemonic].toLowerCase();
