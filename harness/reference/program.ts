// SPDX-License-Identifier: GPL-2.0-only
/**
 * A random program: lines of encoded instructions whose branches refer to other lines, and its surroundings. Lines can be
 * left out, so that a failing program can be made smaller.
 */
import type { Field } from '../../lib/asm/encode.ts';
import { applyFixup } from '../../lib/asm/fixups.ts';
import type { TlbPolicy } from '../../vmm/machine/mmu/mmu.ts';
import { CODE } from './world.ts';

/** An instruction; each field's symbol is the number of the line it refers to, or a hexadecimal address. */
export interface ProgramLine {
  readonly text: string;
  /** The row of the assembler's tables that it was made from; none for raw bytes. */
  readonly form?: string;
  readonly bytes: readonly number[];
  readonly fields: readonly Field[];
}

/** A program and the state that it starts in. */
export interface Program {
  readonly seed: number;
  readonly lines: readonly ProgramLine[];
  /** Lines that are left out. */
  readonly without: ReadonlySet<number>;
  /** Offset of the first instruction in the code pages. */
  readonly start: number;
  readonly user: boolean;
  readonly la57: boolean;
  readonly vendor: 'skylake' | 'milan';
  /** Replacement of the machine's TLB. Few pages are used: real sizes keep them all. */
  readonly tlb: TlbPolicy;
  /** CR0.WP and CR4.SMEP, SMAP and PKE bits to set or clear. */
  readonly wp: boolean;
  readonly cr4: number;
  readonly pkru: number;
  readonly rflags: number;
  readonly gpr: readonly bigint[];
  readonly fsBase: bigint;
  readonly gsBase: bigint;
}

/** Bytes of a program, and the address of each line. */
export interface Layout {
  readonly bytes: Uint8Array;
  readonly addresses: readonly bigint[];
  readonly end: bigint;
}

/** Symbol for line `n`; lines that do not exist stand for the end. */
export function lineSymbol(n: number): string {
  return `line${n}`;
}

/** Put the lines one after the other. A rel8 branch that does not reach goes to itself plus what fits. */
export function layOutProgram({ lines, without, start }: Program): Layout {
  const base = CODE + BigInt(start);
  const addresses: bigint[] = [];
  let at = base;
  lines.forEach((line, n) => {
    addresses.push(at);
    if (!without.has(n)) at += BigInt(line.bytes.length);
  });
  const bytes = new Uint8Array(Number(at - base));
  lines.forEach((line, n) => {
    if (without.has(n)) return;
    const offset = Number(addresses[n]! - base);
    bytes.set(line.bytes, offset);
    for (const field of line.fields) {
      const target = /^line/.test(field.symbol)
        ? (addresses[Number(field.symbol.slice(4))] ?? at)
        : BigInt(field.symbol);
      const fixup = {
        offset: offset + field.at,
        kind: field.kind,
        symbol: field.symbol,
        addend: field.addend,
      };
      const next = addresses[n + 1] ?? at;
      const reaches = field.kind !== 'rel8' || (target - next >= -128n && target - next <= 127n);
      applyFixup(bytes, fixup, base, reaches ? target : next);
    }
  });
  return { bytes, addresses, end: at };
}
