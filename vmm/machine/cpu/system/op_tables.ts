// SPDX-License-Identifier: GPL-2.0-only
/**
 * Descriptor tables and segment registers: LGDT LIDT SGDT SIDT LLDT SLDT LTR STR, MOV/PUSH/POP of segment registers,
 * LAR LSL VERR VERW. SDM, instruction reference, 64-bit mode.
 */
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR, descriptorLimit, SEG_TYPE, SELECTOR, SYS_TYPE } from '../../../../lib/x86/segments.ts';
import { loadLinearSystem, storeLinearSystem } from '../../mmu/linear.ts';
import { vmxIntercepts } from '../../vmx/intercepts.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags, setRflags } from '../flags.ts';
import { BLOCKING, RUN, S, SEGF, SEGN } from '../state.ts';
import { isCanonical } from './canonical.ts';
import {
  addressAt,
  dplOf,
  fetchDescriptor,
  isCode,
  isNull,
  isWritableData,
  loadNullSegment,
  loadSegment,
  locateDescriptor,
  markAccessed,
  segAt,
} from './descriptors.ts';
import { NEXT, raise, raiseGp, raiseUd, refuse, selectorError } from './fault.ts';
import { umipForbids } from './op_control.ts';
import {
  complete,
  loadOperand,
  peekStack,
  popStack,
  pushValue,
  readRm16,
  storeOperand,
  writeGpr,
  writeRm16,
} from './operands.ts';

/** LGDT, LIDT: limit and 64-bit base at the memory operand. */
export function loadTable(cpu: Cpu, base: number, limit: number): number {
  const { s, sys } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (!loadOperand(cpu, 0, 2)) return RUN.FAULT;
  const newLimit = sys.value[0]! & 0xffff;
  if (!loadOperand(cpu, 2, 8)) return RUN.FAULT;
  if (!isCanonical(cpu, sys.value[0]!, sys.value[1]!)) return raiseGp(cpu);
  s[limit] = newLimit;
  s[base] = sys.value[0]!;
  s[base + 1] = sys.value[1]!;
  return complete(cpu);
}

/** SGDT, SIDT. */
export function storeTable(cpu: Cpu, base: number, limit: number): number {
  const { s } = cpu;
  if (umipForbids(cpu)) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (!storeOperand(cpu, 0, 2, s[limit]!, 0)) return RUN.FAULT;
  if (!storeOperand(cpu, 2, 8, s[base]!, s[base + 1]!)) return RUN.FAULT;
  return complete(cpu);
}

/** SLDT, STR. */
export function storeSelector(cpu: Cpu, seg: number): number {
  if (umipForbids(cpu)) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  return writeRm16(cpu, cpu.s[segAt(seg) + SEGF.SEL]! & 0xffff);
}

/** What LLDT and LTR share: the 16-byte descriptor of the selector in sys.desc[0..3]; -1 if it is of `type`. */
function systemDescriptor(cpu: Cpu, selector: number, type: number): number {
  const { sys } = cpu;
  const error = selectorError(selector);
  if ((selector & SELECTOR.TI) !== 0 || !locateDescriptor(cpu, selector, 16))
    return raise(cpu, VECTOR.GP, error);
  const [lo, hi] = [sys.address[0]!, sys.address[1]!];
  addressAt(cpu, S.GDTR_BASE, (selector & SELECTOR.INDEX_MASK) + 8);
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 8, sys.value)) return RUN.FAULT;
  if (!loadLinearSystem(cpu, lo, hi, 8, sys.desc)) return RUN.FAULT;
  sys.address[0] = lo;
  sys.address[1] = hi;
  sys.desc[2] = sys.value[0]!;
  sys.desc[3] = sys.value[1]!;
  const ar = sys.desc[1]! >>> 8;
  if ((ar & (AR.S | AR.TYPE_MASK)) !== type || (sys.desc[3] & 0x1f00) !== 0)
    return raise(cpu, VECTOR.GP, error);
  if ((ar & AR.P) === 0) return raise(cpu, VECTOR.NP, error);
  return isCanonical(cpu, 0, sys.desc[2]) ? NEXT : raise(cpu, VECTOR.GP, error);
}

/** LLDT: a null selector makes the LDT unusable. */
export function lldt(cpu: Cpu): number {
  const { s, sys } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (!readRm16(cpu)) return RUN.FAULT;
  const selector = sys.value[0]! & 0xffff;
  if (isNull(selector)) {
    loadNullSegment(cpu, SEGN.LDTR, selector);
    return complete(cpu);
  }
  const refused = systemDescriptor(cpu, selector, SYS_TYPE.LDT);
  if (refused >= 0) return refused;
  loadSegment(cpu, SEGN.LDTR, selector);
  s[segAt(SEGN.LDTR) + 1] = sys.desc[2]!;
  return complete(cpu);
}

/** LTR: the descriptor becomes busy in memory. */
export function ltr(cpu: Cpu): number {
  const { s, sys } = cpu;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  if (cpu.vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (!readRm16(cpu)) return RUN.FAULT;
  const selector = sys.value[0]! & 0xffff;
  if (isNull(selector)) return raiseGp(cpu);
  const refused = systemDescriptor(cpu, selector, SYS_TYPE.TSS64_AVAILABLE);
  if (refused >= 0) return refused;
  sys.desc[1] = sys.desc[1]! | 0x200;
  if (!storeLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 8, sys.desc[0]!, sys.desc[1]))
    return RUN.FAULT;
  loadSegment(cpu, SEGN.TR, selector);
  s[segAt(SEGN.TR) + 1] = sys.desc[2]!;
  return complete(cpu);
}

/** MOV Sreg, r/m16. */
export function movToSreg(cpu: Cpu): number {
  const { insn, sys } = cpu;
  if (insn.reg === SEGN.CS || insn.reg > SEGN.GS) return raiseUd(cpu);
  if (!readRm16(cpu)) return RUN.FAULT;
  if (!loadSelector(cpu, insn.reg, sys.value[0]! & 0xffff)) return RUN.FAULT;
  complete(cpu);
  if (insn.reg === SEGN.SS) cpu.s[S.BLOCKING] = cpu.s[S.BLOCKING]! | BLOCKING.MOV_SS;
  return NEXT;
}

/** MOV r/m16, Sreg. */
export function movFromSreg(cpu: Cpu): number {
  if (cpu.insn.reg > SEGN.GS) return raiseUd(cpu);
  return writeRm16(cpu, cpu.s[segAt(cpu.insn.reg) + SEGF.SEL]! & 0xffff);
}

/** PUSH FS, PUSH GS. */
export function pushSreg(cpu: Cpu): number {
  const { insn, s } = cpu;
  if (!pushValue(cpu, insn.size, s[segAt(insn.reg) + SEGF.SEL]! & 0xffff, 0)) return RUN.FAULT;
  return complete(cpu);
}

/** POP FS, POP GS. */
export function popSreg(cpu: Cpu): number {
  const { insn, sys } = cpu;
  if (!peekStack(cpu, 0, insn.size)) return RUN.FAULT;
  if (!loadSelector(cpu, insn.reg, sys.value[0]! & 0xffff)) return RUN.FAULT;
  popStack(cpu, insn.size);
  return complete(cpu);
}

/** Load DS, ES, FS, GS or SS from a selector. SDM, "Loading Segment Registers". */
function loadSelector(cpu: Cpu, seg: number, selector: number): boolean {
  const cpl = cpu.s[S.CPL]!;
  const rpl = selector & SELECTOR.RPL_MASK;
  if (isNull(selector)) {
    if (seg === SEGN.SS && (cpl === 3 || rpl !== cpl)) return refuse(cpu, VECTOR.GP, 0);
    loadNullSegment(cpu, seg, selector, seg === SEGN.SS ? cpl : 0);
    return true;
  }
  if (!fetchDescriptor(cpu, selector)) return false;
  const ar = cpu.sys.desc[1]! >>> 8;
  const ok =
    seg === SEGN.SS
      ? isWritableData(ar) && rpl === cpl && dplOf(ar) === cpl
      : isReadable(ar) && (isConforming(ar) || (rpl <= dplOf(ar) && cpl <= dplOf(ar)));
  if (!ok) return refuse(cpu, VECTOR.GP, selectorError(selector));
  if ((ar & AR.P) === 0) return refuse(cpu, seg === SEGN.SS ? VECTOR.SS : VECTOR.NP, selectorError(selector));
  if (!markAccessed(cpu)) return false;
  loadSegment(cpu, seg, selector);
  return true;
}

function isConforming(ar: number): boolean {
  return isCode(ar) && (ar & SEG_TYPE.CONFORMING) !== 0;
}

function isReadable(ar: number): boolean {
  return (ar & AR.S) !== 0 && ((ar & SEG_TYPE.CODE) === 0 || (ar & SEG_TYPE.READABLE) !== 0);
}

/** The descriptor that LAR, LSL, VERR, VERW look at; 1: visible, 0: not, -2: cpu.fault is set. */
function lookAt(cpu: Cpu, selector: number): number {
  const { sys, s } = cpu;
  if (isNull(selector) || !locateDescriptor(cpu, selector, 8)) return 0;
  if (!loadLinearSystem(cpu, sys.address[0]!, sys.address[1]!, 8, sys.desc)) return -2;
  const ar = sys.desc[1]! >>> 8;
  if (isConforming(ar)) return 1;
  return dplOf(ar) >= Math.max(s[S.CPL]!, selector & SELECTOR.RPL_MASK) ? 1 : 0;
}

function setZf(cpu: Cpu, on: boolean): number {
  setRflags(cpu, on ? getRflags(cpu) | RFLAGS.ZF : getRflags(cpu) & ~RFLAGS.ZF);
  return complete(cpu);
}

/** System types that LAR accepts in IA-32e mode: LDT, TSS, call gate; LSL takes the first two. */
const LAR_TYPES = (1 << 0x2) | (1 << 0x9) | (1 << 0xb) | (1 << 0xc);
const LSL_TYPES = (1 << 0x2) | (1 << 0x9) | (1 << 0xb);

function accepts(ar: number, types: number): boolean {
  return (ar & AR.S) !== 0 || ((types >>> (ar & AR.TYPE_MASK)) & 1) !== 0;
}

/** LAR. */
export function lar(cpu: Cpu): number {
  const { insn, sys } = cpu;
  if (!readRm16(cpu)) return RUN.FAULT;
  const seen = lookAt(cpu, sys.value[0]! & 0xffff);
  if (seen < 0) return RUN.FAULT;
  const ok = seen === 1 && accepts(sys.desc[1]! >>> 8, LAR_TYPES);
  if (ok) writeGpr(cpu, insn.reg, insn.size, sys.desc[1]! & 0x00f0_ff00, 0);
  return setZf(cpu, ok);
}

/** LSL. */
export function lsl(cpu: Cpu): number {
  const { insn, sys } = cpu;
  if (!readRm16(cpu)) return RUN.FAULT;
  const seen = lookAt(cpu, sys.value[0]! & 0xffff);
  if (seen < 0) return RUN.FAULT;
  const ok = seen === 1 && accepts(sys.desc[1]! >>> 8, LSL_TYPES);
  if (ok) writeGpr(cpu, insn.reg, insn.size, descriptorLimit(sys.desc[0]!, sys.desc[1]!), 0);
  return setZf(cpu, ok);
}

/** VERR, VERW: `allows` judges the access rights. */
function verify(cpu: Cpu, allows: (ar: number) => boolean): number {
  const { sys } = cpu;
  if (!readRm16(cpu)) return RUN.FAULT;
  const seen = lookAt(cpu, sys.value[0]! & 0xffff);
  if (seen < 0) return RUN.FAULT;
  return setZf(cpu, seen === 1 && allows(sys.desc[1]! >>> 8));
}

export function verr(cpu: Cpu): number {
  return verify(cpu, isReadable);
}

export function verw(cpu: Cpu): number {
  return verify(cpu, isWritableData);
}
