// SPDX-License-Identifier: GPL-2.0-only
/**
 * The decoder against iced-x86 over random bytes: validity, length, mnemonic, and the operands of the forms that the
 * interpreter uses. What iced knows and the decoder calls invalid must be an extension that CPUID does not announce.
 */
import { Code, Decoder, DecoderOptions, type Instruction, Mnemonic, OpKind, Register } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { SYSOP } from '../sys_insn.ts';
import { decodeAt } from './decoder.ts';
import type { DecodedInsn } from './insn.ts';
import { DECODE, OP } from './ops.ts';

/** Extensions of later processors, or of another vendor, that raise UD here. */
const NOT_ANNOUNCED = new Set(
  (
    'Rstorssp Incsspd Incsspq Lkgs Vmgexit Getsec Getsecq Enclu Encls Enclv Psmash Pvalidate Rmpadjust Rmpupdate ' +
    'Rmpquery Rdpru Mwaitx Monitorx Clzero Mcommit Setssbsy Saveprevssp Senduipi Xend Xtest Xbegin Xabort Umwait Umonitor ' +
    'Seamret Seamops Seamcall Testui Stui Clui Uiret Serialize Pbndkb Pconfig Ptwrite Tpause Tlbsync Xresldtrk ' +
    'Xsusldtrk Clrssbsy Tdcall Wrmsrlist Rdmsrlist Wrmsrns Erets Eretu Invlpgb Xsha1 Xsha256 Xsha512 Montmul ' +
    'Xstore Xstore_alt Xcryptecb Xcryptcbc Xcryptctr Xcryptcfb Xcryptofb Ccs_hash Ccs_encrypt'
  ).split(' '),
);

const SPELLING: Readonly<Record<string, readonly string[]>> = {
  SHL: ['Shl', 'Sal'],
  IMUL2: ['Imul'],
  CALL_IND: ['Call'],
  JMP_IND: ['Jmp'],
  JRCXZ: ['Jrcxz', 'Jecxz'],
  XLAT: ['Xlatb'],
  CBW: ['Cbw', 'Cwde', 'Cdqe'],
  CWD: ['Cwd', 'Cdq', 'Cqo'],
  FENCE: ['Mfence', 'Lfence', 'Sfence'],
  CLFLUSH: ['Clflush', 'Clflushopt', 'Clwb'],
  FXSAVE: ['Fxsave', 'Fxsave64'],
  FXRSTOR: ['Fxrstor', 'Fxrstor64'],
  UD: ['Ud0', 'Ud1', 'Ud2', 'Rsm'],
  MOVSXD: ['Movsxd'],
  NOP: ['Nop', 'Reservednop'],
  MOVS: ['Movsb', 'Movsw', 'Movsd', 'Movsq'],
  STOS: ['Stosb', 'Stosw', 'Stosd', 'Stosq'],
  LODS: ['Lodsb', 'Lodsw', 'Lodsd', 'Lodsq'],
  CMPS: ['Cmpsb', 'Cmpsw', 'Cmpsd', 'Cmpsq'],
  SCAS: ['Scasb', 'Scasw', 'Scasd', 'Scasq'],
  INS: ['Insb', 'Insw', 'Insd'],
  OUTS: ['Outsb', 'Outsw', 'Outsd'],
  IRET: ['Iret', 'Iretd', 'Iretq'],
  PUSHF: ['Pushf', 'Pushfq'],
  POPF: ['Popf', 'Popfq'],
  SYSRET: ['Sysret', 'Sysretq'],
  SYSEXIT: ['Sysexit', 'Sysexitq'],
  WBINVD: ['Wbinvd', 'Wbnoinvd'],
  PUSH_SREG: ['Push'],
  POP_SREG: ['Pop'],
  MOV_FROM_CR: ['Mov'],
  MOV_TO_CR: ['Mov'],
  MOV_FROM_DR: ['Mov'],
  MOV_TO_DR: ['Mov'],
  MOV_FROM_SREG: ['Mov'],
  MOV_TO_SREG: ['Mov'],
};

const nameOf = (x: DecodedInsn): string => {
  const [table, code] = x.op === OP.SYS ? [SYSOP, x.sysop] : [OP, x.op];
  return Object.entries(table).find(([, v]) => v === code)![0];
};

/** Hints of the 0F 18..1F space that are NOPs without their extension. */
const isHint = (name: string): boolean => /^(Prefetch|Bnd|Endbr|Cldemote|Rdssp|Nop)/.test(name);

function sameMnemonic(x: DecodedInsn, name: string): boolean {
  const ours = nameOf(x);
  if (ours === 'JCC' || ours === 'CMOVCC' || ours === 'SETCC')
    return name.startsWith({ JCC: 'J', CMOVCC: 'Cmov', SETCC: 'Set' }[ours]);
  if (ours === 'NOP' && isHint(name)) return true;
  const expected = SPELLING[ours] ?? [ours[0]! + ours.slice(1).toLowerCase()];
  return expected.includes(name);
}

class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed;
  }
  below(n: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return (this.#state >>> 8) % n;
  }
}

const PREFIXES = [0x66, 0xf2, 0xf3, 0xf0, 0x48, 0x41, 0x4c, 0x67, 0x64, 0x40, 0x2e];
const MAPS = [0x38, 0x3a, 0x01, 0xae, 0xc7, 0x00, 0xba];

/** Random bytes with more prefixes and escapes than chance would give. */
function randomBytes(r: Random): Uint8Array {
  const bytes = Uint8Array.from({ length: 16 }, () => r.below(256));
  let at = 0;
  const kind = r.below(8);
  if (kind & 1) bytes[at++] = PREFIXES[r.below(PREFIXES.length)]!;
  if (kind === 5) bytes[at++] = 0x48 + r.below(8);
  if (kind & 2) bytes[at++] = 0x0f;
  if (kind === 7) bytes[at++] = MAPS[r.below(MAPS.length)]!;
  return bytes;
}

const MODRM_OPS: ReadonlySet<number> = new Set([
  OP.ADD,
  OP.OR,
  OP.ADC,
  OP.SBB,
  OP.AND,
  OP.SUB,
  OP.XOR,
  OP.CMP,
  OP.TEST,
  OP.MOV,
  OP.MOVZX,
  OP.MOVSX,
  OP.LEA,
  OP.XCHG,
  OP.IMUL2,
  OP.CMOVCC,
  OP.SETCC,
  OP.XADD,
  OP.CMPXCHG,
  OP.SHLD,
  OP.BT,
  OP.INC,
  OP.NEG,
  OP.SHL,
  OP.SAR,
]);

/** Number of an iced register as this decoder has it: 16..19 are AH..BH. */
function registerNumber(register: Register): number {
  const high = [Register.AH, Register.CH, Register.DH, Register.BH].indexOf(register);
  if (high >= 0) return 16 + high;
  const low = [Register.AL, Register.CL, Register.DL, Register.BL].indexOf(register);
  if (low >= 0) return low;
  if (register >= Register.SPL && register <= Register.R15L) return register - Register.SPL + 4;
  if (register >= Register.AX && register <= Register.R15W) return register - Register.AX;
  if (register >= Register.EAX && register <= Register.R15D) return register - Register.EAX;
  return register - Register.RAX;
}

/** Memory operand, registers and immediates of the two decoders. */
function operandsDiffer(x: DecodedInsn, i: Instruction): string {
  for (let n = 0; n < i.opCount; n++) {
    const kind = i.opKind(n);
    if (kind === OpKind.Register) {
      const number = registerNumber(i.opRegister(n));
      if (number !== x.reg && number !== x.rm && !(number === 1 && x.rm !== 1)) return `register ${number}`;
    } else if (kind === OpKind.Memory) {
      const base =
        i.memoryBase === Register.None || i.memoryBase === Register.RIP || i.memoryBase === Register.EIP
          ? -1
          : registerNumber(i.memoryBase);
      const index = i.memoryIndex === Register.None ? -1 : registerNumber(i.memoryIndex);
      if (x.base !== base || x.index !== index) return `base ${base} index ${index}`;
      if (index >= 0 && 1 << x.scale !== i.memoryIndexScale) return 'scale';
      if (!x.memory) return 'no memory operand';
      const disp = (BigInt(x.dispHi >>> 0) << 32n) | BigInt(x.disp >>> 0);
      const shown = x.ripRelative ? disp + BigInt(x.length) : disp;
      const bits = x.addressSize === 4 ? 32 : 64;
      if (BigInt.asUintN(bits, shown) !== BigInt.asUintN(bits, i.memoryDisplacement))
        return `displacement ${i.memoryDisplacement}`;
    } else if (
      kind >= OpKind.Immediate8 &&
      kind <= OpKind.Immediate32to64 &&
      kind !== OpKind.Immediate8_2nd
    ) {
      const ours = (BigInt(x.immHi >>> 0) << 32n) | BigInt(x.immLo >>> 0);
      if (BigInt.asUintN(8, ours) !== BigInt.asUintN(8, i.immediate(n))) return `immediate ${i.immediate(n)}`;
    }
  }
  return '';
}

function compare(bytes: Uint8Array, i: Instruction): string {
  const x = decodeAt(bytes);
  const name = Mnemonic[i.mnemonic];
  const isInvalid = i.code === Code.INVALID;
  if (x.status === DECODE.UNIMPLEMENTED) return '';
  if (x.status !== DECODE.OK) {
    return isInvalid || NOT_ANNOUNCED.has(name) ? '' : `status ${x.status}, iced: ${name}`;
  }
  if (isInvalid) return `iced: invalid, ours: ${nameOf(x)}`;
  if (x.length !== i.length) return `length ${x.length}, iced: ${i.length} ${name}`;
  if (!sameMnemonic(x, name)) return `${nameOf(x)}, iced: ${name}`;
  if (!MODRM_OPS.has(x.op)) return '';
  const differs = operandsDiffer(x, i);
  return differs === '' ? '' : `${name}: ${differs}`;
}

describe('the decoder and iced-x86', () => {
  it('agree on validity, length, mnemonic and operands of random bytes', () => {
    const r = new Random(20261121);
    let decoded = 0;
    const problems = new Map<string, string>();
    for (let n = 0; n < 60_000; n++) {
      const bytes = randomBytes(r);
      const decoder = new Decoder(64, bytes.subarray(0, 15), DecoderOptions.None);
      const i = decoder.decode();
      const problem = compare(bytes, i);
      if (i.code !== Code.INVALID) decoded++;
      i.free();
      decoder.free();
      if (problem !== '')
        problems.set(problem, [...bytes].map((b) => b.toString(16).padStart(2, '0')).join(' '));
    }
    expect(Object.fromEntries(problems)).toEqual({});
    expect(decoded).toBeGreaterThan(30_000);
  });
});

describe('ends of the bytes', () => {
  it('TRUNCATED if the bytes end first, INVALID as soon as it is known, TOO_LONG after 15 bytes', () => {
    const status = (...bytes: number[]): number => decodeAt(Uint8Array.from(bytes)).status;
    expect(status(0x48)).toBe(DECODE.TRUNCATED);
    expect(status(0x48, 0x8b, 0x84)).toBe(DECODE.TRUNCATED);
    expect(status(0x66, 0x06)).toBe(DECODE.INVALID);
    expect(status(...Array<number>(15).fill(0x2e), 0x90)).toBe(DECODE.TOO_LONG);
    expect(status(...Array<number>(14).fill(0x2e), 0x90)).toBe(DECODE.OK);
    expect(status(...Array<number>(14).fill(0x2e))).toBe(DECODE.TRUNCATED);
    expect(decodeAt(Uint8Array.of(0x90, 0x48, 0xff, 0xc0), 1).length).toBe(3);
  });

  it('a REX prefix counts only directly before the opcode, FS and GS survive the segments without meaning', () => {
    expect(decodeAt(Uint8Array.of(0x48, 0x66, 0x89, 0xd8))).toMatchObject({ size: 2, length: 4 });
    expect(decodeAt(Uint8Array.of(0x64, 0x2e, 0x8b, 0x07)).seg).toBe(4);
    expect(decodeAt(Uint8Array.of(0x8b, 0x45, 0x00)).seg).toBe(2);
    expect(decodeAt(Uint8Array.of(0x8b, 0x07)).seg).toBe(3);
  });
});
