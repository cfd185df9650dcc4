// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest DSL on the machine: the cases of lib/guest/testing by the results that C and the ABI give, and random programs
 * against an interpreter of C's rules. NESTBED_FUZZ multiplies the number of random programs.
 */
import { describe, expect, it } from 'vitest';
import { guestFn, linkImage } from '../../lib/guest/index.ts';
import { guestCases } from '../../lib/guest/testing/cases.ts';
import { MEMORY_SIZE, randomProgram } from '../../lib/guest/testing/random_program.ts';
import { BOX_IMAGE_BASE, BOX_SCRATCH, GuestBox } from './guest_box.ts';

const main = guestFn('main', [], () => undefined);

describe('guest functions give what C gives', () => {
  const cases = guestCases();
  const image = linkImage({ base: BOX_IMAGE_BASE, entry: main, roots: cases.map(({ fn }) => fn) });
  const box = new GuestBox(image);

  it.each(cases.map((entry) => [entry.title, entry] as const))('%s', (_title, { fn, args, expected }) => {
    expect(box.call(fn, args)).toBe(expected);
  });
});

describe('random guest programs', () => {
  it('give what an interpreter of the rules of C gives', () => {
    const count = 60 * Number(process.env['NESTBED_FUZZ'] ?? 1);
    const programs = Array.from({ length: count }, (_, i) => randomProgram(i + 1));
    for (let i = 0; i < count; i += 60) {
      const batch = programs.slice(i, i + 60);
      const image = linkImage({ base: BOX_IMAGE_BASE, entry: main, roots: batch.map(({ fn }) => fn) });
      const box = new GuestBox(image);
      for (const { fn, expected } of batch) {
        box.machine.mem.u8.fill(0, BOX_SCRATCH, BOX_SCRATCH + MEMORY_SIZE);
        expect(box.call(fn, [BigInt(BOX_SCRATCH)]), fn.symbol).toBe(expected);
      }
    }
  });
});
