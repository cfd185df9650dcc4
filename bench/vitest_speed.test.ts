// SPDX-License-Identifier: GPL-2.0-only
/** Speed inside vitest, for `npm run bench -- --only cpu.alu.vitest_ratio`; in an ordinary run there is nothing to measure. */
import { writeFileSync } from 'node:fs';
import process from 'node:process';
import { expect, it } from 'vitest';
import { aluMips } from './vitest_speed.ts';

const out = process.env['NESTBED_SPEED_OUT'];

it.runIf(out !== undefined)('the ALU kernel runs inside vitest', () => {
  const mips = aluMips();
  expect(mips).toBeGreaterThan(0);
  writeFileSync(out!, String(mips));
});
