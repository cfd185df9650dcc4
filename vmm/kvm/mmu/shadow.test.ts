// SPDX-License-Identifier: GPL-2.0-only
/**
 * Tables that shadow EPT12: what L2 may do, and what L1 is told. Rules from SDM, "The Extended Page Table Mechanism",
 * "EPT Violations", "EPT Misconfigurations" and "Accessed and Dirty Flags for EPT", and from FNAME(walk_addr_generic) of
 * arch/x86/kvm/mmu/paging_tmpl.h.
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_MEM } from '../../../lib/uapi/memory.ts';
import { EPTE, PG_LEVEL } from '../../../lib/x86/paging.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { EPT_VIOLATION } from '../../../lib/x86/vmx/exit_quals.ts';
import { MADV } from '../../host/mm/madvise.ts';
import { KVM_DIRTY_LOG } from '../../../lib/uapi/memory.ts';
import type { KvmX86Ops } from '../kvm_host_x86.ts';
import { runNested, RWX, walk, WB, type NestedKind, type NestedResult } from '../testing/test_nested.ts';

const MB = 0x10_0000;
const L2 = 0x40_0000_0000;
const done = (value: number): NestedResult => ({ kind: 'done', value });
const qualOf = (r: NestedResult): number => (r.kind === 'fault' ? r.fault.exitQualification : -1);
const isMisconfig = (r: NestedResult): boolean =>
  r.kind === 'fault' && (r.fault.errorCode & PFERR.RSVD) !== 0;

describe('an access of L2', () => {
  it('reaches the page of L1 that EPT12 maps', () =>
    runNested({}, function* ({ ept, enter, leave, l2, read }) {
      ept.map(L2, 0x5000);
      enter();
      expect(yield* l2(L2 + 8, 'write', 0x1234)).toEqual(done(0x1234));
      expect(yield* l2(L2 + 8)).toEqual(done(0x1234));
      leave();
      expect(yield* read(0x5008)).toEqual(done(0x1234));
    }));

  for (const [kind, access] of [
    ['read', EPT_VIOLATION.ACC_READ],
    ['write', EPT_VIOLATION.ACC_WRITE],
    ['fetch', EPT_VIOLATION.ACC_INSTR],
  ] as const) {
    it(`is an EPT violation for L1 where EPT12 has nothing (${kind})`, () =>
      runNested({}, function* ({ enter, l2 }) {
        enter();
        const r = yield* l2(L2 + 0x123, kind);
        const fault = { nestedPageFault: true, fromHardware: true, address: L2 + 0x123 };
        expect(r).toMatchObject({ kind: 'fault', fault });
        expect(qualOf(r) & 0x3f).toBe(access);
      }));
  }

  it('is an EPT violation at any address where EPTP12 points at nothing, until a slot is there', () =>
    runNested({}, function* ({ ept, enter, l2, setSlot, vcpu, hva }) {
      ept.map(L2, 0x5000);
      enter();
      vcpu.arch.guestMmu.getGuestPgd = () => 0x8000_0000 + (ept.root - 3 * MB) + 0x1e;
      expect((yield* l2(L2)).kind).toBe('fault');
      expect([vcpu.arch.mmu.root.sp, vcpu.arch.mmu.root.hpa > 0]).toEqual([null, true]);
      // The tables once more, at another address.
      yield* setSlot({ slot: 7, gpa: 0x8000_0000, hva: hva + 3 * MB, bytes: MB });
      expect(yield* l2(L2, 'write', 1)).toEqual(done(1));
      expect(vcpu.arch.mmu.root.sp).not.toBeNull();
    }));

  it('is emulated where L1 has no memory, and misconfigures from then on', () =>
    runNested({}, function* ({ ept, enter, l2, vcpu }) {
      ept.map(L2, 0xfee0_0000);
      enter();
      expect(yield* l2(L2)).toEqual({ kind: 'emulate' });
      expect(vcpu.stat.pf_mmio_spte_created).toBe(1);
      expect(walk(vcpu, L2).misconfig).toBe(true);
      expect(yield* l2(L2, 'write', 1)).toEqual({ kind: 'emulate' });
      expect(vcpu.stat.pf_mmio_spte_created).toBe(1);
      expect(vcpu.arch.mmioGfn).toBe(0xfee00);
    }));

  it('that is MMIO of older memslots is looked up again', () =>
    runNested({}, function* ({ ept, enter, l2, setSlot, vcpu }) {
      ept.map(L2, 0x4000_0000);
      enter();
      expect(yield* l2(L2)).toEqual({ kind: 'emulate' });
      yield* setSlot({ slot: 1, gpa: 0x4000_0000 });
      expect(yield* l2(L2, 'write', 5)).toEqual(done(5));
      expect(vcpu.stat.pf_mmio_spte_created).toBe(1);
    }));

  it('to a read-only slot is emulated if it writes', () =>
    runNested({}, function* ({ ept, enter, l2, setSlot }) {
      yield* setSlot({ slot: 1, gpa: 0x4000_0000, flags: KVM_MEM.READONLY });
      ept.map(L2, 0x4000_0000);
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect(yield* l2(L2, 'write', 5)).toEqual({ kind: 'emulate' });
    }));

  it('fails with EFAULT where the process has no memory behind the slot', () =>
    runNested({}, function* ({ ept, enter, l2, setSlot }) {
      yield* setSlot({ slot: 1, gpa: 0x4000_0000, hva: 0x10_0000 });
      ept.map(L2, 0x4000_0000);
      enter();
      expect(yield* l2(L2)).toEqual({ kind: 'error', errno: ERRNO.EFAULT });
    }));
});

describe('rights', () => {
  const kinds: readonly NestedKind[] = ['read', 'write', 'fetch'];
  for (const rights of [1, 3, 4, 5, 7]) {
    it(`${rights} of a leaf decide, and are what L1 is told`, () =>
      runNested({}, function* ({ ept, enter, l2 }) {
        ept.map(L2, 0x5000, { bits: rights | WB });
        enter();
        for (const [bit, kind] of kinds.entries()) {
          const r = yield* l2(L2, kind);
          if ((rights & (1 << bit)) !== 0) expect(r.kind).toBe('done');
          else expect(qualOf(r) & 0x3f).toBe((1 << bit) | (rights << 3));
        }
      }));
  }

  it('are those that all levels have', () =>
    runNested({}, function* ({ ept, enter, l2 }) {
      ept.map(L2, 0x5000, { tables: EPTE.R | EPTE.X });
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect(qualOf(yield* l2(L2, 'write')) & 0x3f).toBe(2 | (5 << 3));
    }));

  it('that L1 adds count at once, without INVEPT', () =>
    runNested({}, function* ({ ept, enter, l2 }) {
      ept.map(L2, 0x5000, { bits: EPTE.R | WB });
      enter();
      expect((yield* l2(L2, 'write', 1)).kind).toBe('fault');
      ept.map(L2, 0x5000);
      expect(yield* l2(L2, 'write', 1)).toEqual(done(1));
    }));

  it('to execute alone are a misconfiguration if L1 was not offered them', () =>
    runNested({}, function* ({ ept, enter, l2 }) {
      ept.map(L2, 0x5000, { bits: EPTE.X | WB });
      enter(ept, { execonly: false });
      expect(isMisconfig(yield* l2(L2, 'fetch'))).toBe(true);
    }));
});

describe('a misconfigured entry of EPT12', () => {
  // SDM, "EPT Misconfigurations": by level and bits; each is checked wherever the level is on the way.
  const W = EPTE.W;
  const rows: readonly (readonly [string, number, bigint, boolean])[] = [
    ['write without read', 1, BigInt(W | WB), true],
    ['write and execute without read', 1, BigInt(W | EPTE.X | WB), true],
    ['write without read in a table', 2, BigInt(W), true],
    ['memory type 2', 1, BigInt(RWX | (2 << 3)), true],
    ['memory type 3', 1, BigInt(RWX | (3 << 3)), true],
    ['memory type 7', 1, BigInt(RWX | (7 << 3)), true],
    ['memory type 5', 1, BigInt(RWX | (5 << 3)), false],
    ['bit 3 of a table', 2, BigInt(RWX | 0x08), true],
    ['bit 6 of a table', 3, BigInt(RWX | 0x40), true],
    ['bit 7 of the root', 4, BigInt(RWX | 0x80), true],
    ['an address beyond MAXPHYADDR', 1, BigInt(RWX | WB) | (1n << 36n), true],
    ['bit 51 of a table', 2, BigInt(RWX) | (1n << 51n), true],
    ['bit 52, which is ignored', 1, BigInt(RWX | WB) | (1n << 52n), false],
    ['bit 63, which is ignored', 2, BigInt(RWX) | (1n << 63n), false],
    ['an address bit below a 2 MiB page', 2, BigInt(RWX | WB | EPTE.PS | 0x1000), true],
    ['an address bit below a 1 GiB page', 3, BigInt(RWX | WB | EPTE.PS) | (1n << 29n), true],
  ];
  for (const [what, level, bits, bad] of rows) {
    it(`is reported as such: ${what}`, () =>
      runNested({}, function* ({ ept, enter, l2 }) {
        ept.map(L2, 0x5000);
        const entry = ept.entry(L2, level);
        const isTable = level > 1 && (bits & BigInt(EPTE.PS)) === 0n;
        const keep = isTable || level === 1 ? ept.read(entry) & 0x7fff_f000n : 0n;
        ept.write(entry, bits | keep);
        enter();
        const r = yield* l2(L2);
        expect(isMisconfig(r)).toBe(bad);
        expect(bad ? qualOf(r) : r).toEqual(bad ? 0 : done(0));
      }));
  }

  for (const [level, largest] of [
    [2, PG_LEVEL.L4K],
    [3, PG_LEVEL.L2M],
  ] as const) {
    it(`is a large page of level ${level} if L1 was only offered level ${largest}`, () =>
      runNested({}, function* ({ ept, enter, l2 }) {
        ept.map(L2, 0, { level });
        enter(ept, { hugePageLevel: largest });
        expect(isMisconfig(yield* l2(L2))).toBe(true);
      }));
  }
});

describe('accessed and dirty flags of EPT12', () => {
  const { A, D } = EPTE;
  const flags = (entry: bigint): number => Number(entry) & (A | D);

  it('are set by L0 on all levels, dirty on the leaf only and by writes only', () =>
    runNested({}, function* ({ ept, enter, l2 }) {
      ept.map(L2, 0x5000);
      enter(ept, { accessedDirty: true });
      const all = (): number[] => [4, 3, 2, 1].map((level) => flags(ept.read(ept.entry(L2, level))));
      yield* l2(L2);
      expect(all()).toEqual([A, A, A, A]);
      yield* l2(L2, 'write', 1);
      expect(all()).toEqual([A, A, A, A | D]);
    }));

  it('are not touched if EPTP12 does not enable them', () =>
    runNested({}, function* ({ ept, enter, l2 }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      expect([4, 1].map((level) => flags(ept.read(ept.entry(L2, level))))).toEqual([0, 0]);
    }));

  it('make the pages of L1 dirty that hold the tables', () =>
    runNested({}, function* ({ ept, enter, l2, kvm, setSlot, hva }) {
      ept.map(L2, 0x5000);
      kvm.manualDirtyLogProtect = KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE;
      yield* setSlot({ bytes: 4 * MB, hva, flags: KVM_MEM.LOG_DIRTY_PAGES });
      enter(ept, { accessedDirty: true });
      yield* l2(L2);
      const bitmap = kvm.memslots[0]!.idToMemslot(0)!.dirtyBitmap!;
      const isDirty = (gpa: number): boolean => ((bitmap[gpa >>> 17]! >>> ((gpa >>> 12) & 31)) & 1) === 1;
      expect([4, 3, 2, 1].every((level) => isDirty(ept.entry(L2, level)))).toBe(true);
      expect(isDirty(0x5000)).toBe(false);
    }));

  it('stay as they are in a read-only slot', () =>
    runNested({}, function* ({ ept, enter, l2, setSlot, hva }) {
      yield* setSlot({ slot: 1, gpa: 0x4000_0000, hva: hva + 0x30_0000, bytes: MB, flags: KVM_MEM.READONLY });
      ept.map(L2, 0x5000);
      const leaf = ept.entry(L2, 1);
      // The table of level 1 once more, through the read-only slot.
      ept.write(ept.entry(L2, 2), BigInt(0x4000_0000 + (leaf & ~0xfff) - 0x30_0000) | BigInt(RWX));
      enter(ept, { accessedDirty: true });
      expect(yield* l2(L2, 'write', 1)).toEqual(done(1));
      expect(flags(ept.read(leaf))).toBe(0);
    }));

  it('that become dirty are logged first, and a full log is a fault for L1', () =>
    runNested({}, function* ({ ept, enter, l2, vcpu }) {
      const logged: number[] = [];
      let room = 1;
      const ops = vcpu.kvm.module.ops as { nestedOps: KvmX86Ops['nestedOps'] };
      ops.nestedOps = {
        writeLogDirty: (_: unknown, gpa: number) => (room-- > 0 ? (logged.push(gpa), 'logged') : 'full'),
      } as never;
      try {
        ept.map(L2, 0x5000);
        ept.map(L2 + 0x1000, 0x6000);
        enter(ept, { accessedDirty: true });
        expect(yield* l2(L2 + 8, 'write', 1)).toEqual(done(1));
        expect(yield* l2(L2 + 8, 'write', 2)).toEqual(done(2));
        expect(logged).toEqual([L2 + 8]);
        expect((yield* l2(L2 + 0x1000, 'write', 1)).kind).toBe('fault');
        expect(flags(ept.read(ept.entry(L2 + 0x1000, 1)))).toBe(0);
      } finally {
        ops.nestedOps = null;
      }
    }));
});

describe('a large page of EPT12', () => {
  for (const level of [2, 3]) {
    it(`of level ${level} is mapped by small pages where L1's memory is small`, () =>
      runNested({}, function* ({ kvm, ept, enter, leave, l2, read }) {
        ept.map(L2, 0, { level });
        enter();
        expect(yield* l2(L2 + 0x12_3004, 'write', 7)).toEqual(done(7));
        expect(yield* l2(L2 + 0x12_4004, 'write', 8)).toEqual(done(8));
        expect([kvm.stat.pages_4k, kvm.stat.pages_2m]).toEqual([2, 0]);
        leave();
        expect(yield* read(0x12_3004)).toEqual(done(7));
      }));

    it(`of level ${level} is mapped by 2 MiB where L1's memory is huge`, () =>
      runNested({}, function* ({ kvm, ept, enter, l2, mmap, setSlot }) {
        const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
        yield* setSlot({ slot: 1, gpa: 0x4000_0000, bytes: 4 * MB, hva });
        ept.map(L2, 0x4000_0000, { level });
        enter();
        expect(yield* l2(L2 + 0x12_3004, 'write', 7)).toEqual(done(7));
        expect(yield* l2(L2 + 0x12_4004, 'write', 8)).toEqual(done(8));
        expect([kvm.stat.pages_4k, kvm.stat.pages_2m]).toEqual([0, 1]);
      }));
  }

  it('of small pages is mapped by small pages even if the host has a huge one', () =>
    runNested({}, function* ({ kvm, ept, enter, l2, mmap, setSlot }) {
      const hva = yield* mmap(4 * MB, MADV.HUGEPAGE);
      yield* setSlot({ slot: 1, gpa: 0x4000_0000, bytes: 4 * MB, hva });
      ept.map(L2, 0x4000_0000);
      enter();
      expect(yield* l2(L2, 'write', 7)).toEqual(done(7));
      expect([kvm.stat.pages_4k, kvm.stat.pages_2m]).toEqual([1, 0]);
    }));

  it('that is clean is mapped read-only first, and writable with its dirty flag', () =>
    runNested({}, function* ({ ept, enter, l2, vcpu }) {
      ept.map(L2, 0, { level: 2 });
      enter(ept, { accessedDirty: true });
      yield* l2(L2 + 0x5000);
      expect(walk(vcpu, L2 + 0x5000).rights).toBe(EPTE.R | EPTE.X);
      expect(yield* l2(L2 + 0x5000, 'write', 3)).toEqual(done(3));
      expect(walk(vcpu, L2 + 0x5000).rights).toBe(RWX);
      expect(Number(ept.read(ept.entry(L2, 2))) & EPTE.D).toBe(EPTE.D);
    }));
});
