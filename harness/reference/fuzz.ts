// SPDX-License-Identifier: GPL-2.0-only
/**
 * The loop over seeds, and what is printed when a program fails: the seed, the shortest program that still fails, the
 * step and the differences. Longer than the test does it:
 *   NESTBED_FUZZ=100 npx vitest run harness/reference/differential.test.ts
 *   node --import tsx harness/reference/fuzz_main.ts <first seed> <programs>
 */
import { Differential, type Mismatch } from './differential.ts';
import { generateProgram } from './generate.ts';
import { layOutProgram, type Program } from './program.ts';
import { Random } from './random.ts';

const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

/** A failing program without the lines that do not matter: each is left out in turn, while the failure stays. */
export function shrink(differential: Differential, program: Program): Program {
  let smallest = program;
  for (let n = program.lines.length - 1; n >= 0; n--) {
    const candidate = { ...smallest, without: new Set([...smallest.without, n]) };
    if (differential.check(candidate) !== undefined) smallest = candidate;
  }
  return smallest;
}

/** Address, bytes and text of each line that is left; `>` marks the line where they part. */
export function listProgram(program: Program, rip: bigint): string {
  const { addresses, bytes } = layOutProgram(program);
  const base = addresses[0]!;
  return program.lines
    .flatMap(({ text, bytes: { length } }, n) => {
      if (program.without.has(n)) return [];
      const at = Number(addresses[n]! - base);
      const code = Buffer.from(bytes.subarray(at, at + length)).toString('hex');
      return [`${rip === addresses[n] ? '>' : ' '} ${hex(addresses[n]!)}  ${code.padEnd(24)} ${text}`];
    })
    .join('\n');
}

/** All that is needed to look into a mismatch. */
export function describeMismatch(program: Program, mismatch: Mismatch): string {
  const { user, la57, vendor, tlb, wp, cr4, pkru, rflags, fsBase, gsBase } = program;
  return [
    `seed ${program.seed}: ${mismatch.run} run, step ${mismatch.step}, RIP ${hex(mismatch.rip)}`,
    ...mismatch.differences.map((line) => `  ${line}`),
    `${vendor}, TLB ${tlb}, CPL ${user ? 3 : 0}, LA57 ${Number(la57)}, WP ${Number(wp)}, CR4 ${hex(cr4)}, PKRU ${hex(pkru)}, ` +
      `RFLAGS ${hex(rflags)}, FS ${hex(fsBase)}, GS ${hex(gsBase)}`,
    `registers ${program.gpr.map(hex).join(' ')}`,
    listProgram(program, mismatch.rip),
  ].join('\n');
}

/** The program of a seed. */
export function programOf(seed: number): Program {
  return generateProgram(seed, new Random(seed));
}

/** Check one seed; the description of the shortest failing program, or undefined. */
export function fuzzOne(differential: Differential, seed: number): string | undefined {
  const program = programOf(seed);
  if (differential.check(program) === undefined) return undefined;
  const smallest = shrink(differential, program);
  return describeMismatch(smallest, differential.check(smallest)!);
}
