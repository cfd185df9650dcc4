// SPDX-License-Identifier: GPL-2.0-only
/**
 * Stack instructions and near branches of the reference interpreter: PUSH, POP, ENTER, LEAVE, CALL, RET, JMP, Jcc, LOOP,
 * JRCXZ. SDM, the Operation sections; in 64-bit mode near branches are 64 bits wide whatever the prefixes say.
 */
import { GPR } from '../../../lib/x86/registers.ts';
import { type Size, truncate } from '../bits.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { incDecWide } from './alu.ts';
import { holds } from './condition.ts';

const pushReg = (n: number): OpRow => [
  0x50 + n,
  (x) => () => x.push(x.getReg(n | (x.rexBit('b') << 3), x.stackSize), x.stackSize),
];

const popReg = (n: number): OpRow => [
  0x58 + n,
  (x) => () => x.setReg(n | (x.rexBit('b') << 3), x.stackSize, x.pop(x.stackSize)),
];

const pushImmediate =
  (read: (x: Exec, size: Size) => bigint): Decode =>
  (x) => {
    const value = read(x, x.stackSize);
    return () => x.push(value, x.stackSize);
  };

/** POP r/m: the address is computed with RSP already incremented; RSP changes only if the store succeeds. */
const popRm: Decode = (x) => {
  if (x.digit !== 0) x.invalid();
  return () => x.setRm(x.stackSize, x.pop(x.stackSize));
};

const enter: Decode = (x) => {
  const allocate = x.immediate(2);
  const level = Number(x.immediate(1)) % 32;
  return () => {
    const { gpr } = x.state;
    const size = x.stackSize;
    x.keepsStores = true;
    let frame = gpr[GPR.RBP]!;
    x.push(truncate(frame, size), size);
    const top = gpr[GPR.RSP]!;
    for (let n = 1; n < level; n++) {
      frame = BigInt.asUintN(64, frame - BigInt(size));
      x.push(x.linear.load(frame, size, 'stack'), size);
    }
    if (level > 0) x.push(truncate(top, size), size);
    x.setReg(GPR.RBP, size, truncate(top, size));
    gpr[GPR.RSP] = BigInt.asUintN(64, gpr[GPR.RSP]! - allocate);
    // "if a write using the final value of the stack pointer would cause a page fault"
    x.linear.place(gpr[GPR.RSP]!, size, 'write', 'stack');
  };
};

const leave: Decode = (x) => () => {
  const { gpr } = x.state;
  const value = x.linear.load(gpr[GPR.RBP]!, x.stackSize, 'stack');
  gpr[GPR.RSP] = BigInt.asUintN(64, gpr[GPR.RBP]! + BigInt(x.stackSize));
  x.setReg(GPR.RBP, x.stackSize, value);
};

/** A displacement of `size` bytes from the next instruction. */
function relative(x: Exec, size: 1 | 4): () => bigint {
  const distance = x.signedImmediate(size, 8);
  return () => BigInt.asUintN(64, x.next + distance);
}

function call(x: Exec, target: () => bigint): () => void {
  return () => {
    x.branch(target());
    x.push(x.next, 8);
  };
}

const jump =
  (size: 1 | 4): Decode =>
  (x) => {
    const target = relative(x, size);
    return () => x.branch(target());
  };

const jcc =
  (opcode: number, size: 1 | 4) =>
  (cc: number): OpRow => [
    opcode + cc,
    (x) => {
      const target = relative(x, size);
      return () => {
        if (holds(x, cc)) x.branch(target());
      };
    },
  ];

const ret: Decode = (x) => () => x.branch(x.pop(8));

const retImmediate: Decode = (x) => {
  const release = x.immediate(2);
  return () => {
    x.branch(x.pop(8));
    x.state.gpr[GPR.RSP] = BigInt.asUintN(64, x.state.gpr[GPR.RSP]! + release);
  };
};

/** LOOPNE, LOOPE, LOOP: the count is RCX, or ECX with an address-size prefix. */
const loop =
  (also: (x: Exec) => boolean): Decode =>
  (x) => {
    const target = relative(x, 1);
    return () => {
      const count = truncate(x.getReg(GPR.RCX, x.addressSize) - 1n, x.addressSize);
      if (count !== 0n && also(x)) x.branch(target());
      x.setReg(GPR.RCX, x.addressSize, count);
    };
  };

const jrcxz: Decode = (x) => {
  const target = relative(x, 1);
  return () => {
    if (x.getReg(GPR.RCX, x.addressSize) === 0n) x.branch(target());
  };
};

/** FF: INC, DEC, CALL, far CALL, JMP, far JMP, PUSH, nothing. */
const group5: Decode = (x) => {
  const { digit } = x;
  if (digit < 2) return incDecWide(x);
  if (digit === 2) return call(x, () => x.getRm(8));
  if (digit === 4) return () => x.branch(x.getRm(8));
  if (digit === 6) return () => x.push(x.getRm(x.stackSize), x.stackSize);
  if (digit === 7 || !x.isMemory) x.invalid();
  return x.beyond('far branch');
};

const CONDITIONS = Array.from({ length: 16 }, (_, n) => n);
const EIGHT = CONDITIONS.slice(0, 8);

/** Rows of the stack and of near branches; FF as a whole. */
export const STACK_OPS: readonly OpRow[] = [
  ...EIGHT.map(pushReg),
  ...EIGHT.map(popReg),
  [0x68, pushImmediate((x, size) => x.immediateZ(size))],
  [0x6a, pushImmediate((x, size) => x.signedImmediate(1, size))],
  [0x8f, popRm],
  [0xff, group5],
  [0xc8, enter],
  [0xc9, leave],
  [0xe8, (x) => call(x, relative(x, 4))],
  [0xe9, jump(4)],
  [0xeb, jump(1)],
  [0xc2, retImmediate],
  [0xc3, ret],
  ...CONDITIONS.map(jcc(0x70, 1)),
  ...CONDITIONS.map(jcc(0x0f80, 4)),
  [0xe0, loop((x) => !x.flag('ZF'))],
  [0xe1, loop((x) => x.flag('ZF'))],
  [0xe2, loop(() => true)],
  [0xe3, jrcxz],
];
