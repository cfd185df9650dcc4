// SPDX-License-Identifier: GPL-2.0-only
/**
 * CPUID as the processor answers it: static rows, and the bits that follow the processor's state. SDM, "CPUID - CPU
 * Identification": leaves beyond the highest basic leaf return the data of the highest basic leaf.
 */
import { APICBASE } from '../../../../lib/x86/apic.ts';
import {
  CPUID_REG,
  type CpuidFeature,
  type CpuidRow,
  cpuidLeafHasIndex,
  X86_FEATURE,
} from '../../../../lib/x86/cpuid.ts';
import { MISC_ENABLE, MSR } from '../../../../lib/x86/msr.ts';
import { CR4, XCR0 } from '../../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu.ts';
import { S } from '../state.ts';

/** XSAVE area: legacy region and header, and where PKRU is in it. */
const XSAVE_MIN_SIZE = 576;
const XSAVE_PKRU_END = 0xa88;

export class CpuidTable {
  readonly #rows = new Map<string, CpuidRow>();
  readonly maxBasic: number;
  readonly maxExtended: number;

  constructor(rows: readonly CpuidRow[]) {
    for (const row of rows) this.#rows.set(key(row[0], row[1]), row);
    this.maxBasic = rows.find((r) => r[0] === 0)?.[2] ?? 0;
    this.maxExtended = rows.find((r) => r[0] === 0x8000_0000)?.[2] ?? 0;
  }

  /** The static row of a leaf; `undefined` if it is not there. */
  row(leaf: number, subleaf: number): CpuidRow | undefined {
    return this.#rows.get(key(leaf, cpuidLeafHasIndex(leaf) ? subleaf : 0));
  }

  /** Whether the processor has the feature, whatever its state. */
  has([leaf, subleaf, reg, bit]: CpuidFeature): boolean {
    const row = this.row(leaf, subleaf);
    return row !== undefined && ((row[2 + reg]! >>> bit) & 1) === 1;
  }

  /** Every static row, in the order of the profile; what KVM_GET_SUPPORTED_CPUID starts from. */
  rows(): readonly CpuidRow[] {
    return [...this.#rows.values()];
  }
}

function key(leaf: number, subleaf: number): string {
  return `${leaf >>> 0}:${subleaf >>> 0}`;
}

/** Execute CPUID for `leaf`, `subleaf` into out[0..3]: EAX, EBX, ECX, EDX. */
export function cpuid(cpu: Cpu, leaf: number, subleaf: number, out: Int32Array): void {
  const table = cpu.sys.cpuid;
  const basic = leaf >>> 0;
  const beyond = basic >= 0x8000_0000 ? basic > table.maxExtended : basic > table.maxBasic;
  const effective = beyond ? table.maxBasic : basic;
  const row = table.row(effective, subleaf);
  for (let n = 0; n < 4; n++) out[n] = row?.[2 + n] ?? 0;
  // SDM: for an invalid sub-leaf of the topology leaf, ECX[7:0] and EDX are still the input's and the APIC ID.
  if (effective === 0xb) {
    out[CPUID_REG.ECX] = (out[CPUID_REG.ECX]! & ~0xff) | (subleaf & 0xff);
    out[CPUID_REG.EDX] = cpu.id;
  } else {
    adjust(cpu, effective, subleaf, out);
  }
}

/** The bits that follow the state of the processor. */
function adjust(cpu: Cpu, leaf: number, subleaf: number, out: Int32Array): void {
  const { s } = cpu;
  if (leaf === 1) {
    out[CPUID_REG.EBX] = (out[CPUID_REG.EBX]! & 0x00ff_ffff) | (cpu.id << 24);
    follow(out, X86_FEATURE.OSXSAVE, (s[S.CR4]! & CR4.OSXSAVE) !== 0);
    if ((cpu.apic.baseLo & APICBASE.ENABLE) === 0) follow(out, X86_FEATURE.APIC, false);
    if (!mwaitEnabled(cpu)) follow(out, X86_FEATURE.MWAIT, false);
  } else if (leaf === 7 && subleaf === 0) {
    follow(out, X86_FEATURE.OSPKE, (s[S.CR4]! & CR4.PKE) !== 0);
  } else if (leaf === 0xd && subleaf === 0) {
    out[CPUID_REG.EBX] = (s[S.XCR0]! & XCR0.PKRU) !== 0 ? XSAVE_PKRU_END : XSAVE_MIN_SIZE;
  }
}

function follow(out: Int32Array, [, , reg, bit]: CpuidFeature, on: boolean): void {
  out[reg] = on ? out[reg]! | (1 << bit) : out[reg]! & ~(1 << bit);
}

/** IA32_MISC_ENABLE's MONITOR/MWAIT enable: without it the instructions do not exist. */
export function mwaitEnabled(cpu: Cpu): boolean {
  const { msrs } = cpu.sys;
  return (
    msrs.has(MSR.IA32_MISC_ENABLE) && (msrs.get(cpu, MSR.IA32_MISC_ENABLE) & BigInt(MISC_ENABLE.MWAIT)) !== 0n
  );
}
