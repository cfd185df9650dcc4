// SPDX-License-Identifier: GPL-2.0-only
/** The out-of-line function of every operation, by OP number. */
import { OP } from './decode/ops.ts';
import type { Operation } from './op_result.ts';
import { aluOp, incDecOp, negOp, notOp } from './ops_alu.ts';
import { cmpxchgOp, cmpxchgPairOp, xaddOp } from './ops_atomic.ts';
import { bitScanOp, bitTestOp, bswapOp } from './ops_bits.ts';
import { callOp, jumpIndirectOp, jumpOp, retOp } from './ops_branch.ts';
import { clflushOp, fenceOp, flagOp, fxrstorOp, fxsaveOp, nopOp, udOp } from './ops_misc.ts';
import { cbwOp, cmovOp, cwdOp, extendOp, leaOp, movOp, setccOp, xchgOp, xlatOp } from './ops_move.ts';
import { divOp, imulRegOp, mulOp } from './ops_muldiv.ts';
import { doubleShiftOp, shiftOp } from './ops_shift.ts';
import { enterOp, leaveOp, popOp, pushOp } from './ops_stack.ts';
import { stringOp } from './ops_string.ts';
import { sysOp } from './ops_sys.ts';

const ROWS: readonly (readonly [operation: Operation, ...ops: number[]])[] = [
  [aluOp, OP.ADD, OP.OR, OP.ADC, OP.SBB, OP.AND, OP.SUB, OP.XOR, OP.CMP, OP.TEST],
  [shiftOp, OP.ROL, OP.ROR, OP.RCL, OP.RCR, OP.SHL, OP.SHR, OP.SAL, OP.SAR],
  [notOp, OP.NOT],
  [negOp, OP.NEG],
  [incDecOp, OP.INC, OP.DEC],
  [mulOp, OP.MUL, OP.IMUL],
  [divOp, OP.DIV, OP.IDIV],
  [imulRegOp, OP.IMUL2],
  [doubleShiftOp, OP.SHLD, OP.SHRD],
  [bitTestOp, OP.BT, OP.BTS, OP.BTR, OP.BTC],
  [bitScanOp, OP.BSF, OP.BSR, OP.POPCNT, OP.LZCNT, OP.TZCNT],
  [bswapOp, OP.BSWAP],
  [movOp, OP.MOV, OP.MOVNTI],
  [extendOp, OP.MOVZX, OP.MOVSX, OP.MOVSXD],
  [leaOp, OP.LEA],
  [cmovOp, OP.CMOVCC],
  [setccOp, OP.SETCC],
  [xchgOp, OP.XCHG],
  [cmpxchgOp, OP.CMPXCHG],
  [cmpxchgPairOp, OP.CMPXCHG8B, OP.CMPXCHG16B],
  [xaddOp, OP.XADD],
  [stringOp, OP.MOVS, OP.STOS, OP.LODS, OP.CMPS, OP.SCAS],
  [pushOp, OP.PUSH],
  [popOp, OP.POP],
  [leaveOp, OP.LEAVE],
  [enterOp, OP.ENTER],
  [callOp, OP.CALL, OP.CALL_IND],
  [retOp, OP.RET],
  [jumpIndirectOp, OP.JMP_IND],
  [jumpOp, OP.JMP, OP.JCC, OP.JRCXZ, OP.LOOP, OP.LOOPE, OP.LOOPNE],
  [nopOp, OP.NOP],
  [flagOp, OP.CLC, OP.STC, OP.CMC, OP.CLD, OP.STD, OP.LAHF, OP.SAHF],
  [cbwOp, OP.CBW],
  [cwdOp, OP.CWD],
  [xlatOp, OP.XLAT],
  [fenceOp, OP.FENCE],
  [clflushOp, OP.CLFLUSH],
  [fxsaveOp, OP.FXSAVE],
  [fxrstorOp, OP.FXRSTOR],
  [udOp, OP.UD],
  [sysOp, OP.SYS],
];

function byOp(): readonly Operation[] {
  const table: Operation[] = Array.from({ length: Object.keys(OP).length }, () => udOp);
  for (const [operation, ...ops] of ROWS) for (const op of ops) table[op] = operation;
  return table;
}

export const OPERATIONS: readonly Operation[] = byOp();
