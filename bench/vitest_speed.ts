// SPDX-License-Identifier: GPL-2.0-only
/** The figure that is taken both in plain Node and inside vitest. */
import { aluKernel } from './cpu_kernels.ts';
import { seconds } from './measure.ts';

const INSNS = 20_000_000;

/** Best of five runs of the ALU kernel in million instructions a second, after one to warm up. */
export function aluMips(): number {
  const kernel = aluKernel();
  kernel.run(INSNS);
  let best = 0;
  for (let run = 0; run < 5; run++) {
    let executed = 0;
    const s = seconds(() => {
      executed = kernel.run(INSNS);
    });
    best = Math.max(best, executed / s / 1e6);
  }
  return best;
}
