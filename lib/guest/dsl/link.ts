// SPDX-License-Identifier: GPL-2.0-only
/**
 * The linker: everything that can be reached from the entry points becomes one image of text, rodata, data and bss, each on
 * pages of its own. It stands for gcc, ld and the ELF loader of a selftest. Left out: dynamic relocation, garbage.
 */
import { Assembler, type Image } from '../../asm/assembler.ts';
import { lab } from '../../asm/operands.ts';
import { listing } from '../../asm/listing.ts';
import { compileFunction } from './codegen/function.ts';
import type { CodeMark } from './codegen/emitter.ts';
import { GuestCodeError } from './error.ts';
import type { GuestAsm, GuestFn } from './function.ts';
import { encodeInit, GuestGlobal, type GlobalLinkable } from './global.ts';
import type { FnLinkable, Linkable } from './ir.ts';

const PAGE_SIZE = 4096;

/** A part of the image with its protection. */
export interface ImageSection {
  readonly name: 'text' | 'rodata' | 'data' | 'bss';
  readonly start: bigint;
  readonly size: number;
  /** As in an ELF program header. */
  readonly flags: 'r-x' | 'r--' | 'rw-';
}

/** A line of guest code. */
export interface CodeLocation {
  readonly file: string;
  readonly line: number;
  readonly fn: string;
}

/** What to link. */
export interface LinkOptions {
  /** Where the image will be in guest memory; on a page boundary. */
  readonly base: bigint | number;
  /** The function that `GuestImage.entry` is the address of. */
  readonly entry: FnLinkable;
  /** Further functions and globals that the host wants by symbol; the rest is found by reference. */
  readonly roots?: readonly (Linkable | GuestGlobal)[];
}

const FLAGS = { text: 'r-x', rodata: 'r--', data: 'rw-', bss: 'rw-' } as const;
const SECTIONS = ['text', 'rodata', 'data', 'bss'] as const;

/** A linked image. */
export class GuestImage {
  readonly base: bigint;
  readonly entry: bigint;
  /** The image without its bss. */
  readonly bytes: Uint8Array;
  /** The size in memory, bss included. */
  readonly size: number;
  readonly symbols: ReadonlyMap<string, bigint>;
  readonly sections: readonly ImageSection[];
  private readonly image: Image<CodeMark>;

  constructor(image: Image<CodeMark>, entry: string) {
    this.image = image;
    this.base = image.base;
    this.symbols = image.symbols;
    this.entry = this.addressOf(entry);
    const starts = SECTIONS.map((name) => image.labels.get(sectionLabel(name))!);
    const end = image.base + BigInt(image.bytes.length);
    this.sections = SECTIONS.map((name, i) => {
      const start = starts[i]!;
      return { name, start, size: Number((starts[i + 1] ?? end) - start), flags: FLAGS[name] };
    });
    this.size = image.bytes.length;
    this.bytes = image.bytes.subarray(0, Number(starts[3]! - image.base));
  }

  /** The address of a symbol. */
  addressOf(what: string | Linkable | GuestGlobal): bigint {
    const symbol = typeof what === 'string' ? what : what.symbol;
    const address = this.symbols.get(symbol);
    if (address === undefined) throw new GuestCodeError(`the image has no symbol '${symbol}'`);
    return address;
  }

  /** The statement that the code at an address belongs to. */
  locate(address: bigint): CodeLocation | undefined {
    const text = this.sections[0]!;
    if (address < text.start || address >= text.start + BigInt(text.size)) return undefined;
    const { marks } = this.image;
    let low = 0;
    let high = marks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (marks[middle]!.address <= address) low = middle + 1;
      else high = middle;
    }
    const mark = marks[low - 1]?.mark;
    return mark && { ...mark.site.loc(), fn: mark.fn };
  }

  /** The text of a string constant; undefined if the address is not in the image. */
  cstring(address: bigint): string | undefined {
    const start = Number(address - this.base);
    if (start < 0 || start >= this.bytes.length) return undefined;
    const end = this.bytes.indexOf(0, start);
    return new TextDecoder().decode(this.bytes.subarray(start, end < 0 ? undefined : end));
  }

  /** The code as text, for debugging. */
  listing(): string {
    return listing(this.image);
  }
}

const sectionLabel = (name: string): string => `.Lsection.${name}`;

class Linker {
  private readonly a = new Assembler<CodeMark>();
  private readonly bySymbol = new Map<string, Linkable>();
  private readonly strings = new Map<string, string>();
  private readonly code: Linkable[] = [];
  private readonly data: GlobalLinkable[] = [];

  /** The label of a symbol; takes it into the image. */
  readonly labelOf = (target: Linkable): string => {
    if (target.linkKind === 'string') return this.stringLabel(target.symbol);
    const known = this.bySymbol.get(target.symbol);
    if (known !== undefined && known !== target)
      throw new GuestCodeError(`two definitions of '${target.symbol}'`);
    if (known === undefined) {
      this.bySymbol.set(target.symbol, target);
      if (target.linkKind === 'data') this.data.push(target as GlobalLinkable);
      else this.code.push(target);
    }
    return target.symbol;
  };

  private stringLabel(text: string): string {
    const label = this.strings.get(text) ?? `.Lstr.${this.strings.size}`;
    this.strings.set(text, label);
    return label;
  }

  link(options: LinkOptions): GuestImage {
    const base = BigInt(options.base);
    if (base % BigInt(PAGE_SIZE) !== 0n)
      throw new GuestCodeError(`image base 0x${base.toString(16)} is not on a page boundary`);
    this.labelOf(options.entry);
    for (const root of options.roots ?? []) this.labelOf(root instanceof GuestGlobal ? root.data : root);
    this.section('text');
    // Both lists grow while they are walked: initialisers name functions, functions name globals.
    const inits = new Map<GlobalLinkable, ReturnType<typeof encodeInit>>();
    for (let i = 0, j = 0; i < this.code.length || j < this.data.length;) {
      if (i < this.code.length) this.text(this.code[i++]!);
      else inits.set(this.data[j]!, this.collect(this.data[j++]!));
    }
    this.section('rodata');
    this.rodata();
    this.section('data');
    for (const data of this.data) if (data.init !== undefined) this.initialised(data, inits.get(data)!);
    this.section('bss');
    for (const data of this.data) if (data.init === undefined) this.zeroed(data);
    return new GuestImage(this.a.finish({ base }), options.entry.symbol);
  }

  private section(name: string): void {
    this.a.align(PAGE_SIZE, 0);
    this.a.label(sectionLabel(name));
  }

  private text(target: Linkable): void {
    this.a.align(16);
    this.a.label(target.symbol);
    if (target.linkKind === 'fn') {
      compileFunction(this.a, (target as GuestFn).body(), this.labelOf);
      return;
    }
    const { a } = this;
    (target as GuestAsm).write({
      emit: (insn, ...ops) => a.emit(insn, ...ops),
      label: (name) => a.label(name),
      align: (alignment) => a.align(alignment),
      u64: (value) => a.u64(typeof value === 'object' ? lab(value.label) : value),
      ref: this.labelOf,
    });
  }

  private collect(data: GlobalLinkable): ReturnType<typeof encodeInit> {
    const init = encodeInit(data);
    for (const { target } of init.relocs) this.labelOf(target);
    return init;
  }

  private rodata(): void {
    const encoder = new TextEncoder();
    for (const [text, label] of this.strings) {
      this.a.label(label);
      this.a.bytes([...encoder.encode(text), 0]);
    }
  }

  private initialised(data: GlobalLinkable, init: ReturnType<typeof encodeInit>): void {
    this.a.align(data.type.align, 0);
    this.a.label(data.symbol);
    let at = 0;
    for (const { offset, target } of [...init.relocs].sort((x, y) => x.offset - y.offset)) {
      this.a.bytes(init.bytes.subarray(at, offset));
      this.a.u64(lab(this.labelOf(target)));
      at = offset + 8;
    }
    this.a.bytes(init.bytes.subarray(at));
  }

  private zeroed(data: GlobalLinkable): void {
    this.a.align(data.type.align, 0);
    this.a.label(data.symbol);
    this.a.space(data.type.size);
  }
}

/** Links the entry function, what the host asks for, and all that they refer to. */
export function linkImage(options: LinkOptions): GuestImage {
  return new Linker().link(options);
}
