// SPDX-License-Identifier: GPL-2.0-only
/** Where a cached mapping came from: stamped on each record when it is filled, told when something is wrong with it. */
import { hex } from '../../../lib/x86/bits.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { ENTRY, ENTRY_F64, PERM } from '../tlb/entry.ts';
import { recordBase, recordGpa, type TlbArray } from '../tlb/tlb_array.ts';
import { ACCESS } from './access.ts';

/** Note who fills the record, when, and how often frames had changed hands by then. */
export function stampRecord(cpu: Cpu, tlb: TlbArray, b: number, kind: number): void {
  const s = cpu.s;
  const i = tlb.i;
  i[b + ENTRY.SEQ] = cpu.frames.retirements;
  i[b + ENTRY.RIP_LO] = s[S.RIP]!;
  i[b + ENTRY.RIP_HI] = s[S.RIP + 1]!;
  i[b + ENTRY.FILLER] = s[S.CPL]! | (kind << 2) | ((s[S.CR3]! & 0xfff) << 16);
  tlb.f[(b >> 1) + ENTRY_F64.CYCLE] = cpu.clock[0]!;
}

/** A cached mapping in words: what it says and where it came from. */
export interface Provenance {
  readonly kind: 'linear' | 'combined' | 'guest-physical';
  /** Page address (linear or guest-physical) and size. */
  readonly page: bigint;
  readonly pageSize: number;
  readonly gpa: number;
  readonly hpa: number;
  /** PERM bits. */
  readonly perm: number;
  readonly vpid: number;
  readonly pcid: number;
  readonly ep4ta: number;
  /** The CPU, cycle and instruction that caused the walk. */
  readonly cpu: number;
  readonly cycle: number;
  readonly rip: bigint;
  readonly cpl: number;
  readonly access: number;
  /** The leaf entries it was made from; -1 if there was none. */
  readonly pteGpa: number;
  readonly pteHpa: number;
  readonly epteHpa: number;
}

const u64 = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);

/** The story of a record of the CPU's linear or guest-physical array. */
export function provenanceOf(cpu: Cpu, tlb: TlbArray, b: number): Provenance {
  const { i, f } = tlb;
  const { spaces } = cpu.mmu;
  const space = i[b + ENTRY.SPACE]!;
  const filler = i[b + ENTRY.FILLER]!;
  const d = b >> 1;
  const pteHpa = i[b + ENTRY.PTE_HPA]!;
  const epteHpa = i[b + ENTRY.EPTE_HPA]!;
  return {
    kind: tlb === cpu.mmu.gp ? 'guest-physical' : epteHpa >= 0 ? 'combined' : 'linear',
    page: u64(i[b]! & ~0xfff, i[b + ENTRY.KEY_HI]!),
    pageSize: 0x1000 * 512 ** (i[b]! & 3),
    gpa: recordGpa(tlb, b),
    hpa: recordBase(tlb, b),
    perm: i[b + ENTRY.PERM]!,
    vpid: spaces.vpid[space]!,
    pcid: spaces.pcid[space]!,
    ep4ta: spaces.ep4ta[space]!,
    cpu: cpu.id,
    cycle: f[d + ENTRY_F64.CYCLE]!,
    rip: u64(i[b + ENTRY.RIP_LO]!, i[b + ENTRY.RIP_HI]!),
    cpl: filler & 3,
    access: (filler >>> 2) & ACCESS.KIND,
    pteGpa: epteHpa < 0 ? pteHpa : pteHpa < 0 ? -1 : f[d + ENTRY_F64.PTE_GPA]!,
    pteHpa,
    epteHpa,
  };
}

/** One line of it. */
export function describeProvenance(p: Provenance): string {
  const tag = p.kind === 'guest-physical' ? `EP4TA ${hex(p.ep4ta)}` : tagText(p);
  const from = [
    p.pteHpa >= 0 ? `PTE at gpa ${hex(p.pteGpa)} hpa ${hex(p.pteHpa)}` : '',
    p.epteHpa >= 0 ? `EPTE at hpa ${hex(p.epteHpa)}` : '',
  ].filter((text) => text !== '');
  const access = ['read', 'write', 'fetch'][p.access]!;
  return (
    `${p.kind} mapping ${hex(p.page)} -> gpa ${hex(p.gpa)} hpa ${hex(p.hpa)} (${hex(p.pageSize)} bytes` +
    `${(p.perm & PERM.G) !== 0 ? ', global' : ''}; ${tag}), filled by CPU ${p.cpu} at cycle ${p.cycle} for a ` +
    `${access} at rip ${hex(p.rip)}, CPL ${p.cpl}, from ${from.join(' and ')}`
  );
}

function tagText(p: Provenance): string {
  const pcid = (p.perm & PERM.G) !== 0 ? 'any' : hex(p.pcid);
  return `VPID ${hex(p.vpid)}, PCID ${pcid}${p.ep4ta >= 0 ? `, EP4TA ${hex(p.ep4ta)}` : ''}`;
}
