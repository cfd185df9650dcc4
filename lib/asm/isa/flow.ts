// SPDX-License-Identifier: GPL-2.0-only
/**
 * Control flow, flags, string operations and port I/O. SDM, "Instruction Set Reference".
 * Leaves out far branches through memory; a far return (`retfq`) reaches another code segment.
 */
import { conditional, family, type Row } from './family.ts';

// prettier-ignore
const JCC = conditional('j', [
  ['rel8',  '70+n cb'],
  ['rel32', '0F 80+n cd'],
]);

// prettier-ignore
const BRANCH = [
  ['jmp',    'rel8',  'EB cb'],
  ['jmp',    'rel32', 'E9 cd'],
  ['jmp',    'r/m64', 'FF /4'],
  ['call',   'rel32', 'E8 cd'],
  ['call',   'r/m64', 'FF /2'],
  ['jrcxz',  'rel8',  'E3 cb'],
  ['jecxz',  'rel8',  'a32 E3 cb'],
  ['loopne', 'rel8',  'E0 cb'],
  ['loope',  'rel8',  'E1 cb'],
  ['loop',   'rel8',  'E2 cb'],
  ['ret',    '',      'C3'],
  ['ret',    'imm16', 'C2 iw'],
  ['retf',   '',      'CB'],
  ['retfq',  '',      'REX.W + CB'],
  ['int3',   '',      'CC'],
  ['int1',   '',      'F1'],
  ['int',    'imm8',  'CD ib'],
  ['ud2',    '',      '0F 0B'],
  ['ud1',    'r32, r/m32', '0F B9 /r'],
  ['endbr64', '',     'F3 0F 1E FA'],
] as const satisfies readonly Row[];

// prettier-ignore
const FLAGS = [
  ['cmc',  '', 'F5'],
  ['clc',  '', 'F8'],
  ['stc',  '', 'F9'],
  ['cli',  '', 'FA'],
  ['sti',  '', 'FB'],
  ['cld',  '', 'FC'],
  ['std',  '', 'FD'],
  ['lahf', '', '9F'],
  ['sahf', '', '9E'],
  ['clac', '', '0F 01 CA'],
  ['stac', '', '0F 01 CB'],
] as const satisfies readonly Row[];

// prettier-ignore
const NOP = [
  ['nop',   '',      '90'],
  ['nop',   'r/m16', 'o16 0F 1F /0'],
  ['nop',   'r/m32', '0F 1F /0'],
  ['nop',   'r/m64', 'REX.W + 0F 1F /0'],
  ['pause', '',      'F3 90'],
] as const satisfies readonly Row[];

const STRING_8 = family({ movsb: 0xa4, cmpsb: 0xa6, stosb: 0xaa, lodsb: 0xac, scasb: 0xae }, [['', '00+n']]);
const STRING_16 = family({ movsw: 0xa5, cmpsw: 0xa7, stosw: 0xab, lodsw: 0xad, scasw: 0xaf }, [
  ['', 'o16 00+n'],
]);
const STRING_32 = family({ movsd: 0xa5, cmpsd: 0xa7, stosd: 0xab, lodsd: 0xad, scasd: 0xaf }, [['', '00+n']]);
const STRING_64 = family({ movsq: 0xa5, cmpsq: 0xa7, stosq: 0xab, lodsq: 0xad, scasq: 0xaf }, [
  ['', 'REX.W + 00+n'],
]);

// prettier-ignore
const IO = [
  ['in',  'AL, imm8',  'E4 ib'],
  ['in',  'AX, imm8',  'o16 E5 ib'],
  ['in',  'EAX, imm8', 'E5 ib'],
  ['in',  'AL, DX',    'EC'],
  ['in',  'AX, DX',    'o16 ED'],
  ['in',  'EAX, DX',   'ED'],
  ['out', 'imm8, AL',  'E6 ib'],
  ['out', 'imm8, AX',  'o16 E7 ib'],
  ['out', 'imm8, EAX', 'E7 ib'],
  ['out', 'DX, AL',    'EE'],
  ['out', 'DX, AX',    'o16 EF'],
  ['out', 'DX, EAX',   'EF'],
  ['insb',  '', '6C'],
  ['insw',  '', 'o16 6D'],
  ['insd',  '', '6D'],
  ['outsb', '', '6E'],
  ['outsw', '', 'o16 6F'],
  ['outsd', '', '6F'],
] as const satisfies readonly Row[];

/** Rows of control flow, flags, strings and I/O. */
export const FLOW = [
  ...JCC,
  ...BRANCH,
  ...FLAGS,
  ...NOP,
  ...STRING_8,
  ...STRING_16,
  ...STRING_32,
  ...STRING_64,
  ...IO,
] as const;
