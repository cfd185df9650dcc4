// SPDX-License-Identifier: GPL-2.0-only
/**
 * House rules that a reader relies on: each `DEVIATION:` in the sources has a line in docs/limits.md and each line there
 * names a file that carries the tag; every source file says its licence; the README is short.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '../..');
const read = (file: string): string => readFileSync(join(root, file), 'utf8');
const files = ['lib', 'vmm', 'harness', 'selftests', 'bench'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((f) => /\.(ts|js)$/.test(f))
    .map((f) => `${folder}/${f}`),
);
const sources = files.filter((f) => !f.endsWith('.test.ts'));

/** Lines of docs/limits.md that state a deviation: `- \`file\`: text`. */
const listed = [...read('docs/limits.md').matchAll(/^- `([^`]+)`: /gm)].map((m) => m[1]!);

describe('documents', () => {
  it('every deviation in the sources is listed in docs/limits.md, and the other way round', () => {
    const tagged = sources.filter((f) => read(f).includes('DEVIATION:'));
    expect([...new Set(listed)].sort()).toEqual(tagged.sort());
  });

  it('a file with several deviations has as many lines', () => {
    for (const file of new Set(listed)) {
      const tags = read(file).split('DEVIATION:').length - 1;
      expect([file, listed.filter((f) => f === file).length]).toEqual([file, tags]);
    }
  });

  it('every source file carries its licence', () => {
    const bare = files.filter(
      (f) => !read(f).slice(0, 120).includes('SPDX-License-Identifier: GPL-2.0-only'),
    );
    expect(bare).toEqual([]);
  });

  it('the README has at most 120 lines', () => {
    expect(read('README.md').split('\n').length).toBeLessThanOrEqual(121);
  });

  it('no file is longer than 600 lines', () => {
    expect(files.filter((f) => read(f).split('\n').length > 601)).toEqual([]);
  });
});
