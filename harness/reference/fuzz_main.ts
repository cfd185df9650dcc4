// SPDX-License-Identifier: GPL-2.0-only
/**
 * The differential test from the command line, for as long as one likes:
 *   node --import tsx harness/reference/fuzz_main.ts <first seed> <programs> [<failures to stop at>]
 */
import { Differential } from './differential.ts';
import { fuzzOne } from './fuzz.ts';
import { GENERATED_FORMS } from './generate.ts';

function main([first = '1', count = '10000', limit = '5']: readonly string[]): number {
  const differential = new Differential();
  let failures = 0;
  const end = Number(first) + Number(count);
  for (let seed = Number(first); seed < end && failures < Number(limit); seed++) {
    const report = fuzzOne(differential, seed);
    if (report === undefined) continue;
    failures++;
    process.stdout.write(`${report}\n\n`);
  }
  const missing = GENERATED_FORMS.filter((form) => !differential.retired.has(form));
  process.stdout.write(
    `${missing.length} forms never executed: ${missing.slice(0, 20).join(', ') || 'none'}\n`,
  );
  process.stdout.write(`${differential.steps} steps, ${failures} failures\n`);
  return failures === 0 ? 0 : 1;
}

process.exitCode = main(process.argv.slice(2));
