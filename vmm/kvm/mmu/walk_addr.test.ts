// SPDX-License-Identifier: GPL-2.0-only
/**
 * Walks of guests' tables by L0: rights, reserved bits, protection keys, accessed and dirty bits; L2's tables through
 * EPT12. Rules from SDM, "Determination of Access Rights", "Page-Fault Exceptions", "Protection Keys" and "EPT Violations".
 */
import { describe, expect, it } from 'vitest';
import { EPTE, PTE } from '../../../lib/x86/paging.ts';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { EPT_VIOLATION } from '../../../lib/x86/vmx/exit_quals.ts';
import type { Gpa } from '../../../lib/x86/addr.ts';
import { doMadvise, MADV } from '../../host/mm/madvise.ts';
import type { Steps } from '../../host/steps.ts';
import { INVALID_GPA, type Vcpu } from '../kvm_host.ts';
import type { KvmX86Ops } from '../kvm_host_x86.ts';
import { drive } from '../testing/test_kvm.ts';
import { Ept12, RWX, testNested, WB, type TestNested } from '../testing/test_nested.ts';
import { kvmMmuGvaToGpa } from '../x86/gva.ts';
import { X86Exception } from '../x86/x86_exception.ts';
import { kvmInitMmu } from './init.ts';
import { kvmInjectEmulatedPageFault } from './invalidate_addr.ts';
import { kvmTranslateGpa } from './walk_addr.ts';

const MB = 0x10_0000;
const LINEAR = 0xffff_8000_1234_5678n;
const FRAME = 0x5000;
const OFFSET = Number(LINEAR & 0xfffn);
const ALL = PTE.P | PTE.RW | PTE.US;
const NX = 1n << 63n;

interface Mode {
  readonly cr0?: number;
  readonly cr4?: number;
  readonly efer?: number;
  readonly cr3: number;
}

function setMode(vcpu: Vcpu, { cr0 = CR0.WP, cr4 = 0, efer = EFER.NXE, cr3 }: Mode): void {
  const arch = { cr0: cr0 | CR0.PE | CR0.PG, cr4: cr4 | CR4.PAE, efer: efer | EFER.LME | EFER.LMA, cr3 };
  Object.assign(vcpu.arch, arch);
  kvmInitMmu(vcpu);
}

/** 64-bit tables for one address, at page 0x30_0000 and up; `entry` sets the entry of a level. */
class Tables {
  readonly #nested: TestNested;
  readonly #ept: Ept12;
  readonly levels: number;
  readonly base: number;

  constructor(nested: TestNested, levels = 4) {
    this.#nested = nested;
    this.#ept = nested.ept;
    this.levels = levels;
    const pages = Array.from({ length: levels }, () => nested.ept.page());
    this.base = pages[0]!;
    for (let level = levels; level > 1; level--) this.set(level, BigInt(this.table(level - 1) | ALL));
    this.set(1, BigInt(FRAME | ALL));
  }

  table(level: number): number {
    return this.base + 0x1000 * (this.levels - level);
  }

  at(level: number): number {
    return this.table(level) + 8 * Number((LINEAR >> BigInt(12 + 9 * (level - 1))) & 511n);
  }

  set(level: number, entry: bigint): void {
    this.#ept.write(this.at(level), entry);
  }

  get(level: number): bigint {
    return this.#ept.read(this.at(level));
  }

  translate(access: number): Gpa | X86Exception {
    const fault = new X86Exception();
    const { vcpu } = this.#nested;
    const to = kvmMmuGvaToGpa(vcpu, vcpu.arch.walkMmu, LINEAR, access, fault);
    return to === INVALID_GPA ? fault : to;
  }
}

const errorOf = (r: Gpa | X86Exception): number => (typeof r === 'number' ? -1 : r.errorCode);

describe('the rights of an address', () => {
  // The rule of the manual, written out; the bitmap of L0 must agree for all modes, entries and accesses.
  const allowed = (
    mode: { wp: boolean; smep: boolean; smap: boolean; nxe: boolean; ac: boolean },
    rights: number,
    access: number,
  ): boolean => {
    const user = (access & PFERR.USER) !== 0;
    const userPage = (rights & 4) !== 0;
    const writable = (rights & 2) !== 0;
    const executable = (rights & 1) !== 0 || !mode.nxe;
    if (user && !userPage) return false;
    if ((access & PFERR.FETCH) !== 0) return executable && (user || !userPage || !mode.smep);
    if (!user && userPage && mode.smap && !mode.ac) return false;
    if ((access & PFERR.WRITE) !== 0) return writable || (!user && !mode.wp);
    return true;
  };

  it('are those of the manual in every mode', () => {
    const nested = testNested();
    const { vcpu } = nested;
    const tables = new Tables(nested);
    const ops = vcpu.kvm.module.ops as { getRflags: KvmX86Ops['getRflags'] };
    const { getRflags } = ops;
    for (let n = 0; n < 32; n++) {
      const mode = { wp: !!(n & 1), smep: !!(n & 2), smap: !!(n & 4), nxe: !!(n & 8), ac: !!(n & 16) };
      ops.getRflags = () => (mode.ac ? 0x4_0002 : 2);
      const cr4 = (mode.smep ? CR4.SMEP : 0) | (mode.smap ? CR4.SMAP : 0);
      setMode(vcpu, { cr0: mode.wp ? CR0.WP : 0, cr4, efer: mode.nxe ? EFER.NXE : 0, cr3: tables.base });
      for (let rights = 0; rights < 8; rights++) {
        if (!mode.nxe && (rights & 1) === 0) continue;
        const nx = (rights & 1) === 0 ? NX : 0n;
        tables.set(1, BigInt(FRAME | PTE.P | (rights & 6)) | nx);
        for (const access of [
          0,
          PFERR.WRITE,
          PFERR.FETCH,
          PFERR.USER,
          PFERR.USER | PFERR.WRITE,
          PFERR.USER | PFERR.FETCH,
        ]) {
          const r = tables.translate(access);
          const tells = mode.nxe || mode.smep ? access : access & ~PFERR.FETCH;
          const expected = allowed(mode, rights, access) ? FRAME + OFFSET : tells | PFERR.PRESENT;
          expect([n, rights, access, typeof r === 'number' ? r : errorOf(r)]).toEqual([
            n,
            rights,
            access,
            expected,
          ]);
        }
      }
    }
    ops.getRflags = getRflags;
  });

  it('follow CR0.WP that the guest has changed by itself', () => {
    const nested = testNested();
    const { vcpu } = nested;
    const tables = new Tables(nested);
    tables.set(1, BigInt(FRAME | PTE.P));
    setMode(vcpu, { cr3: tables.base });
    const { inits } = vcpu.arch.rootMmu;
    expect(errorOf(tables.translate(PFERR.WRITE))).toBe(PFERR.WRITE | PFERR.PRESENT);
    vcpu.arch.cr0 &= ~CR0.WP;
    expect(tables.translate(PFERR.WRITE)).toBe(FRAME + OFFSET);
    vcpu.arch.cr0 |= CR0.WP;
    expect(errorOf(tables.translate(PFERR.WRITE))).toBe(PFERR.WRITE | PFERR.PRESENT);
    kvmInitMmu(vcpu);
    expect(vcpu.arch.rootMmu.inits).toBe(inits);
  });

  it('are those that all levels give', () => {
    const nested = testNested();
    const tables = new Tables(nested);
    setMode(nested.vcpu, { cr3: tables.base });
    for (const level of [4, 3, 2, 1]) {
      const good = tables.get(level);
      tables.set(level, good & ~BigInt(PTE.RW));
      expect(errorOf(tables.translate(PFERR.WRITE | PFERR.USER))).toBe(7);
      tables.set(level, good | NX);
      expect(errorOf(tables.translate(PFERR.FETCH))).toBe(PFERR.FETCH | PFERR.PRESENT);
      tables.set(level, good & ~BigInt(PTE.P));
      expect(errorOf(tables.translate(PFERR.USER))).toBe(PFERR.USER);
      tables.set(level, good);
      expect(tables.translate(PFERR.USER)).toBe(FRAME + OFFSET);
    }
  });

  it('are limited by protection keys for data of user pages', () => {
    const nested = testNested();
    const { vcpu } = nested;
    const tables = new Tables(nested);
    setMode(vcpu, { cr4: CR4.PKE, cr3: tables.base });
    tables.set(1, BigInt(FRAME | ALL) | (5n << 59n));
    const pk = PFERR.PK | PFERR.PRESENT;
    vcpu.arch.pkru = 1 << 10; // access-disable of key 5
    expect(errorOf(tables.translate(PFERR.USER))).toBe(pk | PFERR.USER);
    expect(errorOf(tables.translate(0))).toBe(pk);
    expect(tables.translate(PFERR.USER | PFERR.FETCH)).toBe(FRAME + OFFSET);
    vcpu.arch.pkru = 2 << 10; // write-disable
    expect(tables.translate(PFERR.USER)).toBe(FRAME + OFFSET);
    expect(errorOf(tables.translate(PFERR.USER | PFERR.WRITE))).toBe(pk | PFERR.USER | PFERR.WRITE);
    expect(errorOf(tables.translate(PFERR.WRITE))).toBe(pk | PFERR.WRITE);
    setMode(vcpu, { cr0: 0, cr4: CR4.PKE, cr3: tables.base });
    expect(tables.translate(PFERR.WRITE)).toBe(FRAME + OFFSET);
    tables.set(1, BigInt(FRAME | PTE.P | PTE.RW) | (5n << 59n));
    vcpu.arch.pkru = -1;
    expect(tables.translate(0)).toBe(FRAME + OFFSET);
  });
});

describe('a reserved bit', () => {
  const rows: readonly (readonly [string, number, bigint])[] = [
    ['51 of an entry of level 1', 1, 1n << 51n],
    ['MAXPHYADDR of a table', 3, 1n << 36n],
    ['7 of the root', 4, BigInt(PTE.PS)],
    ['13 of a 2 MiB page', 2, BigInt(PTE.PS | 0x2000)],
    ['29 of a 1 GiB page', 3, BigInt(PTE.PS) | (1n << 29n)],
  ];
  for (const [what, level, bit] of rows) {
    it(`is a fault of its own kind: ${what}`, () => {
      const nested = testNested();
      const tables = new Tables(nested);
      setMode(nested.vcpu, { cr3: tables.base });
      const keep = level > 1 && (bit & BigInt(PTE.PS)) !== 0n && level < 4 ? BigInt(ALL) : tables.get(level);
      tables.set(level, keep | bit);
      expect(errorOf(tables.translate(PFERR.WRITE))).toBe(PFERR.RSVD | PFERR.PRESENT | PFERR.WRITE);
    });
  }

  it('is bit 63 without EFER.NXE', () => {
    const nested = testNested();
    const tables = new Tables(nested);
    setMode(nested.vcpu, { efer: 0, cr3: tables.base });
    tables.set(2, tables.get(2) | NX);
    expect(errorOf(tables.translate(0))).toBe(PFERR.RSVD | PFERR.PRESENT);
  });
});

describe('a walk', () => {
  it('reads five levels', () => {
    const nested = testNested();
    const tables = new Tables(nested, 5);
    setMode(nested.vcpu, { cr4: CR4.LA57, cr3: tables.base });
    expect(tables.translate(0)).toBe(FRAME + OFFSET);
  });

  it('ends at large pages', () => {
    const nested = testNested();
    const tables = new Tables(nested);
    setMode(nested.vcpu, { cr3: tables.base });
    tables.set(2, BigInt(ALL | PTE.PS | 0x20_0000));
    expect(tables.translate(0)).toBe(0x20_0000 + Number(LINEAR & 0x1f_ffffn));
    tables.set(3, BigInt(ALL | PTE.PS | 0x4000_0000));
    expect(tables.translate(0)).toBe(0x4000_0000 + Number(LINEAR & 0x3fff_ffffn));
  });

  it('sets accessed bits, and the dirty bit of the last entry for a write', () => {
    const nested = testNested();
    const tables = new Tables(nested);
    setMode(nested.vcpu, { cr3: tables.base });
    const flags = (): number[] => [4, 3, 2, 1].map((level) => Number(tables.get(level)) & (PTE.A | PTE.D));
    tables.set(1, BigInt(FRAME | PTE.P));
    expect(errorOf(tables.translate(PFERR.WRITE))).toBe(PFERR.WRITE | PFERR.PRESENT);
    expect(flags()).toEqual([0, 0, 0, 0]);
    tables.set(1, BigInt(FRAME | ALL));
    tables.translate(0);
    expect(flags()).toEqual([PTE.A, PTE.A, PTE.A, PTE.A]);
    tables.translate(PFERR.WRITE);
    expect(flags()).toEqual([PTE.A, PTE.A, PTE.A, PTE.A | PTE.D]);
  });

  it('is not present where there is no memory for a table', () => {
    const nested = testNested();
    const tables = new Tables(nested);
    setMode(nested.vcpu, { cr3: 0x8000_0000 });
    expect(errorOf(tables.translate(PFERR.WRITE))).toBe(PFERR.WRITE);
  });

  it('says that the host has to be waited for, and is no fault then', () => {
    const nested = testNested();
    const { vcpu, mm, hva } = nested;
    const tables = new Tables(nested);
    setMode(vcpu, { cr3: tables.base });
    drive(nested, doMadvise(mm, hva + 3 * MB, MB, MADV.DONTNEED));
    const other = function* (): Steps<void> {
      yield* mm.mmapLock.writeLock();
      while (!vcpu.guestPageBusy) yield;
      mm.mmapLock.writeUnlock();
    };
    const walker = function* (): Steps<void> {
      while (mm.mmapLock.writer === null) yield;
      expect(typeof tables.translate(0)).toBe('object');
    };
    const { sched } = nested.kvm.host;
    sched.spawn('other', other(), { cpu: 0 });
    sched.spawn('walker', walker(), { cpu: 1 });
    sched.run();
    expect(vcpu.guestPageBusy).toBe(true);
  });
});

/** L2 with tables at L2 addresses 16 GiB up, mapped by EPT12 onto L1's pages of the same number below. */
function l2Tables(
  nested: TestNested,
  { ad = false, cr4 = 0 } = {},
): { tables: Tables; up: (gpa: number) => number } {
  const up = (gpa: number): number => gpa + 0x4_0000_0000;
  const { ept, vcpu } = nested;
  const tables = new Tables(nested);
  for (let level = 4; level >= 1; level--) {
    ept.map(up(tables.table(level)), tables.table(level));
    if (level > 1) tables.set(level, BigInt(up(tables.table(level - 1))) | BigInt(ALL));
  }
  tables.set(1, BigInt(up(FRAME)) | BigInt(ALL));
  ept.map(up(FRAME), FRAME);
  nested.enter(ept, { accessedDirty: ad });
  setMode(vcpu, { cr4, cr3: up(tables.base) });
  return { tables, up };
}

describe('a walk for L2', () => {
  it("goes through L2's tables, each of them and the page through EPT12", () => {
    const nested = testNested();
    const { tables } = l2Tables(nested);
    expect(nested.vcpu.arch.walkMmu).toBe(nested.vcpu.arch.nestedMmu);
    expect(tables.translate(PFERR.USER)).toBe(FRAME + OFFSET);
  });

  it('is a page fault of L2 if its own tables refuse', () => {
    const nested = testNested();
    const { tables } = l2Tables(nested);
    tables.set(1, BigInt(PTE.RW));
    const r = tables.translate(PFERR.WRITE) as X86Exception;
    expect(r).toMatchObject({ vector: VECTOR.PF, nestedPageFault: false, linear: LINEAR, errorCode: 2 });
  });

  it("is a fault of EPT12 if that refuses the page, with L2's address and the access", () => {
    const nested = testNested();
    const { tables, up } = l2Tables(nested);
    nested.ept.map(up(FRAME), FRAME, { bits: EPTE.R | WB });
    const r = tables.translate(PFERR.WRITE) as X86Exception;
    expect(r).toMatchObject({ nestedPageFault: true, fromHardware: false, address: up(FRAME) });
    const { GVA_IS_VALID, GVA_TRANSLATED, ACC_WRITE, PROT_READ } = EPT_VIOLATION;
    expect(r.exitQualification).toBe(ACC_WRITE | PROT_READ | GVA_IS_VALID | GVA_TRANSLATED);
  });

  for (const ad of [false, true]) {
    // KVM lets the walk set accessed bits whether or not EPT12 has flags of its own.
    it(`is a fault of EPT12 if that lets a table only be read (flags in EPT12: ${ad})`, () => {
      const nested = testNested();
      const { tables, up } = l2Tables(nested, { ad });
      nested.ept.map(up(tables.table(2)), tables.table(2), { bits: EPTE.R | WB });
      const r = tables.translate(0);
      const { GVA_IS_VALID, ACC_READ, ACC_WRITE, PROT_READ } = EPT_VIOLATION;
      expect((r as X86Exception).address).toBe(up(tables.table(2)));
      expect((r as X86Exception).exitQualification).toBe(ACC_READ | ACC_WRITE | PROT_READ | GVA_IS_VALID);
    });
  }

  it('is injected into L1 or into L2, whose fault it is', () => {
    const nested = testNested();
    const { vcpu, injected } = nested;
    const { tables, up } = l2Tables(nested);
    const own: X86Exception[] = [];
    vcpu.arch.nestedMmu.injectPageFault = (_, fault) => void own.push(fault);
    nested.ept.map(up(FRAME), FRAME, { bits: 0 });
    kvmInjectEmulatedPageFault(vcpu, tables.translate(0) as X86Exception);
    expect([injected.length, own.length]).toEqual([1, 0]);
    tables.set(1, 0n);
    kvmInjectEmulatedPageFault(vcpu, tables.translate(0) as X86Exception);
    expect([injected.length, own.length]).toEqual([1, 1]);
  });

  it('without paging is one of EPT12 alone', () => {
    const nested = testNested();
    const { vcpu, ept } = nested;
    ept.map(Number(LINEAR & 0xffff_f000n), FRAME);
    nested.enter();
    kvmInitMmu(vcpu);
    const fault = new X86Exception();
    expect(kvmMmuGvaToGpa(vcpu, vcpu.arch.walkMmu, LINEAR & 0xffff_ffffn, 0, fault)).toBe(FRAME + OFFSET);
    expect(kvmMmuGvaToGpa(vcpu, vcpu.arch.walkMmu, 0n, PFERR.FETCH, fault)).toBe(INVALID_GPA);
    expect(fault).toMatchObject({ nestedPageFault: true, address: 0 });
  });
});

describe('kvm_translate_gpa()', () => {
  it("leaves L1's addresses alone and takes L2's through EPT12 with the right to read", () => {
    const nested = testNested();
    const { vcpu, ept } = nested;
    ept.map(0x1_0000_0000, FRAME, { bits: EPTE.X | WB });
    ept.map(0x1_0000_1000, FRAME, { bits: RWX | WB });
    nested.enter();
    const fault = new X86Exception();
    const { rootMmu, nestedMmu } = vcpu.arch;
    expect(kvmTranslateGpa(vcpu, rootMmu, 0x1234 as Gpa, 0, fault)).toBe(0x1234);
    expect(kvmTranslateGpa(vcpu, nestedMmu, 0x1_0000_1008 as Gpa, PFERR.WRITE, fault)).toBe(FRAME + 8);
    expect(kvmTranslateGpa(vcpu, nestedMmu, 0x1_0000_0008 as Gpa, PFERR.FETCH, fault)).toBe(INVALID_GPA);
    expect(fault.exitQualification & 0x3f).toBe(5 | (4 << 3));
  });
});
