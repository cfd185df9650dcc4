// SPDX-License-Identifier: GPL-2.0-only
/**
 * The interpreter's speed inside vitest over that in plain Node, both taken now: shows that the local-imports plugin does its
 * work. Runs vitest as a child on `bench/vitest_speed.ts`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { aluMips } from './vitest_speed.ts';

const root = resolve(import.meta.dirname, '..');

/** Million instructions a second of the ALU kernel, measured inside vitest. */
function mipsInVitest(): number {
  const folder = mkdtempSync(join(tmpdir(), 'nestbed-speed-'));
  const out = join(folder, 'mips');
  try {
    const args = ['node_modules/vitest/vitest.mjs', 'run', 'bench/vitest_speed.test.ts'];
    const env = { ...process.env, NESTBED_SPEED_OUT: out };
    const run = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' });
    if (run.status !== 0) throw new Error(`vitest failed: ${run.stderr}`);
    return Number(readFileSync(out, 'utf8'));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export const vitestRatio = (): number => mipsInVitest() / aluMips();
