// SPDX-License-Identifier: GPL-2.0-only
/**
 * Everything at once: vCPUs that write, execute, count, interrupt each other and sleep, while host threads take memory
 * away, protect it, migrate it, move slots and log dirty pages. What the guest computes must be what model.ts says, on
 * every TLB and with every parameter. NESTBED_FUZZ multiplies the number of seeds.
 */
import { describe, expect, it } from 'vitest';
import { SanitizerError } from '../../vmm/machine/errors.ts';
import { HOST_OPS, type HostOpName } from './host_ops.ts';
import { runStress, type StressReport } from './run.ts';
import type { Scenario } from './scenario.ts';

const FACTOR = Math.max(1, Number(process.env['NESTBED_FUZZ'] ?? '1'));
const ALL = Object.keys(HOST_OPS) as HostOpName[];
const KEPT = ALL.filter((name) => name !== 'madvise');

const base = { vcpus: 3, steps: 30, hostThreads: [ALL, ALL] } as const;

/** Run the scenario with some seeds; the counts of all runs together. */
function runSeeds(first: number, scenario: Omit<Scenario, 'seed'>): StressReport {
  const counts = new Map<string, number>();
  const staleHits: string[] = [];
  for (let seed = first; seed < first + FACTOR; seed++) {
    const report = runStress({ ...scenario, seed });
    for (const [what, n] of report.counts) counts.set(what, (counts.get(what) ?? 0) + n);
    staleHits.push(...report.staleHits);
  }
  return { counts, staleHits };
}

const scenarios: readonly (readonly [string, Partial<Scenario>])[] = [
  ['with the modelled TLB', { vcpus: 4, hostThreads: [ALL, ALL, ALL] }],
  ['with a TLB that keeps everything', { tlb: 'keep-forever' }],
  ['with a TLB that keeps nothing', { tlb: 'keep-nothing', vcpus: 2, steps: 30 }],
  ['with all vCPUs on one pCPU at first', { pins: [1, 1, 1] }],
  ['with each vCPU on its own pCPU at first', { pins: [0, 1, 2] }],
  ['with huge pages', { backing: 'anonymous_thp' }],
  ['with a memfd', { backing: 'memfd', hostThreads: [KEPT, KEPT] }],
  ['with eptad=0', { params: ['kvm_intel.eptad=0'] }],
  ['with vpid=0', { params: ['kvm_intel.vpid=0'] }],
  ['with mmio_caching=0', { params: ['kvm.mmio_caching=0'] }],
  ['with eager_page_split=0', { params: ['kvm.eager_page_split=0'], backing: 'anonymous_thp' }],
  ['with explicit clearing of the dirty log', { manualProtect: 'clear', backing: 'anonymous_thp' }],
  ['with a dirty log that begins full', { manualProtect: 'clear-initially-set' }],
  ['when a slot zaps its own translations only', { slotZap: 'slot', tlb: 'keep-forever' }],
  ['when chance decides at every yield', { schedule: 'random' }],
  ['when chance decides, with huge pages', { schedule: 'random', backing: 'anonymous_thp' }],
  [
    'when L0 walks guest tables that migrate',
    {
      slotZap: 'slot',
      schedule: 'random',
      hostThreads: [['recreate'], ['migrateTables'], ['migrateTables']],
    },
  ],
];

describe('a VM under stress', () => {
  it.each(scenarios)('keeps what its guest wrote %s', (_, scenario) => {
    const { counts } = runSeeds(1, { ...base, ...scenario });
    expect(counts.get('exact') ?? 0, 'writes that no drop could touch').toBeGreaterThan(0);
    const done = ALL.filter((name) => (counts.get(name) ?? 0) > 0);
    const offered = new Set((scenario.hostThreads ?? base.hostThreads).flat());
    expect(done.length, 'kinds of host operations').toBeGreaterThanOrEqual(offered.size / 2);
  });

  it.each(['real', 'keep-forever'] as const)('uses no translation after its flush (%s)', (tlb) => {
    const report = runSeeds(1, { ...base, steps: 30, tlb, staleCheck: 'hits' });
    expect(report.staleHits).toEqual([]);
  });

  it('finds an L0 that does not flush', () => {
    const broken = { ...base, seed: 1, flushes: 'none', tlb: 'keep-forever' } as const;
    expect(() => runStress(broken)).toThrow(SanitizerError);
  });

  it('gives the same run for the same seed', () => {
    const once = (): [string, number][] => [...runStress({ ...base, seed: 5 }).counts];
    expect(once()).toEqual(once());
  });
});
