// SPDX-License-Identifier: GPL-2.0-only
/** Forms of the result. KTAP: Documentation/dev-tools/ktap.rst. JUnit: the testsuites/testsuite/testcase schema. */
import { describe, expect, it } from 'vitest';
import { exitCode, type Reporter, type TestResult } from '../result.ts';
import { junitReporter } from './junit.ts';
import { ktapReporter } from './ktap.ts';
import { summaryReporter } from './summary.ts';

const base = { output: [], seconds: 0.25, rerun: 'npx nestbed run -t x' };
const results: TestResult[] = [
  { ...base, name: 'a_test', status: 'pass', message: '', output: ['Testing guest mode: "4K"'] },
  { ...base, name: 'b_test', status: 'skip', message: 'Requirement not met: #1' },
  { ...base, name: 'c_test', status: 'fail', message: 'L1 rip 0x40: got 1 (0x1), expected 2 (0x2)\nrule' },
  { ...base, name: 'd_test', status: 'error', message: 'UnimplementedError: 0f 0b' },
];

function report(make: (write: (line: string) => void) => Reporter): string[] {
  const lines: string[] = [];
  const reporter = make((line) => lines.push(line));
  reporter.start(
    { version: '0.1.0', seed: 7, cpu: 'skylake', params: ['kvm.tdp_mmu=1'] },
    results.map((r) => r.name),
  );
  results.forEach((r, i) => reporter.result(r, i));
  reporter.end(results);
  return lines;
}

describe('reporters', () => {
  it('ktap prints version, plan, diagnostics and one line per result', () => {
    expect(report(ktapReporter)).toEqual([
      'KTAP version 1',
      '1..4',
      '# nestbed 0.1.0 seed=7 cpu=skylake kvm.tdp_mmu=1',
      '# Testing guest mode: "4K"',
      'ok 1 a_test',
      'ok 2 b_test # SKIP Requirement not met: 1',
      '# L1 rip 0x40: got 1 (0x1), expected 2 (0x2)',
      '# rule',
      '# rerun: npx nestbed run -t x',
      'not ok 3 c_test',
      '# UnimplementedError: 0f 0b',
      '# rerun: npx nestbed run -t x',
      'not ok 4 d_test # ERROR UnimplementedError: 0f 0b',
      '# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:1',
    ]);
  });

  it('junit keeps failures and errors apart and escapes text', () => {
    const xml = report(junitReporter).join('\n');
    expect(xml).toContain('<testsuites tests="4" failures="1" errors="1" skipped="1" time="1.000">');
    expect(xml).toContain('<testcase classname="selftests" name="a_test" time="0.250">');
    expect(xml).toContain('Testing guest mode: &quot;4K&quot;');
    expect(xml).toContain('<failure message="L1 rip 0x40: got 1 (0x1), expected 2 (0x2)">');
    expect(xml).toContain('<error message="UnimplementedError: 0f 0b">');
    expect(xml).toContain('<skipped message="Requirement not met: #1"/>');
    expect(xml.match(/<testcase/g)).toHaveLength(4);
  });

  it('the summary shows the reason, the rerun line and the totals', () => {
    const lines = report(summaryReporter);
    expect(lines[0]).toBe('# nestbed 0.1.0 seed=7 cpu=skylake kvm.tdp_mmu=1');
    expect(lines).toContain('SKIP  b_test (0.25 s): Requirement not met: #1');
    expect(lines).toContain('      rerun: npx nestbed run -t x');
    expect(lines.at(-1)).toBe('1 pass, 1 fail, 1 error, 1 skip');
  });

  it('the exit code is 0, 1 or 4 as kselftest has it', () => {
    const only = (...status: TestResult['status'][]): TestResult[] =>
      results.filter((r) => status.includes(r.status));
    expect(exitCode(only('pass'))).toBe(0);
    expect(exitCode(only('pass', 'skip'))).toBe(0);
    expect(exitCode(only('skip'))).toBe(4);
    expect(exitCode(only('pass', 'fail'))).toBe(1);
    expect(exitCode(only('error'))).toBe(1);
    expect(exitCode([])).toBe(0);
  });
});
