// SPDX-License-Identifier: GPL-2.0-only
/**
 * One CPU without an interpreter, with tables that tests build entry by entry: the guest's tables in guest memory, EPT
 * tables in host memory. Guest physical memory begins at host physical G0 when EPT is on, and at 0 when it is off.
 */
import { CR0, CR4, EFER } from '../../../../lib/x86/registers.ts';
import { PROFILES, type CpuProfile } from '../../cost/profiles.ts';
import { CodeCache } from '../../cpu/code_cache.ts';
import { Cpu } from '../../cpu/cpu.ts';
import { S } from '../../cpu/state.ts';
import { RAM_BASE } from '../../layout.ts';
import { FrameTable } from '../../memory/frames.ts';
import { PhysMem } from '../../memory/phys_mem.ts';
import { mmuContextChanged } from '../context.ts';
import { dropFastFrame, dropWriteTags } from '../fast.ts';
import { Mmu, type TlbPolicy } from '../mmu.ts';
import { translate } from '../translate.ts';

/** Host physical address of guest physical 0 under EPT. */
export const G0 = RAM_BASE + 0x80_0000;
/** First guest physical address that guestTable() hands out. */
const GUEST_TABLES = 0x40_0000;
const RAM_BYTES = 0x100_0000;

/** Flags of a table entry that allows everything and is accessed; of a leaf, dirty too. */
export const TABLE = 0x27;
export const LEAF = 0x67;
/** Flags of an EPT table entry and of a write-back EPT leaf, accessed and dirty. */
export const EPT_TABLE = 0x107;
export const EPT_LEAF = 0x337;

export interface PagingOptions {
  readonly tlb?: TlbPolicy;
  readonly profile?: CpuProfile;
}

const lowHalf = (v: bigint): number => Number(BigInt.asIntN(32, v));
const highHalf = (v: bigint): number => Number(BigInt.asIntN(32, v >> 32n));

export class PagingBox {
  readonly mem = new PhysMem(RAM_BYTES);
  readonly frames: FrameTable;
  readonly cpu: Cpu;
  /** Root of the guest's tables (guest physical) and of the EPT tables (host physical). */
  readonly cr3: number;
  readonly ept: number;
  #nextGuest = 0;
  #nextHost = RAM_BASE;
  #nested = false;

  constructor(options: PagingOptions = {}) {
    const profile = options.profile ?? PROFILES.skylake;
    this.frames = new FrameTable(this.mem.size);
    this.cpu = new Cpu(0, this.mem, this.frames, profile.prices);
    const code = new CodeCache(this.mem, (pfn) => dropWriteTags(this.cpu, pfn));
    this.cpu.mmu = new Mmu({ profile, tlb: options.tlb ?? 'real' });
    this.cpu.code = code;
    this.frames.onRetire = (pfn) => dropFastFrame(this.cpu, pfn);
    const { s } = this.cpu;
    s[S.CR0] = CR0.PE | CR0.PG | CR0.WP;
    s[S.CR4] = CR4.PAE | CR4.PGE;
    s[S.EFER] = EFER.LME | EFER.LMA | EFER.NXE;
    this.ept = this.hostTable();
    this.cr3 = this.guestTable();
    s[S.CR3] = this.cr3;
    this.changed();
  }

  /** Tell the MMU that a register changed. */
  changed(): this {
    mmuContextChanged(this.cpu);
    return this;
  }

  /** Turn EPT on: guest physical memory is mapped at G0 by 2 MiB pages if `identity`, else not at all. */
  withEpt(map: 'mapped' | 'empty' = 'mapped', flags = 0x1e): this {
    this.#moveGuestTables();
    this.#nested = true;
    this.cpu.mmu.eptp = this.ept | flags;
    this.cpu.mmu.eptAd = (flags & 0x40) !== 0 ? 1 : 0;
    if (map === 'mapped') {
      for (let gpa = 0; gpa < 0x80_0000; gpa += 0x20_0000) this.mapEpt(gpa, G0 + gpa, EPT_LEAF | 0x80, 2);
    }
    return this.changed();
  }

  /** Only before the first mapping: tables that lie in host memory go to guest memory. */
  #moveGuestTables(): void {
    this.#nextGuest = GUEST_TABLES;
    this.cpu.s[S.CR3] = this.guestTable();
    Object.assign(this, { cr3: this.cpu.s[S.CR3] });
  }

  /** A zeroed page of host memory. */
  hostTable(): number {
    this.#nextHost += 0x1000;
    return this.#nextHost - 0x1000;
  }

  /** A zeroed page for a guest table, as the guest addresses it. */
  guestTable(): number {
    if (this.#nextGuest === 0) return this.hostTable();
    this.#nextGuest += 0x1000;
    return this.#nextGuest - 0x1000;
  }

  /** Host physical address of the guest's table entry. */
  hostOf(gpa: number): number {
    return this.#nested ? G0 + gpa : gpa;
  }

  read(hpa: number): bigint {
    return this.mem.view.getBigUint64(hpa, true);
  }

  write(hpa: number, value: bigint): void {
    this.mem.view.setBigUint64(hpa, value, true);
  }

  /** Host physical address of the guest entry for `lin` at `level`; builds the tables above. */
  entry(lin: bigint, level: number, tableFlags = TABLE): number {
    let table = this.cr3;
    const top = (this.cpu.s[S.CR4]! & CR4.LA57) !== 0 ? 5 : 4;
    for (let at = top; ; at--) {
      const index = Number((lin >> BigInt(3 + 9 * at)) & 511n);
      const entry = this.hostOf(table) + index * 8;
      if (at === level) return entry;
      if ((this.read(entry) & 1n) === 0n) this.write(entry, BigInt(this.guestTable() | tableFlags));
      table = Number(this.read(entry) & 0xf_ffff_f000n);
    }
  }

  /** Map a guest page; `level` 1, 2 or 3 (with PS in `flags` by itself). */
  map(lin: bigint, gpa: number, flags: number | bigint = LEAF, level = 1): number {
    const entry = this.entry(lin, level);
    this.write(entry, BigInt(gpa) | BigInt(flags) | (level > 1 ? 0x80n : 0n));
    return entry;
  }

  /** Host physical address of the EPT entry for `gpa` at `level`. */
  eptEntry(gpa: number, level: number): number {
    let table = this.ept;
    for (let at = (((this.cpu.mmu.eptp || 0x1e) >> 3) & 7) + 1; ; at--) {
      const entry = table + (Math.floor(gpa / 2 ** (3 + 9 * at)) % 512) * 8;
      if (at === level) return entry;
      if ((this.read(entry) & 7n) === 0n) this.write(entry, BigInt(this.hostTable() | EPT_TABLE));
      table = Number(this.read(entry) & 0xf_ffff_f000n);
    }
  }

  mapEpt(gpa: number, hpa: number, flags: number | bigint = EPT_LEAF, level = 1): number {
    const entry = this.eptEntry(gpa, level);
    this.write(entry, BigInt(hpa) | BigInt(flags));
    return entry;
  }

  /** Translate: HPA or -1. */
  go(lin: bigint, access: number): number {
    return translate(this.cpu, lowHalf(lin), highHalf(lin), access);
  }

  /** Whether the fast TLB would translate a byte access of `kind`, without changing anything. */
  fastHit(lin: bigint, kind: 0 | 1 | 2): boolean {
    const { fast, s } = this.cpu;
    const tags = [fast.readTag, fast.writeTag, fast.execTag][kind]!;
    const lo = lowHalf(lin);
    const slot = (lo >>> 12) & 1023;
    return tags[slot] === (lo & ~0xfff) && fast.hiTag[slot] === (highHalf(lin) ^ s[S.CTX]!);
  }

  lo = lowHalf;
  hi = highHalf;
}
