// SPDX-License-Identifier: GPL-2.0-only
/**
 * The decoder: bytes to `DecodedInsn`, by the opcode tables. 64-bit mode only. SDM, "Instruction Format" and "Opcode
 * Map". Used by the interpreter, and by L0's instruction emulator for instructions that it must decode itself.
 */
import { Cursor } from './cursor.ts';
import { blankInsn, type DecodedInsn } from './insn.ts';
import {
  byteRegister,
  effectiveSegment,
  formOf,
  operandBytes,
  parseImmediate,
  parseMemory,
} from './operands.ts';
import { DECODE } from './ops.ts';
import { ONE_BYTE, ONE_BYTE_UNIMPLEMENTED } from './opcode_map1.ts';
import { TWO_BYTE, TWO_BYTE_SYSTEM, TWO_BYTE_UNIMPLEMENTED } from './opcode_map2.ts';
import { type Candidate, compileRows, L } from './rows.ts';

const MAPS = compileRows([...ONE_BYTE, ...TWO_BYTE, ...TWO_BYTE_SYSTEM]);
const NOTHING: readonly Candidate[] = [];

/**
 * Decode the instruction at `bytes[offset]`; bytes from `end` on are not there. Running over `end` gives TRUNCATED,
 * unless the bytes so far are already known to be INVALID or TOO_LONG.
 */
export function decodeAt(bytes: Uint8Array, offset = 0, end: number = bytes.length): DecodedInsn {
  const c = new Cursor(bytes, offset, end);
  const insn = blankInsn();
  let opcode = c.prefixes();
  let map = '';
  if (opcode === 0x0f && c.status === DECODE.OK) {
    map = '0f';
    opcode = c.u8();
    if (opcode === 0x38 || opcode === 0x3a) {
      map += opcode.toString(16);
      opcode = c.u8();
    }
  }
  if (c.status === DECODE.OK) decodeOpcode(c, insn, map, opcode);
  insn.length = c.pos - offset;
  if (c.status !== DECODE.OK) insn.status = c.status;
  return insn;
}

function decodeOpcode(c: Cursor, insn: DecodedInsn, map: string, opcode: number): void {
  const candidates = MAPS.get(map)?.[opcode] ?? NOTHING;
  const modrm = candidates.some((x) => x.needsModrm) ? c.u8() : 0;
  if (c.status !== DECODE.OK) return;
  const found = candidates.find((x) => matches(c, x, modrm));
  if (found === undefined) {
    insn.status = isUnimplemented(map, opcode, modrm, candidates.length)
      ? DECODE.UNIMPLEMENTED
      : DECODE.INVALID;
    return;
  }
  insn.op = found.op;
  insn.sysop = found.sysop;
  insn.cc = found.low;
  insn.addressSize = c.addressSize ? 4 : 8;
  if ((found.flags & L.REP) !== 0) insn.rep = c.rep;
  parseOperands(c, insn, found, modrm);
  if (!isAllowed(insn, found.flags, c.lock)) insn.status = DECODE.INVALID;
  insn.lock = c.lock;
}

function matches(c: Cursor, x: Candidate, modrm: number): boolean {
  if (x.modrm >= 0 && x.modrm !== modrm) return false;
  if (x.digit >= 0 && x.digit !== ((modrm >> 3) & 7)) return false;
  if (x.rmKind === 'M' && modrm >= 0xc0) return false;
  if (x.rmKind === 'R' && modrm < 0xc0) return false;
  if ((x.flags & L.NO_REX_B) !== 0 && (c.rex & 1) !== 0) return false;
  switch (x.prefix) {
    case '':
      return true;
    case 'NP':
      return c.rep === 0 && !c.operandSize;
    case 'NF':
      return c.rep === 0;
    case '66':
      return c.rep === 0 && c.operandSize;
    case 'F3':
      return c.rep === 0xf3;
    case 'W0':
      return (c.rex & 8) === 0;
    default:
      return (c.rex & 8) !== 0;
  }
}

function isUnimplemented(map: string, opcode: number, modrm: number, nrCandidates: number): boolean {
  if (map.length > 2) return true;
  const memory = modrm < 0xc0;
  if (map === '0f') {
    const listed = TWO_BYTE_UNIMPLEMENTED.some(([first, last]) => opcode >= first && opcode <= last);
    return listed && (memory || nrCandidates === 0);
  }
  const hex = opcode.toString(16).padStart(2, '0');
  if (ONE_BYTE_UNIMPLEMENTED.includes(hex)) return true;
  return memory && ONE_BYTE_UNIMPLEMENTED.includes(`${hex} /${(modrm >> 3) & 7}`);
}

function parseOperands(c: Cursor, insn: DecodedInsn, found: Candidate, modrm: number): void {
  const memory = (found.rmKind === 'E' || found.rmKind === 'M') && modrm < 0xc0;
  if (memory) parseMemory(c, insn, modrm);
  insn.seg = effectiveSegment(c, insn);
  let sized = 0;
  for (const token of found.operands) {
    const letter = token[1] ?? '';
    const bytes = operandBytes(letter, c, memory);
    if (hasSize(token)) {
      if (sized === 0) insn.size = insn.srcSize = bytes;
      else if (sized === 1) insn.srcSize = bytes;
      sized++;
    }
    parseOperand(c, insn, found, modrm, token, bytes);
  }
  insn.form = formOf(found.operands);
}

/** Immediates follow the size of the other operands, but for PUSH, where the immediate is the only one. */
function hasSize(token: string): boolean {
  if (token.startsWith('I')) return token.startsWith('IQ');
  return token.length > 1 && !token.startsWith('J');
}

function parseOperand(
  c: Cursor,
  insn: DecodedInsn,
  found: Candidate,
  modrm: number,
  token: string,
  bytes: number,
): void {
  const rexB = (c.rex & 1) << 3;
  switch (token[0]) {
    case 'E':
    case 'R':
    case 'X':
    case 'M':
      if (!insn.memory) insn.rm = byteRegister(c, (modrm & 7) | rexB, bytes);
      return;
    case 'G': {
      const reg = (modrm >> 3) & 7;
      insn.reg = (found.flags & L.SREG) !== 0 ? reg : byteRegister(c, reg | ((c.rex & 4) << 1), bytes);
      return;
    }
    case 'Z':
      insn.rm = byteRegister(c, found.low | rexB, bytes);
      return;
    case 'A':
      if (found.operands[0] === token && !(found.operands[1] ?? '').startsWith('O')) insn.rm = 0;
      return;
    case 'O':
      insn.memory = true;
      insn.disp = c.i32();
      insn.dispHi = c.addressSize ? 0 : c.i32();
      return;
    case 'P':
      insn.reg = (found.flags & L.FS) !== 0 ? 4 : 5;
      return;
    case 'S':
    case 'C':
      return;
    default:
      parseImmediate(c, insn, token);
  }
}

const isControlRegister = (n: number): boolean => n === 0 || n === 2 || n === 3 || n === 4 || n === 8;

function isAllowed(insn: DecodedInsn, flags: number, lock: boolean): boolean {
  if (lock && !((flags & L.LOCK) !== 0 && insn.memory)) return false;
  if ((flags & L.SREG) !== 0 && (insn.reg > 5 || (insn.reg === 1 && (flags & L.NOT_CS) !== 0))) return false;
  if ((flags & L.CR) !== 0 && !isControlRegister(insn.reg)) return false;
  return (flags & L.DR) === 0 || insn.reg < 8;
}
