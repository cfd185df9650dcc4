// SPDX-License-Identifier: GPL-2.0-only
/**
 * The encoder: one instruction, all its forms, the shortest that fits. SDM, "Instruction Format".
 * Knows nothing of addresses: what refers to a label comes out as a zero field and a fixup.
 */
import { AsmError } from './errors.ts';
import type { FixupKind } from './fixups.ts';
import type { Form } from './forms.ts';
import { FORMS, PREFIX_WORDS, type PrefixWord } from './isa.ts';
import { accepts } from './kinds.ts';
import { memBytes, type RmBytes } from './modrm.ts';
import type { Imm, Lab, Mem, Operand, Reg } from './operands.ts';
import { instructionText } from './text.ts';

/** A field of an encoding that a symbol decides; `addend` as in fixups.ts. */
export interface Field {
  readonly at: number;
  readonly kind: FixupKind;
  readonly symbol: string;
  readonly addend: number;
}

/** One instruction in bytes. */
export interface Encoding {
  readonly bytes: readonly number[];
  readonly fields: readonly Field[];
}

/** What the encoder found: one encoding, and for a branch with two lengths also the longer one. */
export interface Encoded {
  readonly encoding: Encoding;
  readonly long: Encoding | undefined;
}

/** The rank of a REX conflict: above every width of an immediate, which is its own rank. */
const REX_RANK = 100;

/** Why a form does not fit; of several refusals the one of highest rank says most to the reader. */
export interface Refusal {
  readonly rank: number;
  readonly rule: string;
}

const SEGMENT_PREFIX = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65] as const;

const isRefusal = (x: object): x is Refusal => 'rank' in x;

/** The value as the field's signed bits, or undefined if it does not fit. `width` is what it is extended to. */
const fit = (value: Imm, bits: number, width: number): bigint | undefined => {
  const v = BigInt(value);
  if (v < -(1n << BigInt(width - 1)) || v >= 1n << BigInt(width)) return undefined;
  const signed = BigInt.asIntN(width, v);
  return BigInt.asIntN(bits, signed) === signed ? signed : undefined;
};

/** The same without bigints; a safe integer is its own 64-bit signed value. */
const fitNumber = (value: number, bits: number, width: number): number | undefined => {
  const half = 2 ** (width - 1);
  if (value < -half || value >= 2 * half) return undefined;
  const signed = value >= half ? value - 2 * half : value;
  const limit = 2 ** (bits - 1);
  return signed >= -limit && signed < limit ? signed : undefined;
};

const pushLittleEndian = (out: number[], value: number | bigint, count: number): void => {
  if (count > 4) {
    const bits = BigInt.asUintN(64, BigInt(value));
    pushLittleEndian(out, Number(bits & 0xffff_ffffn), 4);
    pushLittleEndian(out, Number(bits >> 32n), 4);
    return;
  }
  const bits = Number(value);
  for (let i = 0; i < count; i++) out.push((bits >>> (8 * i)) & 0xff);
};

/** An instruction under construction: the parts that the operands fill in. */
interface Draft {
  reg: number;
  rm: Reg | Mem | undefined;
  opcodeReg: number;
  rexB: number;
  /** A byte register that only exists with REX (spl..dil), or only without (ah..bh). */
  wantsRex: boolean;
  forbidsRex: string | undefined;
  tail: number[];
  /** Fields within the tail, from its start. */
  tailFields: { at: number; kind: FixupKind; lab: Lab }[];
}

const noteByteRegister = (draft: Draft, reg: Reg): void => {
  if (reg.cls === 'gp8h') draft.forbidsRex = reg.name;
  else if (reg.cls === 'gp' && reg.size === 8 && reg.num >= 4) draft.wantsRex = true;
};

const placeRegister = (draft: Draft, reg: Reg, place: 'rm' | 'reg' | 'opcode'): void => {
  noteByteRegister(draft, reg);
  if (place === 'reg') draft.reg = reg.num;
  else if (place === 'rm') draft.rm = reg;
  else {
    draft.opcodeReg = reg.num & 7;
    draft.rexB = reg.num >> 3;
  }
};

const placeImmediate = (
  draft: Draft,
  form: Form,
  slot: Form['slots'][number],
  op: Imm,
): Refusal | undefined => {
  const { bits, signExtended } = slot.kind.imm!;
  const width = signExtended ? form.operandSize : bits;
  const signed = typeof op === 'number' ? fitNumber(op, bits, width) : fit(op, bits, width);
  if (signed === undefined) {
    const extended = signExtended ? ` sign-extended to ${width} bits` : '';
    return { rank: bits, rule: `immediate does not fit imm${bits}${extended}` };
  }
  pushLittleEndian(draft.tail, signed, bits / 8);
  return undefined;
};

const placeLabel = (draft: Draft, bits: number, kind: FixupKind, op: Lab): void => {
  draft.tailFields.push({ at: draft.tail.length, kind, lab: op });
  for (let i = 0; i < bits / 8; i++) draft.tail.push(0);
};

const placeOperands = (draft: Draft, form: Form, ops: readonly Operand[]): Refusal | undefined => {
  for (let i = 0; i < ops.length; i++) {
    const slot = form.slots[i]!;
    const op = ops[i]!;
    if (slot.place === 'implied') continue;
    if (typeof op !== 'object') {
      const refusal = placeImmediate(draft, form, slot, op);
      if (refusal) return refusal;
    } else if (op.kind === 'label') {
      if (slot.kind.rel) placeLabel(draft, slot.kind.rel, slot.kind.rel === 8 ? 'rel8' : 'rel32', op);
      else placeLabel(draft, slot.kind.imm!.bits, slot.kind.imm!.bits === 64 ? 'abs64' : 'abs32', op);
    } else if (op.kind === 'mem') draft.rm = op;
    else placeRegister(draft, op, slot.place as 'rm' | 'reg' | 'opcode');
  }
  return undefined;
};

const NO_RM: RmBytes = { rexX: 0, rexB: 0, bytes: [], disp: -1, ripRelative: false };

const rmBytes = (draft: Draft, form: Form): RmBytes => {
  if (form.modrm === 'none') return NO_RM;
  const reg = form.modrm === 'r' ? draft.reg & 7 : form.modrm;
  const rm = draft.rm!;
  if (rm.kind === 'mem') return memBytes(rm, reg);
  return { ...NO_RM, rexB: rm.num >> 3, bytes: [0xc0 | (reg << 3) | (rm.num & 7)] };
};

const prefixBytes = (form: Form, lead: number | undefined, rm: Draft['rm']): number[] => {
  const bytes: number[] = lead === undefined ? [] : [lead];
  if (rm?.kind === 'mem') {
    if (rm.seg) bytes.push(SEGMENT_PREFIX[rm.seg.num]!);
    if ((rm.base ?? rm.index)?.size === 32) bytes.push(0x67);
  }
  bytes.push(...form.prefixes);
  return bytes;
};

const fieldsOf = (draft: Draft, rm: RmBytes, modrmAt: number, tailAt: number): readonly Field[] => {
  const end = tailAt + draft.tail.length;
  const fields: Field[] = [];
  if (rm.disp >= 0) {
    const { label, disp } = draft.rm as Mem;
    const at = modrmAt + rm.disp;
    const addend = rm.ripRelative ? disp - (end - at) : disp;
    fields.push({ at, kind: rm.ripRelative ? 'rel32' : 'abs32s', symbol: label!, addend });
  }
  for (const { at: offset, kind, lab } of draft.tailFields) {
    const at = tailAt + offset;
    const addend = kind === 'rel8' || kind === 'rel32' ? lab.addend - (end - at) : lab.addend;
    fields.push({ at, kind, symbol: lab.name, addend });
  }
  return fields;
};

const assemble = (form: Form, draft: Draft, lead: number | undefined): Encoding | Refusal => {
  const rm = rmBytes(draft, form);
  const rexBits = (form.rexW ? 8 : 0) | ((draft.reg >> 3) << 2) | (rm.rexX << 1) | rm.rexB | draft.rexB;
  const rex = rexBits !== 0 || draft.wantsRex;
  if (rex && draft.forbidsRex !== undefined) {
    return {
      rank: REX_RANK,
      rule: `${draft.forbidsRex} cannot be encoded in an instruction that needs a REX prefix`,
    };
  }
  const bytes = prefixBytes(form, lead, draft.rm);
  if (rex) bytes.push(0x40 | rexBits);
  bytes.push(...form.opcode);
  bytes[bytes.length - 1]! += draft.opcodeReg;
  const modrmAt = bytes.length;
  bytes.push(...rm.bytes);
  const tailAt = bytes.length;
  bytes.push(...draft.tail);
  return { bytes, fields: fieldsOf(draft, rm, modrmAt, tailAt) };
};

const matches = (form: Form, ops: readonly Operand[]): boolean => {
  if (form.slots.length !== ops.length) return false;
  for (let i = 0; i < ops.length; i++) if (!accepts(form.slots[i]!.kind, ops[i]!)) return false;
  return true;
};

/** Encodes the operands by this form and no other; they must be of its kinds. */
export const encodeForm = (
  form: Form,
  ops: readonly Operand[],
  lead: number | undefined,
): Encoding | Refusal => {
  const draft: Draft = {
    reg: 0,
    rm: undefined,
    opcodeReg: 0,
    rexB: 0,
    wantsRex: false,
    forbidsRex: undefined,
    tail: [],
    tailFields: [],
  };
  return placeOperands(draft, form, ops) ?? assemble(form, draft, lead);
};

const checkPrefix = (
  text: () => string,
  word: string,
  prefix: PrefixWord,
  mnemonic: string,
  ops: readonly Operand[],
): void => {
  if (!prefix.mnemonics.has(mnemonic)) throw new AsmError(text(), `${word} does not go with ${mnemonic}`);
  const destination = mnemonic === 'xchg' ? ops : ops.slice(0, 1);
  if (word === 'lock' && !destination.some((op) => typeof op === 'object' && op.kind === 'mem')) {
    throw new AsmError(text(), 'lock needs a destination in memory');
  }
};

const checkImmediates = (text: () => string, ops: readonly Operand[]): void => {
  for (const op of ops) {
    if (typeof op === 'number' && !Number.isSafeInteger(op)) {
      throw new AsmError(text(), 'a number beyond 2^53 or with a fraction is not an immediate: use a bigint');
    }
  }
};

/** Encodes one instruction; throws AsmError if no form takes it. */
export const encode = (instruction: string, ops: readonly Operand[]): Encoded => {
  const text = (): string => instructionText(instruction, ops);
  const [word = '', rest] = instruction.split(' ');
  const prefix = rest === undefined ? undefined : PREFIX_WORDS.get(word);
  const mnemonic = rest !== undefined && prefix ? rest : instruction;
  const forms = FORMS.get(mnemonic);
  if (!forms) throw new AsmError(text(), 'no such mnemonic');
  if (prefix) checkPrefix(text, word, prefix, mnemonic, ops);
  checkImmediates(text, ops);
  let best: Encoding | undefined;
  let long: Encoding | undefined;
  let refusal: Refusal | undefined;
  for (const form of forms) {
    if (!matches(form, ops)) continue;
    const found = encodeForm(form, ops, prefix?.byte);
    if (isRefusal(found)) refusal = !refusal || found.rank >= refusal.rank ? found : refusal;
    else if (!best) best = found;
    else if (form.slots[0]?.place === 'rel') long = found;
    else if (found.bytes.length < best.bytes.length) best = found;
  }
  if (!best) throw new AsmError(text(), refusal?.rule ?? 'no form takes these operands');
  return { encoding: best, long };
};
