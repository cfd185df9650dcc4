// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMREAD and VMWRITE. SDM, "VMREAD — Read Field from Virtual-Machine Control Structure" and "VMWRITE". `vmreadField` and
 * `vmwriteField` are the instructions with all their outcomes; the typed accessors are for L0's TypeScript, where a
 * failure is L0's bug. Error numbers go to the current VMCS also when the access was to a shadow VMCS.
 */
import {
  VMCS_WIDTH,
  VMCS_ACCESS_HIGH,
  VMCS_TYPE,
  vmcsFieldType,
  vmcsFieldWidth,
} from '../../../lib/x86/vmx/field.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { VMX_MISC } from '../../../lib/x86/vmx/capability_msrs.ts';
import { spend } from '../cost/ledger.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SanitizerError } from '../errors.ts';
import { linkedVmcs } from './vmcs_active.ts';
import { VMCS_EPOCH_SHIFT, VMCS_STATE, VMCS_WORD, vmcsEffects } from './vmcs_layout.ts';
import { vmFail } from './vmx_result.ts';
import { VMX_RESULT } from './vmx_unit.ts';

const TWO_32 = 0x1_0000_0000;
/** Bit of an encoding: 64 bits or natural width. */
const WIDE_FIELD = 0x2000;
/** Names of L0's accessors, for messages. */
type Access = 'VMREAD' | 'VMWRITE';

/** The field without its access-type bit, or -1 if the processor has no such component. */
function component(cpu: Cpu, field: number): number {
  const full = field & ~VMCS_ACCESS_HIGH;
  if ((field & VMCS_ACCESS_HIGH) !== 0 && vmcsFieldWidth(field) !== VMCS_WIDTH.U64) return -1;
  return (cpu.vmx.caps.fieldWord[full] ?? -1) === -1 ? -1 : full;
}

/** Word of the VMCS that VMREAD and VMWRITE access: the current one, in non-root operation the linked one; -1: none. */
export function accessedVmcs(cpu: Cpu): number {
  const { vmx } = cpu;
  if (vmx.currentVmcs === -1) return -1;
  return vmx.nonRoot ? linkedVmcs(cpu) : vmx.base;
}

/** VMREAD of an encoding into out[0] (low), out[1] (high). Spends; RESULT as the instruction has it. */
export function vmreadField(cpu: Cpu, field: number, out: Int32Array): number {
  spend(cpu, COST.VMREAD);
  const base = accessedVmcs(cpu);
  if (base === -1) return VMX_RESULT.FAIL_INVALID;
  const full = component(cpu, field);
  if (full === -1) return vmFail(cpu, VMXERR.UNSUPPORTED_VMCS_COMPONENT);
  const at = base + cpu.vmx.caps.fieldWord[full]!;
  const wide = (vmcsFieldWidth(full) & 1) === 1;
  const { i32 } = cpu.mem;
  if ((field & VMCS_ACCESS_HIGH) !== 0) {
    out[0] = i32[at + 1]!;
    out[1] = 0;
  } else {
    out[0] = i32[at]!;
    out[1] = wide ? i32[at + 1]! : 0;
  }
  return VMX_RESULT.SUCCEED;
}

/** VMWRITE of a value to an encoding. Spends; RESULT as the instruction has it. */
export function vmwriteField(cpu: Cpu, field: number, lo: number, hi: number): number {
  spend(cpu, COST.VMWRITE);
  const base = accessedVmcs(cpu);
  if (base === -1) return VMX_RESULT.FAIL_INVALID;
  const full = component(cpu, field);
  if (full === -1) return vmFail(cpu, VMXERR.UNSUPPORTED_VMCS_COMPONENT);
  if (isReadOnly(cpu, full)) return vmFail(cpu, VMXERR.VMWRITE_READ_ONLY_VMCS_COMPONENT);
  store(cpu, base, field, full, lo, hi);
  return VMX_RESULT.SUCCEED;
}

/** VM-exit information fields, unless IA32_VMX_MISC says that VMWRITE may write them. */
function isReadOnly(cpu: Cpu, full: number): boolean {
  if (vmcsFieldType(full) !== VMCS_TYPE.INFO) return false;
  return (cpu.vmx.caps.misc & VMX_MISC.VMWRITE_SHADOW_RO_FIELDS) === 0;
}

/** `base`: the word of the VMCS; `full`: the field without its access-type bit. */
function store(cpu: Cpu, base: number, field: number, full: number, lo: number, hi: number): void {
  const { i32 } = cpu.mem;
  const at = base + cpu.vmx.caps.fieldWord[full]!;
  const width = vmcsFieldWidth(full);
  if (field !== full) i32[at + 1] = lo;
  else if (width === VMCS_WIDTH.U16) i32[at] = lo & 0xffff;
  else {
    i32[at] = lo;
    if ((width & 1) === 1) i32[at + 1] = hi;
  }
  applyEffects(cpu, base, at, vmcsEffects(full));
}

/**
 * What a write of the field at the word `at` does besides (vmcsEffects()): checks that passed are void, the frame that an
 * address names has an epoch.
 */
export function applyEffects(cpu: Cpu, base: number, at: number, effects: number): void {
  if (effects === 0) return;
  const { i32 } = cpu.mem;
  i32[base + VMCS_WORD.STATE] = i32[base + VMCS_WORD.STATE]! & ~(effects & VMCS_STATE.BITS);
  rewritten(cpu, base, at, effects);
}

/** The processor itself writes a field of the current VMCS. */
export function vmcsStore(cpu: Cpu, field: number, lo: number, hi: number): void {
  store(cpu, cpu.vmx.base, field, field, lo, hi);
}

/** Epoch of the frame that a physical address lies in; -1 outside of memory. */
function epochOf(cpu: Cpu, lo: number, hi: number): number {
  return hi === 0 ? (cpu.frames.epoch[lo >>> 12] ?? -1) : -1;
}

/** The word of the memory that L0 accesses. */
function checkAccess(cpu: Cpu, field: number, access: Access): number {
  const { vmx } = cpu;
  const word = vmx.caps.fieldWord[field] ?? -1;
  return word !== -1 && vmx.currentVmcs !== -1 ? vmx.base + word : checkHighAccess(cpu, field, access);
}

/** The same where the table has no word: the high half of a field, or L0's bug. */
function checkHighAccess(cpu: Cpu, field: number, access: Access): number {
  if (cpu.vmx.currentVmcs === -1) {
    throw new SanitizerError(`CPU ${cpu.id}: ${access} of field ${hex(field)} without a current VMCS`);
  }
  const full = component(cpu, field);
  if (full === -1)
    throw new SanitizerError(`CPU ${cpu.id}: ${access} of field ${hex(field)}, which the processor lacks`);
  return cpu.vmx.base + cpu.vmx.caps.fieldWord[full]! + (field & VMCS_ACCESS_HIGH);
}

/** Bits 31:0 of a field, unsigned. */
export function vmread32(cpu: Cpu, field: number): number {
  spend(cpu, COST.VMREAD);
  return cpu.mem.i32[checkAccess(cpu, field, 'VMREAD')]! >>> 0;
}

/** Bits 63:32 of a 64-bit or natural-width field, unsigned; no time passes: use after vmread32 of the same field. */
export function vmreadHigh(cpu: Cpu, field: number): number {
  const at = checkAccess(cpu, field, 'VMREAD');
  return (vmcsFieldWidth(field) & 1) === 1 ? cpu.mem.i32[at + 1]! >>> 0 : 0;
}

/** A field whose value is below 2^53: addresses, counts. */
export function vmreadNum(cpu: Cpu, field: number): number {
  const lo = vmread32(cpu, field);
  const hi = vmreadHigh(cpu, field);
  if (hi >= 0x20_0000) throw new SanitizerError(`field ${hex(field)} does not fit a number`);
  return hi * TWO_32 + lo;
}

/** All 64 bits of a field. */
export function vmread64(cpu: Cpu, field: number): bigint {
  const lo = vmread32(cpu, field);
  return (BigInt(vmreadHigh(cpu, field)) << 32n) | BigInt(lo);
}

/** Write lo and hi; hi is ignored by 16- and 32-bit fields. A value that is there already has no effect on checks. */
export function vmwritePair(cpu: Cpu, field: number, lo: number, hi: number): void {
  spend(cpu, COST.VMWRITE);
  const at = checkAccess(cpu, field, 'VMWRITE');
  const { i32 } = cpu.mem;
  const { base } = cpu.vmx;
  const effects = vmcsEffects(field);
  const wide = (field & (WIDE_FIELD | VMCS_ACCESS_HIGH)) === WIDE_FIELD;
  if (i32[at] === lo && (wide ? i32[at + 1] === hi : (field & WIDE_FIELD) === 0)) {
    if (effects !== 0) rewritten(cpu, base, at, effects);
    return;
  }
  const full = field & ~VMCS_ACCESS_HIGH;
  if (isReadOnly(cpu, full)) {
    throw new SanitizerError(`CPU ${cpu.id}: VMWRITE of field ${hex(field)}, which is read-only`);
  }
  if (!wide) {
    store(cpu, base, field, full, lo, hi);
    return;
  }
  i32[at] = lo;
  i32[at + 1] = hi;
  if (effects !== 0) applyEffects(cpu, base, at, effects);
}

/** A field was written the value that it has: an address names the frame as it is now. */
export function rewritten(cpu: Cpu, base: number, at: number, effects: number): void {
  const epochWord = effects >>> VMCS_EPOCH_SHIFT;
  if (epochWord === 0) return;
  const { i32 } = cpu.mem;
  i32[base + epochWord] = epochOf(cpu, i32[at]!, i32[at + 1]!);
}

/** Write a 16- or 32-bit field, or a wider one whose bits 63:32 become 0. */
export function vmwrite32(cpu: Cpu, field: number, value: number): void {
  vmwritePair(cpu, field, value | 0, 0);
}

/** Write a non-negative number below 2^53. */
export function vmwriteNum(cpu: Cpu, field: number, value: number): void {
  vmwritePair(cpu, field, value | 0, Math.floor(value / TWO_32) | 0);
}

const U64 = new BigUint64Array(1);
const U64_WORDS = new Int32Array(U64.buffer);

/** Write 64 bits. */
export function vmwrite64(cpu: Cpu, field: number, value: bigint): void {
  U64[0] = value;
  vmwritePair(cpu, field, U64_WORDS[0]!, U64_WORDS[1]!);
}
