// SPDX-License-Identifier: GPL-2.0-only
/**
 * The instructions of one function before they are assembled: the frame's size is known only at the end, so a body is
 * collected first and played into the assembler behind its prologue. A jump to the next instruction is dropped.
 */
import type { Assembler } from '../../../asm/assembler.ts';
import type { Instruction } from '../../../asm/isa.ts';
import { gpr, lab, type Operand, type Reg } from '../../../asm/operands.ts';
import type { Site } from '../srcloc.ts';
import type { RegNum } from './registers.ts';

/** What the image remembers of an address: the statement that the code belongs to. */
export interface CodeMark {
  readonly site: Site;
  readonly fn: string;
}

type Item =
  | { readonly kind: 'insn'; readonly insn: Instruction; readonly ops: readonly Operand[] }
  | { readonly kind: 'label'; readonly name: string }
  | { readonly kind: 'mark'; readonly site: Site };

/** A general-purpose register with a width in bytes. */
export const gp = (num: RegNum, size: 1 | 2 | 4 | 8): Reg =>
  gpr(num, size === 1 ? 8 : size === 2 ? 16 : size === 4 ? 32 : 64);

/** Collects a function's code. */
export class Emitter {
  readonly symbol: string;
  private readonly items: Item[] = [];
  private labels = 0;

  constructor(symbol: string) {
    this.symbol = symbol;
  }

  emit(insn: Instruction, ...ops: Operand[]): void {
    this.items.push({ kind: 'insn', insn, ops });
  }

  /** A fresh local label. */
  fresh(hint: string): string {
    this.labels += 1;
    return `.L${this.symbol}.${hint}${this.labels}`;
  }

  label(name: string): void {
    this.items.push({ kind: 'label', name });
  }

  jump(label: string): void {
    this.emit('jmp', lab(label));
  }

  /** What follows belongs to this source line. */
  mark(site: Site): void {
    this.items.push({ kind: 'mark', site });
  }

  /** Plays the collected code into the assembler. */
  replay(a: Assembler<CodeMark>): void {
    this.items.forEach((item, i) => {
      if (item.kind === 'label') a.label(item.name);
      else if (item.kind === 'mark') a.mark({ site: item.site, fn: this.symbol });
      else if (!this.isJumpToNext(item, i)) a.emit(item.insn, ...item.ops);
    });
  }

  private isJumpToNext(item: Item, index: number): boolean {
    if (item.kind !== 'insn' || item.insn !== 'jmp') return false;
    const target = item.ops[0];
    if (typeof target !== 'object' || target.kind !== 'label') return false;
    for (let i = index + 1; i < this.items.length; i++) {
      const next = this.items[i]!;
      if (next.kind === 'insn') return false;
      if (next.kind === 'label' && next.name === target.name) return true;
    }
    return false;
  }
}
