// SPDX-License-Identifier: GPL-2.0-only
/**
 * The ModRM byte, the SIB byte and the displacement of 64-bit mode. SDM, "ModR/M and SIB Bytes" and "RIP-Relative
 * Addressing". Chooses the shortest displacement; base and index stay where they were written.
 */
import type { Mem } from './operands.ts';

/** An r/m operand in bytes. A label leaves its displacement to a fixup at `disp` (-1: none). */
export interface RmBytes {
  readonly rexX: number;
  readonly rexB: number;
  readonly bytes: readonly number[];
  readonly disp: number;
  readonly ripRelative: boolean;
}

const SIB = 4; // ModRM.rm: a SIB byte follows. SIB.index: no index
const DISP32 = 5; // ModRM.rm with mod 0: RIP-relative. SIB.base with mod 0: no base

const disp32 = (disp: number): readonly number[] => [
  disp & 0xff,
  (disp >> 8) & 0xff,
  (disp >> 16) & 0xff,
  disp >>> 24,
];

const ripRelative = (reg: number): RmBytes => ({
  rexX: 0,
  rexB: 0,
  bytes: [(reg << 3) | DISP32, 0, 0, 0, 0],
  disp: 1,
  ripRelative: true,
});

/** Without base: always a SIB byte and a disp32, because ModRM alone would mean RIP-relative. */
const noBase = ({ index, scale, disp, label }: Mem, reg: number): RmBytes => ({
  rexX: index ? index.num >> 3 : 0,
  rexB: 0,
  bytes: [
    (reg << 3) | SIB,
    (Math.log2(scale) << 6) | ((index ? index.num & 7 : SIB) << 3) | DISP32,
    ...disp32(label === undefined ? disp : 0),
  ],
  disp: label === undefined ? -1 : 2,
  ripRelative: false,
});

/** ModRM.mod: 0 no displacement (rbp and r13 always need one), 1 disp8, 2 disp32. */
const modOf = (disp: number, label: string | undefined, baseLow: number): 0 | 1 | 2 => {
  if (label !== undefined) return 2;
  if (disp === 0 && baseLow !== DISP32) return 0;
  return disp >= -128 && disp <= 127 ? 1 : 2;
};

/** Encodes memory with `reg` in ModRM.reg (low three bits). */
export const memBytes = (mem: Mem, reg: number): RmBytes => {
  const { base, index, scale, label } = mem;
  if (!base) return label !== undefined && !index ? ripRelative(reg) : noBase(mem, reg);
  const low = base.num & 7;
  const mod = modOf(mem.disp, label, low);
  const head = (mod << 6) | (reg << 3);
  const bytes =
    index || low === SIB
      ? [head | SIB, (Math.log2(scale) << 6) | ((index ? index.num & 7 : SIB) << 3) | low]
      : [head | low];
  const at = bytes.length;
  if (mod === 1) bytes.push(mem.disp & 0xff);
  if (mod === 2) bytes.push(...disp32(label === undefined ? mem.disp : 0));
  return {
    rexX: index ? index.num >> 3 : 0,
    rexB: base.num >> 3,
    bytes,
    disp: label === undefined ? -1 : at,
    ripRelative: false,
  };
};
