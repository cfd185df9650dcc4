// SPDX-License-Identifier: GPL-2.0-only
/**
 * Choices and refusals of the encoder. Bytes are from the SDM's instruction pages; where two encodings would do, the
 * expected one is what GNU as emits. Refusals are the SDM's rules for REX, immediates, LOCK and REP.
 */
import { describe, expect, it } from 'vitest';
import { encode } from './encode.ts';
import { lab, m16, m32, m64, m8, mem, type Operand, R } from './operands.ts';
import { asmMessage } from './testing/asm_message.ts';

const hex = (instruction: string, ...ops: Operand[]): string =>
  Buffer.from(encode(instruction, ops).encoding.bytes).toString('hex');

const message = (instruction: string, ...ops: Operand[]): string =>
  asmMessage(() => hex(instruction, ...ops));

describe('the shortest form', () => {
  it.each<[string, string, ...Operand[]]>([
    ['6683c0ff', 'add', R.ax, 0xffff],
    ['83c0ff', 'add', R.eax, 0xffff_ffff],
    ['83c0ff', 'add', R.eax, -1],
    ['4883c0ff', 'add', R.rax, 0xffff_ffff_ffff_ffffn],
    ['4805ffffff7f', 'add', R.rax, 0x7fff_ffff],
    ['4881c1ffffff7f', 'add', R.rcx, 0x7fff_ffff],
    ['04ff', 'add', R.al, 255],
    ['0500010000', 'add', R.eax, 256],
    ['d1e0', 'shl', R.eax, 1],
    ['c1e002', 'shl', R.eax, 2],
    ['d3e0', 'shl', R.eax, R.cl],
    ['6a80', 'push', -128],
    ['6a80', 'push', 0xffff_ffff_ffff_ff80n],
    ['6880000000', 'push', 128],
    ['b801000000', 'mov', R.eax, 1],
    ['48c7c001000000', 'mov', R.rax, 1],
    ['48c7c0ffffffff', 'mov', R.rax, -1],
    ['48b8ffffffff00000000', 'mov', R.rax, 0xffff_ffff],
    ['48b80000000000000080', 'mov', R.rax, 1n << 63n],
    ['93', 'xchg', R.eax, R.ebx],
    ['93', 'xchg', R.ebx, R.eax],
    ['6bc37f', 'imul', R.eax, R.ebx, 127],
    ['69c380000000', 'imul', R.eax, R.ebx, 128],
    ['fe0424', 'inc', m8({ base: R.rsp })],
  ])('%s is %s', (bytes, instruction, ...ops) => {
    expect(hex(instruction, ...ops)).toBe(bytes);
  });

  it('exchanges eax with itself through ModRM, because 90 would not clear the upper half', () => {
    expect(hex('xchg', R.eax, R.eax)).toBe('87c0');
  });
});

describe('addresses', () => {
  it.each<[string, Operand]>([
    ['8b00', m32({ base: R.rax })],
    ['8b4500', m32({ base: R.rbp })],
    ['418b4500', m32({ base: R.r13 })],
    ['8b0424', m32({ base: R.rsp })],
    ['418b0424', m32({ base: R.r12 })],
    ['8b4080', m32({ base: R.rax, disp: -128 })],
    ['8b807fffffff', m32({ base: R.rax, disp: -129 })],
    ['8b0425001000ff', m32({ disp: -0x00ff_f000 })],
    ['8b0425001000ff', m32({ disp: 0xffff_ffff_ff00_1000n })],
    ['8b04cd00000000', m32({ index: R.rcx, scale: 8 })],
    ['428b44a510', m32({ base: R.rbp, index: R.r12, scale: 4, disp: 16 })],
    ['67418b00', m32({ base: R.r8d })],
    ['658b042510000000', m32({ seg: R.gs, disp: 0x10 })],
  ])('are %s', (bytes, address) => {
    expect(hex('mov', R.eax, address)).toBe(bytes);
  });
});

describe('byte registers', () => {
  it('need REX for spl to dil and none for ah to bh', () => {
    expect(hex('mov', R.sil, R.al)).toBe('4088c6');
    expect(hex('mov', R.dh, R.al)).toBe('88c6');
    expect(hex('movzx', R.eax, R.ah)).toBe('0fb6c4');
  });

  it.each<[Operand, Operand, string]>([
    [R.ah, R.sil, 'mov ah, sil'],
    [R.ah, R.r8b, 'mov ah, r8b'],
    [m8({ base: R.r9 }), R.bh, 'mov byte ptr [r9], bh'],
  ])('of both sorts cannot stand together', (a, b, text) => {
    expect(message('mov', a, b)).toMatch(
      new RegExp(
        `^${text.replaceAll(/[[\]]/g, '\\$&')}: .h cannot be encoded in an instruction that needs a REX`,
      ),
    );
  });

  it('of the upper sort have no wide destination', () => {
    expect(message('movzx', R.rax, R.ah)).toContain('ah cannot be encoded');
  });
});

describe('refusals', () => {
  it.each<[string, string, ...Operand[]]>([
    ['add rax, bl: no form takes these operands', 'add', R.rax, R.bl],
    ['add 1, rax: no form takes these operands', 'add', 1, R.rax],
    ['add rax: no form takes these operands', 'add', R.rax],
    ['ret 1, 2: no form takes these operands', 'ret', 1, 2],
    [
      'mov dword ptr [rax], dword ptr [rbx]: no form takes these operands',
      'mov',
      m32({ base: R.rax }),
      m32({ base: R.rbx }),
    ],
    ['mov [rax], 1: no form takes these operands', 'mov', mem(0, { base: R.rax }), 1],
    ['mov cs, ax: no form takes these operands', 'mov', R.cs, R.ax],
    ['mov cr3, eax: no form takes these operands', 'mov', R.cr3, R.eax],
    ['push eax: no form takes these operands', 'push', R.eax],
    ['jmp 0x1000: no form takes these operands', 'jmp', 0x1000],
    ['shl eax, dl: no form takes these operands', 'shl', R.eax, R.dl],
    ['lldt dword ptr [rax]: no form takes these operands', 'lldt', m32({ base: R.rax })],
    ['vmptrld rax: no form takes these operands', 'vmptrld', R.rax],
    ['add rax, x: no form takes these operands', 'add', R.rax, lab('x')],
    ['aaa: no such mnemonic', 'aaa'],
    ['toString: no such mnemonic', 'toString'],
  ])('%s', (text, instruction, ...ops) => {
    expect(message(instruction, ...ops)).toBe(text);
  });

  it.each<[string, string, ...Operand[]]>([
    ['add al, 0x100: immediate does not fit imm8', 'add', R.al, 256],
    ['add al, -0x81: immediate does not fit imm8', 'add', R.al, -129],
    ['add ecx, 0x100000000: immediate does not fit imm32', 'add', R.ecx, 2 ** 32],
    ['add rax, 0xffffffff: immediate does not fit imm32 sign-extended to 64 bits', 'add', R.rax, 0xffff_ffff],
    ['mov rax, 0x10000000000000000: immediate does not fit imm64', 'mov', R.rax, 1n << 64n],
    ['int 0x100: immediate does not fit imm8', 'int', 256],
    ['push 0x80000000: immediate does not fit imm32 sign-extended to 64 bits', 'push', 0x8000_0000],
    ['out 0x100, al: immediate does not fit imm8', 'out', 256, R.al],
  ])('%s', (text, instruction, ...ops) => {
    expect(message(instruction, ...ops)).toBe(text);
  });

  it('an immediate that is not an integer or not exact', () => {
    const rule = 'a number beyond 2^53 or with a fraction is not an immediate: use a bigint';
    expect(message('mov', R.rax, 2 ** 60)).toContain(rule);
    expect(message('mov', R.rax, 0.5)).toContain(rule);
  });

  it('a prefix word on an instruction that does not take it', () => {
    const target = m64({ base: R.rax });
    expect(message('lock mov', target, R.rax)).toBe(
      'lock mov qword ptr [rax], rax: lock does not go with mov',
    );
    expect(message('lock add', R.rax, target)).toBe(
      'lock add rax, qword ptr [rax]: lock needs a destination in memory',
    );
    expect(message('rep cmpsb')).toBe('rep cmpsb: rep does not go with cmpsb');
    expect(message('repne movsb')).toBe('repne movsb: repne does not go with movsb');
    expect(message('fast movsb')).toBe('fast movsb: no such mnemonic');
    expect(hex('lock xchg', R.rcx, target)).toBe('f0488708');
  });
});

describe('memory that leaves its size open', () => {
  it('fits where the instruction takes memory only', () => {
    const open = mem(0, { base: R.rax });
    expect(hex('vmptrld', open)).toBe('0fc730');
    expect(hex('lgdt', open)).toBe('0f0110');
    expect(hex('invept', R.rcx, open)).toBe('660f388008');
    expect(hex('lea', R.rcx, m16({ base: R.rax }))).toBe('488d08');
  });
});
