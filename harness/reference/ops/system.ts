// SPDX-License-Identifier: GPL-2.0-only
/**
 * System instructions as the reference interpreter recognises them: it stops at them, as the interpreter under test does,
 * and says what they are. SDM, "Opcode Map", "Opcode Extensions for One- and Two-byte Opcodes". Also opcodes that are
 * invalid in 64-bit mode and groups that mix both kinds.
 */
import type { Decode, Exec, OpRow } from '../exec.ts';
import { invlpg, rdpkru, segmentBase, setAc, wrpkru } from './control.ts';
import { compareExchangePair } from './move.ts';

const plain =
  (op: string): Decode =>
  (x) =>
  () =>
    x.system(op);

const withModRm =
  (op: string): Decode =>
  (x) => {
    x.needModRm();
    return () => x.system(op, x.modrm.reg);
  };

const withImmediate =
  (op: string, size: number): Decode =>
  (x) => {
    x.immediate(size);
    return () => x.system(op);
  };

const invalid: Decode = (x) => x.invalid();

/** Mandatory prefixes 66, F2 and F3 choose other instructions, or none. */
function noMandatoryPrefix(x: Exec): void {
  if (x.operandSize16 || x.repeat !== 0) x.beyond('a mandatory prefix where none belongs');
}

/** 0F 00. */
const group6: Decode = (x) => {
  const op = ['SLDT', 'STR', 'LLDT', 'LTR', 'VERR', 'VERW'][x.digit] ?? x.invalid();
  return () => x.system(op);
};

/** 0F 01 with a register: by the whole ModRM byte. */
const GROUP_7_REGISTER: Readonly<Record<number, string>> = {
  0xc1: 'VMCALL',
  0xc2: 'VMLAUNCH',
  0xc3: 'VMRESUME',
  0xc4: 'VMXOFF',
  0xc8: 'MONITOR',
  0xc9: 'MWAIT',
  0xd0: 'XGETBV',
  0xd1: 'XSETBV',
  0xd4: 'VMFUNC',
  0xd8: 'VMRUN',
  0xd9: 'VMMCALL',
  0xda: 'VMLOAD',
  0xdb: 'VMSAVE',
  0xdc: 'STGI',
  0xdd: 'CLGI',
  0xde: 'SKINIT',
  0xdf: 'INVLPGA',
  0xf8: 'SWAPGS',
  0xf9: 'RDTSCP',
};
const GROUP_7_MEMORY = ['SGDT', 'SIDT', 'LGDT', 'LIDT', 'SMSW', undefined, 'LMSW', 'INVLPG'];

const clac = (x: Exec): (() => void) => setAc(x, false);
const stac = (x: Exec): (() => void) => setAc(x, true);

const group7: Decode = (x) => {
  if (x.isMemory) {
    if (x.digit === 7) return invlpg(x);
    const op = GROUP_7_MEMORY[x.digit] ?? x.beyond('0F 01 /5 with memory');
    return () => x.system(op);
  }
  if (x.digit === 4) return () => x.system('SMSW');
  if (x.digit === 6) return () => x.system('LMSW');
  noMandatoryPrefix(x);
  const byte = x.bytes.at(-1)!;
  const executed = { 0xca: clac, 0xcb: stac, 0xee: rdpkru, 0xef: wrpkru }[byte];
  if (executed !== undefined) return executed(x);
  const op = GROUP_7_REGISTER[byte] ?? x.beyond('0F 01 with a register operand');
  return () => {
    x.stop = { op };
  };
};

/** 0F AE: fences, cache hints, FS and GS bases; the x87 and SSE forms are beyond the reference. */
const group15: Decode = (x) => {
  const { digit } = x;
  if (!x.isMemory) {
    if (x.repeat === 0xf3 && digit < 4) return segmentBase(x);
    if (x.repeat !== 0 || x.operandSize16) x.beyond('0F AE with a mandatory prefix');
    if (digit < 5) x.invalid();
    return () => {
      x.extra = 'fence'; // LFENCE, MFENCE, SFENCE
    };
  }
  const flush = x.repeat === 0 && (digit === 7 || (digit === 6 && x.operandSize16));
  if (!flush) x.beyond('x87, SSE or XSAVE state');
  // CLFLUSH, CLFLUSHOPT, CLWB are checked as a byte load.
  return () => void x.getRm(1);
};

/** 0F C7. */
const group9: Decode = (x) => {
  const { digit } = x;
  if (x.isMemory) {
    if (digit === 1 && x.repeat === 0) return compareExchangePair(x);
    if (digit === 1) x.beyond('CMPXCHG8B with a repeat prefix');
    if (digit === 0 || digit === 2) x.invalid();
    if (digit < 6) x.beyond('XSAVEC, XSAVES, XRSTORS');
    return vmPointer(x);
  }
  if (digit < 6) x.invalid();
  if (x.repeat === 0xf3 && digit === 7) return () => x.system('RDPID');
  if (x.repeat !== 0) x.beyond('0F C7 with a repeat prefix');
  return () => x.system(digit === 6 ? 'RDRAND' : 'RDSEED');
};

function vmPointer(x: Exec): () => void {
  if (x.repeat === 0xf2) x.beyond('0F C7 with F2');
  if (x.digit === 7) {
    noMandatoryPrefix(x);
    return () => x.system('VMPTRST');
  }
  const op = x.repeat === 0xf3 ? 'VMXON' : x.operandSize16 ? 'VMCLEAR' : 'VMPTRLD';
  return () => x.system(op);
}

const vmAccess =
  (op: string): Decode =>
  (x) => {
    x.needModRm();
    noMandatoryPrefix(x);
    return () => x.system(op, x.modrm.reg);
  };

/** 66 0F 38 80..82: memory only. */
const invalidation =
  (op: string): Decode =>
  (x) => {
    if (x.repeat !== 0 || !x.operandSize16) x.beyond('0F 38 80 without 66');
    if (!x.isMemory) x.invalid();
    return () => x.system(op, x.modrm.reg);
  };

/** REX.R is ignored for segment registers. */
const movFromSreg: Decode = (x) => (x.digit > 5 ? x.invalid() : () => x.system('MOV_FROM_SREG', x.digit));
const movToSreg: Decode = (x) =>
  x.digit > 5 || x.digit === 1 ? x.invalid() : () => x.system('MOV_TO_SREG', x.digit);

/** MOV to and from DR: ModRM.mod is ignored, the operand is a register. */
const movDebug =
  (op: string): Decode =>
  (x) => {
    const byte = x.byte();
    const reg = ((byte >> 3) & 7) | (x.rexBit('r') << 3);
    const rm = (byte & 7) | (x.rexBit('b') << 3);
    if (reg > 7) x.invalid();
    return () => {
      x.stop = { op, reg, rm };
    };
  };

const INVALID_IN_64_BIT_MODE = [
  0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xd5,
  0xd6, 0xea, 0x0f04, 0x0f0a, 0x0f0b, 0x0f0c, 0x0f24, 0x0f25, 0x0f26, 0x0f27, 0x0f36, 0x0f39, 0x0f3b, 0x0f3c,
  0x0f3d, 0x0f3e, 0x0f3f,
];

/** Rows of system instructions, and of what is invalid. */
export const SYSTEM_OPS: readonly OpRow[] = [
  ...INVALID_IN_64_BIT_MODE.map((opcode): OpRow => [opcode, invalid]),
  [0x0fb9, (x) => (x.needModRm(), x.invalid())], // UD1
  [0x0faa, invalid], // RSM outside of system-management mode
  [0x6c, plain('INS')],
  [0x6d, plain('INS')],
  [0x6e, plain('OUTS')],
  [0x6f, plain('OUTS')],
  [0x8c, movFromSreg],
  [0x8e, movToSreg],
  [0xcc, plain('INT3')],
  [0xcd, withImmediate('INT', 1)],
  [0xcf, plain('IRET')],
  [0xf1, plain('INT1')],
  [0xe4, withImmediate('IN', 1)],
  [0xe5, withImmediate('IN', 1)],
  [0xec, plain('IN')],
  [0xed, plain('IN')],
  [0xe6, withImmediate('OUT', 1)],
  [0xe7, withImmediate('OUT', 1)],
  [0xee, plain('OUT')],
  [0xef, plain('OUT')],
  [0xf4, plain('HLT')],
  [0xfb, plain('STI')],
  [0x0f00, group6],
  [0x0f01, group7],
  [0x0f02, withModRm('LAR')],
  [0x0f03, withModRm('LSL')],
  [0x0f05, plain('SYSCALL')],
  [0x0f07, plain('SYSRET')],
  [0x0f08, plain('INVD')],
  [0x0f09, plain('WBINVD')],
  [0x0f21, movDebug('MOV_FROM_DR')],
  [0x0f23, movDebug('MOV_TO_DR')],
  [0x0f30, plain('WRMSR')],
  [0x0f31, plain('RDTSC')],
  [0x0f32, plain('RDMSR')],
  [0x0f33, plain('RDPMC')],
  [0x0f34, plain('SYSENTER')],
  [0x0f35, plain('SYSEXIT')],
  [0x0f78, vmAccess('VMREAD')],
  [0x0f79, vmAccess('VMWRITE')],
  [0x0fa0, plain('PUSH_SREG')],
  [0x0fa1, plain('POP_SREG')],
  [0x0fa8, plain('PUSH_SREG')],
  [0x0fa9, plain('POP_SREG')],
  [0x0fa2, plain('CPUID')],
  [0x0fae, group15],
  [0x0fc7, group9],
  [0x0f3880, invalidation('INVEPT')],
  [0x0f3881, invalidation('INVVPID')],
  [0x0f3882, invalidation('INVPCID')],
];
