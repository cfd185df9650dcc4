// SPDX-License-Identifier: GPL-2.0-only
/**
 * Breakpoints of the debug registers. DEVIATION: only instruction breakpoints exist; an armed data or I/O breakpoint stops the run
 * with an UnimplementedError instead of never firing. SDM, "Debug Control Register (DR7)".
 */
import { RFLAGS } from '../../../../lib/x86/registers.ts';
import { UnimplementedError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { S } from '../state.ts';

/** DR6 bits of the instruction breakpoints that the next instruction hits; 0: none, or RF holds them back. */
export function codeBreakpointHit(cpu: Cpu): number {
  const { s } = cpu;
  const dr7 = s[S.DR + 14]!;
  let hit = 0;
  for (let n = 0; n < 4; n++) {
    if (((dr7 >>> (2 * n)) & 3) === 0) continue;
    // R/W and LEN of the breakpoint: both zero for an instruction.
    if (((dr7 >>> (16 + 4 * n)) & 0xf) !== 0)
      throw new UnimplementedError(`CPU ${cpu.id}: data breakpoint in DR${n}`);
    if (s[S.DR + 2 * n] === s[S.RIP] && s[S.DR + 2 * n + 1] === s[S.RIP + 1]) hit |= 1 << n;
  }
  return (s[S.RFLAGS_SYS]! & RFLAGS.RF) !== 0 ? 0 : hit;
}
