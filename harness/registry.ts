// SPDX-License-Identifier: GPL-2.0-only
/** Finds the selftests: every file `selftests/NAME.ts` that exports a `selftest`. */
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../lib/kvm_util/test_util.ts';
import type { Selftest } from './api.ts';

const folder = new URL('../selftests/', import.meta.url);

/** Names of all selftests, sorted. */
export function selftestNames(): string[] {
  return readdirSync(fileURLToPath(folder))
    .filter((f) => f.endsWith('.ts') && !f.endsWith('.test.ts'))
    .map((f) => f.slice(0, -'.ts'.length))
    .sort();
}

/** A file that does not even load is told in one line: whoever writes it is at work on it. */
async function importTest(name: string): Promise<{ selftest?: Selftest }> {
  try {
    return (await import(new URL(`${name}.ts`, folder).href)) as { selftest?: Selftest };
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const [first = '', second = ''] = text.split('\n').filter((line) => line.trim() !== '');
    throw new UsageError(
      `selftests/${name}.ts does not load: ${first.endsWith(':') ? `${first} ${second}` : first}`,
    );
  }
}

/** Load one selftest; undefined if there is none of that name. */
export async function loadSelftest(name: string): Promise<Selftest | undefined> {
  if (!selftestNames().includes(name)) return undefined;
  const module = await importTest(name);
  if (module.selftest?.name !== name) {
    throw new UsageError(`selftests/${name}.ts exports no selftest of that name`);
  }
  return module.selftest;
}

/** Load all selftests. */
export async function loadAllSelftests(): Promise<Selftest[]> {
  const loaded = await Promise.all(selftestNames().map((n) => loadSelftest(n)));
  return loaded.filter((t) => t !== undefined);
}
