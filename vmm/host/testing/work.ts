// SPDX-License-Identifier: GPL-2.0-only
/** A task's body that does nothing but let time pass, for tests of the scheduler. */
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { Host } from '../host.ts';
import type { Steps } from '../steps.ts';

/** Work of `turns` times `cycles`, yielding between; notes who ran when. */
export function* work(
  host: Host,
  log: string[],
  name: string,
  plan: { turns: number; cycles: number },
): Steps<void> {
  for (let i = 0; i < plan.turns; i++) {
    log.push(`${name}@${host.sched.now()}`);
    spend(host.cpu, COST.INSN, plan.cycles);
    if (host.sched.shouldYield()) yield;
  }
}
