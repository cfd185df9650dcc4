// SPDX-License-Identifier: GPL-2.0-only
/** The programs of the differential corpus, and the files that keep what both sides agreed on. */
import { snippetProgram } from './core/program.ts';
import type { DifferentialProgram } from './program.ts';

export const CORPUS: readonly DifferentialProgram[] = [snippetProgram('user'), snippetProgram('supervisor')];

/** The file of a program's agreed lines. */
export const expectedFile = (name: string): URL => new URL(`expected/${name}.txt`, import.meta.url);
