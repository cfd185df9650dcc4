// SPDX-License-Identifier: GPL-2.0-only
/**
 * The state in which a snippet starts, drawn from its seed alone, so that the file of snippets stays short. Registers point
 * into the world of harness/reference or hold values that matter; protection keys are left out, since Bochs's CPU has none.
 */
import { CR4, RFLAGS } from '../../../lib/x86/registers.ts';
import { randomPointer } from '../../reference/generate.ts';
import { Random } from '../../reference/random.ts';
import { DATA, LARGE, STACK_TOP } from '../../reference/world.ts';

export interface SnippetState {
  readonly gpr: readonly bigint[];
  readonly rflags: number;
  readonly fsBase: bigint;
  readonly gsBase: bigint;
  readonly wp: boolean;
  /** CR4 bits besides those that every guest has. */
  readonly cr4: number;
}

const ARITHMETIC = RFLAGS.CF | RFLAGS.PF | RFLAGS.AF | RFLAGS.ZF | RFLAGS.SF | RFLAGS.OF;

/** The state of a seed. */
export function stateOfSeed(seed: number): SnippetState {
  const random = new Random(seed ^ 0x51a7e);
  const flag = (bit: number, n: number): number => (random.oneIn(n) ? bit : 0);
  const gpr = Array.from({ length: 16 }, () => (random.oneIn(2) ? randomPointer(random) : random.value()));
  gpr[4] = random.oneIn(16) ? randomPointer(random) : STACK_TOP - BigInt(random.below(64));
  return {
    gpr,
    rflags: (random.next() & ARITHMETIC) | flag(RFLAGS.DF, 3) | flag(RFLAGS.AC, 3) | RFLAGS.FIXED,
    fsBase: random.pick([DATA, DATA + 0x800n, LARGE, 0n, 0xffff_ffff_ffff_f000n]),
    gsBase: random.pick([DATA + 0x1000n, 0x7fff_ffff_f000n, 0xffff_8000_0000_0000n]),
    wp: !random.oneIn(3),
    cr4: flag(CR4.FSGSBASE, 2) | flag(CR4.SMEP, 2) | flag(CR4.SMAP, 3),
  };
}
