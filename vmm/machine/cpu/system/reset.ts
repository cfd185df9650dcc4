// SPDX-License-Identifier: GPL-2.0-only
/**
 * States to start from: RESET, INIT, and a shortcut that puts a CPU into 64-bit mode as boot code would. SDM, "Processor
 * State After Reset". Real mode itself is not modelled: a CPU runs only after enterLongMode() or a VM entry.
 */
import { AR } from '../../../../lib/x86/segments.ts';
import { CR0, CR4, DR6, DR7, EFER, RFLAGS, XCR0 } from '../../../../lib/x86/registers.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import { flushAll } from '../../mmu/invalidate.ts';
import type { Cpu } from '../cpu.ts';
import { setRflags } from '../flags.ts';
import { setReg, setRip } from '../regs.ts';
import { ACTIVITY, S, SEG_WORDS, SEGF, SEGN } from '../state.ts';

/** A segment register's fields; base and limit as unsigned numbers below 2^32. */
export interface SegmentValue {
  readonly selector: number;
  readonly base?: number;
  readonly limit: number;
  readonly ar: number;
}

/** Load a segment register's hidden part too. */
export function setSegment(cpu: Cpu, seg: number, { selector, base = 0, limit, ar }: SegmentValue): void {
  const at = S.SEG + seg * SEG_WORDS;
  cpu.s[at + SEGF.BASE] = base;
  cpu.s[at + SEGF.BASE + 1] = 0;
  cpu.s[at + SEGF.LIMIT] = limit;
  cpu.s[at + SEGF.SEL] = selector;
  cpu.s[at + SEGF.AR] = ar;
}

/** Processor state after RESET. */
export function resetCpu(cpu: Cpu): void {
  initCpu(cpu);
  const { s, sys } = cpu;
  s[S.XCR0] = XCR0.X87;
  sys.tscOffset.fill(0);
  sys.tscAdjust.fill(0);
  sys.tscAux = 0;
  sys.syscall.fill(0);
  sys.msrs.reset();
}

/** Processor state after INIT, with that of the local APIC: caches, XCR0, TSC and most MSRs keep their values. */
export function initCpu(cpu: Cpu): void {
  const { s, sys } = cpu;
  const xcr0 = s[S.XCR0]!;
  s.fill(0, 0, S.SEG + 8 * SEG_WORDS);
  s[S.XCR0] = xcr0;
  setRflags(cpu, RFLAGS.FIXED);
  s[S.RIP] = 0xfff0;
  s[S.CR0] = CR0.ET | CR0.NW | CR0.CD;
  s[S.DR + 12] = DR6.FIXED_1;
  s[S.DR + 14] = DR7.FIXED_1;
  s[S.GDTR_LIMIT] = 0xffff;
  s[S.IDTR_LIMIT] = 0xffff;
  for (const seg of [SEGN.ES, SEGN.SS, SEGN.DS, SEGN.FS, SEGN.GS]) {
    setSegment(cpu, seg, { selector: 0, limit: 0xffff, ar: AR.P | AR.S | 0x3 });
  }
  setSegment(cpu, SEGN.CS, { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, ar: AR.P | AR.S | 0xb });
  setSegment(cpu, SEGN.LDTR, { selector: 0, limit: 0xffff, ar: AR.P | 0x2 });
  setSegment(cpu, SEGN.TR, { selector: 0, limit: 0xffff, ar: AR.P | 0xb });
  sys.idtVectoring = 0;
  sys.nmiPending = 0;
  sys.initPending = 0;
  sys.sipiPending = -1;
  sys.pendingDebug = 0;
  cpu.apic.reset();
  s[S.ACTIVITY] = ACTIVITY.ACTIVE;
  flushAll(cpu);
  mmuContextChanged(cpu);
}

/** Where and how a CPU begins in 64-bit mode. Addresses are bigint: they are guest linear addresses. */
export interface LongModeEntry {
  readonly cr3: number;
  readonly rip: bigint;
  readonly rsp: bigint;
  /** 0 (default) or 3. */
  readonly cpl?: number;
  readonly rflags?: number;
  /** Further CR0, CR4 and EFER bits; PE, NE, ET, WP, PG, PAE, OSFXSR, PGE, LME, LMA, NXE and SCE are set. */
  readonly cr0?: number;
  readonly cr4?: number;
  readonly gdt?: { readonly base: bigint; readonly limit: number };
  readonly idt?: { readonly base: bigint; readonly limit: number };
  /** TSS at this linear address (below 2^32), limit 0x67 unless given. */
  readonly tss?: { readonly selector: number; readonly base: number; readonly limit?: number };
}

/** Flat selectors of enterLongMode(): a GDT that the caller provides should agree. */
// prettier-ignore
export const FLAT_SELECTOR = { KERNEL_CS: 0x08, KERNEL_DS: 0x10, USER_DS: 0x1b, USER_CS: 0x23, TSS: 0x28 } as const;

/** Put a CPU into 64-bit mode with flat segments, as if boot code had run. */
export function enterLongMode(cpu: Cpu, entry: LongModeEntry): void {
  const { s } = cpu;
  const cpl = entry.cpl ?? 0;
  s[S.CR0] = CR0.PE | CR0.ET | CR0.NE | CR0.WP | CR0.PG | (entry.cr0 ?? 0);
  s[S.CR4] = CR4.PAE | CR4.PGE | CR4.OSFXSR | (entry.cr4 ?? 0);
  s[S.EFER] = EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE;
  s[S.CR3] = entry.cr3 | 0;
  s[S.CR3 + 1] = Math.floor(entry.cr3 / 0x1_0000_0000);
  s[S.CPL] = cpl;
  const dpl = cpl << 5;
  const data = { limit: 0xffff_ffff, ar: AR.P | AR.S | 0x3 | AR.DB | AR.G | dpl };
  const user = cpl === 3;
  for (const seg of [SEGN.ES, SEGN.SS, SEGN.DS, SEGN.FS, SEGN.GS]) {
    setSegment(cpu, seg, { selector: user ? FLAT_SELECTOR.USER_DS : FLAT_SELECTOR.KERNEL_DS, ...data });
  }
  const code = { limit: 0xffff_ffff, ar: AR.P | AR.S | 0xb | AR.L | AR.G | dpl };
  setSegment(cpu, SEGN.CS, { selector: user ? FLAT_SELECTOR.USER_CS : FLAT_SELECTOR.KERNEL_CS, ...code });
  setSegment(cpu, SEGN.LDTR, { selector: 0, limit: 0, ar: AR.UNUSABLE });
  const tss = entry.tss ?? { selector: 0, base: 0 };
  setSegment(cpu, SEGN.TR, {
    selector: tss.selector,
    base: tss.base,
    limit: tss.limit ?? 0x67,
    ar: AR.P | 0xb,
  });
  setTable(cpu, S.GDTR_BASE, S.GDTR_LIMIT, entry.gdt);
  setTable(cpu, S.IDTR_BASE, S.IDTR_LIMIT, entry.idt);
  s[S.ACTIVITY] = ACTIVITY.ACTIVE;
  setRflags(cpu, (entry.rflags ?? 0) | RFLAGS.FIXED);
  setReg(cpu, 4, entry.rsp);
  setRip(cpu, entry.rip);
  mmuContextChanged(cpu);
}

function setTable(
  cpu: Cpu,
  base: number,
  limit: number,
  table: { readonly base: bigint; readonly limit: number } | undefined,
): void {
  cpu.s[base] = Number(BigInt.asIntN(32, table?.base ?? 0n));
  cpu.s[base + 1] = Number(BigInt.asIntN(32, (table?.base ?? 0n) >> 32n));
  cpu.s[limit] = table?.limit ?? 0;
}
