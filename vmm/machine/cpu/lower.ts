// SPDX-License-Identifier: GPL-2.0-only
/**
 * From decoded instructions to records of the interpreter's loop. What has no record of its own becomes one GENERIC
 * record, which runs the out-of-line function of its operation; the two must give the same results.
 */
import type { DecodedInsn } from './decode/insn.ts';
import { DECODE, FORM, HIGH_BYTE, OP } from './decode/ops.ts';
import { HOT, REC, REC_WORDS, recordPosition } from './hot.ts';
import { SCRATCH } from './regs.ts';
import { S, SEGN } from './state.ts';

/** K, D, S, IMM, IMM_HI, X. */
type Record6 = readonly [
  k: number,
  d?: number | undefined,
  s?: number | undefined,
  imm?: number | undefined,
  immHi?: number | undefined,
  x?: number,
];

const GENERIC: readonly Record6[] = [[HOT.GENERIC]];

const word = (reg: number): number => (reg < 0 ? S.ZERO : S.GPR + 2 * reg);

/** Write the records of `insn`, which is at page offset `offset`, to m[at...]; returns how many. */
export function lower(m: Int32Array, at: number, insn: DecodedInsn, offset: number): number {
  const records = insn.status === DECODE.OK && isPlain(insn) ? select(insn, offset) : GENERIC;
  for (const [n, [k, d, s, imm, immHi, x]] of records.entries()) {
    const p = at + n * REC_WORDS;
    m[p + REC.K] = k;
    m[p + REC.D] = d ?? 0;
    m[p + REC.S] = s ?? 0;
    m[p + REC.IMM] = imm ?? 0;
    m[p + REC.IMM_HI] = immHi ?? 0;
    m[p + REC.X] = x ?? (n === 0 ? records.length - 1 : 0);
    m[p + REC.OFF] = offset;
    m[p + REC.POS] = recordPosition(n, records.length);
  }
  return records.length;
}

function isPlain(insn: DecodedInsn): boolean {
  if (insn.lock || insn.reg >= HIGH_BYTE || insn.rm >= HIGH_BYTE) return false;
  if (!insn.memory) return true;
  return (
    insn.seg !== SEGN.FS && insn.seg !== SEGN.GS && insn.addressSize === 8 && insn.dispHi === insn.disp >> 31
  );
}

interface Address {
  /** Records that compute the address, if it is more than base and displacement. */
  readonly pre: readonly Record6[];
  readonly base: number;
  readonly disp: number;
}

function address(insn: DecodedInsn, offset: number): Address | undefined {
  if (insn.ripRelative) {
    const rel = offset + insn.length + insn.disp;
    if ((rel | 0) !== rel) return undefined;
    return { pre: [[HOT.LEA_RIP, SCRATCH.EA, 0, rel]], base: SCRATCH.EA, disp: 0 };
  }
  if (insn.index < 0 && insn.base >= 0) return { pre: [], base: word(insn.base), disp: insn.disp };
  const index = word(insn.index) | (insn.scale << 16);
  return { pre: [[HOT.LEA_BX, SCRATCH.EA, word(insn.base), insn.disp, index]], base: SCRATCH.EA, disp: 0 };
}

function select(insn: DecodedInsn, offset: number): readonly Record6[] {
  const { op } = insn;
  if (op <= OP.CMP || op === OP.TEST) return selectAlu(insn, offset);
  if (op >= OP.ROL && op <= OP.SAR) return selectShift(insn);
  switch (op) {
    case OP.MOV:
      return selectMov(insn, offset);
    case OP.MOVZX:
    case OP.MOVSXD:
      return selectExtend(insn, offset);
    case OP.LEA:
      return selectLea(insn, offset);
    case OP.INC:
    case OP.DEC:
      return selectIncDec(insn, offset);
    case OP.IMUL2:
      return selectImul(insn, offset);
    case OP.CMOVCC:
      return selectCmov(insn, offset);
    case OP.SETCC:
      return insn.rm >= 0 ? [[HOT.SETCC, word(insn.rm), 0, insn.cc]] : GENERIC;
    case OP.NOP:
      return [[HOT.NOP]];
    default:
      return selectTransfer(insn, offset);
  }
}

/** Load a memory source into TMP (or use the register), then whatever `use` makes of the source's word. */
function withSource(
  insn: DecodedInsn,
  offset: number,
  load: number,
  use: (source: number) => readonly Record6[],
): readonly Record6[] {
  if (insn.rm >= 0) return use(word(insn.rm));
  const a = address(insn, offset);
  if (a === undefined) return GENERIC;
  return [...a.pre, [load, SCRATCH.TMP, a.base, a.disp], ...use(SCRATCH.TMP)];
}

/** HOT.ADD64 and so on in the order of the ALU group, 0 if there is none. */
const ALU64: readonly number[] = [HOT.ADD64, HOT.OR64, 0, 0, HOT.AND64, HOT.SUB64, HOT.XOR64, HOT.CMP64];
const TO_32 = HOT.ADD32 - HOT.ADD64;

function selectAlu(insn: DecodedInsn, offset: number): readonly Record6[] {
  const base = insn.op === OP.TEST ? HOT.TEST64 : ALU64[insn.op]!;
  if (insn.size === 1) return selectByte(insn, offset);
  if (base === 0 || insn.size < 4) return GENERIC;
  const wide = insn.size === 8;
  const k = wide ? base : base + TO_32;
  const load = wide ? HOT.LD64 : HOT.LD32;
  if (insn.form === FORM.R_RM) return withSource(insn, offset, load, (s) => [[k, word(insn.reg), s]]);
  const operate = (d: number): Record6 =>
    insn.form === FORM.RM_I ? [k + 1, d, 0, insn.immLo, insn.immHi] : [k, d, word(insn.reg)];
  if (insn.op === OP.CMP || insn.op === OP.TEST) return withSource(insn, offset, load, (d) => [operate(d)]);
  return readModifyWrite(insn, offset, operate);
}

/** Byte CMP and TEST; the other byte operations are rare enough. */
function selectByte(insn: DecodedInsn, offset: number): readonly Record6[] {
  if (insn.op !== OP.CMP && insn.op !== OP.TEST) return GENERIC;
  const k = insn.op === OP.CMP ? HOT.CMP8 : HOT.TEST8;
  if (insn.form === FORM.R_RM) return withSource(insn, offset, HOT.LD8, (s) => [[k, word(insn.reg), s]]);
  return withSource(insn, offset, HOT.LD8, (d) =>
    insn.form === FORM.RM_I ? [[k + 1, d, 0, insn.immLo]] : [[k, d, word(insn.reg)]],
  );
}

function readModifyWrite(
  insn: DecodedInsn,
  offset: number,
  operate: (d: number) => Record6,
): readonly Record6[] {
  const wide = insn.size === 8;
  const store: Record6 = [wide ? HOT.STT64 : HOT.STT32];
  if (insn.rm >= 0) return [operate(word(insn.rm))];
  return withSource(insn, offset, wide ? HOT.LDW64 : HOT.LDW32, (d) => [operate(d), store]);
}

function selectIncDec(insn: DecodedInsn, offset: number): readonly Record6[] {
  if (insn.size < 4) return GENERIC;
  const k = (insn.size === 8 ? HOT.INC64 : HOT.INC32) + (insn.op === OP.DEC ? 1 : 0);
  return readModifyWrite(insn, offset, (d) => [k, d]);
}

function selectShift(insn: DecodedInsn): readonly Record6[] {
  if (insn.op < OP.SHL || insn.form !== FORM.RM_I || insn.rm < 0 || insn.size < 4) return GENERIC;
  const count = insn.immLo & (insn.size === 8 ? 63 : 31);
  if (count === 0) return GENERIC;
  const k = insn.op === OP.SHR ? HOT.SHR64 : insn.op === OP.SAR ? HOT.SAR64 : HOT.SHL64;
  return [[insn.size === 8 ? k : k + HOT.SHL32 - HOT.SHL64, word(insn.rm), 0, count]];
}

function selectImul(insn: DecodedInsn, offset: number): readonly Record6[] {
  if (insn.size < 4) return GENERIC;
  const k = insn.size === 8 ? HOT.IMUL64 : HOT.IMUL32;
  const d = word(insn.reg);
  const load = insn.size === 8 ? HOT.LD64 : HOT.LD32;
  if (insn.form === FORM.R_RM) return withSource(insn, offset, load, (s) => [[k, d, s, d]]);
  if (insn.rm < 0) return GENERIC;
  return [
    [HOT.MOVI, SCRATCH.TMP, 0, insn.immLo, insn.immHi],
    [k, d, word(insn.rm), SCRATCH.TMP],
  ];
}

function selectCmov(insn: DecodedInsn, offset: number): readonly Record6[] {
  if (insn.size < 4) return GENERIC;
  const [k, load] = insn.size === 8 ? [HOT.CMOV64, HOT.LD64] : [HOT.CMOV32, HOT.LD32];
  return withSource(insn, offset, load, (s) => [[k, word(insn.reg), s, insn.cc]]);
}

const LOADS: readonly number[] = [0, HOT.LD8, HOT.LD16, 0, HOT.LD32, 0, 0, 0, HOT.LD64];
const STORES: readonly number[] = [0, HOT.ST8, HOT.ST16, 0, HOT.ST32, 0, 0, 0, HOT.ST64];

function selectMov(insn: DecodedInsn, offset: number): readonly Record6[] {
  const { size, form } = insn;
  const move = size === 8 ? HOT.MOV64 : HOT.MOV32;
  const immHi = size === 8 ? insn.immHi : 0;
  if (insn.rm >= 0) {
    if (size < 4) return GENERIC;
    if (form === FORM.RM_I) return [[HOT.MOVI, word(insn.rm), 0, insn.immLo, immHi]];
    return form === FORM.RM_R
      ? [[move, word(insn.rm), word(insn.reg)]]
      : [[move, word(insn.reg), word(insn.rm)]];
  }
  const a = address(insn, offset);
  if (a === undefined) return GENERIC;
  if (form === FORM.R_RM) {
    return size < 4 ? GENERIC : [...a.pre, [LOADS[size]!, word(insn.reg), a.base, a.disp]];
  }
  if (form === FORM.RM_R) return [...a.pre, [STORES[size]!, a.base, word(insn.reg), a.disp]];
  return [
    ...a.pre,
    [HOT.MOVI, SCRATCH.TMP, 0, insn.immLo, immHi],
    [STORES[size]!, a.base, SCRATCH.TMP, a.disp],
  ];
}

function selectExtend(insn: DecodedInsn, offset: number): readonly Record6[] {
  if (insn.size < 4) return GENERIC;
  const d = word(insn.reg);
  if (insn.op === OP.MOVSXD) {
    return insn.size === 8 ? withSource(insn, offset, HOT.LD32, (s) => [[HOT.MOVSXD, d, s]]) : GENERIC;
  }
  if (insn.rm >= 0) return [[insn.srcSize === 1 ? HOT.MOVZX8 : HOT.MOVZX16, d, word(insn.rm)]];
  const a = address(insn, offset);
  return a === undefined ? GENERIC : [...a.pre, [LOADS[insn.srcSize]!, d, a.base, a.disp]];
}

function selectLea(insn: DecodedInsn, offset: number): readonly Record6[] {
  if (insn.size < 4) return GENERIC;
  const target = insn.size === 8 ? word(insn.reg) : SCRATCH.TMP;
  const a = address(insn, offset);
  if (a === undefined) return GENERIC;
  const [k, , s, imm, immHi] = a.pre[0] ?? [HOT.LEA_BD, 0, a.base, a.disp, 0];
  const compute: Record6 = [k, target, s, imm, immHi];
  return insn.size === 8 ? [compute] : [compute, [HOT.MOV32, word(insn.reg), SCRATCH.TMP]];
}

function selectTransfer(insn: DecodedInsn, offset: number): readonly Record6[] {
  const next = offset + insn.length;
  const target = next + insn.immLo;
  if (insn.form === FORM.REL && (target | 0) !== target) return GENERIC;
  if (
    insn.op !== OP.JCC &&
    insn.op !== OP.JMP &&
    insn.op !== OP.CALL &&
    insn.size !== 8 &&
    insn.op !== OP.RET
  ) {
    return GENERIC;
  }
  switch (insn.op) {
    case OP.PUSH:
      if (insn.form === FORM.I) {
        return [
          [HOT.MOVI, SCRATCH.TMP, 0, insn.immLo, insn.immHi],
          [HOT.PUSH, 0, SCRATCH.TMP],
        ];
      }
      return withSource(insn, offset, HOT.LD64, (s) => [[HOT.PUSH, 0, s]]);
    case OP.POP:
      return insn.rm >= 0 ? [[HOT.POP, word(insn.rm)]] : GENERIC;
    case OP.CALL:
      return [[HOT.CALL, 0, 0, target, next, 0]];
    case OP.RET:
      return insn.form === FORM.NONE ? [[HOT.RET]] : GENERIC;
    case OP.JMP:
      return [[HOT.JMP, 0, 0, target, 0, 0]];
    case OP.JCC:
      return [[HOT.JCC + insn.cc, 0, 0, target, 0, 0]];
    case OP.JMP_IND:
      return withSource(insn, offset, HOT.LD64, (s) => [[HOT.JMP_R, 0, s]]);
    case OP.CALL_IND:
      return withSource(insn, offset, HOT.LD64, (s) => [[HOT.CALL_R, 0, s, 0, next, 0]]);
    default:
      return GENERIC;
  }
}
