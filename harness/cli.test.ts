// SPDX-License-Identifier: GPL-2.0-only
/** The command line: what it prints, and that bad input gets one clear line and exit code 2. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { main } from './cli.ts';

let out: string[] = [];
let err: string[] = [];

beforeEach(() => {
  out = [];
  err = [];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => out.push(String(text)) > 0);
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => err.push(String(text)) > 0);
});
afterEach(() => {
  vi.restoreAllMocks();
});

describe('nestbed', () => {
  it.each([
    [['bogus'], "unknown command 'bogus'"],
    [[], 'no command'],
    [['run', '-t', 'no_such_test'], "unknown test 'no_such_test'"],
    [['run', '-P', 'kvm.no_such=1'], "unknown parameter 'kvm.no_such'"],
    [['run', '-P', 'kvm_intel.vpid=maybe'], "'maybe' is not a boolean"],
    [['run', '-P', 'kvm_intel.ept=0'], 'kvm_intel.ept: not modelled yet'],
    [['run', '--reporter', 'xml'], "unknown reporter 'xml'"],
    [['run', '--reporter', 'constructor'], "unknown reporter 'constructor'"],
    [['run', '--seed', '-1'], "Option '--seed'"],
    [['run', '--seed', '4294967296'], '--seed takes a number'],
    [['run', '--no-such'], "Unknown option '--no-such'"],
    [['run', 'positional'], "Unexpected argument 'positional'"],
    [['run', '-t', 'ucall_smoke_test', '--trace', '/no/such/folder/t'], '--trace: ENOENT'],
    [['run', '-t', 'ucall_smoke_test', '--', '-x'], "ucall_smoke_test: unexpected argument '-x'"],
    [['run', '-P', 'kvm_intel.pml=1'], 'kvm_intel.pml: not modelled'],
    [['run', '--timeout', '0'], '--timeout takes a positive number'],
    [['run', '--', '-s', '2'], 'test options after -- need a test'],
    [['list', 'x'], 'list takes no argument'],
    [['differential', '--only', 'nothing'], "unknown program 'nothing'"],
    [['differential', '--bogus'], "Unknown option '--bogus'"],
    [['differential', 'core_user'], "Unexpected argument 'core_user'"],
    [['run', '-t', 'memslot_perf_test', '--', '-s', 'abc'], 'strtol("abc") failed'],
    [['run', '-t', 'memslot_perf_test', '--', '-s', '1'], 'Slot count cap must be larger than 1'],
    [['run', '-t', 'memslot_perf_test', '--', '-f', '9'], 'First test to run cannot be greater'],
    [['run', '-t', 'memslot_perf_test -e 2 -f 3'], 'First test to run cannot be greater'],
    [['run', '-t', 'dirty_log_test', '--', '-Z'], "invalid option -- 'Z'"],
    [['run', '-t', 'memslot_perf_test', '--', 'x'], "unexpected argument 'x'"],
  ])('refuses %j with one line and exit code 2', async (argv, message) => {
    expect(await main(argv)).toBe(2);
    expect(err).toHaveLength(1);
    expect(err[0]).toMatch(/^nestbed: [^\n]*\n$/);
    expect(err[0]).toContain(message);
    expect(out).toEqual([]);
  });

  it('shows help, a test’s own help, and its version', async () => {
    expect(await main(['--help'])).toBe(0);
    expect(out.join('')).toContain('nestbed run [-l] [-t TEST]');
    expect(await main(['run', '-t', 'memslot_perf_test', '--', '-h'])).toBe(0);
    expect(out.join('')).toContain('5: RW');
    expect(await main(['--version'])).toBe(0);
    expect(out.at(-1)).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('lists what is there and what would run', async () => {
    expect(await main(['list'])).toBe(0);
    expect(out.join('')).toContain('memslot_perf_test');
    out = [];
    expect(await main(['run', '-l', '-t', 'memslot_perf_test -s 512', '-t', 'ucall_smoke_test'])).toBe(0);
    expect(out).toEqual(['memslot_perf_test -s 512\n', 'ucall_smoke_test\n']);
  });

  it('gives a test up that takes too long', async () => {
    expect(await main(['run', '--timeout', '0.05', '-t', 'memslot_perf_test -s 64 -l 1 -f 3 -e 3'])).toBe(1);
    expect(out.join('')).toContain('TIMEOUT 0.05 seconds');
    expect(out.join('')).toContain('--timeout 0.05');
  });

  it('runs a test in each form of report', async () => {
    expect(await main(['run', '-t', 'ucall_smoke_test'])).toBe(0);
    expect(out.at(-1)).toBe('1 pass, 0 fail, 0 error, 0 skip\n');
    out = [];
    expect(await main(['run', '--reporter', 'ktap', '--seed', '7', '-t', 'ucall_smoke_test'])).toBe(0);
    expect(out[0]).toBe('KTAP version 1\n');
    expect(out).toContain('ok 1 ucall_smoke_test\n');
    out = [];
    expect(await main(['run', '--reporter', 'junit', '-t', 'ucall_smoke_test'])).toBe(0);
    expect(out.join('')).toContain('<testsuites tests="1" failures="0" errors="0" skipped="0"');
  });
});
