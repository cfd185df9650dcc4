// SPDX-License-Identifier: GPL-2.0-only
/**
 * Flag instructions, NOP, fences, cache-line flushes, UD, and FXSAVE/FXRSTOR. There is no x87 or SSE: their state is an
 * image that FXRSTOR loads and FXSAVE stores.
 * DEVIATION: RESET does not reset that image; FXSAVE does not look at CR4.OSFXSR.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, RFLAGS } from '../../../lib/x86/registers.ts';
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { OP } from './decode/ops.ts';
import { arithFlags, ARITH_FLAGS, setArithFlags } from './flags.ts';
import { ACCESS } from '../mmu/access.ts';
import { addTo, effectiveAddress, prepare, prepareOperand, readPrepared, writePrepared } from './operand.ts';
import { DONE, raise } from './op_result.ts';
import { SCRATCH } from './regs.ts';
import { S, SEGN } from './state.ts';

const { A, ADDR, FX } = SCRATCH;
const FX_BYTES = 512;
/** Words of the image that are not zero after RESET: FCW, MXCSR and MXCSR_MASK. The state words hold the difference. */
const FX_RESET: ReadonlyMap<number, number> = new Map([
  [0, 0x37f],
  [6, 0x1f80],
  [7, 0xffff],
]);
const MXCSR_WORD = 6;
const MXCSR_MASK_WORD = 7;

export function nopOp(): number {
  return DONE.NEXT;
}

export function udOp(cpu: Cpu): number {
  return raise(cpu, VECTOR.UD, 0);
}

export function fenceOp(cpu: Cpu): number {
  spend(cpu, COST.FENCE);
  return DONE.NEXT;
}

/** CLFLUSH and relatives: caches are not modelled, but the access is checked as a load. */
export function clflushOp(cpu: Cpu, x: DecodedInsn): number {
  return prepareOperand(cpu, x, 1, ACCESS.READ) ? DONE.NEXT : DONE.FAULT;
}

/** CLC STC CMC CLD STD LAHF SAHF. */
export function flagOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const flags = arithFlags(s);
  const low = ARITH_FLAGS & 0xff;
  switch (x.op) {
    case OP.CLC:
      setArithFlags(s, flags & ~RFLAGS.CF);
      break;
    case OP.STC:
      setArithFlags(s, flags | RFLAGS.CF);
      break;
    case OP.CMC:
      setArithFlags(s, flags ^ RFLAGS.CF);
      break;
    case OP.CLD:
      s[S.RFLAGS_SYS] = s[S.RFLAGS_SYS]! & ~RFLAGS.DF;
      break;
    case OP.STD:
      s[S.RFLAGS_SYS] = s[S.RFLAGS_SYS]! | RFLAGS.DF;
      break;
    case OP.LAHF:
      s[S.GPR] = (s[S.GPR]! & ~0xff00) | (((flags & low) | RFLAGS.FIXED) << 8);
      break;
    default:
      setArithFlags(s, (flags & RFLAGS.OF) | ((s[S.GPR]! >> 8) & low));
  }
  return DONE.NEXT;
}

/** Check the whole 512-byte area before anything is written. */
function prepareArea(cpu: Cpu, x: DecodedInsn, kind: number): number {
  const { s } = cpu;
  if ((s[S.CR0]! & (CR0.EM | CR0.TS)) !== 0) return raise(cpu, VECTOR.NM, 0);
  effectiveAddress(cpu, x);
  if ((s[ADDR]! & 15) !== 0) return raise(cpu, VECTOR.GP, 0);
  const access = x.seg === SEGN.SS ? kind | ACCESS.STACK : kind;
  if (!prepare(cpu, s[ADDR]!, s[ADDR + 1]!, 8, access)) return DONE.FAULT;
  addTo(s, ADDR, FX_BYTES - 8, 0);
  const ok = prepare(cpu, s[ADDR]!, s[ADDR + 1]!, 8, access);
  addTo(s, ADDR, 8 - FX_BYTES, -1);
  return ok ? DONE.NEXT : DONE.FAULT;
}

export function fxsaveOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const done = prepareArea(cpu, x, ACCESS.WRITE);
  if (done !== DONE.NEXT) return done;
  const access = x.seg === SEGN.SS ? ACCESS.WRITE | ACCESS.STACK : ACCESS.WRITE;
  for (let n = 0; n < FX_BYTES / 4; n += 2) {
    if (!prepare(cpu, s[ADDR]!, s[ADDR + 1]!, 8, access)) return DONE.FAULT;
    writePrepared(cpu, 8, s[FX + n]! ^ (FX_RESET.get(n) ?? 0), s[FX + n + 1]! ^ (FX_RESET.get(n + 1) ?? 0));
    addTo(s, ADDR, 8, 0);
  }
  return DONE.NEXT;
}

/** FXRSTOR: GP(0) for reserved bits of MXCSR. */
export function fxrstorOp(cpu: Cpu, x: DecodedInsn): number {
  const { s } = cpu;
  const done = prepareArea(cpu, x, ACCESS.READ);
  if (done !== DONE.NEXT) return done;
  const image = new Int32Array(FX_BYTES / 4);
  const access = x.seg === SEGN.SS ? ACCESS.READ | ACCESS.STACK : ACCESS.READ;
  for (let n = 0; n < FX_BYTES / 4; n += 2) {
    if (!prepare(cpu, s[ADDR]!, s[ADDR + 1]!, 8, access)) return DONE.FAULT;
    readPrepared(cpu, 8, A);
    image[n] = s[A]!;
    image[n + 1] = s[A + 1]!;
    addTo(s, ADDR, 8, 0);
  }
  if ((image[MXCSR_WORD]! & ~0xffff) !== 0) return raise(cpu, VECTOR.GP, 0);
  image[MXCSR_MASK_WORD] = 0xffff;
  for (let n = 0; n < FX_BYTES / 4; n++) s[FX + n] = image[n]! ^ (FX_RESET.get(n) ?? 0);
  return DONE.NEXT;
}
