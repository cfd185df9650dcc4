// SPDX-License-Identifier: GPL-2.0-only
/**
 * Changes of control and privilege: INT n, INT3, INT1, IRET, SYSCALL/SYSRET, SYSENTER/SYSEXIT. SDM, instruction
 * reference, 64-bit mode. DEVIATION: compatibility mode is not modelled; a return to it is an UnimplementedError.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { EFER, RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR, AR_DPL_SHIFT, SEG_TYPE, SELECTOR } from '../../../../lib/x86/segments.ts';
import { INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { COST } from '../../cost/points.ts';
import { spend } from '../../cost/ledger.ts';
import { UnimplementedError } from '../../errors.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import { vmxIretUnblocksNmi } from '../../vmx/cr_virt.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags, setRflags } from '../flags.ts';
import { BLOCKING, RUN, S, SEGF, SEGN } from '../state.ts';
import { isCanonical } from './canonical.ts';
import {
  dplOf,
  fetchDescriptor,
  isCode,
  isNull,
  isWritableData,
  loadNullSegment,
  loadSegment,
  markAccessed,
  segAt,
} from './descriptors.ts';
import { deliverEvent, raiseSoftwareException } from './exceptions.ts';
import { NEXT, raise, raiseGp, raiseUd, refuse, selectorError, TRANSFERRED } from './fault.ts';
import { writableFlags } from './op_flags.ts';
import { complete, endShadow, peekStack } from './operands.ts';
import { SYSCALL_MSR } from './system_unit.ts';

const [RCX, RDX, RSP, R11] = [S.GPR + 2, S.GPR + 4, S.GPR + 8, S.GPR + 22];

/** INT n. */
export function softwareInterrupt(cpu: Cpu): number {
  const { insn } = cpu;
  const result = deliverEvent(cpu, INTR_TYPE.SOFT_INTR | (insn.imm & 0xff), 0, insn.length);
  return result >= 0 ? result : TRANSFERRED;
}

/** INT3. */
export function int3(cpu: Cpu): number {
  const result = raiseSoftwareException(cpu, INTR_TYPE.SOFT_EXCEPTION, VECTOR.BP, cpu.insn.length);
  return result >= 0 ? result : TRANSFERRED;
}

/** INT1: a debug exception without DR6 bits. */
export function int1(cpu: Cpu): number {
  cpu.fault.qualification = 0;
  const result = raiseSoftwareException(cpu, INTR_TYPE.PRIV_SW_EXCEPTION, VECTOR.DB, cpu.insn.length);
  return result >= 0 ? result : TRANSFERRED;
}

/** Word indices into sys.frame: the five values that IRET pops. */
// prettier-ignore
const FRAME = { RIP: 0, CS: 2, RFLAGS: 4, RSP: 6, SS: 8 } as const;

/** IRET: in 64-bit mode SS:RSP are always popped. */
export function iret(cpu: Cpu): number {
  const { s, sys, insn } = cpu;
  const unblocks = vmxIretUnblocksNmi(cpu);
  if (unblocks) {
    // SDM, "Handling Multiple NMIs": IRET ends blocking even if it faults.
    sys.iretUnblockedNmi = (s[S.BLOCKING]! & BLOCKING.NMI) !== 0 ? 1 : 0;
    s[S.BLOCKING] = s[S.BLOCKING]! & ~BLOCKING.NMI;
  }
  if ((getRflags(cpu) & RFLAGS.NT) !== 0) return raiseGp(cpu);
  spend(cpu, COST.IRET);
  if (insn.size === 2) throw new UnimplementedError(`CPU ${cpu.id}: 16-bit IRET`);
  if (!popFrame(cpu, insn.size)) return RUN.FAULT;
  const { frame, desc } = sys;
  const cpl = frame[FRAME.CS]! & SELECTOR.RPL_MASK;
  if (!checkReturnCs(cpu, frame[FRAME.CS]!)) return RUN.FAULT;
  const csLo = desc[0]!;
  const csHi = desc[1]!;
  if (!isCanonical(cpu, frame[FRAME.RIP]!, frame[FRAME.RIP + 1]!)) return raiseGp(cpu);
  if (!checkReturnSs(cpu, frame[FRAME.SS]!, cpl)) return RUN.FAULT;
  if (isNull(frame[FRAME.SS]!)) loadNullSegment(cpu, SEGN.SS, frame[FRAME.SS]!, cpl);
  else loadSegment(cpu, SEGN.SS, frame[FRAME.SS]!);
  desc[0] = csLo;
  desc[1] = csHi;
  loadSegment(cpu, SEGN.CS, frame[FRAME.CS]!);
  commitIret(cpu, cpl);
  sys.iretUnblockedNmi = 0;
  return NEXT;
}

/** The five values on the stack into sys.frame; RSP does not move. */
function popFrame(cpu: Cpu, size: number): boolean {
  const { value, frame } = cpu.sys;
  for (let n = 0; n < 5; n++) {
    if (!peekStack(cpu, n * size, size)) return false;
    frame[2 * n] = value[0]!;
    frame[2 * n + 1] = size === 8 ? value[1]! : 0;
  }
  frame[FRAME.CS] = frame[FRAME.CS]! & 0xffff;
  frame[FRAME.SS] = frame[FRAME.SS]! & 0xffff;
  return true;
}

/** The code segment that is returned to, in sys.desc. */
function checkReturnCs(cpu: Cpu, selector: number): boolean {
  if (isNull(selector)) return refuse(cpu, VECTOR.GP, 0);
  if (!fetchDescriptor(cpu, selector)) return false;
  const ar = cpu.sys.desc[1]! >>> 8;
  const rpl = selector & SELECTOR.RPL_MASK;
  const error = selectorError(selector);
  const conforming = (ar & SEG_TYPE.CONFORMING) !== 0;
  if (!isCode(ar) || rpl < cpu.s[S.CPL]!) return refuse(cpu, VECTOR.GP, error);
  if (conforming ? dplOf(ar) > rpl : dplOf(ar) !== rpl) return refuse(cpu, VECTOR.GP, error);
  if ((ar & AR.P) === 0) return refuse(cpu, VECTOR.NP, error);
  if ((ar & (AR.L | AR.DB)) === (AR.L | AR.DB)) return refuse(cpu, VECTOR.GP, error);
  if ((ar & AR.L) === 0) throw new UnimplementedError(`CPU ${cpu.id}: IRET to compatibility mode`);
  return markAccessed(cpu);
}

/** The stack segment that is returned to, in sys.desc. Null is allowed for 64-bit code outside of level 3. */
function checkReturnSs(cpu: Cpu, selector: number, cpl: number): boolean {
  const rpl = selector & SELECTOR.RPL_MASK;
  if (isNull(selector)) return (cpl !== 3 && rpl === cpl) || refuse(cpu, VECTOR.GP, 0);
  if (!fetchDescriptor(cpu, selector)) return false;
  const ar = cpu.sys.desc[1]! >>> 8;
  if (rpl !== cpl || !isWritableData(ar) || dplOf(ar) !== cpl)
    return refuse(cpu, VECTOR.GP, selectorError(selector));
  if ((ar & AR.P) === 0) return refuse(cpu, VECTOR.SS, selectorError(selector));
  return markAccessed(cpu);
}

/** RIP, RSP, RFLAGS and CPL from sys.frame; CS and SS are loaded already. */
function commitIret(cpu: Cpu, cpl: number): void {
  const {
    s,
    sys: { frame },
  } = cpu;
  const old = s[S.CPL]!;
  s[S.RIP] = frame[FRAME.RIP]!;
  s[S.RIP + 1] = frame[FRAME.RIP + 1]!;
  s[RSP] = frame[FRAME.RSP]!;
  s[RSP + 1] = frame[FRAME.RSP + 1]!;
  const mask = writableFlags(cpu, old) | RFLAGS.RF;
  setRflags(cpu, (getRflags(cpu) & ~mask) | (frame[FRAME.RFLAGS]! & mask));
  endShadow(cpu);
  s[S.CPL] = cpl;
  if (cpl > old) dropInnerSegments(cpu, cpl);
  mmuContextChanged(cpu);
}

/** Data segments that the outer level may not see become null. */
function dropInnerSegments(cpu: Cpu, cpl: number): void {
  for (const seg of [SEGN.ES, SEGN.DS, SEGN.FS, SEGN.GS]) {
    const ar = cpu.s[segAt(seg) + SEGF.AR]!;
    const conforming = isCode(ar) && (ar & SEG_TYPE.CONFORMING) !== 0;
    if ((ar & AR.UNUSABLE) === 0 && !conforming && dplOf(ar) < cpl) loadNullSegment(cpu, seg, 0);
  }
}

const FLAT_CODE = AR.P | AR.S | AR.L | AR.G | 0xb;
const FLAT_DATA = AR.P | AR.S | AR.DB | AR.G | 0x3;

/** CS and SS as SYSCALL and its relatives load them: from the selector alone, flat. */
function loadFlat(cpu: Cpu, cs: number, ss: number, cpl: number): void {
  for (const [seg, selector, ar] of [
    [SEGN.CS, cs, FLAT_CODE],
    [SEGN.SS, ss, FLAT_DATA],
  ] as const) {
    const at = segAt(seg);
    cpu.s.fill(0, at, at + 2);
    cpu.s[at + SEGF.LIMIT] = -1;
    cpu.s[at + SEGF.SEL] = selector & 0xffff;
    cpu.s[at + SEGF.AR] = ar | (cpl << AR_DPL_SHIFT);
  }
  cpu.s[S.CPL] = cpl;
  mmuContextChanged(cpu);
}

/** SYSCALL. */
export function syscall(cpu: Cpu): number {
  const { s, sys } = cpu;
  if ((s[S.EFER]! & EFER.SCE) === 0) return raiseUd(cpu);
  complete(cpu);
  const flags = getRflags(cpu);
  [s[RCX], s[RCX + 1]] = [s[S.RIP]!, s[S.RIP + 1]!];
  s[R11] = flags & ~RFLAGS.RF;
  s[R11 + 1] = 0;
  [s[S.RIP], s[S.RIP + 1]] = [sys.syscall[SYSCALL_MSR.LSTAR]!, sys.syscall[SYSCALL_MSR.LSTAR + 1]!];
  setRflags(cpu, (flags & ~sys.syscall[SYSCALL_MSR.SYSCALL_MASK]! & ~RFLAGS.RF) | RFLAGS.FIXED);
  const selector = sys.syscall[SYSCALL_MSR.STAR + 1]! & 0xfffc;
  loadFlat(cpu, selector, selector + 8, 0);
  return NEXT;
}

/** SYSRET to 64-bit code. */
export function sysret(cpu: Cpu): number {
  const { s, sys, insn } = cpu;
  if ((s[S.EFER]! & EFER.SCE) === 0) return raiseUd(cpu);
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (insn.size !== 8) throw new UnimplementedError(`CPU ${cpu.id}: SYSRET to compatibility mode`);
  if (!isCanonical(cpu, s[RCX]!, s[RCX + 1]!)) return raiseGp(cpu);
  complete(cpu);
  [s[S.RIP], s[S.RIP + 1]] = [s[RCX]!, s[RCX + 1]!];
  setRflags(cpu, (s[R11]! & 0x3c_7fd7) | RFLAGS.FIXED);
  const selector = sys.syscall[SYSCALL_MSR.STAR + 1]! >>> 16;
  loadFlat(cpu, (selector + 16) | 3, (selector + 8) | 3, 3);
  return NEXT;
}

/** SYSENTER. */
export function sysenter(cpu: Cpu): number {
  const { s, sys } = cpu;
  const selector = sys.syscall[SYSCALL_MSR.SYSENTER_CS]! & 0xfffc;
  if (selector === 0) return raiseGp(cpu);
  complete(cpu);
  setRflags(cpu, getRflags(cpu) & ~RFLAGS.IF);
  [s[S.RIP], s[S.RIP + 1]] = [
    sys.syscall[SYSCALL_MSR.SYSENTER_EIP]!,
    sys.syscall[SYSCALL_MSR.SYSENTER_EIP + 1]!,
  ];
  [s[RSP], s[RSP + 1]] = [sys.syscall[SYSCALL_MSR.SYSENTER_ESP]!, sys.syscall[SYSCALL_MSR.SYSENTER_ESP + 1]!];
  loadFlat(cpu, selector, selector + 8, 0);
  return NEXT;
}

/** SYSEXIT to 64-bit code. */
export function sysexit(cpu: Cpu): number {
  const { s, sys, insn } = cpu;
  const selector = sys.syscall[SYSCALL_MSR.SYSENTER_CS]! & 0xfffc;
  if (selector === 0 || s[S.CPL] !== 0) return raiseGp(cpu);
  if (insn.size !== 8) throw new UnimplementedError(`CPU ${cpu.id}: SYSEXIT to compatibility mode`);
  if (!isCanonical(cpu, s[RCX]!, s[RCX + 1]!) || !isCanonical(cpu, s[RDX]!, s[RDX + 1]!))
    return raise(cpu, VECTOR.GP);
  complete(cpu);
  [s[S.RIP], s[S.RIP + 1]] = [s[RDX]!, s[RDX + 1]!];
  [s[RSP], s[RSP + 1]] = [s[RCX]!, s[RCX + 1]!];
  loadFlat(cpu, (selector + 32) | 3, (selector + 40) | 3, 3);
  return NEXT;
}
