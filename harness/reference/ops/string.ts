// SPDX-License-Identifier: GPL-2.0-only
/**
 * String instructions of the reference interpreter; one step is one iteration. SDM, "MOVS", "STOS", "LODS", "CMPS",
 * "SCAS" and "REP/REPE/REPZ/REPNE/REPNZ". The source may have a segment override, the destination is in ES.
 */
import { GPR } from '../../../lib/x86/registers.ts';
import { type Size, truncate } from '../bits.ts';
import type { Decode, Exec, OpRow } from '../exec.ts';
import { subtract } from './alu.ts';

/** Address of the source, in DS or the segment of the prefix. */
function source(x: Exec): bigint {
  return x.withSegment(x.getReg(GPR.RSI, x.addressSize));
}

function destination(x: Exec): bigint {
  return x.getReg(GPR.RDI, x.addressSize);
}

/** Move an index register to the next element, by DF. */
function advance(x: Exec, reg: number, size: Size): void {
  const step = x.flag('DF') ? -BigInt(size) : BigInt(size);
  x.setReg(reg, x.addressSize, truncate(x.getReg(reg, x.addressSize) + step, x.addressSize));
}

type Iteration = (x: Exec, size: Size) => void;

const movs: Iteration = (x, size) => {
  const value = x.linear.load(source(x), size, 'data');
  x.linear.store(destination(x), size, value, 'data');
  advance(x, GPR.RSI, size);
  advance(x, GPR.RDI, size);
};

const stos: Iteration = (x, size) => {
  x.linear.store(destination(x), size, x.getReg(GPR.RAX, size), 'data');
  advance(x, GPR.RDI, size);
};

const lods: Iteration = (x, size) => {
  x.setReg(GPR.RAX, size, x.linear.load(source(x), size, 'data'));
  advance(x, GPR.RSI, size);
};

const cmps: Iteration = (x, size) => {
  const first = x.linear.load(source(x), size, 'data');
  const second = x.linear.load(destination(x), size, 'data');
  subtract(x, first, second, size);
  advance(x, GPR.RSI, size);
  advance(x, GPR.RDI, size);
};

const scas: Iteration = (x, size) => {
  subtract(x, x.getReg(GPR.RAX, size), x.linear.load(destination(x), size, 'data'), size);
  advance(x, GPR.RDI, size);
};

/** One iteration under a repeat prefix. `compares`: ZF can end it. */
function repeated(x: Exec, iteration: Iteration, size: Size, compares: boolean): void {
  const count = x.getReg(GPR.RCX, x.addressSize);
  if (count === 0n) return;
  iteration(x, size);
  x.setReg(GPR.RCX, x.addressSize, count - 1n);
  const stops = compares && x.flag('ZF') !== (x.repeat === 0xf3);
  x.again = count !== 1n && !stops;
}

const string =
  (iteration: Iteration, wide: boolean, compares = false): Decode =>
  (x) =>
  () => {
    const size = wide ? x.operandSize : 1;
    if (x.repeat === 0) iteration(x, size);
    else repeated(x, iteration, size, compares);
  };

/** Rows of string instructions. */
export const STRING_OPS: readonly OpRow[] = [
  [0xa4, string(movs, false)],
  [0xa5, string(movs, true)],
  [0xa6, string(cmps, false, true)],
  [0xa7, string(cmps, true, true)],
  [0xaa, string(stos, false)],
  [0xab, string(stos, true)],
  [0xac, string(lods, false)],
  [0xad, string(lods, true)],
  [0xae, string(scas, false, true)],
  [0xaf, string(scas, true, true)],
];
