// SPDX-License-Identifier: GPL-2.0-only
/**
 * The assembler: instructions, labels and data in, an image out. The vocabulary is GNU as's (labels, align, data
 * directives, `.L` names are local); the input is calls, not text.
 * One image is one contiguous section; a linker that wants several makes several and joins them by fixups.
 */
import { encode, type Encoded, type Encoding, type Field } from './encode.ts';
import { AsmError } from './errors.ts';
import { applyFixup, type Fixup, type FixupKind } from './fixups.ts';
import type { Instruction } from './isa.ts';
import { type AlignSpan, type BranchSpan, type Layout, layOut, type Place, type Span } from './layout.ts';
import { nops } from './nops.ts';
import { type Imm, type Lab, lab, type Operand } from './operands.ts';

/** An object attached to an address, such as the source line that the code there came from. */
export interface Mark<T> {
  readonly address: bigint;
  readonly mark: T;
}

/** What one call emitted: an instruction with its operands, or a directive (`.bytes`, `.align`) without. */
export interface Line {
  readonly address: bigint;
  readonly length: number;
  readonly instruction: string;
  readonly ops: readonly Operand[];
}

/** An assembled image. */
export interface Image<T = unknown> {
  readonly base: bigint;
  readonly bytes: Uint8Array;
  /** Address of every label that does not begin with `.L`. */
  readonly symbols: ReadonlyMap<string, bigint>;
  /** Fields that wait for an external symbol; give them to `applyFixup`. */
  readonly fixups: readonly Fixup[];
  /** Marks by ascending address, in the order of the calls where equal. */
  readonly marks: readonly Mark<T>[];
  /** What was emitted, by ascending address: the input of `listing`. */
  readonly lines: readonly Line[];
  /** Address of every label, local ones included. */
  readonly labels: ReadonlyMap<string, bigint>;
}

/** Where an image lies, and the addresses of external symbols that are known already. */
export interface FinishOptions {
  readonly base: bigint;
  readonly externs?: ReadonlyMap<string, bigint> | undefined;
}

interface PlacedField extends Field {
  readonly place: Place;
}

interface PlacedLine {
  readonly place: Place;
  /** Length in raw bytes, or the index of the span that it is. */
  readonly length: number;
  readonly span: number;
  readonly instruction: string;
  readonly ops: readonly Operand[];
}

const DATA: Readonly<Record<8 | 16 | 32 | 64, { name: string; kind: FixupKind | undefined }>> = {
  8: { name: '.byte', kind: undefined },
  16: { name: '.short', kind: undefined },
  32: { name: '.long', kind: 'abs32' },
  64: { name: '.quad', kind: 'abs64' },
};

/** Collects code and data; `finish` may be called more than once, with other bases. `T` is the type of the marks. */
export class Assembler<T = unknown> {
  #raw = new Uint8Array(4096);
  #length = 0;
  #unique = 0;
  readonly #spans: Span[] = [];
  readonly #labels = new Map<string, Place>();
  readonly #externs = new Set<string>();
  readonly #fields: PlacedField[] = [];
  readonly #marks: { place: Place; mark: T }[] = [];
  readonly #lines: PlacedLine[] = [];

  /** Emits one instruction, with its prefix if it has one: `emit('lock cmpxchg', mem, reg)`, `emit('rep stosq')`. */
  emit(instruction: Instruction, ...ops: Operand[]): void {
    const { encoding, long }: Encoded = encode(instruction, ops);
    if (long) {
      this.#span({ kind: 'branch', ...this.#here(), short: encoding, long }, instruction, ops);
      return;
    }
    const place = this.#here();
    for (const field of encoding.fields) this.#fields.push({ ...field, place });
    this.#line(instruction, ops, encoding.bytes);
  }

  /** Binds a label to the current address. */
  label(name: string): void {
    if (this.#labels.has(name)) throw new AsmError(name, 'label is defined twice');
    if (this.#externs.has(name)) throw new AsmError(name, 'label is declared external');
    this.#labels.set(name, this.#here());
  }

  /** A reference to a new local label, whose name nothing else has; bind it with `label(ref.name)`. */
  unique(prefix = 'L'): Lab {
    return lab(`.L${prefix}.${this.#unique++}`);
  }

  /** Declares symbols of another image: `finish` leaves them as fixups unless it is told their address. */
  extern(...names: string[]): void {
    for (const name of names) {
      if (this.#labels.has(name)) throw new AsmError(name, 'external symbol is a label here');
      this.#externs.add(name);
    }
  }

  /** Pads to a multiple of `to` (a power of two): with long nops, or with the byte `fill`. */
  align(to: number, fill?: number): void {
    if (!Number.isSafeInteger(to) || to <= 0 || Math.log2(to) % 1 !== 0) {
      throw new AsmError(`.align ${to}`, 'not a power of two');
    }
    this.#span({ kind: 'align', ...this.#here(), to, fill }, '.align', [to]);
  }

  /** Emits `count` bytes of long nops. */
  nops(count: number): void {
    this.#line('.nops', [count], nops(count));
  }

  /** Emits bytes as they are. */
  bytes(data: Uint8Array | readonly number[]): void {
    this.#line('.bytes', [], data);
  }

  /** Emits `count` times the byte `fill`. */
  space(count: number, fill = 0): void {
    this.#line('.space', [count], new Uint8Array(count).fill(fill));
  }

  /** Emits a byte of data. */
  u8(value: Imm): void {
    this.#data(8, value);
  }

  /** Emits two bytes of data. */
  u16(value: Imm): void {
    this.#data(16, value);
  }

  /** Emits four bytes of data, or the low address of a label. */
  u32(value: Imm | Lab): void {
    this.#data(32, value);
  }

  /** Emits eight bytes of data, or the address of a label. */
  u64(value: Imm | Lab): void {
    this.#data(64, value);
  }

  /** Attaches an object to the current address. */
  mark(mark: T): void {
    this.#marks.push({ place: this.#here(), mark });
  }

  /** Lays the image out at `base`, resolves what can be resolved, and returns it. */
  finish({ base, externs = new Map() }: FinishOptions): Image<T> {
    this.#checkSymbols(externs);
    const layout = layOut(this.#spans, this.#labels, base);
    const at = (place: Place): bigint => base + BigInt(layout.offsetOf(place));
    const labels = new Map([...this.#labels].map(([name, place]): [string, bigint] => [name, at(place)]));
    const bytes = this.#render(layout);
    const fixups: Fixup[] = [];
    for (const fixup of this.#fixups(layout)) {
      const target = labels.get(fixup.symbol) ?? externs.get(fixup.symbol);
      if (target === undefined) fixups.push(fixup);
      else applyFixup(bytes, fixup, base, target);
    }
    return {
      base,
      bytes,
      fixups,
      labels,
      symbols: new Map([...labels].filter(([name]) => !name.startsWith('.L'))),
      marks: this.#marks.map(({ place, mark }) => ({ address: at(place), mark })),
      lines: this.#lines.map(({ place, length, span, instruction, ops }) => ({
        address: at(place),
        length: span < 0 ? length : layout.sizes[span]!,
        instruction,
        ops,
      })),
    };
  }

  #here(): Place {
    return { raw: this.#length, spans: this.#spans.length };
  }

  #span(span: Span, instruction: string, ops: readonly Operand[]): void {
    const place = this.#here();
    this.#lines.push({ place, length: 0, span: this.#spans.length, instruction, ops });
    this.#spans.push(span);
  }

  #line(instruction: string, ops: readonly Operand[], bytes: ArrayLike<number>): void {
    this.#lines.push({ place: this.#here(), length: bytes.length, span: -1, instruction, ops });
    if (this.#length + bytes.length > this.#raw.length) {
      const larger = new Uint8Array(2 * (this.#length + bytes.length));
      larger.set(this.#raw.subarray(0, this.#length));
      this.#raw = larger;
    }
    this.#raw.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  #data(bits: 8 | 16 | 32 | 64, value: Imm | Lab): void {
    const { name, kind } = DATA[bits];
    const out = new Uint8Array(bits / 8);
    if (typeof value === 'object') {
      if (kind === undefined) throw new AsmError(`${name} ${value.name}`, 'a label needs 32 or 64 bits');
      this.#fields.push({ at: 0, kind, symbol: value.name, addend: value.addend, place: this.#here() });
    } else {
      if (typeof value === 'number' && !Number.isSafeInteger(value)) {
        throw new AsmError(`${name} ${value}`, 'not an integer, or beyond 2^53: use a bigint');
      }
      const v = BigInt(value);
      if (v < -(1n << BigInt(bits - 1)) || v >= 1n << BigInt(bits)) {
        throw new AsmError(`${name} ${value}`, `does not fit ${bits} bits`);
      }
      for (let i = 0; i < out.length; i++) out[i] = Number((v >> BigInt(8 * i)) & 0xffn);
    }
    this.#line(name, [value], out);
  }

  #checkSymbols(externs: ReadonlyMap<string, bigint>): void {
    const known = (name: string): boolean =>
      this.#labels.has(name) || this.#externs.has(name) || externs.has(name);
    const undefinedIn = (symbol: string): void => {
      if (!known(symbol)) throw new AsmError(symbol, 'label is not defined');
    };
    for (const { symbol } of this.#fields) undefinedIn(symbol);
    for (const span of this.#spans) if (span.kind === 'branch') undefinedIn(span.short.fields[0]!.symbol);
  }

  #chosen(span: BranchSpan, size: number): Encoding {
    return size === span.long.bytes.length ? span.long : span.short;
  }

  #padding(span: AlignSpan, size: number): ArrayLike<number> {
    return span.fill === undefined ? nops(size) : new Uint8Array(size).fill(span.fill);
  }

  #render({ sizes }: Layout): Uint8Array {
    const bytes = new Uint8Array(sizes.reduce((sum, size) => sum + size, this.#length));
    let raw = 0;
    let out = 0;
    this.#spans.forEach((span, i) => {
      bytes.set(this.#raw.subarray(raw, span.raw), out);
      out += span.raw - raw;
      raw = span.raw;
      const size = sizes[i]!;
      bytes.set(span.kind === 'align' ? this.#padding(span, size) : this.#chosen(span, size).bytes, out);
      out += size;
    });
    bytes.set(this.#raw.subarray(raw, this.#length), out);
    return bytes;
  }

  #fixups({ sizes, offsetOf }: Layout): readonly Fixup[] {
    const place = (field: Field, at: Place): Fixup => ({
      offset: offsetOf(at) + field.at,
      kind: field.kind,
      symbol: field.symbol,
      addend: field.addend,
    });
    const plain = this.#fields.map((field) => place(field, field.place));
    const branches = this.#spans.flatMap((span, i) =>
      span.kind === 'align' ? [] : this.#chosen(span, sizes[i]!).fields.map((field) => place(field, span)),
    );
    return [...plain, ...branches].sort((a, b) => a.offset - b.offset);
  }
}
