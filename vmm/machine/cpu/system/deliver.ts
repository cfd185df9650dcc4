// SPDX-License-Identifier: GPL-2.0-only
/**
 * Delivery of one event through the IDT in 64-bit mode: gate, code segment, stack switch, pushes. SDM, "Exception and
 * Interrupt Handling in 64-bit Mode". One attempt: a fault on the way is left in cpu.fault, registers unchanged.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR, SEG_TYPE, SYS_TYPE, TSS64 } from '../../../../lib/x86/segments.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { ACCESS } from '../../mmu/access.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import { loadLinearSystem, storeLinear } from '../../mmu/linear.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags, setRflags } from '../flags.ts';
import { ACTIVITY, BLOCKING, S, SEGF, SEGN } from '../state.ts';
import { isCanonical } from './canonical.ts';
import {
  addressAt,
  dplOf,
  fetchDescriptor,
  isCode,
  isNull,
  loadNullSegment,
  loadSegment,
  markAccessed,
  segAt,
} from './descriptors.ts';
import { refuse, selectorError } from './fault.ts';

const GATE_ERROR_IDT = 2;
const RSP = S.GPR + 8;

/** INT n, INT3 and INTO: a program's own events, judged by the gate's DPL and pushing the next instruction's RIP. */
function isSoftware(type: number): boolean {
  return type === INTR_TYPE.SOFT_INTR || type === INTR_TYPE.SOFT_EXCEPTION;
}

/** Try to deliver the event `info` (format of INTR_INFO) with its error code and instruction length. */
export function deliverOnce(cpu: Cpu, info: number, errorCode: number, length: number): boolean {
  const type = info & INTR_INFO.TYPE_MASK;
  const vector = info & INTR_INFO.VECTOR_MASK;
  const ext = isSoftware(type) ? 0 : 1;
  if (!readGate(cpu, vector, type, ext)) return false;
  const { desc, value } = cpu.sys;
  const gate = desc[1]!;
  value[2] = (desc[0]! & 0xffff) | (gate & 0xffff_0000);
  value[3] = desc[2]!;
  const selector = desc[0]! >>> 16;
  if (!readCodeSegment(cpu, selector, ext)) return false;
  const conforming = (desc[1]! & (SEG_TYPE.CONFORMING << 8)) !== 0;
  const cpl = conforming ? cpu.s[S.CPL]! : dplOf(desc[1]! >>> 8);
  if (!newStack(cpu, gate & 7, cpl, ext)) return false;
  if (!isCanonical(cpu, value[2], value[3])) return refuse(cpu, VECTOR.GP, ext);
  const step = isSoftware(type) || type === INTR_TYPE.PRIV_SW_EXCEPTION ? length : 0;
  if (!pushFrame(cpu, cpl, step, info, errorCode)) {
    if (cpu.fault.vector === VECTOR.SS) cpu.fault.errorCode = ext;
    return false;
  }
  enterHandler(cpu, selector, cpl, (gate >>> 8) & 0xf);
  return true;
}

/** The IDT gate of `vector` into sys.desc. */
function readGate(cpu: Cpu, vector: number, type: number, ext: number): boolean {
  const { s, sys } = cpu;
  const error = (vector << 3) | GATE_ERROR_IDT | ext;
  if (vector * 16 + 15 > s[S.IDTR_LIMIT]! >>> 0) return refuse(cpu, VECTOR.GP, error);
  // The low half first: an exit in between reports the address of the gate itself.
  addressAt(cpu, S.IDTR_BASE, vector * 16);
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 8, sys.desc)) return false;
  addressAt(cpu, S.IDTR_BASE, vector * 16 + 8);
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 8, sys.value)) return false;
  sys.desc[2] = sys.value[0]!;
  const gate = sys.desc[1]!;
  const kind = (gate >>> 8) & 0x1f;
  if (kind !== SYS_TYPE.INTERRUPT_GATE64 && kind !== SYS_TYPE.TRAP_GATE64)
    return refuse(cpu, VECTOR.GP, error);
  if (isSoftware(type) && ((gate >>> 13) & 3) < s[S.CPL]!) return refuse(cpu, VECTOR.GP, error);
  if ((gate & (AR.P << 8)) === 0) return refuse(cpu, VECTOR.NP, error);
  return true;
}

/** The gate's code segment into sys.desc. */
function readCodeSegment(cpu: Cpu, selector: number, ext: number): boolean {
  if (isNull(selector)) return refuse(cpu, VECTOR.GP, ext);
  if (!fetchDescriptor(cpu, selector, ext)) return false;
  const ar = cpu.sys.desc[1]! >>> 8;
  const error = selectorError(selector, ext);
  if (!isCode(ar) || dplOf(ar) > cpu.s[S.CPL]!) return refuse(cpu, VECTOR.GP, error);
  if ((ar & AR.P) === 0) return refuse(cpu, VECTOR.NP, error);
  if ((ar & (AR.L | AR.DB)) !== AR.L) return refuse(cpu, VECTOR.GP, error);
  return markAccessed(cpu);
}

/** The stack pointer that the handler starts from, 16-byte aligned, in sys.value[0..1]. */
function newStack(cpu: Cpu, ist: number, cpl: number, ext: number): boolean {
  const { s, sys } = cpu;
  const { value } = sys;
  if (ist === 0 && cpl === s[S.CPL]!) {
    value[0] = s[RSP]! & ~0xf;
    value[1] = s[RSP + 1]!;
    return true;
  }
  const offset = ist !== 0 ? TSS64.IST1 + (ist - 1) * 8 : TSS64.RSP0 + cpl * 8;
  const tr = segAt(SEGN.TR);
  if (offset + 7 > s[tr + SEGF.LIMIT]! >>> 0)
    return refuse(cpu, VECTOR.TS, selectorError(s[tr + SEGF.SEL]!, ext));
  const target: readonly [number, number] = [value[2]!, value[3]!];
  addressAt(cpu, tr + SEGF.BASE, offset);
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 8, value)) return false;
  [value[2], value[3]] = target;
  if (!isCanonical(cpu, value[0]!, value[1]!)) return refuse(cpu, VECTOR.SS, ext);
  value[0] = value[0]! & ~0xf;
  return true;
}

/** Push SS, RSP, RFLAGS, CS, RIP and the error code below sys.value[0..1], which then holds the new RSP. */
function pushFrame(cpu: Cpu, cpl: number, step: number, info: number, errorCode: number): boolean {
  const { s } = cpu;
  const flags = cpl === 3 ? ACCESS.STACK : ACCESS.STACK | ACCESS.SYSTEM;
  const rip = (s[S.RIP]! >>> 0) + step;
  const ripHi = (s[S.RIP + 1]! + (rip >= 0x1_0000_0000 ? 1 : 0)) | 0;
  return (
    push(cpu, flags, s[segAt(SEGN.SS) + SEGF.SEL]!, 0) &&
    push(cpu, flags, s[RSP]!, s[RSP + 1]!) &&
    push(cpu, flags, getRflags(cpu), 0) &&
    push(cpu, flags, s[segAt(SEGN.CS) + SEGF.SEL]!, 0) &&
    push(cpu, flags, rip | 0, ripHi) &&
    ((info & INTR_INFO.DELIVER_CODE_MASK) === 0 || push(cpu, flags, errorCode, 0))
  );
}

function push(cpu: Cpu, flags: number, lo: number, hi: number): boolean {
  const { value } = cpu.sys;
  if (value[0]! >>> 0 < 8) value[1] = value[1]! - 1;
  value[0] = value[0]! - 8;
  return storeLinear(cpu, value[0], value[1]!, 8, lo, hi, flags);
}

/** The point of no return: CS, RIP, RSP, SS, RFLAGS of the handler. */
function enterHandler(cpu: Cpu, selector: number, cpl: number, gateType: number): void {
  const { s, sys } = cpu;
  loadSegment(cpu, SEGN.CS, (selector & ~3) | cpl);
  s[S.RIP] = sys.value[2]!;
  s[S.RIP + 1] = sys.value[3]!;
  s[RSP] = sys.value[0]!;
  s[RSP + 1] = sys.value[1]!;
  const clear =
    RFLAGS.TF | RFLAGS.NT | RFLAGS.RF | RFLAGS.VM | (gateType === SYS_TYPE.INTERRUPT_GATE64 ? RFLAGS.IF : 0);
  setRflags(cpu, getRflags(cpu) & ~clear);
  s[S.BLOCKING] = s[S.BLOCKING]! & ~(BLOCKING.STI | BLOCKING.MOV_SS);
  s[S.ACTIVITY] = ACTIVITY.ACTIVE;
  if (cpl === s[S.CPL]!) return;
  loadNullSegment(cpu, SEGN.SS, cpl, cpl);
  s[S.CPL] = cpl;
  mmuContextChanged(cpu);
}
