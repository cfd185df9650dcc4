// SPDX-License-Identifier: GPL-2.0-only
/**
 * Translations that lead to memory nobody may use: frames that were freed or changed hands, and the machine's own
 * reserved area. What is thrown here is a finding against whoever keeps the tables and the TLB in order.
 */
import { type Pfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { SanitizerError } from '../errors.ts';
import { RAM_BASE } from '../layout.ts';
import { FRAME } from '../memory/frames.ts';
import type { TlbArray } from '../tlb/tlb_array.ts';
import { describeProvenance, provenanceOf } from './provenance.ts';

const where = (cpu: Cpu): string => {
  const rip = (BigInt(cpu.s[S.RIP + 1]! >>> 0) << 32n) | BigInt(cpu.s[S.RIP]! >>> 0);
  return `CPU ${cpu.id} at rip ${hex(rip)}, cycle ${cpu.clock[0]!}`;
};

/** A cached mapping was used after its frame had been freed. */
export function staleFrame(cpu: Cpu, tlb: TlbArray, b: number, pfn: number): never {
  const story = cpu.frames.story(pfn as Pfn);
  throw new SanitizerError(
    `use after free through the TLB: ${where(cpu)} hit a ${describeProvenance(provenanceOf(cpu, tlb, b))}; ${story}`,
  );
}

/** A walk is about to read tables from `table` (host physical). */
export function checkTableFrame(cpu: Cpu, table: number, what: string): void {
  const pfn = table >>> 12;
  if (cpu.frames.state[pfn] !== FRAME.FREE) return;
  throw new SanitizerError(
    `page walk through a freed ${what} table: ${where(cpu)}; ${cpu.frames.story(pfn as Pfn)}`,
  );
}

/** A walk ended at `hpa`. */
export function checkLeafFrame(cpu: Cpu, hpa: number): void {
  if (hpa < RAM_BASE) {
    throw new SanitizerError(`tables lead to firmware-reserved memory at hpa ${hex(hpa)}: ${where(cpu)}`);
  }
  const { frames } = cpu;
  if (!frames.managed || hpa >= cpu.mem.size || frames.state[hpa >>> 12] !== FRAME.FREE) return;
  throw new SanitizerError(
    `page walk ended at a free frame: ${where(cpu)}; ${frames.story((hpa >>> 12) as Pfn)}`,
  );
}
