// SPDX-License-Identifier: GPL-2.0-only
/**
 * System instructions: control state, descriptor tables, MSRs, caches and TLB, fences, fast system calls.
 * SDM, "Instruction Set Reference"; INVLPGA and other SVM instructions are in virt.ts.
 * `sysret` and `sysexit` are the manual's rows without REX.W: they return to compatibility mode; add `q` for 64-bit.
 */
import { family, type Row } from './family.ts';

// prettier-ignore
const CONTROL = [
  ['hlt',     '',          'F4'],
  ['cpuid',   '',          '0F A2'],
  ['rdtsc',   '',          '0F 31'],
  ['rdtscp',  '',          '0F 01 F9'],
  ['rdpmc',   '',          '0F 33'],
  ['rdmsr',   '',          '0F 32'],
  ['wrmsr',   '',          '0F 30'],
  ['rdpid',   'r64',       'F3 0F C7 /7'],
  ['rdpkru',  '',          '0F 01 EE'],
  ['wrpkru',  '',          '0F 01 EF'],
  ['xgetbv',  '',          '0F 01 D0'],
  ['xsetbv',  '',          '0F 01 D1'],
  ['clts',    '',          '0F 06'],
  ['lmsw',    'r/m16',     '0F 01 /6'],
  ['smsw',    'm16',       '0F 01 /4'],
  ['smsw',    'r16',       'o16 0F 01 /4'],
  ['smsw',    'r32',       '0F 01 /4'],
  ['smsw',    'r64',       'REX.W + 0F 01 /4'],
  ['swapgs',  '',          '0F 01 F8'],
  ['monitor', '',          '0F 01 C8'],
  ['mwait',   '',          '0F 01 C9'],
  ['rsm',     '',          '0F AA'],
] as const satisfies readonly Row[];

// prettier-ignore
const TABLES = [
  ['sgdt', 'm80',      '0F 01 /0'],
  ['sidt', 'm80',      '0F 01 /1'],
  ['lgdt', 'm80',      '0F 01 /2'],
  ['lidt', 'm80',      '0F 01 /3'],
  ['sldt', 'm16',      '0F 00 /0'],
  ['sldt', 'r16',      'o16 0F 00 /0'],
  ['sldt', 'r32',      '0F 00 /0'],
  ['sldt', 'r64',      'REX.W + 0F 00 /0'],
  ['str',  'm16',      '0F 00 /1'],
  ['str',  'r16',      'o16 0F 00 /1'],
  ['str',  'r32',      '0F 00 /1'],
  ['str',  'r64',      'REX.W + 0F 00 /1'],
  ['lldt', 'r/m16',    '0F 00 /2'],
  ['ltr',  'r/m16',    '0F 00 /3'],
  ['verr', 'r/m16',    '0F 00 /4'],
  ['verw', 'r/m16',    '0F 00 /5'],
  ['lar',  'r16, r/m16',   'o16 0F 02 /r'],
  ['lar',  'r32, r32/m16', '0F 02 /r'],
  ['lar',  'r64, r64/m16', 'REX.W + 0F 02 /r'],
  ['lsl',  'r16, r/m16',   'o16 0F 03 /r'],
  ['lsl',  'r32, r32/m16', '0F 03 /r'],
  ['lsl',  'r64, r64/m16', 'REX.W + 0F 03 /r'],
] as const satisfies readonly Row[];

// prettier-ignore
const CALLS = [
  ['syscall',  '', '0F 05'],
  ['sysret',   '', '0F 07'],
  ['sysretq',  '', 'REX.W + 0F 07'],
  ['sysenter', '', '0F 34'],
  ['sysexit',  '', '0F 35'],
  ['sysexitq', '', 'REX.W + 0F 35'],
  ['iret',     '', 'o16 CF'],
  ['iretd',    '', 'CF'],
  ['iretq',    '', 'REX.W + CF'],
] as const satisfies readonly Row[];

// prettier-ignore
const FSGSBASE = family({ rdfsbase: 0, rdgsbase: 1, wrfsbase: 2, wrgsbase: 3 }, [
  ['r32', 'F3 0F AE /n'],
  ['r64', 'F3 REX.W + 0F AE /n'],
]);

// prettier-ignore
const RANDOM = family({ rdrand: 6, rdseed: 7 }, [
  ['r16', 'o16 0F C7 /n'],
  ['r32', '0F C7 /n'],
  ['r64', 'REX.W + 0F C7 /n'],
]);

// prettier-ignore
const CACHE = [
  ['invd',        '',          '0F 08'],
  ['wbinvd',      '',          '0F 09'],
  ['wbnoinvd',    '',          'F3 0F 09'],
  ['invlpg',      'm',         '0F 01 /7'],
  ['invpcid',     'r64, m128', '66 0F 38 82 /r'],
  ['lfence',      '',          '0F AE E8'],
  ['mfence',      '',          '0F AE F0'],
  ['sfence',      '',          '0F AE F8'],
  ['serialize',   '',          '0F 01 E8'],
  ['clflush',     'm8',        '0F AE /7'],
  ['clflushopt',  'm8',        '66 0F AE /7'],
  ['clwb',        'm8',        '66 0F AE /6'],
  ['prefetchnta', 'm8',        '0F 18 /0'],
  ['prefetcht0',  'm8',        '0F 18 /1'],
  ['prefetcht1',  'm8',        '0F 18 /2'],
  ['prefetcht2',  'm8',        '0F 18 /3'],
  ['prefetchw',   'm8',        '0F 0D /1'],
  ['fxsave',      'm4096',     '0F AE /0'],
  ['fxsave64',    'm4096',     'REX.W + 0F AE /0'],
  ['fxrstor',     'm4096',     '0F AE /1'],
  ['fxrstor64',   'm4096',     'REX.W + 0F AE /1'],
  ['xsave',       'm',         '0F AE /4'],
  ['xsave64',     'm',         'REX.W + 0F AE /4'],
  ['xrstor',      'm',         '0F AE /5'],
  ['xrstor64',    'm',         'REX.W + 0F AE /5'],
] as const satisfies readonly Row[];

/** Rows of system instructions. */
export const SYSTEM = [...CONTROL, ...TABLES, ...CALLS, ...FSGSBASE, ...RANDOM, ...CACHE] as const;
