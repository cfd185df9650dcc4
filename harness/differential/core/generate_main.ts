// SPDX-License-Identifier: GPL-2.0-only
/**
 * Writes the files of snippets anew, after a change of the generator that is worth it; then `nestbed differential --update`:
 *   node --import tsx harness/differential/core/generate_main.ts [count]
 */
import { writeFileSync } from 'node:fs';
import process from 'node:process';
import { makeSnippets } from './generate.ts';
import { snippetText } from './snippet.ts';

const count = Number(process.argv[2] ?? '1200');
for (const privilege of ['user', 'supervisor'] as const) {
  const text = makeSnippets(privilege, count).map(snippetText).join('\n');
  const head = `# Snippets at ${privilege} privilege, made by generate_main.ts: seed start code undefined-flags line...`;
  writeFileSync(new URL(`snippets_${privilege}.txt`, import.meta.url), `${head}\n${text}\n`);
}
