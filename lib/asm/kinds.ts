// SPDX-License-Identifier: GPL-2.0-only
/**
 * The operand column of the instruction tables: what each of its words accepts.
 * The words are those of the SDM's "Instruction Column in the Opcode Summary Table", with four additions:
 * `sx` marks an immediate that is sign-extended to the operand size, `CR`/`DR`/`Sreg` are register files,
 * `SregDest` is a segment register that mov may load (not cs), and `r32>0` is any 32-bit register but eax.
 */
import { type Operand, R, type Reg, type RegClass } from './operands.ts';

/** What one word of the operand column accepts. A word may accept a register, memory, both, or neither. */
export interface OperandKind {
  readonly text: string;
  readonly reg?: { readonly cls: RegClass; readonly size: number; readonly accepts: (reg: Reg) => boolean };
  /** Size of the memory access in bits, 0: any. */
  readonly mem?: number;
  readonly imm?: { readonly bits: 8 | 16 | 32 | 64; readonly signExtended: boolean };
  /** The literal 1 of the shift forms. */
  readonly one?: true;
  readonly rel?: 8 | 32;
  /** A register that the opcode implies: nothing is encoded. */
  readonly implied?: true;
}

type Entry = readonly [string, Omit<OperandKind, 'text'>];

const anyReg = (): boolean => true;
const register = (
  text: string,
  cls: RegClass,
  size: number,
  accepts: (reg: Reg) => boolean = anyReg,
): Entry => [text, { reg: { cls, size, accepts } }];
const general = (size: number): readonly Entry[] => [
  register(`r${size}`, 'gp', size),
  [`r/m${size}`, { reg: { cls: 'gp', size, accepts: anyReg }, mem: size }],
  [`m${size}`, { mem: size }],
];
const implied = (text: string, { cls, size, num }: Reg): Entry => [
  text,
  { reg: { cls, size, accepts: (reg) => reg.num === num }, implied: true },
];
const registerOr16 = (size: number): Entry => [
  `r${size}/m16`,
  { reg: { cls: 'gp', size, accepts: anyReg }, mem: 16 },
];
const immediate = (bits: 8 | 16 | 32 | 64): Entry => [`imm${bits}`, { imm: { bits, signExtended: false } }];
const signExtended = (bits: 8 | 32): Entry => [`imm${bits}sx`, { imm: { bits, signExtended: true } }];

const ENTRIES: readonly Entry[] = [
  ...[8, 16, 32, 64].flatMap(general),
  ...[32, 64].map(registerOr16),
  register('r32>0', 'gp', 32, ({ num }) => num !== 0),
  register('Sreg', 'sreg', 16),
  register('SregDest', 'sreg', 16, ({ num }) => num !== R.cs.num),
  register('CR', 'cr', 64),
  register('DR', 'dr', 64),
  ['m', { mem: 0 }],
  ...[80, 128, 4096].map((size): Entry => [`m${size}`, { mem: size }]),
  implied('AL', R.al),
  implied('AX', R.ax),
  implied('EAX', R.eax),
  implied('RAX', R.rax),
  implied('CL', R.cl),
  implied('ECX', R.ecx),
  implied('DX', R.dx),
  implied('FS', R.fs),
  implied('GS', R.gs),
  ['1', { one: true }],
  ...([8, 16, 32, 64] as const).map(immediate),
  ...([8, 32] as const).map(signExtended),
  ['rel8', { rel: 8 }],
  ['rel32', { rel: 32 }],
];

/** Every word of the operand column. */
export const OPERAND_KINDS: ReadonlyMap<string, OperandKind> = new Map(
  ENTRIES.map(([text, kind]): [string, OperandKind] => [text, { text, ...kind }]),
);

const acceptsReg = ({ reg }: OperandKind, op: Reg): boolean => {
  if (reg === undefined || op.size !== reg.size) return false;
  const sameClass = op.cls === reg.cls || (op.cls === 'gp8h' && reg.cls === 'gp' && reg.accepts === anyReg);
  return sameClass && reg.accepts(op);
};

/** Whether the operand is of this kind at all; the range of an immediate is judged when it is encoded. */
export const accepts = (kind: OperandKind, op: Operand): boolean => {
  if (typeof op !== 'object') return kind.imm !== undefined || (kind.one === true && Number(op) === 1);
  if (op.kind === 'reg') return acceptsReg(kind, op);
  if (op.kind === 'label') {
    return (
      kind.rel !== undefined || (kind.imm !== undefined && kind.imm.bits >= 32 && !kind.imm.signExtended)
    );
  }
  if (kind.mem === undefined) return false;
  // An operand that leaves its size open fits where the instruction takes memory only, so nothing is ambiguous.
  return kind.mem === 0 || op.size === kind.mem || (op.size === 0 && kind.reg === undefined);
};
