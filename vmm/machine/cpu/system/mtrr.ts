// SPDX-License-Identifier: GPL-2.0-only
/**
 * Memory type range registers as storage with the reserved-bit checks of WRMSR. SDM, "Memory Type Range Registers". DEVIATION:
 * they, like the PAT, do not change how memory behaves.
 */
import { MSR } from '../../../../lib/x86/msr.ts';
import type { MsrFile } from './msr_file.ts';

const NR_VARIABLE = 8;
const FIXED: readonly (readonly [number, string])[] = [
  [MSR.MTRRfix64K_00000, 'MTRRfix64K_00000'],
  [MSR.MTRRfix16K_80000, 'MTRRfix16K_80000'],
  [MSR.MTRRfix16K_A0000, 'MTRRfix16K_A0000'],
  ...Array.from(
    { length: 8 },
    (_, n) => [MSR.MTRRfix4K_C0000 + n, `MTRRfix4K_${(0xc0000 + n * 0x8000).toString(16)}`] as const,
  ),
];
/** Memory types that an MTRR may have: UC, WC, WT, WP, WB. */
const TYPES: ReadonlySet<number> = new Set([0, 1, 4, 5, 6]);

/** Define MTRRcap, the variable and fixed ranges and the default type. */
export function defineMtrrs(msrs: MsrFile): void {
  // WC and fixed ranges supported.
  msrs.constant(MSR.MTRRcap, 'MTRRcap', 0x500 | NR_VARIABLE, 0);
  msrs.store(MSR.MTRRdefType, {
    name: 'MTRRdefType',
    resetLo: 0xc06,
    maskLo: 0xcff,
    maskHi: 0,
    valid: (lo) => TYPES.has(lo & 0xff),
  });
  for (let n = 0; n < NR_VARIABLE; n++) {
    msrs.store(MSR.MTRRphysBase0 + 2 * n, {
      name: `MTRRphysBase${n}`,
      maskLo: 0xffff_f0ff | 0,
      maskHi: 0x3fff,
      valid: (lo) => TYPES.has(lo & 0xff),
    });
    msrs.store(MSR.MTRRphysBase0 + 2 * n + 1, {
      name: `MTRRphysMask${n}`,
      maskLo: 0xffff_f800 | 0,
      maskHi: 0x3fff,
    });
  }
  const allTypes = (word: number): boolean =>
    [0, 8, 16, 24].every((shift) => TYPES.has((word >>> shift) & 0xff));
  for (const [msr, name] of FIXED) {
    msrs.store(msr, {
      name,
      resetLo: 0x0606_0606,
      resetHi: 0x0606_0606,
      valid: (lo, hi) => allTypes(lo) && allTypes(hi),
    });
  }
}
