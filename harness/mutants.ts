// SPDX-License-Identifier: GPL-2.0-only
/**
 * `npm run mutants`: five mistakes, each made in a copy of the tree, and the tests that must fail because of it. Shows that
 * the suite would notice; a mutant that survives, or no longer applies, ends with exit code 1.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';

interface Mutant {
  /** What somebody forgot. */
  readonly what: string;
  readonly file: string;
  readonly from: string;
  readonly to: string;
  /** Test files or folders of which at least one test must fail. */
  readonly tests: readonly string[];
}

const MUTANTS: readonly Mutant[] = [
  {
    what: 'a memslot change forgets the generation',
    file: 'vmm/kvm/memory_region.ts',
    from: 'memslotGen(slots.generation) + kvm.memslots.length;',
    to: 'memslotGen(slots.generation);',
    tests: ['vmm/kvm/memory_region'],
  },
  {
    what: 'a notifier forgets to zap',
    file: 'vmm/kvm/mmu_notifier.ts',
    from: 'flush = (yield* kvmUnmapGfnRange(kvm, range)) || flush;',
    to: 'flush = range.end < 0 || flush;',
    tests: ['vmm/kvm/mmu_notifier', 'vmm/kvm/mmu'],
  },
  {
    what: 'a write to a read-only slot lands',
    file: 'vmm/kvm/memslots.ts',
    from: '(slot.flags & KVM_MEM.READONLY) !== 0;',
    to: '(slot.flags & KVM_MEM.READONLY) === KVM_MEM.GUEST_MEMFD;',
    tests: ['vmm/kvm', 'harness/selftests.test.ts'],
  },
  {
    what: 'a frame is used after free and nobody says so',
    file: 'vmm/machine/memory/frames.ts',
    from: 'isCurrentSince(frame: number, seen: number): boolean {',
    to: 'isCurrentSince(frame: number, seen: number): boolean {\n    if (seen >= 0) return frame >= 0;',
    tests: ['vmm/machine/mmu', 'vmm/machine/memory'],
  },
  {
    what: 'the fast TLB holds what the modelled TLB has dropped',
    file: 'vmm/machine/mmu/fast.ts',
    from: 'export function dropFastSlot(cpu: Cpu, slot: number): void {',
    to: 'export function dropFastSlot(cpu: Cpu, slot: number): void {\n  if (slot >= 0) return;',
    tests: ['vmm/machine/mmu'],
  },
];

const root = resolve(import.meta.dirname, '..');
const COPIED = [
  'lib',
  'vmm',
  'harness',
  'selftests',
  'docs',
  'package.json',
  'tsconfig.json',
  'vitest.config.ts',
  'README.md',
];

/** A copy of the tree that shares node_modules. */
function copyTree(): string {
  const to = mkdtempSync(join(tmpdir(), 'nestbed-mutant-'));
  for (const name of COPIED) cpSync(join(root, name), join(to, name), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(to, 'node_modules'));
  return to;
}

/** Tests that fail, as vitest counts them; undefined if it did not get to run any. */
function failingTests(tree: string, tests: readonly string[]): number | undefined {
  const args = ['node_modules/vitest/vitest.mjs', 'run', '--reporter=json', ...tests];
  const run = spawnSync(process.execPath, args, {
    cwd: tree,
    encoding: 'utf8',
    timeout: 240_000,
    maxBuffer: 1 << 28,
  });
  // A mutant that hangs is caught as well: no correct program hangs there.
  if (run.error !== undefined) return 1;
  const json = run.stdout.slice(run.stdout.indexOf('{'));
  const report = JSON.parse(json) as { numTotalTests: number; numFailedTests: number };
  return report.numTotalTests === 0 ? undefined : report.numFailedTests;
}

function tryMutant(tree: string, m: Mutant): string {
  const file = join(tree, m.file);
  const source = readFileSync(file, 'utf8');
  if (source.split(m.from).length !== 2) return 'NO LONGER APPLIES';
  writeFileSync(
    file,
    source.replace(m.from, () => m.to),
  );
  const failed = failingTests(tree, m.tests);
  writeFileSync(file, source);
  if (failed === undefined) return 'NO TEST RAN';
  return failed === 0 ? 'SURVIVED' : `caught by ${failed} tests`;
}

function main(): number {
  const tree = copyTree();
  let bad = 0;
  try {
    for (const m of MUTANTS) {
      const result = tryMutant(tree, m);
      if (!result.startsWith('caught')) bad++;
      process.stdout.write(`${m.what.padEnd(56)} ${result}\n`);
    }
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
  return bad === 0 ? 0 : 1;
}

process.exitCode = main();
