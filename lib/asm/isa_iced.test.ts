// SPDX-License-Identifier: GPL-2.0-only
/**
 * Every row of the tables against iced-x86, both ways: what a row encodes decodes to what was written, and what iced
 * decodes out of arbitrary bytes can be written and is not longer here. The second way also shows that no form of a
 * known mnemonic is missing, but for those listed in NOT_HERE.
 * Names that differ on purpose: iced calls 48 90 and 66 90 nop, and a 16-bit selector register by its 32-bit name.
 */
import fc from 'fast-check';
import {
  Code,
  Decoder,
  Encoder,
  type Instruction,
  MemorySizeExt,
  Mnemonic,
  OpKind,
  Register,
} from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { AsmError } from './errors.ts';
import { encode, encodeForm, type Encoded, type Encoding } from './encode.ts';
import { applyFixup } from './fixups.ts';
import { type Form, parseForm } from './forms.ts';
import { FORMS, PREFIX_WORDS } from './isa.ts';
import { ALU } from './isa/alu.ts';
import { BITS } from './isa/bits.ts';
import { CONDITION } from './isa/family.ts';
import { FLOW } from './isa/flow.ts';
import { MOVE } from './isa/move.ts';
import { SYSTEM } from './isa/system.ts';
import { VIRT } from './isa/virt.ts';
import type { OperandKind } from './kinds.ts';
import { gpr, lab, type Lab, mem, type Mem, type Operand, R, type Reg, withSize } from './operands.ts';
import { instructionText, operandText } from './text.ts';

const BASE = 0x40_0000n;
const SEED = 0x6e65_7374;

/** Where the labels of generated operands point. */
const TARGET = BASE + 0x50n;

const decodeOne = <T>(bytes: Uint8Array, use: (instruction: Instruction) => T): T => {
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

const link = ({ bytes, fields }: Encoding): Uint8Array => {
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

const canonicalMnemonic = (mnemonic: string): string => {
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
const regOf = (register: Register): Reg | undefined => {
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
const operandOf = (instruction: Instruction, i: number): Operand | undefined => {
  const kind = instruction.opKind(i);
  if (kind === OpKind.Register) return regOf(instruction.opRegister(i));
  if (kind === OpKind.Memory) return memOf(instruction);
  if (kind === OpKind.NearBranch64)
    return lab('target', Number(BigInt.asIntN(64, instruction.nearBranch64 - TARGET)));
  const width = IMMEDIATE_WIDTH[kind];
  return width === undefined ? undefined : BigInt.asIntN(width, instruction.immediate(i));
};

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

// Generators of operands.

const anyGpr = (size: 8 | 16 | 32 | 64): fc.Arbitrary<Reg> => fc.nat(15).map((num) => gpr(num, size));
const indexGpr = (size: 32 | 64): fc.Arbitrary<Reg> => anyGpr(size).filter(({ num }) => num !== 4);
const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(value, { nil: undefined });
const anyDisp = fc.oneof(
  fc.constant(0),
  fc.integer({ min: -128, max: 127 }),
  fc.integer({ min: -200, max: 200 }),
  fc.integer(),
);
const anySeg = fc.option(fc.constantFrom(R.es, R.cs, R.ss, R.ds, R.fs, R.gs), { nil: undefined, freq: 3 });
const anyScale = fc.constantFrom(1, 2, 4, 8);

const addressed = (size: number, width: 32 | 64): fc.Arbitrary<Mem> =>
  fc
    .record({
      base: maybe(anyGpr(width)),
      index: maybe(indexGpr(width)),
      scale: anyScale,
      disp: anyDisp,
      seg: anySeg,
    })
    .filter(({ base, index }) => width === 64 || base !== undefined || index !== undefined)
    .map((address) => mem(size, { ...address, scale: address.index ? address.scale : 1 }));

const labelled = (size: number): fc.Arbitrary<Mem> =>
  fc
    .record({ base: maybe(anyGpr(64)), disp: fc.integer({ min: -0x20_0000, max: 0x20_0000 }), seg: anySeg })
    .map((address) => mem(size, { ...address, label: 'target' }));

const anyMem = (size: number): fc.Arbitrary<Mem> =>
  fc.oneof(
    { weight: 6, arbitrary: addressed(size, 64) },
    { weight: 1, arbitrary: addressed(size, 32) },
    { weight: 1, arbitrary: labelled(size) },
  );

const anyImm = (bits: number, width: number): fc.Arbitrary<bigint | number> => {
  const low = -(1n << BigInt(bits - 1));
  const signed = fc.oneof(fc.constantFrom(low, -low - 1n, -1n, 0n, 1n), fc.bigInt(low, -low - 1n));
  const spelled = fc.oneof(
    signed,
    signed.map((v) => BigInt.asUintN(width, v)),
  );
  return spelled.map((v) => (v >= Number.MIN_SAFE_INTEGER && v <= Number.MAX_SAFE_INTEGER ? Number(v) : v));
};

const anyLab = (reach: 8 | 32): fc.Arbitrary<Lab> =>
  (reach === 8
    ? fc.integer({ min: -204, max: 49 })
    : fc.integer({ min: -0x7000_0000, max: 0x7000_0000 })
  ).map((addend) => lab('target', addend));

const anyRegister = ({ cls, size, accepts }: NonNullable<OperandKind['reg']>): fc.Arbitrary<Reg> =>
  fc.constantFrom(
    ...Object.values(R).filter(
      (reg) => reg.size === size && (reg.cls === cls || (reg.cls === 'gp8h' && cls === 'gp')) && accepts(reg),
    ),
  );

const anyOperand = ({ kind }: Form['slots'][number], { operandSize }: Form): fc.Arbitrary<Operand> => {
  if (kind.one) return fc.constant(1);
  if (kind.rel) return anyLab(kind.rel);
  if (kind.implied) return fc.constant((R as Readonly<Record<string, Reg>>)[kind.text.toLowerCase()]!);
  if (kind.imm) {
    const { bits, signExtended } = kind.imm;
    const value = anyImm(bits, signExtended ? operandSize : bits);
    return bits >= 32 && !signExtended
      ? fc.oneof({ weight: 9, arbitrary: value }, { weight: 1, arbitrary: anyLab(8) })
      : value;
  }
  const choices: fc.Arbitrary<Operand>[] = [];
  if (kind.reg) choices.push(anyRegister(kind.reg));
  if (kind.mem !== undefined) choices.push(anyMem(kind.mem));
  return fc.oneof(...choices);
};

const anyOperands = (form: Form): fc.Arbitrary<Operand[]> =>
  fc.tuple(...form.slots.map((slot) => anyOperand(slot, form))).filter((ops) => !needsNoRex(form, ops));

const isNum8To15 = (reg: Reg | undefined): boolean => (reg?.num ?? 0) > 7;

/** ah..bh beside something that needs REX: errors_test's business. */
const needsNoRex = ({ rexW }: Form, ops: readonly Operand[]): boolean => {
  const high = ops.some((op) => typeof op === 'object' && op.kind === 'reg' && op.cls === 'gp8h');
  const rex = ops.some((op) => {
    if (typeof op !== 'object' || op.kind === 'label') return false;
    if (op.kind === 'mem') return isNum8To15(op.base) || isNum8To15(op.index);
    return isNum8To15(op) || (op.cls === 'gp' && op.size === 8 && op.num >= 4);
  });
  return high && (rexW || rex);
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
      fc.assert(property, { seed: SEED, numRuns: form.slots.length === 0 ? 1 : 40 });
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

const ourMnemonic = ({ mnemonic, code }: Instruction): string =>
  ({ [Code.Retfq]: 'retfq' })[code as number] ?? Mnemonic[mnemonic].toLowerCase();

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

const LOCK_OPERANDS: readonly (readonly Operand[])[] = [
  [],
  [mem(64, { base: R.rdi })],
  [mem(64, { base: R.rdi }), R.rsi],
];

const takes = (mnemonic: string, ops: readonly Operand[]): boolean =>
  FORMS.get(mnemonic)!.some(({ slots }) => slots.length === ops.length);

/** Opcodes whose whole instruction hangs on the ModRM byte: try all of its values. */
const GROUPS: ReadonlySet<string> = new Set(['255', '15,0', '15,1', '15,174', '15,199']);

/** ModRM bytes to try: each digit with each mod, and any r/m. */
const MODRM: readonly number[] = Array.from(
  { length: 32 },
  (_, i) => ((i >> 3) << 6) | ((i & 7) << 3) | ((i * 5) & 7),
);
const EVERY_BYTE: readonly number[] = Array.from({ length: 256 }, (_, i) => i);

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
