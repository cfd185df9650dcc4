// SPDX-License-Identifier: GPL-2.0-only
/**
 * What an instruction takes: registers, memory, labels and immediates.
 * Models the operands of 64-bit mode as the SDM's "Instruction Format" encodes them; sizes are in bits everywhere.
 * Leaves out x87, MMX and vector registers.
 */
import { AsmError } from './errors.ts';

/** `gp8h` are ah, ch, dh and bh: encodings 4 to 7 of a byte register when there is no REX prefix. */
export type RegClass = 'gp' | 'gp8h' | 'sreg' | 'cr' | 'dr';

/** A register: its class, its number in ModRM/SIB/REX, its size in bits. */
export interface Reg {
  readonly kind: 'reg';
  readonly name: string;
  readonly cls: RegClass;
  readonly num: number;
  readonly size: number;
}

/** A memory operand. `size` is the access in bits, 0 where the instruction leaves it open (lea, invlpg, fxsave). */
export interface Mem {
  readonly kind: 'mem';
  readonly size: number;
  readonly base: Reg | undefined;
  readonly index: Reg | undefined;
  readonly scale: 1 | 2 | 4 | 8;
  readonly disp: number;
  readonly seg: Reg | undefined;
  readonly label: string | undefined;
}

/** A reference to a label or an external symbol, plus `addend` bytes. */
export interface Lab {
  readonly kind: 'label';
  readonly name: string;
  readonly addend: number;
}

/** An immediate. A number must be a safe integer; signed and unsigned spellings of the same bits are both taken. */
export type Imm = number | bigint;

/** Anything that `Assembler.emit` takes after the mnemonic. */
export type Operand = Reg | Mem | Lab | Imm;

const GP64 = [
  ...(['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'] as const),
  ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
] as const;
const GP32 = [
  ...(['eax', 'ecx', 'edx', 'ebx', 'esp', 'ebp', 'esi', 'edi'] as const),
  ...(['r8d', 'r9d', 'r10d', 'r11d', 'r12d', 'r13d', 'r14d', 'r15d'] as const),
] as const;
const GP16 = [
  ...(['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const),
  ...(['r8w', 'r9w', 'r10w', 'r11w', 'r12w', 'r13w', 'r14w', 'r15w'] as const),
] as const;
const GP8 = [
  ...(['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil'] as const),
  ...(['r8b', 'r9b', 'r10b', 'r11b', 'r12b', 'r13b', 'r14b', 'r15b'] as const),
] as const;
const GP8H = ['ah', 'ch', 'dh', 'bh'] as const;
const SREG = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;
const CR = { cr0: 0, cr2: 2, cr3: 3, cr4: 4, cr8: 8 } as const;
const DR = ['dr0', 'dr1', 'dr2', 'dr3', 'dr4', 'dr5', 'dr6', 'dr7'] as const;

type Bank<N extends string> = Readonly<Record<N, Reg>>;

const bank = <N extends string>(names: readonly N[], cls: RegClass, size: number, first = 0): Bank<N> =>
  Object.fromEntries(
    names.map((name, i): [string, Reg] => [name, { kind: 'reg', name, cls, num: first + i, size }]),
  ) as Bank<N>;

const controlRegisters = Object.fromEntries(
  Object.entries(CR).map(([name, num]): [string, Reg] => [
    name,
    { kind: 'reg', name, cls: 'cr', num, size: 64 },
  ]),
) as Bank<keyof typeof CR>;

/** All registers by the manual's name, in lower case: `R.rax`, `R.r8d`, `R.ah`, `R.cr3`, `R.dr7`, `R.fs`. */
export const R = {
  ...bank(GP64, 'gp', 64),
  ...bank(GP32, 'gp', 32),
  ...bank(GP16, 'gp', 16),
  ...bank(GP8, 'gp', 8),
  ...bank(GP8H, 'gp8h', 8, 4),
  ...bank(SREG, 'sreg', 16),
  ...controlRegisters,
  ...bank(DR, 'dr', 64),
} as const;

/** The name of a register. */
export type RegName = keyof typeof R;

const GP_BY_SIZE: Readonly<Record<GpSize, readonly RegName[]>> = { 8: GP8, 16: GP16, 32: GP32, 64: GP64 };

/** Width of a general-purpose register in bits. */
export type GpSize = 8 | 16 | 32 | 64;

/** The general-purpose register with this number (0 rax .. 15 r15) and width; never ah, ch, dh or bh. */
export const gpr = (num: number, size: GpSize = 64): Reg => {
  const name = GP_BY_SIZE[size][num];
  if (name === undefined) throw new AsmError(`gpr(${num}, ${size})`, 'no such register');
  return R[name];
};

/** The same general-purpose register at another width: `withSize(R.rcx, 32)` is `R.ecx`. */
export const withSize = (reg: Reg, size: GpSize): Reg => {
  if (reg.cls !== 'gp') throw new AsmError(reg.name, 'only a general-purpose register has other widths');
  return gpr(reg.num, size);
};

/** The parts of an address. `label` without base and index is RIP-relative, else an absolute disp32. */
export interface Address {
  readonly base?: Reg | undefined;
  readonly index?: Reg | undefined;
  readonly scale?: number | undefined;
  readonly disp?: number | bigint | undefined;
  readonly seg?: Reg | undefined;
  readonly label?: string | undefined;
}

const checkAddressRegister = (reg: Reg | undefined, role: string): void => {
  if (reg === undefined) return;
  if (reg.cls !== 'gp' || reg.size < 32) {
    throw new AsmError(
      `mem ${role} ${reg.name}`,
      'an address register is a 32- or 64-bit general-purpose one',
    );
  }
};

const checkRegisters = ({ base, index, seg }: Address): void => {
  checkAddressRegister(base, 'base');
  checkAddressRegister(index, 'index');
  if (index?.num === R.rsp.num)
    throw new AsmError(`mem index ${index.name}`, 'the stack pointer cannot be an index');
  if (base && index && base.size !== index.size) {
    throw new AsmError(`mem ${base.name}+${index.name}`, 'base and index differ in width');
  }
  if (seg && seg.cls !== 'sreg') throw new AsmError(`mem segment ${seg.name}`, 'not a segment register');
};

const signedDisp = (disp: number | bigint): number => {
  const value = typeof disp === 'bigint' ? Number(BigInt.asIntN(64, disp)) : disp;
  if (value !== (value | 0)) {
    throw new AsmError(`mem displacement 0x${disp.toString(16)}`, 'does not fit a sign-extended disp32');
  }
  return value;
};

/** A memory operand of `size` bits (0: the instruction decides). */
export const mem = (size: number, address: Address): Mem => {
  checkRegisters(address);
  const scale = address.scale ?? 1;
  if (scale !== 1 && scale !== 2 && scale !== 4 && scale !== 8) {
    throw new AsmError(`mem scale ${scale}`, 'the scale is 1, 2, 4 or 8');
  }
  const { base, index, seg, label } = address;
  return { kind: 'mem', size, base, index, scale, disp: signedDisp(address.disp ?? 0), seg, label };
};

/** A byte in memory. */
export const m8 = (address: Address): Mem => mem(8, address);
/** A word in memory. */
export const m16 = (address: Address): Mem => mem(16, address);
/** A doubleword in memory. */
export const m32 = (address: Address): Mem => mem(32, address);
/** A quadword in memory. */
export const m64 = (address: Address): Mem => mem(64, address);

/** A reference to a label: a branch target, the immediate of `mov r64, imm64`, or data. */
export const lab = (name: string, addend = 0): Lab => ({ kind: 'label', name, addend });
