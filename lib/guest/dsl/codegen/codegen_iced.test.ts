// SPDX-License-Identifier: GPL-2.0-only
/**
 * Generated code as iced-x86 decodes it: every byte of every function belongs to a valid instruction, the registers of the
 * System V ABI are preserved, and the loops that benchmarks rely on are as short as they should be.
 */
import { Code, Decoder, FlowControl, Formatter, FormatterSyntax, type Instruction } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import {
  at,
  type FnLinkable,
  guestFn,
  linkGuest,
  linkImage,
  ptr,
  struct,
  u32,
  u64,
  u8,
} from '../../index.ts';
import { guestCases } from '../../testing/cases.ts';
import { randomProgram } from '../../testing/random_program.ts';
import type { GuestImage } from '../link.ts';

/** Decodes from `start` to `end`; gives the text of each instruction, `(bad)` for what is none. */
function disassemble(
  image: GuestImage,
  start: bigint,
  end: bigint,
): { text: string; bad: boolean; isReturn: boolean }[] {
  const bytes = image.bytes.subarray(Number(start - image.base), Number(end - image.base));
  const decoder = new Decoder(64, bytes, 0);
  const formatter = new Formatter(FormatterSyntax.Intel);
  decoder.ip = start;
  const lines = [];
  while (decoder.canDecode) {
    const instruction: Instruction = decoder.decode();
    lines.push({
      text: formatter.format(instruction),
      bad: instruction.code === Code.INVALID,
      isReturn: instruction.flowControl === FlowControl.Return,
    });
    instruction.free();
  }
  formatter.free();
  decoder.free();
  return lines;
}

/** The code of one function up to its return. */
function codeOf(fn: FnLinkable): string[] {
  const image = linkImage({ base: 0x40_0000, entry: fn });
  const { start, size } = image.sections[0]!;
  const lines = disassemble(image, start, start + BigInt(size));
  return lines.slice(0, lines.findIndex(({ isReturn }) => isReturn) + 1).map(({ text }) => text);
}

/** The instructions between a backward jump and its target: the innermost loop. */
function loopOf(fn: FnLinkable): string[] {
  const image = linkImage({ base: 0x40_0000, entry: fn });
  const decoder = new Decoder(64, image.bytes.subarray(0, 256), 0);
  decoder.ip = image.base;
  const starts: bigint[] = [];
  try {
    while (decoder.canDecode) {
      const instruction = decoder.decode();
      const target = instruction.nearBranchTarget;
      const isBackward = instruction.flowControl === FlowControl.ConditionalBranch && target < instruction.ip;
      starts.push(instruction.ip);
      const end = instruction.nextIP;
      instruction.free();
      if (isBackward) return disassemble(image, target, end).map(({ text }) => text);
    }
  } finally {
    decoder.free();
  }
  return [];
}

describe('hot loops', () => {
  it('store to each page in four instructions', () => {
    const fn = guestFn('touch', [u64, u64], (g, start, end) => {
      const p = g.local(u64);
      g.forRange(p, start, end, 4096, () => g.set(at(u64, p), 5));
    });
    const [store, add, cmp, jump, ...more] = loopOf(fn);
    expect(store).toMatch(/^mov qword ptr \[r\w+\],5$/);
    expect(add).toMatch(/^add r\w+,1000h$/);
    expect(cmp).toMatch(/^cmp r\w+,r\w+$/);
    expect(jump).toMatch(/^jb short/);
    expect(more).toEqual([]);
  });

  it('take one more for a 64-bit value, and none if it is in a variable', () => {
    const wide = guestFn('wide', [u64, u64], (g, start, end) => {
      const p = g.local(u64);
      g.forRange(p, start, end, 4096, () => g.set(at(u64, p), 0x1122_3344_5566_7788n));
    });
    expect(loopOf(wide)).toHaveLength(5);
    const kept = guestFn('kept', [u64, u64], (g, start, end) => {
      const p = g.local(u64);
      const value = g.local(u64, 0x1122_3344_5566_7788n);
      g.forRange(p, start, end, 4096, () => g.set(at(u64, p), value));
    });
    expect(loopOf(kept)).toHaveLength(4);
  });

  it('spin on a flag in two', () => {
    const Sync = struct('struct sync_area', { guest_page_size: u32, exit_flag: u8, start_flag: u8 });
    const fn = guestFn('spin', [ptr(Sync)], (g, sync) => g.while(sync.f.start_flag.eq(0), () => undefined));
    expect(loopOf(fn)).toEqual(['cmp byte ptr [rdi+5],0', 'je short 0000000000400000h']);
  });

  it('index an array by the scale of the address', () => {
    const fn = guestFn('sum', [ptr(u32), u64], u32, (g, list, n) => {
      const [i, sum] = [g.local(u64), g.local(u32, 0)];
      g.forRange(i, 0, n, 1, () => g.set(sum, '+=', list.at(i)));
      g.return(sum);
    });
    expect(loopOf(fn)[0]).toMatch(/^add \w+,\[rdi\+r\w+\*4\]$/);
    expect(loopOf(fn)).toHaveLength(4);
  });
});

describe('small functions', () => {
  it('need no frame if they call nothing', () => {
    const fn = guestFn('add', [u64, u64], u64, (g, a, b) => g.return(a.add(b)));
    expect(codeOf(fn)).toEqual(['lea rax,[rdi+rsi]', 'ret']);
  });

  it('change memory in place', () => {
    const fn = guestFn('bump', [ptr(u32)], (g, p) => g.inc(p.deref(), 3));
    expect(codeOf(fn)).toEqual(['add dword ptr [rdi],3', 'ret']);
  });

  it('clear what the ABI leaves undefined in a narrow argument', () => {
    const fn = guestFn('widen', [u8, u32], u64, (g, a, b) => g.return(a.cast(u64).add(b.cast(u64))));
    expect(codeOf(fn).slice(0, 2)).toEqual(['movzx edi,dil', 'mov esi,esi']);
  });
});

const fnSymbols = (image: GuestImage): [string, bigint][] => {
  const text = image.sections[0]!;
  const end = text.start + BigInt(text.size);
  return [...image.symbols].filter(([, address]) => address < end).sort(([, a], [, b]) => (a < b ? -1 : 1));
};

const NONVOLATILE = ['rbx', 'rbp', 'r12', 'r13', 'r14', 'r15'];

/** Registers that a function writes without having pushed them, by the text of its instructions. */
function clobbered(lines: readonly string[]): string[] {
  const pushed = lines.filter((text) => text.startsWith('push ')).map((text) => text.slice(5));
  const names: Record<string, RegExp> = {
    rbx: /\b(rbx|ebx|bx|bl)\b/,
    rbp: /\b(rbp|ebp|bp|bpl)\b/,
    r12: /\br12[dwb]?\b/,
    r13: /\br13[dwb]?\b/,
    r14: /\br14[dwb]?\b/,
    r15: /\br15[dwb]?\b/,
  };
  return NONVOLATILE.filter((reg) => !pushed.includes(reg) && lines.some((text) => names[reg]!.test(text)));
}

describe('whole images', () => {
  it('consist of valid instructions, and preserve what the ABI says', () => {
    const roots = [...guestCases().map(({ fn }) => fn)];
    for (let seed = 1; seed <= 40; seed++) roots.push(randomProgram(seed).fn);
    const main = guestFn('main', [], () => undefined);
    const image = linkImage({ base: 0x40_0000, entry: main, roots });
    const symbols = fnSymbols(image);
    expect(symbols.length).toBeGreaterThan(150);
    symbols.slice(0, -1).forEach(([name, start], i) => {
      const lines = disassemble(image, start, symbols[i + 1]![1]);
      expect(
        lines.filter(({ bad }) => bad),
        name,
      ).toEqual([]);
      expect(clobbered(lines.map(({ text }) => text)), name).toEqual([]);
      const [pushes, pops] = ['push r', 'pop r'].map(
        (op) => lines.filter(({ text }) => text.startsWith(op)).length,
      );
      expect(pops, name).toBe(pushes);
    });
  });

  it('hold the 256 entry stubs, with an error code where the CPU pushes none', () => {
    const image = linkGuest(guestFn('main', [], () => undefined));
    const stub = (vector: number): string[] => {
      const start = image.addressOf(`idt_handler_${vector}`);
      return disassemble(image, start, start + 12n).map(({ text }) => text);
    };
    const withCode = [8, 10, 11, 12, 13, 14, 17, 21];
    for (let vector = 0; vector < 256; vector++) {
      const lines = stub(vector);
      const has = withCode.includes(vector);
      const number = vector.toString(16).toUpperCase();
      const pushed = lines.findIndex((text) => text.startsWith('jmp'));
      expect(pushed, `vector 0x${number}`).toBe(has ? 1 : 2);
      if (!has) expect(lines[0]).toBe('push 0');
    }
    const table = Number(image.addressOf('idt_handlers') - image.base);
    const view = new DataView(image.bytes.buffer, image.bytes.byteOffset);
    expect(view.getBigUint64(table + 14 * 8, true)).toBe(image.addressOf('idt_handler_14'));
    for (const symbol of ['ucall_pool', 'exception_handlers', 'guest_tsc_khz']) {
      expect(image.symbols.has(symbol), symbol).toBe(true);
    }
  });
});
