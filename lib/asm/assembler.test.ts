// SPDX-License-Identifier: GPL-2.0-only
/**
 * Labels, relaxation, data, marks, fixups. Byte strings were worked out by hand from the SDM's instruction pages;
 * the arithmetic of fixups is the x86-64 psABI's. Single instructions are judged in isa_iced.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { Assembler } from './assembler.ts';
import { applyFixup } from './fixups.ts';
import { lab, m64, mem, R } from './operands.ts';
import { asmMessage } from './testing/asm_message.ts';

const BASE = 0x40_0000n;

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** The bytes of what `build` emits, at 4 MiB. */
const bytesOf = (build: (a: Assembler) => void): string => {
  const a = new Assembler();
  build(a);
  return hex(a.finish({ base: BASE }).bytes);
};

describe('branches', () => {
  it('are short forward and backward where rel8 reaches', () => {
    expect(
      bytesOf((a) => {
        a.label('top');
        a.emit('jne', lab('end'));
        a.emit('jmp', lab('top'));
        a.label('end');
      }),
    ).toBe('7502ebfc');
  });

  it.each([
    ['forward, 127 away', 127, 0, 'eb7f'],
    ['forward, 128 away', 128, 0, 'e980000000'],
    ['backward, -128 away', 0, 126, 'eb80'],
    ['backward, -129 away', 0, 127, 'e97cffffff'],
  ])('change length at the border: %s', (_, after, before, expected) => {
    const code = bytesOf((a) => {
      if (before > 0) a.label('target');
      a.space(before);
      a.emit('jmp', lab('target'));
      a.space(after);
      if (before === 0) a.label('target');
    });
    expect(code.slice(2 * before, 2 * before + expected.length)).toBe(expected);
  });

  it('grow together when one pushes the target of another out of reach', () => {
    const a = new Assembler();
    a.emit('jmp', lab('one')); // 125 + the second branch: reaches only while that is short
    a.space(125);
    a.emit('jmp', lab('two'));
    a.label('one');
    a.space(128);
    a.label('two');
    const { bytes, symbols } = a.finish({ base: BASE });
    expect([bytes[0], bytes[5 + 125]]).toEqual([0xe9, 0xe9]);
    expect(symbols.get('one')).toBe(BASE + 5n + 125n + 5n);
  });

  it('count the padding of an alignment between them and their target', () => {
    const code = bytesOf((a) => {
      a.emit('jmp', lab('far'));
      a.align(256);
      a.label('far');
    });
    expect(code.slice(0, 10)).toBe('e9fb000000');
  });

  it('reach a label plus an addend', () => {
    expect(
      bytesOf((a) => {
        a.label('here');
        a.emit('jmp', lab('here', 2));
      }),
    ).toBe('eb00');
  });

  it('that have no long form must reach', () => {
    const build = (a: Assembler): void => {
      a.emit('jrcxz', lab('end'));
      a.space(128);
      a.label('end');
    };
    expect(asmMessage(() => bytesOf(build))).toBe('end: rel8 field at offset 0x1 cannot hold 0x80');
  });
});

describe('labels', () => {
  it('are RIP-relative in memory operands, counted from the end with the immediate', () => {
    expect(
      bytesOf((a) => {
        a.emit('mov', m64({ label: 'data', disp: 8 }), 1); // 48 c7 05 disp32 imm32
        a.label('data');
      }),
    ).toBe('48c7050800000001000000');
  });

  it('are absolute as immediates, as data and beside an index', () => {
    expect(
      bytesOf((a) => {
        a.label('here');
        a.emit('mov', R.rax, lab('here'));
        a.emit('mov', R.ecx, lab('here', 1));
        a.emit('jmp', m64({ label: 'here', index: R.rdx, scale: 8, disp: 2 }));
        a.u64(lab('here', 3));
        a.u32(lab('here'));
      }),
    ).toBe('48b80000400000000000' + 'b901004000' + 'ff24d502004000' + '0300400000000000' + '00004000');
  });

  it('appear among the symbols unless local, and all among the labels', () => {
    const a = new Assembler();
    const local = a.unique('loop');
    a.emit('nop');
    a.label(local.name);
    a.label('global');
    const { symbols, labels } = a.finish({ base: BASE });
    expect([...symbols]).toEqual([['global', BASE + 1n]]);
    expect(labels.get(local.name)).toBe(BASE + 1n);
    expect(a.unique('loop').name).not.toBe(local.name);
  });

  it('are refused when defined twice, undefined, or both here and external', () => {
    const a = new Assembler();
    a.label('x');
    expect(asmMessage(() => a.label('x'))).toBe('x: label is defined twice');
    expect(asmMessage(() => a.extern('x'))).toBe('x: external symbol is a label here');
    a.extern('y');
    expect(asmMessage(() => a.label('y'))).toBe('y: label is declared external');
    expect(asmMessage(() => bytesOf((b) => b.emit('jmp', lab('z'))))).toBe('z: label is not defined');
    expect(asmMessage(() => bytesOf((b) => b.emit('call', lab('z'))))).toBe('z: label is not defined');
    expect(asmMessage(() => bytesOf((b) => b.u64(lab('z'))))).toBe('z: label is not defined');
  });
});

describe('external symbols', () => {
  const build = (): Assembler => {
    const a = new Assembler();
    a.extern('puts', 'table');
    a.emit('call', lab('puts'));
    a.emit('jmp', lab('puts'));
    a.u64(lab('table', 16));
    return a;
  };

  it('stay as fixups with ELF addends, branches to them long', () => {
    const { bytes, fixups } = build().finish({ base: BASE });
    expect(hex(bytes)).toBe('e800000000e9000000000000000000000000');
    expect(fixups).toEqual([
      { offset: 1, kind: 'rel32', symbol: 'puts', addend: -4 },
      { offset: 6, kind: 'rel32', symbol: 'puts', addend: -4 },
      { offset: 10, kind: 'abs64', symbol: 'table', addend: 16 },
    ]);
  });

  it('resolve to the same bytes at finish and by applyFixup', () => {
    const externs = new Map([
      ['puts', BASE + 0x100n],
      ['table', 0xffff_8000_0000_0000n],
    ]);
    const now = build().finish({ base: BASE, externs });
    expect(now.fixups).toEqual([]);
    expect(hex(now.bytes)).toBe('e8fb000000e9f6000000100000000080ffff');
    const later = build().finish({ base: BASE });
    for (const fixup of later.fixups) applyFixup(later.bytes, fixup, BASE, externs.get(fixup.symbol)!);
    expect(hex(later.bytes)).toBe(hex(now.bytes));
  });

  it('must lie within the reach of their field', () => {
    const finish = (puts: bigint): (() => unknown) => {
      const a = new Assembler();
      a.extern('puts');
      a.emit('call', lab('puts'));
      return () => a.finish({ base: BASE, externs: new Map([['puts', puts]]) });
    };
    expect(finish(BASE + 5n + 0x7fff_ffffn)).not.toThrow();
    expect(asmMessage(finish(BASE + 5n + 0x8000_0000n))).toBe(
      'puts: rel32 field at offset 0x1 cannot hold 0x80000000',
    );
    expect(asmMessage(finish(0xffff_8000_0000_0000n))).toContain('cannot hold -0x');
  });

  it('are taken from the high half by a sign-extended disp32, not by a zero-extended one', () => {
    const externs = new Map([['high', 0xffff_ffff_8000_0000n]]);
    const a = new Assembler();
    a.emit('mov', R.rax, mem(64, { label: 'high', base: R.rcx }));
    expect(hex(a.finish({ base: BASE, externs }).bytes)).toBe('488b8100000080');
    a.emit('mov', R.eax, lab('high'));
    expect(asmMessage(() => a.finish({ base: BASE, externs }))).toContain('abs32 field');
  });
});

describe('data', () => {
  it('is little-endian, signed or unsigned', () => {
    expect(
      bytesOf((a) => {
        a.u8(-1);
        a.u16(0x1234);
        a.u32(0xdead_beef);
        a.u64(-2n);
        a.bytes([1, 2]);
        a.space(2, 0xcc);
      }),
    ).toBe('ff3412efbeaddefeffffffffffffff0102cccc');
  });

  it('is refused when it does not fit', () => {
    const a = new Assembler();
    expect(asmMessage(() => a.u8(256))).toBe('.byte 256: does not fit 8 bits');
    expect(asmMessage(() => a.u16(-32769))).toBe('.short -32769: does not fit 16 bits');
    expect(asmMessage(() => a.u32(2n ** 32n))).toBe('.long 4294967296: does not fit 32 bits');
    expect(asmMessage(() => a.u64(2n ** 64n))).toBe('.quad 18446744073709551616: does not fit 64 bits');
    expect(asmMessage(() => a.u64(1.5))).toBe('.quad 1.5: not an integer, or beyond 2^53: use a bigint');
  });

  it('holds a label in 32 or 64 bits only', () => {
    const a = new Assembler() as unknown as { u8: (value: unknown) => void };
    expect(asmMessage(() => a.u8(lab('x')))).toBe('.byte x: a label needs 32 or 64 bits');
  });

  it('grows past the first buffer', () => {
    const { bytes } = (() => {
      const a = new Assembler();
      a.space(5000, 1);
      a.space(20000, 2);
      a.u8(3);
      return a.finish({ base: 0n });
    })();
    expect([bytes.length, bytes[4999], bytes[5000], bytes[25000]]).toEqual([25001, 1, 2, 3]);
  });
});

describe('align', () => {
  it('counts from address zero and not from the start of the image', () => {
    const a = new Assembler();
    a.emit('ret');
    a.align(8);
    a.label('end');
    expect(a.finish({ base: 4n }).symbols.get('end')).toBe(8n);
    expect(a.finish({ base: 7n }).symbols.get('end')).toBe(8n);
    expect(a.finish({ base: 8n }).symbols.get('end')).toBe(16n);
  });

  it('pads with long nops, or with a byte', () => {
    const pad = (fill?: number): string =>
      bytesOf((a) => {
        a.emit('ret');
        a.align(16, fill);
      });
    expect(pad()).toBe('c3' + '660f1f840000000000' + '660f1f440000');
    expect(pad(0xcc)).toBe('c3' + 'cc'.repeat(15));
    expect(bytesOf((a) => a.nops(10))).toBe('660f1f84000000000090');
  });

  it('takes powers of two only', () => {
    const a = new Assembler();
    for (const to of [0, 3, -8, 1.5])
      expect(asmMessage(() => a.align(to))).toBe(`.align ${to}: not a power of two`);
  });
});

describe('marks and lines', () => {
  it('carry addresses that account for branches and padding', () => {
    const a = new Assembler<string>();
    a.mark('branch');
    a.emit('jmp', lab('end'));
    a.mark('padding');
    a.align(16);
    a.mark('a');
    a.mark('b');
    a.label('end');
    a.emit('ret');
    const { marks, lines } = a.finish({ base: BASE });
    expect(marks).toEqual([
      { address: BASE, mark: 'branch' },
      { address: BASE + 2n, mark: 'padding' },
      { address: BASE + 16n, mark: 'a' },
      { address: BASE + 16n, mark: 'b' },
    ]);
    expect(lines.map(({ address, length }) => [address - BASE, length])).toEqual([
      [0n, 2],
      [2n, 14],
      [16n, 1],
    ]);
  });
});
