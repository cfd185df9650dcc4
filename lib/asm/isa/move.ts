// SPDX-License-Identifier: GPL-2.0-only
/**
 * Data movement: mov in all forms but moffs, extension, lea, conditional moves and sets, exchange, push and pop.
 * SDM, "Instruction Set Reference". Leaves out moffs (longer than the ModRM forms wherever both exist, but for
 * 64-bit absolute addresses) and the 16-bit immediate push.
 */
import { conditional, type Row } from './family.ts';

// prettier-ignore
const MOV = [
  ['mov', 'r/m8, r8',       '88 /r'],
  ['mov', 'r/m16, r16',     'o16 89 /r'],
  ['mov', 'r/m32, r32',     '89 /r'],
  ['mov', 'r/m64, r64',     'REX.W + 89 /r'],
  ['mov', 'r8, r/m8',       '8A /r'],
  ['mov', 'r16, r/m16',     'o16 8B /r'],
  ['mov', 'r32, r/m32',     '8B /r'],
  ['mov', 'r64, r/m64',     'REX.W + 8B /r'],
  ['mov', 'r8, imm8',       'B0+rb ib'],
  ['mov', 'r16, imm16',     'o16 B8+rw iw'],
  ['mov', 'r32, imm32',     'B8+rd id'],
  ['mov', 'r64, imm64',     'REX.W + B8+ro io'],
  ['mov', 'r/m8, imm8',     'C6 /0 ib'],
  ['mov', 'r/m16, imm16',   'o16 C7 /0 iw'],
  ['mov', 'r/m32, imm32',   'C7 /0 id'],
  ['mov', 'r/m64, imm32sx', 'REX.W + C7 /0 id'],

  // A segment register moves 16 bits whatever the operand size; the size counts for the register that receives it.
  ['mov', 'm16, Sreg',      '8C /r'],
  ['mov', 'r16, Sreg',      'o16 8C /r'],
  ['mov', 'r32, Sreg',      '8C /r'],
  ['mov', 'r64, Sreg',      'REX.W + 8C /r'],
  ['mov', 'SregDest, r/m16', '8E /r'],
  ['mov', 'SregDest, r32',  '8E /r'],
  ['mov', 'SregDest, r64',  'REX.W + 8E /r'],

  ['mov', 'r64, CR',        '0F 20 /r'],
  ['mov', 'CR, r64',        '0F 22 /r'],
  ['mov', 'r64, DR',        '0F 21 /r'],
  ['mov', 'DR, r64',        '0F 23 /r'],

  ['movnti', 'm32, r32', '0F C3 /r'],
  ['movnti', 'm64, r64', 'REX.W + 0F C3 /r'],
] as const satisfies readonly Row[];

// prettier-ignore
const EXTEND = [
  ['movzx',  'r16, r/m8',  'o16 0F B6 /r'],
  ['movzx',  'r32, r/m8',  '0F B6 /r'],
  ['movzx',  'r64, r/m8',  'REX.W + 0F B6 /r'],
  ['movzx',  'r32, r/m16', '0F B7 /r'],
  ['movzx',  'r64, r/m16', 'REX.W + 0F B7 /r'],
  ['movsx',  'r16, r/m8',  'o16 0F BE /r'],
  ['movsx',  'r32, r/m8',  '0F BE /r'],
  ['movsx',  'r64, r/m8',  'REX.W + 0F BE /r'],
  ['movsx',  'r32, r/m16', '0F BF /r'],
  ['movsx',  'r64, r/m16', 'REX.W + 0F BF /r'],
  ['movsxd', 'r64, r/m32', 'REX.W + 63 /r'],
  ['lea',    'r16, m',     'o16 8D /r'],
  ['lea',    'r32, m',     '8D /r'],
  ['lea',    'r64, m',     'REX.W + 8D /r'],
] as const satisfies readonly Row[];

// prettier-ignore
const CMOVCC = conditional('cmov', [
  ['r16, r/m16', 'o16 0F 40+n /r'],
  ['r32, r/m32', '0F 40+n /r'],
  ['r64, r/m64', 'REX.W + 0F 40+n /r'],
]);

const SETCC = conditional('set', [['r/m8', '0F 90+n /0']]);

// `90` alone is NOP and does not clear the upper half of rax, so EAX, EAX has to take the ModRM form: `r32>0`.
// prettier-ignore
const EXCHANGE = [
  ['xchg', 'AX, r16',    'o16 90+rw'],
  ['xchg', 'r16, AX',    'o16 90+rw'],
  ['xchg', 'EAX, r32>0', '90+rd'],
  ['xchg', 'r32>0, EAX', '90+rd'],
  ['xchg', 'RAX, r64',   'REX.W + 90+ro'],
  ['xchg', 'r64, RAX',   'REX.W + 90+ro'],
  ['xchg', 'r/m8, r8',   '86 /r'],
  ['xchg', 'r8, r/m8',   '86 /r'],
  ['xchg', 'r/m16, r16', 'o16 87 /r'],
  ['xchg', 'r16, r/m16', 'o16 87 /r'],
  ['xchg', 'r/m32, r32', '87 /r'],
  ['xchg', 'r32, r/m32', '87 /r'],
  ['xchg', 'r/m64, r64', 'REX.W + 87 /r'],
  ['xchg', 'r64, r/m64', 'REX.W + 87 /r'],

  ['cmpxchg', 'r/m8, r8',   '0F B0 /r'],
  ['cmpxchg', 'r/m16, r16', 'o16 0F B1 /r'],
  ['cmpxchg', 'r/m32, r32', '0F B1 /r'],
  ['cmpxchg', 'r/m64, r64', 'REX.W + 0F B1 /r'],
  ['cmpxchg8b',  'm64',     '0F C7 /1'],
  ['cmpxchg16b', 'm128',    'REX.W + 0F C7 /1'],
  ['xadd', 'r/m8, r8',      '0F C0 /r'],
  ['xadd', 'r/m16, r16',    'o16 0F C1 /r'],
  ['xadd', 'r/m32, r32',    '0F C1 /r'],
  ['xadd', 'r/m64, r64',    'REX.W + 0F C1 /r'],
] as const satisfies readonly Row[];

// In 64-bit mode push and pop are 64 bits wide without REX.W; 32-bit ones do not exist.
// prettier-ignore
const STACK = [
  ['push', 'r16',     'o16 50+rw'],
  ['push', 'r64',     '50+ro'],
  ['push', 'r/m16',   'o16 FF /6'],
  ['push', 'r/m64',   'FF /6'],
  ['push', 'imm8sx',  '6A ib'],
  ['push', 'imm32sx', '68 id'],
  ['push', 'FS',      '0F A0'],
  ['push', 'GS',      '0F A8'],
  ['pop',  'r16',     'o16 58+rw'],
  ['pop',  'r64',     '58+ro'],
  ['pop',  'r/m16',   'o16 8F /0'],
  ['pop',  'r/m64',   '8F /0'],
  ['pop',  'FS',      '0F A1'],
  ['pop',  'GS',      '0F A9'],
  ['pushfq', '', '9C'],
  ['pushf',  '', 'o16 9C'],
  ['popfq',  '', '9D'],
  ['popf',   '', 'o16 9D'],
  ['enter', 'imm16, imm8', 'C8 iw ib'],
  ['leave', '', 'C9'],
] as const satisfies readonly Row[];

/** Rows of data movement. */
export const MOVE = [...MOV, ...EXTEND, ...CMOVCC, ...SETCC, ...EXCHANGE, ...STACK] as const;
