// SPDX-License-Identifier: GPL-2.0-only
/** Every cost point has a price and a source, and the ledger adds them up; anchors from spec/cost-model.md. */
import { describe, expect, it } from 'vitest';
import { spend, type Spender } from './ledger.ts';
import { COST, NR_COST_POINTS } from './points.ts';
import { PRICE_TABLE, priceTableMarkdown, PROFILES, type CostName } from './profiles.ts';

describe('the price table', () => {
  it('has a positive price on both profiles and a source for every cost point, and nothing else', () => {
    expect(Object.keys(PRICE_TABLE).sort()).toEqual(Object.keys(COST).sort());
    for (const [name, [intel, amd, source]] of Object.entries(PRICE_TABLE)) {
      expect({ name, ok: intel > 0 && amd > 0 && source.length > 0 }).toEqual({ name, ok: true });
      const point = COST[name as CostName];
      expect([PROFILES.skylake.prices[point], PROFILES.milan.prices[point]]).toEqual([intel, amd]);
    }
  });

  it('keeps the anchors of the cost model', () => {
    const { prices } = PROFILES.skylake;
    expect(prices[COST.VM_ENTRY]! + prices[COST.VM_EXIT]!).toBe(600);
    expect(4 * prices[COST.WALK_REF]!).toBe(20);
    expect(prices[COST.INSN]).toBe(1);
    expect(prices).toHaveLength(NR_COST_POINTS);
  });

  it('can be printed', () => {
    const lines = priceTableMarkdown().split('\n');
    expect(lines).toHaveLength(2 + Object.keys(COST).length);
    expect(lines).toContainEqual(expect.stringMatching(/^\| VM_ENTRY \| 350 \| 700 \| \[S\]/));
  });
});

describe('the profiles', () => {
  it('have TLBs of power-of-two sets and the published sizes', () => {
    const { skylake, icelake, milan } = PROFILES;
    const all = [skylake, icelake, milan];
    expect(all.map(({ tlb }) => tlb.sets * tlb.ways)).toEqual([1536, 2048, 2048]);
    for (const { tlb } of all) {
      for (const sets of [tlb.sets, tlb.gpSets]) expect(sets & (sets - 1)).toBe(0);
    }
    expect(all.map((profile) => profile.maxPhysBits)).toEqual([46, 52, 48]);
  });
});

describe('spending', () => {
  it('counts and moves the clock by the price', () => {
    const { prices } = PROFILES.skylake;
    const cpu: Spender = { clock: new Float64Array([100]), counts: new Float64Array(NR_COST_POINTS), prices };
    spend(cpu, COST.VM_EXIT);
    spend(cpu, COST.WALK_REF, 24);
    expect([cpu.counts[COST.VM_EXIT], cpu.counts[COST.WALK_REF], cpu.clock[0]]).toEqual([
      1,
      24,
      100 + 250 + 120,
    ]);
  });
});
