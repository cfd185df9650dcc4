// SPDX-License-Identifier: GPL-2.0-only
/** Canonical addresses: all bits above the linear-address width equal the highest one. SDM, "Canonical Addressing". */
import { CR4 } from '../../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu.ts';
import { S } from '../state.ts';

/** Whether an address is canonical for the paging mode in force: 48 bits, or 57 with CR4.LA57. */
export function isCanonical(cpu: Cpu, _lo: number, hi: number): boolean {
  const shift = (cpu.s[S.CR4]! & CR4.LA57) !== 0 ? 7 : 16;
  return (hi << shift) >> shift === (hi | 0);
}
