// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exits due to instructions of L2: reason, qualification, instruction length and information. SDM, "VM Exits" (the chapter on
 * VMX non-root operation) and "Exit Qualification".
 */
import { gpr, m16, mem, R } from '../../../lib/asm/operands.ts';
import { CR0, CR4 } from '../../../lib/x86/registers.ts';
import { VMX_MISC_CR3_TARGET_COUNT_SHIFT } from '../../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { MSR } from '../../../lib/x86/msr.ts';
import { u8 } from '../../../lib/guest/index.ts';
import { fillPage, type VmxCase } from './cases.ts';
import { inPage, pageGpa, SPECIAL } from './areas.ts';
import { VMX_CASE_VMX_INSNS } from './exits_vmx.ts';

const C = VMCS_CTRL;

/** An instruction without operands that exits if a control says so, and its form when the control is clear. */
const simple = (
  name: string,
  insn: Parameters<Parameters<VmxCase['code']>[0]['emit']>[0],
  controls: Pick<VmxCase, 'set' | 'clear'> = {},
  regs: VmxCase['regs'] = {},
): VmxCase => ({
  name,
  ...controls,
  regs,
  code: (a) => {
    a.emit('nop');
    a.emit(insn);
  },
});

/** Instructions that exit whatever the controls say, or because one control is set. */
const PLAIN: readonly VmxCase[] = [
  simple('cpuid', 'cpuid', {}, { rax: 0 }),
  simple('vmcall', 'vmcall'),
  simple('invd', 'invd'),
  simple('hlt', 'hlt', { set: { cpu: CPU_BASED.HLT_EXITING } }),
  simple('rdtsc', 'rdtsc', { set: { cpu: CPU_BASED.RDTSC_EXITING } }),
  simple('rdtscp', 'rdtscp', { set: { cpu: CPU_BASED.RDTSC_EXITING, cpu2: SECONDARY_EXEC.ENABLE_RDTSCP } }),
  simple('rdtscp_off', 'rdtscp', { clear: { cpu2: SECONDARY_EXEC.ENABLE_RDTSCP } }),
  simple('rdpmc', 'rdpmc', { set: { cpu: CPU_BASED.RDPMC_EXITING } }),
  simple('pause', 'pause', { set: { cpu: CPU_BASED.PAUSE_EXITING } }),
  simple('pause_off', 'pause'),
  simple('monitor', 'monitor', { set: { cpu: CPU_BASED.MONITOR_EXITING } }, { rax: SPECIAL }),
  simple('mwait', 'mwait', { set: { cpu: CPU_BASED.MWAIT_EXITING } }),
  simple('wbinvd', 'wbinvd', { set: { cpu2: SECONDARY_EXEC.WBINVD_EXITING } }),
  simple('wbinvd_off', 'wbinvd'),
  simple('getsec_or_ud', 'ud2'),
  simple('xsetbv', 'xsetbv', {}, { rcx: 0, rax: 1 }),
];

const EXITING_CR = { cpu: CPU_BASED.CR3_LOAD_EXITING | CPU_BASED.CR3_STORE_EXITING } as const;
const EXITING_CR8 = { cpu: CPU_BASED.CR8_LOAD_EXITING | CPU_BASED.CR8_STORE_EXITING } as const;

const movToCr = (
  name: string,
  cr: 'cr0' | 'cr3' | 'cr4' | 'cr8',
  reg: number,
  more: Partial<VmxCase>,
): VmxCase => ({
  name,
  code: (a) => a.emit('mov', R[cr], gpr(reg)),
  ...more,
});
const movFromCr = (
  name: string,
  cr: 'cr0' | 'cr3' | 'cr4' | 'cr8',
  reg: number,
  more: Partial<VmxCase>,
): VmxCase => ({
  name,
  code: (a) => a.emit('mov', gpr(reg), R[cr]),
  ...more,
});

const CONTROL_REGISTERS: readonly VmxCase[] = [
  ...[0, 1, 3, 6, 9, 15].map((reg) => movToCr(`mov_to_cr3_${reg}`, 'cr3', reg, { set: EXITING_CR })),
  ...[0, 2, 5, 7, 12].map((reg) => movFromCr(`mov_from_cr3_${reg}`, 'cr3', reg, { set: EXITING_CR })),
  ...[0, 11].map((reg) => movToCr(`mov_to_cr8_${reg}`, 'cr8', reg, { set: EXITING_CR8 })),
  ...[0, 14].map((reg) => movFromCr(`mov_from_cr8_${reg}`, 'cr8', reg, { set: EXITING_CR8 })),
  movToCr('cr3_target', 'cr3', 1, {
    set: EXITING_CR,
    misc: 4 << VMX_MISC_CR3_TARGET_COUNT_SHIFT,
    fields: [
      [C.CR3_TARGET_COUNT, 2],
      [C.CR3_TARGET_VALUE0, 0x1000],
      [C.CR3_TARGET_VALUE1, 0x5000],
    ],
    // Not the second target: no exit would leave L2 without page tables.
    regs: { rcx: 0x4000 },
  }),
  {
    name: 'cr0_mask_shadow_match',
    fields: [
      [C.CR0_GUEST_HOST_MASK, CR0.TS | CR0.MP],
      [C.CR0_READ_SHADOW, CR0.TS],
    ],
    code: (a) => {
      a.emit('mov', R.rax, R.cr0);
      a.emit('mov', R.rbx, R.rax);
      a.emit('and', R.rbx, CR0.TS | CR0.MP);
      a.emit('mov', R.cr0, R.rax);
      a.emit('and', R.rax, 0);
    },
    show: ['rbx'],
  },
  {
    name: 'cr0_mask_shadow_differs',
    fields: [
      [C.CR0_GUEST_HOST_MASK, CR0.TS | CR0.MP],
      [C.CR0_READ_SHADOW, CR0.TS],
    ],
    code: (a) => {
      a.emit('mov', R.rcx, R.cr0);
      a.emit('xor', R.rcx, CR0.MP);
      a.emit('mov', R.cr0, R.rcx);
    },
  },
  {
    name: 'cr4_mask_shadow',
    fields: [
      [C.CR4_GUEST_HOST_MASK, CR4.TSD | CR4.PVI],
      [C.CR4_READ_SHADOW, CR4.PVI],
    ],
    code: (a) => {
      a.emit('mov', R.rbx, R.cr4);
      a.emit('mov', R.rsi, R.rbx);
      a.emit('and', R.rsi, CR4.TSD | CR4.PVI);
      a.emit('mov', R.cr4, R.rbx);
      a.emit('xor', R.rbx, CR4.TSD);
      a.emit('mov', R.cr4, R.rbx);
    },
    show: ['rsi'],
  },
  ...(['clts', 'clts_shadow_clear'] as const).map((name): VmxCase => ({
    name,
    fields: [
      [C.CR0_GUEST_HOST_MASK, CR0.TS],
      [C.CR0_READ_SHADOW, name === 'clts' ? CR0.TS : 0],
    ],
    code: (a) => a.emit('clts'),
  })),
  ...[0x1, 0x9, 0xf, 0x3].map((value): VmxCase => ({
    name: `lmsw_${value.toString(16)}`,
    fields: [
      [C.CR0_GUEST_HOST_MASK, CR0.TS | CR0.EM],
      [C.CR0_READ_SHADOW, 0],
    ],
    regs: { rdx: 0xffff_0000 | 0, rbx: value },
    code: (a) => a.emit('lmsw', R.bx),
  })),
  {
    name: 'lmsw_memory',
    fields: [
      [C.CR0_GUEST_HOST_MASK, CR0.TS],
      [C.CR0_READ_SHADOW, 0],
    ],
    before: (g) => {
      fillPage(g, 'data', 0);
      g.set(inPage(u8, 'data', 0x20), CR0.TS | CR0.PE);
    },
    regs: { rsi: SPECIAL },
    code: (a) => a.emit('lmsw', m16({ base: R.rsi, disp: 0x20 })),
  },
  {
    name: 'smsw_shadow',
    fields: [
      [C.CR0_GUEST_HOST_MASK, 0xffff_ffff],
      [C.CR0_READ_SHADOW, 0x8005_0033],
    ],
    code: (a) => {
      a.emit('smsw', R.rax);
      a.emit('smsw', R.ebx);
      a.emit('mov', R.rcx, R.cr0);
    },
    show: ['rax', 'rbx', 'rcx'],
  },
  {
    name: 'mov_to_cr4_vmxe',
    code: (a) => {
      a.emit('mov', R.rax, R.cr4);
      a.emit('and', R.rax, ~CR4.VMXE);
      a.emit('mov', R.cr4, R.rax);
    },
  },
  {
    name: 'mov_to_cr0_ne',
    code: (a) => {
      a.emit('mov', R.rax, R.cr0);
      a.emit('and', R.rax, ~CR0.NE);
      // Flags that do not depend on CR0.ET.
      a.emit('cmp', R.rsp, R.rsp);
      a.emit('mov', R.cr0, R.rax);
    },
  },
  {
    name: 'mov_to_cr4_own_bits',
    code: (a) => {
      a.emit('mov', R.rax, R.cr4);
      a.emit('or', R.rax, CR4.TSD);
      a.emit('mov', R.cr4, R.rax);
      a.emit('mov', R.rbx, R.cr4);
      a.emit('and', R.rbx, CR4.TSD);
    },
    show: ['rbx'],
  },
];

const DEBUG_REGISTERS: readonly VmxCase[] = [
  ...([0, 3, 6, 7] as const).flatMap((dr): VmxCase[] => [
    {
      name: `mov_to_dr${dr}`,
      set: { cpu: CPU_BASED.MOV_DR_EXITING },
      code: (a) => a.emit('mov', R[`dr${dr}`], R.r9),
    },
    {
      name: `mov_from_dr${dr}`,
      set: { cpu: CPU_BASED.MOV_DR_EXITING },
      code: (a) => a.emit('mov', R.rdi, R[`dr${dr}`]),
    },
  ]),
  {
    name: 'mov_dr_off',
    regs: { rax: 0x1234 },
    code: (a) => {
      a.emit('mov', R.dr2, R.rax);
      a.emit('mov', R.rbx, R.dr2);
    },
    show: ['rbx'],
  },
  {
    name: 'mov_dr4_de_exits',
    set: { cpu: CPU_BASED.MOV_DR_EXITING },
    code: (a) => {
      a.emit('mov', R.rax, R.cr4);
      a.emit('or', R.rax, CR4.DE);
      a.emit('mov', R.cr4, R.rax);
      a.emit('mov', R.rax, R.dr4);
    },
  },
  {
    name: 'mov_dr_general_detect',
    set: { cpu: CPU_BASED.MOV_DR_EXITING },
    fields: [[VMCS_GUEST.DR7, 0x2400]],
    code: (a) => a.emit('mov', R.rax, R.dr0),
  },
];

const UNCOND = {
  set: { cpu: CPU_BASED.UNCOND_IO_EXITING },
  clear: { cpu: CPU_BASED.USE_IO_BITMAPS },
} as const;
const BITMAPS = { set: { cpu: CPU_BASED.USE_IO_BITMAPS } } as const;

const IO: readonly VmxCase[] = [
  { name: 'in_imm8', ...UNCOND, code: (a) => a.emit('in', R.al, 0x71) },
  { name: 'in_imm16', ...UNCOND, code: (a) => a.emit('in', R.ax, 0x40) },
  { name: 'in_imm32', ...UNCOND, code: (a) => a.emit('in', R.eax, 0xff) },
  { name: 'out_imm8', ...UNCOND, code: (a) => a.emit('out', 0x80, R.al) },
  { name: 'out_dx32', ...UNCOND, regs: { rdx: 0xcf8 }, code: (a) => a.emit('out', R.dx, R.eax) },
  { name: 'in_dx16', ...UNCOND, regs: { rdx: 0xffff }, code: (a) => a.emit('in', R.ax, R.dx) },
  ...(['insb', 'insw', 'insd', 'outsb', 'outsw', 'outsd'] as const).flatMap((insn): VmxCase[] => [
    {
      name: insn,
      ...UNCOND,
      regs: { rdx: 0x1f0, rsi: SPECIAL + 0x10n, rdi: SPECIAL + 0x20n },
      code: (a) => a.emit(insn),
    },
    {
      name: `rep_${insn}`,
      ...UNCOND,
      regs: { rdx: 0x1f0, rcx: 5, rsi: SPECIAL + 0x30n, rdi: SPECIAL + 0x40n },
      code: (a) => a.emit(`rep ${insn}`),
    },
  ]),
  {
    name: 'rep_outsb_zero',
    ...UNCOND,
    regs: { rdx: 0x1f0, rcx: 0, rsi: SPECIAL },
    code: (a) => a.emit('rep outsb'),
  },
  ...[0x7fff, 0x8000, 0x0, 0xffff].map((port): VmxCase => ({
    name: `io_bitmap_${port.toString(16)}`,
    ...BITMAPS,
    before: (g) => {
      fillPage(g, 'ioa', 0);
      fillPage(g, 'iob', 0);
      g.set(inPage(u8, port < 0x8000 ? 'ioa' : 'iob', (port & 0x7fff) >> 3), 1 << (port & 7));
    },
    fields: [
      [C.IO_BITMAP_A, pageGpa('ioa')],
      [C.IO_BITMAP_B, pageGpa('iob')],
    ],
    regs: { rdx: port },
    code: (a) => a.emit('in', R.al, R.dx),
  })),
  {
    name: 'io_bitmap_second_byte',
    ...BITMAPS,
    before: (g) => {
      fillPage(g, 'ioa', 0);
      fillPage(g, 'iob', 0);
      g.set(inPage(u8, 'ioa', 0x1235 >> 3), 1 << 5);
    },
    fields: [
      [C.IO_BITMAP_A, pageGpa('ioa')],
      [C.IO_BITMAP_B, pageGpa('iob')],
    ],
    regs: { rdx: 0x1232 },
    code: (a) => a.emit('in', R.eax, R.dx),
  },
  {
    name: 'io_bitmap_wraps',
    ...BITMAPS,
    before: (g) => {
      fillPage(g, 'ioa', 0);
      fillPage(g, 'iob', 0);
    },
    fields: [
      [C.IO_BITMAP_A, pageGpa('ioa')],
      [C.IO_BITMAP_B, pageGpa('iob')],
    ],
    regs: { rdx: 0xfffe },
    code: (a) => a.emit('in', R.eax, R.dx),
  },
];

const msrCase = (name: string, index: number, insn: 'rdmsr' | 'wrmsr', bit?: number): VmxCase => ({
  name,
  set: { cpu: CPU_BASED.USE_MSR_BITMAPS },
  before: (g) => {
    fillPage(g, 'junk', 0);
    if (bit !== undefined) g.set(inPage(u8, 'junk', bit >> 3), 1 << (bit & 7));
  },
  fields: [[C.MSR_BITMAP, pageGpa('junk')]],
  regs: { rcx: index, rax: 0, rdx: 0 },
  code: (a) => a.emit(insn),
});

/** Bit offsets of the four parts of the MSR bitmap. */
const [READ_LOW, READ_HIGH, WRITE_LOW, WRITE_HIGH] = [0, 0x2000, 0x4000, 0x6000] as const;

const MSRS: readonly VmxCase[] = [
  {
    ...msrCase('rdmsr_no_bitmap', MSR.IA32_SYSENTER_CS, 'rdmsr'),
    set: {},
    clear: { cpu: CPU_BASED.USE_MSR_BITMAPS },
  },
  {
    ...msrCase('wrmsr_no_bitmap', MSR.IA32_SYSENTER_CS, 'wrmsr'),
    set: {},
    clear: { cpu: CPU_BASED.USE_MSR_BITMAPS },
  },
  msrCase('rdmsr_low_clear', MSR.IA32_SYSENTER_CS, 'rdmsr'),
  msrCase('rdmsr_low_set', MSR.IA32_SYSENTER_CS, 'rdmsr', READ_LOW + MSR.IA32_SYSENTER_CS),
  msrCase('rdmsr_write_bit', MSR.IA32_SYSENTER_CS, 'rdmsr', WRITE_LOW + MSR.IA32_SYSENTER_CS),
  msrCase('wrmsr_low_set', MSR.IA32_SYSENTER_CS, 'wrmsr', WRITE_LOW + MSR.IA32_SYSENTER_CS),
  msrCase('wrmsr_read_bit', MSR.IA32_SYSENTER_CS, 'wrmsr', READ_LOW + MSR.IA32_SYSENTER_CS),
  msrCase('rdmsr_high_set', MSR.KERNEL_GS_BASE, 'rdmsr', READ_HIGH + (MSR.KERNEL_GS_BASE & 0x1fff)),
  msrCase('wrmsr_high_set', MSR.KERNEL_GS_BASE, 'wrmsr', WRITE_HIGH + (MSR.KERNEL_GS_BASE & 0x1fff)),
  msrCase('wrmsr_high_clear', MSR.KERNEL_GS_BASE, 'wrmsr'),
  msrCase('rdmsr_between', 0x2000, 'rdmsr'),
  msrCase('rdmsr_last_low', 0x1fff, 'rdmsr', READ_LOW + 0x1fff),
  msrCase('wrmsr_beyond_high', 0xc000_2000, 'wrmsr'),
  msrCase('rdmsr_all_ones', 0xffff_ffff, 'rdmsr'),
];

const INVLPG = { cpu: CPU_BASED.INVLPG_EXITING } as const;
const DESC = { cpu2: SECONDARY_EXEC.DESC } as const;

const MEMORY_OPERANDS: readonly VmxCase[] = [
  {
    name: 'invlpg',
    set: INVLPG,
    regs: { rbx: SPECIAL },
    code: (a) => a.emit('invlpg', mem(0, { base: R.rbx, disp: 0x123 })),
  },
  {
    name: 'invlpg_sib',
    set: INVLPG,
    regs: { rbx: 0x1000, r12: 0x30 },
    code: (a) => a.emit('invlpg', mem(0, { base: R.rbx, index: R.r12, scale: 4, disp: -8 })),
  },
  { name: 'invlpg_off', regs: { rbx: SPECIAL }, code: (a) => a.emit('invlpg', mem(0, { base: R.rbx })) },
  {
    name: 'invpcid',
    set: { ...INVLPG, cpu2: SECONDARY_EXEC.ENABLE_INVPCID },
    regs: { rbx: SPECIAL, r10: 2 },
    code: (a) => a.emit('invpcid', R.r10, mem(128, { base: R.rbx, disp: 0x40 })),
  },
  {
    name: 'invpcid_off',
    clear: { cpu2: SECONDARY_EXEC.ENABLE_INVPCID },
    regs: { rbx: SPECIAL, r10: 2 },
    code: (a) => a.emit('invpcid', R.r10, mem(128, { base: R.rbx, disp: 0x40 })),
  },
  ...(['sgdt', 'sidt', 'lgdt', 'lidt'] as const).map((insn): VmxCase => ({
    name: insn,
    set: DESC,
    regs: { rbx: SPECIAL, rcx: 2 },
    code: (a) => a.emit(insn, mem(80, { base: R.rbx, index: R.rcx, scale: 8, disp: 0x10 })),
  })),
  { name: 'sgdt_rip', set: DESC, code: (a) => a.emit('sgdt', mem(80, { disp: 0x40_0000 })) },
  {
    name: 'sldt_memory',
    set: DESC,
    regs: { r13: SPECIAL },
    code: (a) => a.emit('sldt', m16({ base: R.r13, disp: 4 })),
  },
  { name: 'sldt_register', set: DESC, code: (a) => a.emit('sldt', R.esi) },
  { name: 'str_register', set: DESC, code: (a) => a.emit('str', R.r11) },
  { name: 'lldt_register', set: DESC, code: (a) => a.emit('lldt', R.cx) },
  {
    name: 'lldt_memory',
    set: DESC,
    regs: { rdi: SPECIAL },
    code: (a) => a.emit('lldt', m16({ base: R.rdi })),
  },
  { name: 'ltr_register', set: DESC, code: (a) => a.emit('ltr', R.dx) },
  { name: 'sldt_off', clear: DESC, regs: { rax: 0x1234 }, code: (a) => a.emit('sldt', R.eax), show: ['rax'] },
  { name: 'rdrand16', set: { cpu2: SECONDARY_EXEC.RDRAND_EXITING }, code: (a) => a.emit('rdrand', R.r8w) },
  { name: 'rdrand32', set: { cpu2: SECONDARY_EXEC.RDRAND_EXITING }, code: (a) => a.emit('rdrand', R.ebp) },
  { name: 'rdrand64', set: { cpu2: SECONDARY_EXEC.RDRAND_EXITING }, code: (a) => a.emit('rdrand', R.r15) },
  { name: 'rdseed32', set: { cpu2: SECONDARY_EXEC.RDSEED_EXITING }, code: (a) => a.emit('rdseed', R.ecx) },
];

/** All of them. */
export const EXIT_CASES: readonly VmxCase[] = [
  ...PLAIN,
  ...CONTROL_REGISTERS,
  ...DEBUG_REGISTERS,
  ...IO,
  ...MSRS,
  ...MEMORY_OPERANDS,
  ...VMX_CASE_VMX_INSNS,
];
