// SPDX-License-Identifier: GPL-2.0-only
/**
 * The system instructions that the reference interpreter executes: those that change what later instructions may do, and
 * how addresses are translated. SDM, "PUSHF", "POPF", "CLI", "STAC", "CLAC", "CLTS", "MOV - Move to/from Control
 * Registers", "INVLPG", "RDFSBASE", "WRFSBASE", "RDPKRU", "WRPKRU". Leaves out TF, CR2, CR8, PCIDs and STI's shadow.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, CR4, GPR, RFLAGS } from '../../../lib/x86/registers.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { GuestException } from '../outcome.ts';

/** The name of each, as in SYSOP. */
export const EXECUTED: readonly string[] = [
  ...['PUSHF', 'POPF', 'CLI', 'STAC', 'CLAC', 'CLTS', 'MOV_FROM_CR', 'MOV_TO_CR', 'INVLPG'],
  ...['RDFSBASE', 'RDGSBASE', 'WRFSBASE', 'WRGSBASE', 'RDPKRU', 'WRPKRU'],
];

function generalProtection(): never {
  throw new GuestException(VECTOR.GP);
}

function levelZero(x: Exec): void {
  if (x.state.cpl !== 0) generalProtection();
}

function iopl(x: Exec): number {
  return (x.state.rflags & RFLAGS.IOPL) >> 12;
}

/** An executed system instruction: it costs its cycle even if it faults. */
export function charged(x: Exec, execute: () => void): () => void {
  return () => {
    x.faultCycles = 1;
    execute();
  };
}

const pushf: Decode = (x) =>
  charged(x, () => {
    const value = x.state.rflags & ~(RFLAGS.RF | RFLAGS.VM);
    x.push(BigInt(x.stackSize === 2 ? value & 0xffff : value), x.stackSize);
  });

const POPF_ANY_LEVEL =
  RFLAGS.CF |
  RFLAGS.PF |
  RFLAGS.AF |
  RFLAGS.ZF |
  RFLAGS.SF |
  RFLAGS.TF |
  RFLAGS.DF |
  RFLAGS.OF |
  RFLAGS.NT |
  RFLAGS.AC |
  RFLAGS.ID;

const popf: Decode = (x) =>
  charged(x, () => {
    const { state } = x;
    let mask = POPF_ANY_LEVEL;
    if (state.cpl === 0) mask |= RFLAGS.IOPL;
    if (state.cpl <= iopl(x)) mask |= RFLAGS.IF;
    if (x.stackSize === 2) mask &= 0xffff;
    const value = Number(x.pop(x.stackSize) & 0x3f_ffffn);
    state.rflags = (state.rflags & ~mask) | (value & mask);
    if (x.flag('TF')) x.beyond('single step');
  });

const cli: Decode = (x) =>
  charged(x, () => {
    if (x.state.cpl > iopl(x)) generalProtection();
    x.setFlag('IF', false);
  });

/** STAC and CLAC: not there outside of level 0. */
export function setAc(x: Exec, value: boolean): () => void {
  return charged(x, () => {
    if (x.state.cpl !== 0) x.invalid();
    x.setFlag('AC', value);
  });
}

const clts: Decode = (x) =>
  charged(x, () => {
    levelZero(x);
    x.state.cr0 &= ~CR0.TS;
  });

function readControl(x: Exec, reg: number): bigint {
  const { cr0, cr3, cr4 } = x.state;
  if (reg === 0) return BigInt(cr0 >>> 0);
  if (reg === 3) return cr3;
  return reg === 4 ? BigInt(cr4 >>> 0) : x.beyond('CR2 and CR8');
}

const KNOWN_CR0 = 0xe005_003fn;
/** What the reference knows of CR4: with one of the others on, or changed, it says nothing. */
const KNOWN_CR4 = BigInt(
  CR4.PAE | CR4.PGE | CR4.OSFXSR | CR4.LA57 | CR4.FSGSBASE | CR4.SMEP | CR4.SMAP | CR4.PKE | CR4.TSD | CR4.DE,
);

function writeCr0(x: Exec, value: bigint): void {
  const low = Number(BigInt.asIntN(32, value & KNOWN_CR0)) | CR0.ET;
  if (value >> 32n !== 0n) generalProtection();
  if ((low & CR0.PE) === 0 || (low & CR0.PG) === 0) generalProtection(); // 64-bit mode cannot be left like that
  if ((low & CR0.NW) !== 0 && (low & CR0.CD) === 0) generalProtection();
  x.state.cr0 = low;
}

function writeCr3(x: Exec, value: bigint): void {
  if (value >> BigInt(x.paging.rules.maxPhysBits) !== 0n) generalProtection();
  x.state.cr3 = value;
  x.paging.flush();
}

function writeCr4(x: Exec, value: bigint): void {
  const { cr4 } = x.state;
  if (value >> 32n !== 0n || (value & BigInt(CR4.PAE)) === 0n) generalProtection();
  if ((value & ~KNOWN_CR4) !== 0n) x.beyond('a CR4 bit');
  const now = Number(value);
  if (((cr4 ^ now) & CR4.LA57) !== 0) generalProtection();
  x.state.cr4 = now;
  const smepSet = (~cr4 & now & CR4.SMEP) !== 0;
  if (((cr4 ^ now) & CR4.PGE) !== 0 || smepSet) x.paging.flush();
}

/** MOV to and from control registers: ModRM.mod is ignored, the operand is a register. */
const movControl =
  (direction: 'from' | 'to'): Decode =>
  (x) => {
    const byte = x.byte();
    const reg = ((byte >> 3) & 7) | (x.rexBit('r') << 3);
    const rm = (byte & 7) | (x.rexBit('b') << 3);
    if (![0, 2, 3, 4, 8].includes(reg)) x.invalid();
    const write = { 0: writeCr0, 3: writeCr3, 4: writeCr4 }[reg];
    return charged(x, () => {
      levelZero(x);
      if (direction === 'from') x.setReg(rm, 8, readControl(x, reg));
      else if (write === undefined) x.beyond('CR2 and CR8');
      else write(x, x.getReg(rm, 8));
    });
  };

/** INVLPG: the address is not accessed; one that is not canonical does nothing. */
export function invlpg(x: Exec): () => void {
  return charged(x, () => {
    levelZero(x);
    const linear = x.operandAddress();
    if (x.linear.isCanonical(linear)) x.paging.forget(linear);
  });
}

/** F3 0F AE /0 to /3 with a register. */
export function segmentBase(x: Exec): () => void {
  const { digit } = x;
  const base = (digit & 1) === 0 ? 'fsBase' : 'gsBase';
  return charged(x, () => {
    const size = x.rexBit('w') === 1 ? 8 : 4;
    if ((x.state.cr4 & CR4.FSGSBASE) === 0) x.invalid();
    if (digit < 2) {
      x.setRm(size, x.state[base]);
      return;
    }
    const value = x.getRm(size);
    if (!x.linear.isCanonical(value)) generalProtection();
    x.state[base] = value;
  });
}

function keysEnabled(x: Exec): void {
  if ((x.state.cr4 & CR4.PKE) === 0) x.invalid();
  if (x.getReg(GPR.RCX, 4) !== 0n) generalProtection();
}

export function rdpkru(x: Exec): () => void {
  return charged(x, () => {
    keysEnabled(x);
    x.setReg(GPR.RAX, 4, BigInt(x.state.pkru >>> 0));
    x.setReg(GPR.RDX, 4, 0n);
  });
}

export function wrpkru(x: Exec): () => void {
  return charged(x, () => {
    keysEnabled(x);
    if (x.getReg(GPR.RDX, 4) !== 0n) generalProtection();
    x.state.pkru = Number(BigInt.asIntN(32, x.getReg(GPR.RAX, 4)));
  });
}

/** Rows; what shares an opcode with other instructions is called from ops/system.ts. */
export const CONTROL_OPS: readonly OpRow[] = [
  [0x9c, pushf],
  [0x9d, popf],
  [0xfa, cli],
  [0x0f06, clts],
  [0x0f20, movControl('from')],
  [0x0f22, movControl('to')],
];
