// SPDX-License-Identifier: GPL-2.0-only
/** The programs of the differential corpus, and the files that keep what both sides agreed on. */
import { runBare } from './bare_machine.ts';
import { snippetProgram } from './core/program.ts';
import { buildDisk, runOnL0 } from './guest_vm.ts';
import type { DifferentialProgram, Side } from './program.ts';
import { VMX_PROGRAMS } from './vmx/programs.ts';

export const CORPUS: readonly DifferentialProgram[] = [
  snippetProgram('user'),
  snippetProgram('supervisor'),
  ...VMX_PROGRAMS,
];

/** A program's text on one side. */
export function runHere(program: DifferentialProgram, side: Side): string {
  if (side === 'L0') return runOnL0(program);
  const { disk, entry } = buildDisk(program);
  return runBare(disk, entry);
}

/** The file of a program's agreed lines. */
export const expectedFile = (name: string): URL => new URL(`expected/${name}.txt`, import.meta.url);
