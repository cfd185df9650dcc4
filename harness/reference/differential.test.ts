// SPDX-License-Identifier: GPL-2.0-only
/**
 * vmm/machine/cpu against the reference interpreter of this folder, over random programs with fixed seeds. The reference
 * is written from the SDM's instruction pages and shares no code with the machine; programs come from the assembler's
 * tables, which iced-x86 judges, and from raw bytes.
 * Longer: NESTBED_FUZZ=100 npx vitest run harness/reference/differential.test.ts (a factor for the number of programs),
 * or node --import tsx harness/reference/fuzz_main.ts <first seed> <programs>.
 */
import { describe, expect, it } from 'vitest';
import { getReg, setReg } from '../../vmm/machine/cpu/regs.ts';
import { Differential } from './differential.ts';
import { fuzzOne, programOf } from './fuzz.ts';
import { GENERATED_FORMS } from './generate.ts';

const FACTOR = Math.max(1, Number(process.env['NESTBED_FUZZ'] ?? '1'));
const PROGRAMS = 1000 * FACTOR;
const TIMEOUT = 60_000 * FACTOR;

describe('the interpreter and the reference', () => {
  const differential = new Differential();

  it('agree on random programs, in lockstep and in pieces', { timeout: TIMEOUT }, () => {
    for (let seed = 1; seed <= PROGRAMS; seed++) expect(fuzzOne(differential, seed) ?? '').toBe('');
    // Faults must not have cut all programs short.
    expect(differential.steps).toBeGreaterThan(20 * PROGRAMS);
  });

  it('have met nearly every form of the assembler, executed and without a fault', () => {
    const met = GENERATED_FORMS.filter((form) => differential.retired.has(form));
    expect(met.length / GENERATED_FORMS.length).toBeGreaterThan(0.95);
  });
});

describe('a machine with a bug', () => {
  const SEEDS = Array.from({ length: 60 }, (_, n) => n + 1);

  it('is found, with the seed and the shortest program', () => {
    const spoilt = new Differential((cpu) => {
      if ((getReg(cpu, 0) & 0xffn) === 0x80n) setReg(cpu, 3, 0x1bad_cafen);
    });
    const reports = SEEDS.map((seed) => fuzzOne(spoilt, seed)).filter((report) => report !== undefined);
    expect(reports.length).toBeGreaterThan(0);
    expect(reports[0]).toMatch(/^seed \d+: lockstep run, step \d+, RIP 0x40/);
    expect(reports[0]).toContain('RBX: machine 0x1badcafe, reference ');
    const lines = reports.map((report) => report.split('\n').filter((line) => /^[> ] 0x/.test(line)).length);
    expect(Math.min(...lines)).toBeLessThanOrEqual(2);
  });

  it('is found by its memory and by its clock, too', () => {
    const spoilers = [
      (_: Uint8Array, clock: Float64Array) => (clock[0]! += 1),
      (ram: Uint8Array) => (ram[0x1_8000] = 0xcd), // a code page's filler is CC
    ];
    const found = spoilers.map((spoil) => {
      const spoilt = new Differential(({ mem, clock }) => spoil(mem.u8.subarray(0x0100_0000), clock));
      return spoilt.check(programOf(2))?.differences.join('\n') ?? '';
    });
    expect(found[0]).toMatch(/^cycles: machine/);
    expect(found[1]).toMatch(/RAM\+0x18000: machine/);
  });
});
