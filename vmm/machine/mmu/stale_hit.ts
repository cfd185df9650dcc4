// SPDX-License-Identifier: GPL-2.0-only
/**
 * The checking mode of the instrument: before a cached mapping is used, the tables are walked again without leaving a
 * trace (no A/D, no cycles, no fault), and a mapping that they no longer give is reported with where it came from. A
 * mapping that allows less than the tables do is not stale: it costs a spurious fault at most.
 */
import { EPTE, PTE } from '../../../lib/x86/paging.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { S } from '../cpu/state.ts';
import { ENTRY, PERM } from '../tlb/entry.ts';
import { recordHpa } from '../tlb/tlb_array.ts';
import { dropAllFast } from './fast.ts';
import { MODE, type Mmu } from './mmu.ts';
import { provenanceOf, type Provenance } from './provenance.ts';

/** A translation was used that the tables no longer give. */
export interface StaleHit {
  /** Where the mapping came from. */
  readonly provenance: Provenance;
  /** The linear address of the access and its kind. */
  readonly lin: bigint;
  readonly access: number;
  /** What the tables say now. */
  readonly now: string;
}

/** What the tables say: -1 for an absent translation, else the host physical address with PERM bits. */
interface Truth {
  readonly hpa: number;
  readonly perm: number;
  readonly text: string;
}

const PA_HI = 0xf_ffff;
const absent = (text: string): Truth => ({ hpa: -1, perm: 0, text });

/** Turn the check on or off; on, no access bypasses the modelled TLB. */
export function setStaleCheck(cpu: Cpu, check: 'off' | 'hits'): void {
  cpu.mmu.check = check;
  dropAllFast(cpu);
}

/** Compare a record that is about to be used with the tables. */
export function checkHit(
  cpu: Cpu,
  mmu: Mmu,
  b: number,
  lo: number,
  hi: number,
  mode: number,
  kind: number,
): void {
  const truth = readTables(cpu, mmu, lo, hi, mode);
  const perm = mmu.tlb.i[b + ENTRY.PERM]!;
  const rights = PERM.W | PERM.U | PERM.X | PERM.EPT_ALL;
  const tooMuch = perm & rights & ~truth.perm;
  if (truth.hpa === recordHpa(mmu.tlb, b, lo) && tooMuch === 0) return;
  mmu.onStaleHit({
    provenance: provenanceOf(cpu, mmu.tlb, b),
    lin: (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0),
    access: kind,
    now: truth.text,
  });
}

/** Entry `index` of the table at `table`, as [low, high]; ones outside of RAM. */
function entryOf(cpu: Cpu, table: number, index: number): readonly [number, number] {
  const { i32, size } = cpu.mem;
  const at = (table + index * 8) / 4;
  return table >= 0 && table < size ? [i32[at]!, i32[at + 1]!] : [-1, -1];
}

const addressOf = (lo: number, hi: number): number => ((lo & ~0xfff) >>> 0) + (hi & PA_HI) * 0x1_0000_0000;
const spanOf = (level: number): number => 0x1000 * 512 ** (level - 1);

function readTables(cpu: Cpu, mmu: Mmu, lo: number, hi: number, mode: number): Truth {
  const s = cpu.s;
  const lin = (hi & 0x1ff_ffff) * 0x1_0000_0000 + (lo >>> 0);
  let table = addressOf(s[S.CR3]!, s[S.CR3 + 1]!);
  let perm: number = PERM.W | PERM.U | PERM.X;
  for (let level = (mode & MODE.LA57) !== 0 ? 5 : 4; ; level--) {
    const host = readEpt(cpu, mmu, table, mode);
    if (host.hpa < 0) return absent(`level ${level} table: ${host.text}`);
    const [eLo, eHi] = entryOf(cpu, host.hpa, Math.floor(lin / spanOf(level)) % 512);
    if ((eLo & PTE.P) === 0) return absent(`level ${level} entry is not present`);
    if ((eHi & mmu.reservedHi) !== 0) return absent(`level ${level} entry has reserved bits set`);
    perm &= (eLo & PTE.RW ? PERM.W : 0) | (eLo & PTE.US ? PERM.U : 0) | (eHi < 0 ? 0 : PERM.X);
    if (level > 1 && (level > 3 || (eLo & PTE.PS) === 0)) {
      table = addressOf(eLo, eHi);
      continue;
    }
    const span = spanOf(level);
    const gpa = Math.floor(addressOf(eLo, eHi) / span) * span + (lin % span);
    const page = readEpt(cpu, mmu, gpa, mode);
    return { hpa: page.hpa, perm: perm | page.perm, text: page.text };
  }
}

function readEpt(cpu: Cpu, mmu: Mmu, gpa: number, mode: number): Truth {
  if ((mode & MODE.EPT) === 0) return { hpa: gpa, perm: PERM.EPT_ALL, text: `hpa 0x${gpa.toString(16)}` };
  let table = mmu.eptRoot;
  let and = -1;
  for (let level = mmu.eptLevels; ; level--) {
    const [eLo, eHi] = entryOf(cpu, table, Math.floor(gpa / spanOf(level)) % 512);
    and &= eLo;
    if ((eLo & (mode & MODE.MBEC ? 0x407 : 7)) === 0)
      return absent(`level ${level} EPT entry is not present`);
    if ((eHi & mmu.reservedHi) !== 0) return absent(`level ${level} EPT entry is misconfigured`);
    if (level > 1 && (level > 3 || (eLo & EPTE.PS) === 0)) {
      table = addressOf(eLo, eHi);
      continue;
    }
    const span = spanOf(level);
    const hpa = Math.floor(addressOf(eLo, eHi) / span) * span + (gpa % span);
    const user = (mode & MODE.MBEC) === 0 ? PERM.EPT_XU : (and & EPTE.XU) << 5;
    return { hpa, perm: ((and & 7) << 12) | user, text: `hpa 0x${hpa.toString(16)}` };
  }
}
