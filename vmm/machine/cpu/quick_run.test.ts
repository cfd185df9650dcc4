// SPDX-License-Identifier: GPL-2.0-only
/**
 * The quick run and its walk against the TypeScript that it stands for: the same program on two machines, one without it, must
 * leave the same bytes everywhere (registers, clock, counts, fast TLB, modelled TLB, frame tables) and the same faults.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Pfn } from '../../../lib/x86/addr.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { PROFILES } from '../cost/profiles.ts';
import { SanitizerError } from '../errors.ts';
import { RAM_BASE } from '../layout.ts';
import { createMachine } from '../machine.ts';
import { mmuContextChanged } from '../mmu/context.ts';
import { invlpg, movCr3Flush } from '../mmu/invalidate.ts';
import { setStaleCheck } from '../mmu/stale_hit.ts';
import { COST } from '../cost/points.ts';
import type { Cpu } from './cpu.ts';
import { makeQuickRun } from './quick_run.ts';
import { S } from './state.ts';
import { DATA_PHYS, expectSame, GOOD, leafOf, PAGES, pair } from './testing/quick_sides.ts';

interface Step {
  readonly pages: readonly number[];
  readonly event: 'none' | 'invlpg' | 'flush' | 'pcid' | 'user' | 'global off';
}

const step: fc.Arbitrary<Step> = fc.record({
  pages: fc
    .tuple(fc.nat(PAGES - 1), fc.integer({ min: 1, max: 1300 }), fc.constantFrom(1, 3, 517))
    .map(([first, n, stride]) => Array.from({ length: n }, (_, i) => (first + i * stride) % PAGES)),
  event: fc.constantFrom('none', 'none', 'invlpg', 'flush', 'pcid', 'user', 'global off'),
});

function act(cpu: Cpu, event: Step['event']): void {
  const { s } = cpu;
  if (event === 'invlpg') invlpg(cpu, 0x5000, 1);
  else if (event === 'flush') movCr3Flush(cpu, { noflush: false });
  else if (event === 'pcid') s[S.CR3] = s[S.CR3]! ^ 5;
  else if (event === 'global off') s[S.CR4] = s[S.CR4]! ^ CR4.PGE;
  else if (event === 'user') s[S.PKRU] = s[S.PKRU]! ^ 4;
  mmuContextChanged(cpu);
}

const all = Array.from({ length: PAGES }, (_, n) => n);

describe('the quick run', () => {
  it('leaves every byte as the TypeScript does, whatever the tables say', () => {
    fc.assert(
      fc.property(fc.nat(1000), fc.array(step, { minLength: 3, maxLength: 8 }), (salt, steps) => {
        const both = pair((page) => leafOf(page + salt));
        for (const { pages, event } of [{ pages: all, event: 'none' } as const, ...steps]) {
          expect(both[0].touch(pages)).toEqual(both[1].touch(pages));
          expectSame(both);
          for (const side of both) act(side.cpu, event);
        }
      }),
      { numRuns: 5, seed: 11 },
    );
  });

  it('takes nearly every store of a plain loop over more pages than the TLB has', () => {
    const both = pair(() => [GOOD, 0]);
    for (const side of both) side.touch(all);
    expectSame(both);
    const { cpu } = both[0];
    const { quick } = cpu;
    const executed = (): number => cpu.counts[COST.INSN]!;
    const before = executed();
    let inRuns = 0;
    cpu.quick = (...args) => {
      const from = executed();
      const answer = quick!(...args);
      inRuns += executed() - from;
      return answer;
    };
    for (const side of both) side.touch(all);
    expect(inRuns).toBeGreaterThan(0.99 * (executed() - before));
    cpu.quick = quick;
    expectSame(both);
  });

  it('stops at the same instructions', () => {
    const both = pair(() => [GOOD, 0]);
    for (const side of both) side.touch(all);
    for (const slice of [1, 2, 3, 30, 31, 101]) {
      for (const side of both) side.touch(all, slice);
      expectSame(both);
    }
  });

  it('finds that a table or a page was freed', () => {
    for (const freed of ['page', 'table'] as const) {
      const both = pair(() => [GOOD, 0]);
      for (const side of both) {
        const { frames, mem } = side.machine;
        side.touch(all);
        const owner = frames.intern('test');
        const pages = mem.size / 4096;
        const victim = freed === 'page' ? (DATA_PHYS >> 12) + 3 : (RAM_BASE >> 12) + 4;
        for (let pfn = RAM_BASE >> 12; pfn < pages; pfn++) frames.take(pfn as Pfn, owner);
        side.touch(all);
        frames.retire(victim as Pfn, owner);
        expect(() => side.touch(all)).toThrow(SanitizerError);
        expect(() => side.touch(all)).toThrow(
          freed === 'page' ? /use after free|free frame/ : /freed page table/,
        );
      }
      expectSame(both);
    }
  });

  it('is not used while hits are checked against the tables', () => {
    const [side] = pair(() => [GOOD, 0]);
    side.touch(all);
    setStaleCheck(side.cpu, 'hits');
    side.cpu.quick = () => expect.fail('used');
    expect(side.touch(all)).toHaveLength(1);
  });

  it('is not made for a TLB that lies outside of the memory', () => {
    for (const tlb of ['keep-forever', 'keep-nothing'] as const) {
      const { cpus } = createMachine({
        profile: PROFILES.milan,
        nrCpus: 2,
        ramBytes: 0x10_0000,
        tlb,
        seed: 1,
      });
      expect(makeQuickRun(cpus[1]!)).toBeUndefined();
    }
  });
});
