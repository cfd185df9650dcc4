// SPDX-License-Identifier: GPL-2.0-only
/** The listing's layout; its bytes are judged elsewhere. */
import { expect, it } from 'vitest';
import { Assembler } from './assembler.ts';
import { listing } from './listing.ts';
import { lab, m64, R } from './operands.ts';

it('shows labels, addresses, bytes and text, wraps long lines and cuts long data', () => {
  const a = new Assembler();
  a.label('entry');
  a.label('alias');
  a.emit('mov', R.rax, 0x1122_3344_5566_7788n);
  a.emit('jmp', lab('end'));
  a.align(16);
  a.emit('vmread', m64({ base: R.rdi, disp: 8 }), R.rsi);
  a.space(70);
  a.label('end');
  expect(listing(a.finish({ base: 0x40_0000n }))).toBe(
    [
      'entry:',
      'alias:',
      '0000000000400000  48 b8 88 77 66 55 44 33  mov rax, 0x1122334455667788',
      '0000000000400008  22 11',
      '000000000040000a  eb 4e                    jmp end',
      '000000000040000c  0f 1f 40 00              .align 0x10',
      '0000000000400010  0f 78 77 08              vmread qword ptr [rdi+0x8], rsi',
      '0000000000400014  00 00 00 00 00 00 00 00  .space 0x46',
      ...[1, 2, 3, 4, 5, 6, 7].map(
        (i) => `${(0x400014 + 8 * i).toString(16).padStart(16, '0')}  00 00 00 00 00 00 00 00`,
      ),
      '                  ... 6 more bytes',
      'end:',
      '',
    ].join('\n'),
  );
});

it('shows padding of no length as a line without bytes', () => {
  const a = new Assembler();
  a.align(8);
  expect(listing(a.finish({ base: 8n }))).toBe(`0000000000000008  ${' '.repeat(23)}  .align 8\n`);
});
