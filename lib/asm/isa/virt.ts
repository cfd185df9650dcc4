// SPDX-License-Identifier: GPL-2.0-only
/**
 * Virtualization instructions: VMX (SDM, "VMX Instruction Reference") and SVM (APM volume 3, "System Instruction
 * Reference"). The implied registers of the SVM ones may be written or left out; eax instead of rax asks for a
 * 32-bit address. Leaves out SEV-SNP (psmash, rmpupdate, pvalidate, vmgexit) and SMX (getsec).
 */
import type { Row } from './family.ts';

// VMREAD and VMWRITE are 64 bits wide in 64-bit mode without REX.W.
// prettier-ignore
const VMX = [
  ['vmxon',    'm64',        'F3 0F C7 /6'],
  ['vmxoff',   '',           '0F 01 C4'],
  ['vmclear',  'm64',        '66 0F C7 /6'],
  ['vmptrld',  'm64',        '0F C7 /6'],
  ['vmptrst',  'm64',        '0F C7 /7'],
  ['vmread',   'r/m64, r64', '0F 78 /r'],
  ['vmwrite',  'r64, r/m64', '0F 79 /r'],
  ['vmlaunch', '',           '0F 01 C2'],
  ['vmresume', '',           '0F 01 C3'],
  ['vmcall',   '',           '0F 01 C1'],
  ['vmfunc',   '',           '0F 01 D4'],
  ['invept',   'r64, m128',  '66 0F 38 80 /r'],
  ['invvpid',  'r64, m128',  '66 0F 38 81 /r'],
] as const satisfies readonly Row[];

// prettier-ignore
const SVM = [
  ['vmrun',   '',         '0F 01 D8'],
  ['vmrun',   'RAX',      '0F 01 D8'],
  ['vmrun',   'EAX',      'a32 0F 01 D8'],
  ['vmmcall', '',         '0F 01 D9'],
  ['vmload',  '',         '0F 01 DA'],
  ['vmload',  'RAX',      '0F 01 DA'],
  ['vmload',  'EAX',      'a32 0F 01 DA'],
  ['vmsave',  '',         '0F 01 DB'],
  ['vmsave',  'RAX',      '0F 01 DB'],
  ['vmsave',  'EAX',      'a32 0F 01 DB'],
  ['stgi',    '',         '0F 01 DC'],
  ['clgi',    '',         '0F 01 DD'],
  ['skinit',  '',         '0F 01 DE'],
  ['skinit',  'EAX',      '0F 01 DE'],
  ['invlpga', '',         '0F 01 DF'],
  ['invlpga', 'RAX, ECX', '0F 01 DF'],
  ['invlpga', 'EAX, ECX', 'a32 0F 01 DF'],
] as const satisfies readonly Row[];

/** Rows of VMX and SVM instructions. */
export const VIRT = [...VMX, ...SVM] as const;
