// SPDX-License-Identifier: GPL-2.0-only
/**
 * Tables that shadow EPT12: what L2 may do, what L1 is told, and that they follow changes. Rules from SDM, "The Extended
 * Page Table Mechanism", "EPT Violations" and "EPT Misconfigurations", and from arch/x86/kvm/mmu of the kernel.
 */
import { describe, expect, it } from 'vitest';
import { EPTE } from '../../../lib/x86/paging.ts';
import { EPT_VIOLATION } from '../../../lib/x86/vmx/exit_quals.ts';
import { runNested, RWX, WB, type NestedKind, type NestedResult } from '../testing/test_nested.ts';

const L2 = 0x40_0000_0000;
const done = (value: number): NestedResult => ({ kind: 'done', value });

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
        expect(r).toMatchObject({ kind: 'fault', fault: { nestedPageFault: true, address: L2 + 0x123 } });
        expect(qualOf(r) & 0x3f).toBe(access);
      }));
  }
});

const qualOf = (r: NestedResult): number => (r.kind === 'fault' ? r.fault.exitQualification : -1);

describe('rights', () => {
  const kinds: readonly NestedKind[] = ['read', 'write', 'fetch'];
  for (let rights = 1; rights < 8; rights++) {
    if (rights === 2 || rights === 6) continue;
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
});

describe('a table of level 1', () => {
  it('becomes unsync when L1 writes it, and is synced by the next use of its page', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      ept.map(L2 + 0x1000, 0x6000);
      enter();
      yield* l2(L2, 'write', 1);
      yield* l2(L2 + 0x1000, 'write', 2);
      leave();
      const entry = ept.entry(L2, 1);
      expect(yield* l1Write(entry, 0x6000 | RWX | WB)).toBe('done');
      expect(kvm.stat.mmu_unsync).toBe(1);
    }));

  it('is written by L0 for L1 only above it', () =>
    runNested({}, function* ({ kvm, ept, enter, leave, l2, l1Write }) {
      ept.map(L2, 0x5000);
      enter();
      yield* l2(L2, 'write', 1);
      leave();
      const other = ept.page();
      ept.write(other, BigInt(0x7000 | RWX | WB));
      expect(yield* l1Write(ept.entry(L2, 2), other | RWX)).toBe('emulated');
      enter();
      expect(yield* l2(L2)).toEqual(done(0));
      expect(kvm.stat.mmu_pde_zapped).toBe(1);
    }));
});
