// SPDX-License-Identifier: GPL-2.0-only
/**
 * Data movement of the reference interpreter: MOV, MOVZX, MOVSX, MOVSXD, MOVNTI, LEA, CMOVcc, SETcc, XCHG, CMPXCHG8B and
 * 16B, flag transfers, hints and fences. SDM, the Operation sections.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { GPR, RFLAGS } from '../../../lib/x86/registers.ts';
import { type Size, signExtend, truncate } from '../bits.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { GuestException } from '../outcome.ts';
import { holds } from './condition.ts';

const wide = (x: Exec): Size => x.operandSize;
const byte = (): Size => 1;

const store =
  (size: (x: Exec) => Size): Decode =>
  (x) => {
    x.needModRm();
    return () => x.setRm(size(x), x.getReg(x.modrm.reg, size(x)));
  };

const load =
  (size: (x: Exec) => Size): Decode =>
  (x) => {
    x.needModRm();
    return () => x.setReg(x.modrm.reg, size(x), x.getRm(size(x)));
  };

/** C6 and C7; other digits than 0 are XABORT and XBEGIN, or nothing. */
const storeImmediate =
  (size: (x: Exec) => Size): Decode =>
  (x) => {
    if (x.digit !== 0) x.invalid();
    const value = size(x) === 1 ? x.immediate(1) : x.immediateZ(size(x));
    return () => x.setRm(size(x), value);
  };

const loadImmediate = (opcode: number): OpRow => [
  opcode,
  (x) => {
    const size = opcode < 0xb8 ? 1 : x.operandSize;
    const value = x.immediate(size);
    return () => x.setReg((opcode & 7) | (x.rexBit('b') << 3), size, value);
  },
];

/** A0 to A3: the offset has the address size. */
const moffs =
  (size: (x: Exec) => Size, toMemory: boolean): Decode =>
  (x) => {
    const address = x.withSegment(x.immediate(x.addressSize));
    return () => {
      if (toMemory) x.linear.store(address, size(x), x.getReg(GPR.RAX, size(x)), 'data');
      else x.setReg(GPR.RAX, size(x), x.linear.load(address, size(x), 'data'));
    };
  };

const extend =
  (from: Size, sign: boolean): Decode =>
  (x) => {
    x.needModRm();
    return () => {
      const value = x.getRm(from);
      x.setReg(x.modrm.reg, x.operandSize, sign ? signExtend(value, from, 8) : value);
    };
  };

/** MOVSXD; without REX.W it moves without extension. */
const movsxd: Decode = (x) => {
  x.needModRm();
  return () => {
    const from = x.operandSize === 2 ? 2 : 4;
    x.setReg(x.modrm.reg, x.operandSize, signExtend(x.getRm(from), from, 8));
  };
};

const lea: Decode = (x) => {
  if (!x.isMemory) x.invalid();
  return () => x.setReg(x.modrm.reg, x.operandSize, truncate(x.effectiveAddress(), x.operandSize));
};

const cmov = (cc: number): OpRow => [
  0x0f40 + cc,
  (x) => {
    x.needModRm();
    return () => {
      const size = x.operandSize;
      const value = x.getRm(size);
      x.setReg(x.modrm.reg, size, holds(x, cc) ? value : x.getReg(x.modrm.reg, size));
    };
  },
];

const setcc = (cc: number): OpRow => [
  0x0f90 + cc,
  (x) => {
    x.needModRm();
    return () => x.setRm(1, holds(x, cc) ? 1n : 0n);
  },
];

const xchgRm =
  (size: (x: Exec) => Size): Decode =>
  (x) => {
    x.lockable = x.isMemory;
    return () => {
      // XCHG with memory is locked with or without the prefix.
      if (x.isMemory) x.extra = 'lock';
      const mine = x.getReg(x.modrm.reg, size(x));
      let theirs = 0n;
      x.modifyRm(size(x), (old) => {
        theirs = old;
        return mine;
      });
      x.setReg(x.modrm.reg, size(x), theirs);
    };
  };

const xchgAccumulator = (n: number): OpRow => [
  0x90 + n,
  (x) => {
    const reg = n | (x.rexBit('b') << 3);
    if (reg === 0) return x.repeat === 0xf3 ? () => x.system('PAUSE') : () => {};
    // The manual does not say which of REX.B and F3 wins; decoders differ.
    if (reg === 8 && x.repeat === 0xf3) x.beyond('F3 REX.B 90');
    return () => {
      const size = x.operandSize;
      const value = x.getReg(reg, size);
      x.setReg(reg, size, x.getReg(GPR.RAX, size));
      x.setReg(GPR.RAX, size, value);
    };
  },
];

/** CMPXCHG8B, CMPXCHG16B; the memory forms of 0F C7 /1. The store happens whatever the comparison says. */
export function compareExchangePair(x: Exec): () => void {
  const half: Size = x.rexBit('w') === 1 ? 8 : 4;
  const shift = BigInt(8 * half);
  x.lockable = true;
  return () => {
    if (half === 8 && (x.operandAddress() & 15n) !== 0n) throw new GuestException(VECTOR.GP);
    const expected = (x.getReg(GPR.RDX, half) << shift) | x.getReg(GPR.RAX, half);
    const replacement = (x.getReg(GPR.RCX, half) << shift) | x.getReg(GPR.RBX, half);
    let seen = 0n;
    x.modifyRm(2 * half, (old) => ((seen = old) === expected ? replacement : old));
    x.setFlag('ZF', seen === expected);
    if (seen === expected) return;
    x.setReg(GPR.RAX, half, truncate(seen, half));
    x.setReg(GPR.RDX, half, seen >> shift);
  };
}

const SAHF_FLAGS = RFLAGS.SF | RFLAGS.ZF | RFLAGS.AF | RFLAGS.PF | RFLAGS.CF;

const sahf: Decode = (x) => () => {
  const ah = Number((x.state.gpr[GPR.RAX]! >> 8n) & 0xffn) & SAHF_FLAGS;
  x.state.rflags = (x.state.rflags & ~SAHF_FLAGS) | ah;
};

const lahf: Decode = (x) => () => {
  const ah = BigInt((x.state.rflags & SAHF_FLAGS) | RFLAGS.FIXED);
  x.state.gpr[GPR.RAX] = (x.state.gpr[GPR.RAX]! & ~0xff00n) | (ah << 8n);
};

const setsFlag =
  (name: 'CF' | 'DF', value: boolean): Decode =>
  (x) =>
  () =>
    x.setFlag(name, value);

/** Multi-byte NOP, prefetch hints: the operand is not accessed. */
const hint: Decode = (x) => {
  x.needModRm();
  return () => {};
};

const movnti: Decode = (x) => {
  if (!x.isMemory || x.operandSize16 || x.repeat !== 0) x.invalid();
  return () => {
    const size = x.rexBit('w') === 1 ? 8 : 4;
    x.setRm(size, x.getReg(x.modrm.reg, size));
  };
};

const CONDITIONS = Array.from({ length: 16 }, (_, n) => n);

/** Rows of data movement. */
export const MOVE_OPS: readonly OpRow[] = [
  [0x88, store(byte)],
  [0x89, store(wide)],
  [0x8a, load(byte)],
  [0x8b, load(wide)],
  [0xc6, storeImmediate(byte)],
  [0xc7, storeImmediate(wide)],
  ...CONDITIONS.map((n) => loadImmediate(0xb0 + n)),
  [0xa0, moffs(byte, false)],
  [0xa1, moffs(wide, false)],
  [0xa2, moffs(byte, true)],
  [0xa3, moffs(wide, true)],
  [0x63, movsxd],
  [0x0fb6, extend(1, false)],
  [0x0fb7, extend(2, false)],
  [0x0fbe, extend(1, true)],
  [0x0fbf, extend(2, true)],
  [0x8d, lea],
  ...CONDITIONS.map(cmov),
  ...CONDITIONS.map(setcc),
  [0x86, xchgRm(byte)],
  [0x87, xchgRm(wide)],
  ...CONDITIONS.slice(0, 8).map(xchgAccumulator),
  [0x9e, sahf],
  [0x9f, lahf],
  [0xf5, (x) => () => x.setFlag('CF', !x.flag('CF'))],
  [0xf8, setsFlag('CF', false)],
  [0xf9, setsFlag('CF', true)],
  [0xfc, setsFlag('DF', false)],
  [0xfd, setsFlag('DF', true)],
  [0x0f0d, hint],
  ...[0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f].map((n): OpRow => [0x0f00 + n, hint]),
  [0x0fc3, movnti],
];
