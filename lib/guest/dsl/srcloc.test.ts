// SPDX-License-Identifier: GPL-2.0-only
/** Source lines of guest code: which frame of a stack counts, and that the line is the one in the file. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { captureSite, locateStack } from './srcloc.ts';

const ROOT = '/project/';
const stack = (...frames: string[]): string =>
  ['Error', ...frames.map((frame) => `    at ${frame}`)].join('\n');

describe('the frame that counts', () => {
  it('is the first one outside of the DSL', () => {
    const text = stack(
      'GuestCode.assign (/project/lib/guest/dsl/builder.ts:10:5)',
      'GuestCode.set (file:///project/lib/guest/dsl/builder.ts:20:5)',
      'Object.build (file:///project/selftests/x86/sync_test.ts:42:7)',
      'other (/project/selftests/x86/sync_test.ts:50:7)',
    );
    expect(locateStack(text, ROOT)).toEqual({ file: 'selftests/x86/sync_test.ts', line: 42 });
  });

  it('is the user of a macro of the library', () => {
    const text = stack(
      'GuestCode.call (/project/lib/guest/dsl/builder.ts:10:5)',
      'ucall (/project/lib/guest/ucall.ts:99:5)',
      'GUEST_SYNC (/project/lib/guest/ucall.ts:120:5)',
      '/project/selftests/x86/sync_test.ts:42:7',
    );
    expect(locateStack(text, ROOT)).toEqual({ file: 'selftests/x86/sync_test.ts', line: 42 });
  });

  it('is in the library for a function of the library, whoever links it', () => {
    const text = stack(
      'GuestCode.set (/project/lib/guest/dsl/builder.ts:10:5)',
      '/project/lib/guest/string.ts:15:5',
      'buildGuestBody (/project/lib/guest/dsl/function.ts:70:5)',
      'main (/project/selftests/x86/sync_test.ts:99:7)',
    );
    expect(locateStack(text, ROOT)).toEqual({ file: 'lib/guest/string.ts', line: 15 });
  });

  it('keeps the full path of what lies outside of the project', () => {
    const text = stack(
      'GuestCode.set (/project/lib/guest/dsl/builder.ts:10:5)',
      'f (/elsewhere/test.ts:3:1)',
    );
    expect(locateStack(text, ROOT)).toEqual({ file: '/elsewhere/test.ts', line: 3 });
  });

  it('is unknown if no frame has a place', () => {
    expect(locateStack(stack('<anonymous>', 'native'), ROOT)).toEqual({ file: '<unknown>', line: 0 });
    expect(locateStack('Error', ROOT).line).toBe(0);
  });
});

describe('captured sites', () => {
  it('tell the line that the file has', () => {
    const site = captureSite(); // MARK
    const lines = readFileSync(new URL(import.meta.url), 'utf8').split('\n');
    const expected = lines.findIndex((line) => line.includes('captureSite(); // ' + 'MARK')) + 1;
    expect(site.loc()).toEqual({ file: 'lib/guest/dsl/srcloc.test.ts', line: expected });
    expect(site.text()).toBe(`lib/guest/dsl/srcloc.test.ts:${expected}`);
  });
});
