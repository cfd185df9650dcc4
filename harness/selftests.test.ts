// SPDX-License-Identifier: GPL-2.0-only
/** The conformance run under vitest: every selftest with its quick options, on a fresh emulated host. */
import { describe, expect, it } from 'vitest';
import { loadAllSelftests } from './registry.ts';
import { runSelftest } from './run_test.ts';

const tests = await loadAllSelftests();

describe('selftests', () => {
  it.each(tests.map((t) => [t.name, t] as const))('%s passes', (_name, test) => {
    const result = runSelftest(test, { seed: 1, params: [], args: test.quickArgs ?? [] });
    expect(result.message === '' ? result.status : `${result.status}: ${result.message}`).toBe('pass');
    expect(result.rerun).toContain(`-t ${test.name}`);
  });

  it('ept=1 eptad=0 vpid=0 changes nothing that a test can see', () => {
    const test = tests.find((t) => t.name === 'ucall_smoke_test');
    const params = ['kvm_intel.eptad=0', 'kvm_intel.vpid=0', 'kvm.mmio_caching=0'];
    expect(test && runSelftest(test, { seed: 1, params, args: [] }).status).toBe('pass');
  });
});
