// SPDX-License-Identifier: GPL-2.0-only
/**
 * One instruction by its out-of-line operation: the plain interpreter that the fast loop must agree with. Also for what
 * the loop leaves out: instructions that cross a page, and those that cannot be decoded.
 */
import { hex } from '../../../lib/x86/bits.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { COST } from '../cost/points.ts';
import { spend } from '../cost/ledger.ts';
import type { Cpu } from './cpu.ts';
import { decodeAt } from './decode/decoder.ts';
import type { DecodedInsn } from './decode/insn.ts';
import { DECODE } from './decode/ops.ts';
import { UnimplementedError } from '../errors.ts';
import { fetchAddress } from './fetch.ts';
import { DONE, raise } from './op_result.ts';
import { OPERATIONS } from './operations.ts';
import { advanceRip, getRip } from './regs.ts';
import { RUN, S, SEG_WORDS, SEGF, SEGN } from './state.ts';

const PAGE = 4096;
const MAX_INSN_BYTES = 15;
/** L bit of a code segment's access rights, VMX format. */
const AR_L = 0x2000;
/** The instruction is complete; the next one may run. Other results are RUN codes. */
export const GO_ON = -1;

/** Execute `x`, which is at RIP; RIP moves and COST.INSN is spent unless it faults or is a system instruction. GO_ON, RUN.FAULT or RUN.SYS. */
export function execute(cpu: Cpu, x: DecodedInsn, deadline: number, hpa: number): number {
  if (x.status !== DECODE.OK) return undecoded(cpu, x, deadline, hpa);
  const done = OPERATIONS[x.op]!(cpu, x, deadline);
  switch (done) {
    case DONE.NEXT:
      advanceRip(cpu, x.length);
      spend(cpu, COST.INSN);
      return GO_ON;
    case DONE.JUMP:
      spend(cpu, COST.INSN);
      return GO_ON;
    case DONE.SYS:
      return RUN.SYS;
    case DONE.REP:
      advanceRip(cpu, x.length);
      return GO_ON;
    default:
      return done === DONE.AGAIN ? GO_ON : RUN.FAULT;
  }
}

function undecoded(cpu: Cpu, x: DecodedInsn, deadline: number, hpa: number): number {
  switch (x.status) {
    case DECODE.TRUNCATED:
      return executeCrossing(cpu, deadline, hpa);
    case DECODE.TOO_LONG:
      raise(cpu, VECTOR.GP, 0);
      return RUN.FAULT;
    case DECODE.INVALID:
      raise(cpu, VECTOR.UD, 0);
      return RUN.FAULT;
    default:
      throw unimplemented(cpu, 'instruction');
  }
}

/** The instruction's bytes lie in two pages: decode it anew each time. */
function executeCrossing(cpu: Cpu, deadline: number, first: number): number {
  const lo = cpu.s[S.RIP]!;
  const hi = cpu.s[S.RIP + 1]!;
  const next = ((lo & -PAGE) + PAGE) | 0;
  const second = fetchAddress(cpu, next, next === 0 ? hi + 1 : hi);
  if (second < 0) return RUN.FAULT;
  const bytes = new Uint8Array(MAX_INSN_BYTES + 1);
  const head = PAGE - (lo & (PAGE - 1));
  const { u8 } = cpu.mem;
  bytes.set(u8.subarray(first, first + head));
  bytes.set(u8.subarray(second, second + bytes.length - head), head);
  return execute(cpu, decodeAt(bytes), deadline, first);
}

/** The error for what the guest does and the machine cannot: says what, where, and the bytes. */
export function unimplemented(cpu: Cpu, what: string): UnimplementedError {
  const hpa = fetchAddress(cpu, cpu.s[S.RIP]!, cpu.s[S.RIP + 1]!);
  const bytes = hpa < 0 ? [] : [...cpu.mem.u8.subarray(hpa, hpa + MAX_INSN_BYTES)];
  const text = bytes.map((b) => b.toString(16).padStart(2, '0')).join(' ');
  const level = cpu.vmx.nonRoot ? 'VMX non-root operation' : 'VMX root operation or no VMX';
  return new UnimplementedError(
    `${what} is not modelled: CPU ${cpu.id}, RIP ${hex(getRip(cpu), 16)}, ${level}, bytes ${text}`,
  );
}

/** Refuse modes that the interpreter does not know. */
export function checkMode(cpu: Cpu): void {
  const { s } = cpu;
  if ((s[S.EFER]! & EFER.LMA) === 0 || (s[S.SEG + SEGN.CS * SEG_WORDS + SEGF.AR]! & AR_L) === 0) {
    throw unimplemented(cpu, 'code outside of 64-bit mode');
  }
  if ((s[S.CR0]! & CR0.AM) !== 0 && (s[S.RFLAGS_SYS]! & RFLAGS.AC) !== 0 && s[S.CPL] === 3) {
    throw unimplemented(cpu, 'alignment checking');
  }
}
