// SPDX-License-Identifier: GPL-2.0-only
/**
 * APIC virtualization of L2: TPR shadow and threshold, the APIC-access page, register virtualization, virtual-interrupt delivery,
 * x2APIC mode. SDM, "APIC Virtualization and Virtual Interrupts".
 */
import { m32, m64, m8, R } from '../../../lib/asm/operands.ts';
import { type GuestCode, u32, vmreadz } from '../../../lib/guest/index.ts';
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { e9_printf } from '../e9.ts';
import { inPage, pageGpa, pageVa } from './areas.ts';
import { type Controls, fillPage, type VmxCase } from './cases.ts';

const C = VMCS_CTRL;
const S2 = SECONDARY_EXEC;
const A = APIC_REG;
const X2APIC = 0x800;
const x2 = (register: number): number => X2APIC + (register >> 4);

const SHADOW: Controls = { cpu: CPU_BASED.TPR_SHADOW };
const ACCESS: Controls = { ...SHADOW, cpu2: S2.VIRTUALIZE_APIC_ACCESSES };
const REGISTERS: Controls = { ...SHADOW, cpu2: S2.VIRTUALIZE_APIC_ACCESSES | S2.APIC_REGISTER_VIRT };
const VID_BITS = S2.APIC_REGISTER_VIRT | S2.VIRTUAL_INTR_DELIVERY;
const VID: Controls = {
  ...SHADOW,
  pin: PIN_BASED.EXT_INTR_MASK,
  cpu2: S2.VIRTUALIZE_APIC_ACCESSES | VID_BITS,
};
const X2_VID: Controls = {
  pin: PIN_BASED.EXT_INTR_MASK,
  cpu: CPU_BASED.TPR_SHADOW | CPU_BASED.USE_MSR_BITMAPS,
  cpu2: S2.VIRTUALIZE_X2APIC_MODE | VID_BITS,
};
const X2: Controls = {
  cpu: CPU_BASED.TPR_SHADOW | CPU_BASED.USE_MSR_BITMAPS,
  cpu2: S2.VIRTUALIZE_X2APIC_MODE,
};

type Vapic = Readonly<Record<number, number>>;

/** The virtual-APIC page: zero but for these registers. */
const vapic =
  (registers: Vapic) =>
  (g: GuestCode): void => {
    fillPage(g, 'vapic', 0);
    fillPage(g, 'junk', 0);
    for (const [offset, value] of Object.entries(registers))
      g.set(inPage(u32, 'vapic', Number(offset)), value);
  };

const FIELDS = [
  [C.VIRTUAL_APIC_PAGE_ADDR, pageGpa('vapic')],
  [C.APIC_ACCESS_ADDR, pageGpa('apic_access')],
  [C.MSR_BITMAP, pageGpa('junk')],
  [C.TPR_THRESHOLD, 0],
  [C.EOI_EXIT_BITMAP0, 0],
  [C.EOI_EXIT_BITMAP1, 0],
  [C.EOI_EXIT_BITMAP2, 0],
  [C.EOI_EXIT_BITMAP3, 0],
] as const;

interface ApicCase {
  readonly name: string;
  readonly set: Controls;
  readonly clear?: Controls;
  readonly vapic?: Vapic;
  readonly fields?: NonNullable<VmxCase['fields']>;
  readonly regs?: NonNullable<VmxCase['regs']>;
  readonly code: VmxCase['code'];
  readonly show?: NonNullable<VmxCase['show']>;
  /** Registers of the virtual-APIC page, and the interrupt status, printed at the end. */
  readonly look?: readonly number[];
  readonly ept?: NonNullable<VmxCase['ept']>;
}

function apicCase({ vapic: registers = {}, look, fields = [], ept, ...row }: ApicCase): VmxCase {
  return {
    ...row,
    ...(ept === undefined ? {} : { ept }),
    fields: [...FIELDS, ...fields],
    before: vapic(registers),
    ...(look === undefined ? {} : { after: (g) => lookAt(g, look) }),
  };
}

function lookAt(g: GuestCode, registers: readonly number[]): void {
  e9_printf(g, '  status %lx', vmreadz(g, VMCS_GUEST.INTR_STATUS));
  for (const offset of registers) e9_printf(g, ` ${offset.toString(16)}=%lx`, inPage(u32, 'vapic', offset));
  e9_printf(g, '\n');
}

const TPR_CASES: readonly ApicCase[] = [
  {
    name: 'cr8_read',
    set: SHADOW,
    vapic: { [A.TASKPRI]: 0x5a },
    code: (a) => a.emit('mov', R.rax, R.cr8),
    show: ['rax'],
  },
  {
    name: 'cr8_write',
    set: SHADOW,
    regs: { rax: 7 },
    code: (a) => a.emit('mov', R.cr8, R.rax),
    look: [A.TASKPRI],
  },
  {
    name: 'cr8_write_reserved',
    set: SHADOW,
    regs: { rax: 0x10 },
    code: (a) => a.emit('mov', R.cr8, R.rax),
    look: [A.TASKPRI],
  },
  {
    name: 'cr8_write_below',
    set: SHADOW,
    vapic: { [A.TASKPRI]: 0x70 },
    fields: [[C.TPR_THRESHOLD, 5]],
    regs: { rax: 4 },
    code: (a) => a.emit('mov', R.cr8, R.rax),
    look: [A.TASKPRI],
  },
  {
    name: 'cr8_write_at_threshold',
    set: SHADOW,
    vapic: { [A.TASKPRI]: 0x70 },
    fields: [[C.TPR_THRESHOLD, 5]],
    regs: { rax: 5 },
    code: (a) => a.emit('mov', R.cr8, R.rax),
    look: [A.TASKPRI],
  },
  {
    name: 'entry_below_threshold',
    set: SHADOW,
    clear: { cpu2: S2.VIRTUALIZE_APIC_ACCESSES },
    vapic: { [A.TASKPRI]: 0x20 },
    fields: [[C.TPR_THRESHOLD, 3]],
    code: (a) => a.emit('nop'),
  },
  {
    name: 'entry_below_threshold_access',
    set: ACCESS,
    vapic: { [A.TASKPRI]: 0x20 },
    fields: [[C.TPR_THRESHOLD, 3]],
    code: (a) => a.emit('nop'),
  },
  {
    name: 'cr8_load_exiting',
    set: { cpu: CPU_BASED.TPR_SHADOW | CPU_BASED.CR8_LOAD_EXITING | CPU_BASED.CR8_STORE_EXITING },
    regs: { rdx: 3 },
    code: (a) => a.emit('mov', R.cr8, R.rdx),
    look: [A.TASKPRI],
  },
];

const PAGE = { rbx: pageVa('apic_access') } as const;

const access = (
  name: string,
  set: Controls,
  offset: number,
  kind: 'read' | 'write' | 'read8' | 'read64',
  more: Partial<ApicCase> = {},
): ApicCase => ({
  name,
  set,
  regs: { ...PAGE, rax: 0x1234_5678 },
  code: (a) => {
    const at = { base: R.rbx, disp: offset };
    if (kind === 'read') a.emit('mov', R.eax, m32(at));
    else if (kind === 'write') a.emit('mov', m32(at), R.eax);
    else if (kind === 'read8') a.emit('mov', R.al, m8(at));
    else a.emit('mov', R.rax, m64(at));
  },
  ...more,
});

const NO_SHADOW: Controls = { cpu2: S2.VIRTUALIZE_APIC_ACCESSES };
const VALUES: Vapic = {
  [A.ID]: 0x0700_0000,
  [A.LVR]: 0x5_0014,
  [A.TASKPRI]: 0x55,
  [A.PROCPRI]: 0x66,
  [A.LDR]: 0x0100_0000,
  [A.SPIV]: 0x1ff,
  [A.ICR]: 0xc0ffee,
  [A.LVTT]: 0x1_0020,
};

const ACCESS_CASES: readonly ApicCase[] = [
  access('access_read_id', NO_SHADOW, A.ID, 'read', { clear: SHADOW }),
  access('access_write_icr', NO_SHADOW, A.ICR, 'write', { clear: SHADOW }),
  access('access_read_tpr_no_shadow', NO_SHADOW, A.TASKPRI, 'read', { clear: SHADOW }),
  access('access_read_fff', NO_SHADOW, 0xfff, 'read8', { clear: SHADOW }),
  access('access_read_tpr', ACCESS, A.TASKPRI, 'read', { vapic: VALUES, show: ['rax'] }),
  access('access_read8_tpr', ACCESS, A.TASKPRI, 'read8', { vapic: VALUES, show: ['rax'] }),
  access('access_read64_tpr', ACCESS, A.TASKPRI, 'read64', { vapic: VALUES, show: ['rax'] }),
  access('access_write_tpr', ACCESS, A.TASKPRI, 'write', { regs: { ...PAGE, rax: 0x30 }, look: [A.TASKPRI] }),
  access('access_write_tpr_below', ACCESS, A.TASKPRI, 'write', {
    vapic: VALUES,
    regs: { ...PAGE, rax: 0x30 },
    fields: [[C.TPR_THRESHOLD, 4]],
    look: [A.TASKPRI],
  }),
  access('access_read_ppr', ACCESS, A.PROCPRI, 'read', { vapic: VALUES }),
  access('access_read_tpr_middle', ACCESS, A.TASKPRI + 4, 'read', { vapic: VALUES }),
  {
    name: 'access_modify_tpr',
    set: ACCESS,
    vapic: VALUES,
    regs: PAGE,
    code: (a) => a.emit('add', m32({ base: R.rbx, disp: A.TASKPRI }), 0x10),
    look: [A.TASKPRI],
  },
  {
    name: 'access_event_delivery',
    set: ACCESS,
    fields: [[VMCS_GUEST.IDTR_BASE, pageVa('apic_access')]],
    code: (a) => a.emit('ud2'),
  },
  {
    name: 'access_int_n_delivery',
    set: ACCESS,
    fields: [[VMCS_GUEST.IDTR_BASE, pageVa('apic_access')]],
    code: (a) => a.emit('int', 0x44),
  },
  access('access_ept', ACCESS, A.ID, 'read', { ept: 'identity', regs: { rbx: 0xfee0_0000 } }),
  access('access_ept_tpr', ACCESS, A.TASKPRI, 'read', {
    ept: 'identity',
    vapic: VALUES,
    regs: { rbx: 0xfee0_0000 },
    show: ['rax'],
  }),
];

const READ_REGISTERS = [A.ID, A.LVR, A.TASKPRI, A.ARBPRI, A.PROCPRI, A.EOI, A.LDR, A.DFR, A.SPIV, A.ISR, A.TMR,
  A.IRR, A.ESR, A.ICR, A.ICR2, A.LVTT, A.LVTPC, A.LVT0, A.LVTERR, A.TMICT, A.TMCCT, A.TDCR, A.RRR] as const; // prettier-ignore
const WRITE_REGISTERS = [A.ID, A.LVR, A.TASKPRI, A.EOI, A.LDR, A.DFR, A.SPIV, A.ESR, A.ICR, A.ICR2, A.LVTT, A.LVT0,
  A.TMICT, A.TMCCT, A.TDCR] as const; // prettier-ignore

const REGISTER_CASES: readonly ApicCase[] = [
  ...READ_REGISTERS.map((offset) =>
    access(`register_read_${offset.toString(16)}`, REGISTERS, offset, 'read', {
      vapic: VALUES,
      show: ['rax'],
    }),
  ),
  ...WRITE_REGISTERS.map((offset) =>
    access(`register_write_${offset.toString(16)}`, REGISTERS, offset, 'write', {
      regs: { ...PAGE, rax: 0x20 },
      look: [offset],
    }),
  ),
  access('register_read8', REGISTERS, A.LVR + 1, 'read8', { vapic: VALUES, show: ['rax'] }),
  access('register_read_crossing', REGISTERS, A.LVR + 2, 'read', { vapic: VALUES }),
];

/** RFLAGS.IF, and the interrupt status: RVI in bits 7:0, SVI in bits 15:8. */
const status = (rvi: number, svi: number, flags: number = RFLAGS.IF): NonNullable<VmxCase['fields']> => [
  [VMCS_GUEST.INTR_STATUS, (svi << 8) | rvi],
  [VMCS_GUEST.RFLAGS, 2 | flags],
];
/** The 32-bit register that holds a vector's bit, and the bit. */
const bit = (base: number, vector: number): Vapic => ({
  [base + (vector >> 5) * 16]: (1 << (vector & 31)) >>> 0,
});
const word = (base: number, vector: number): number => base + (vector >> 5) * 16;
const LOOK = [
  A.TASKPRI,
  A.PROCPRI,
  word(A.ISR, 0x41),
  word(A.IRR, 0x41),
  word(A.ISR, 0x71),
  word(A.IRR, 0x71),
] as const;

const nops: VmxCase['code'] = (a) => {
  for (let n = 0; n < 6; n++) a.emit('nop');
};
const writeEoi: VmxCase['code'] = (a) => {
  a.emit('mov', m32({ base: R.rbx, disp: A.EOI }), R.eax);
  a.emit('nop');
};

const VID_CASES: readonly ApicCase[] = [
  { name: 'vid_deliver', set: VID, vapic: bit(A.IRR, 0x41), fields: status(0x41, 0), code: nops, look: LOOK },
  {
    name: 'vid_if_clear',
    set: VID,
    vapic: bit(A.IRR, 0x41),
    fields: status(0x41, 0, 0),
    code: nops,
    look: LOOK,
  },
  {
    name: 'vid_sti',
    set: VID,
    vapic: bit(A.IRR, 0x41),
    fields: status(0x41, 0, 0),
    code: (a) => {
      a.emit('sti');
      nops(a);
    },
    look: LOOK,
  },
  {
    name: 'vid_tpr_masks',
    set: VID,
    vapic: { ...bit(A.IRR, 0x41), [A.TASKPRI]: 0x40 },
    fields: status(0x41, 0),
    code: nops,
    look: LOOK,
  },
  {
    name: 'vid_cr8_unmasks',
    set: VID,
    vapic: { ...bit(A.IRR, 0x41), [A.TASKPRI]: 0x40 },
    fields: status(0x41, 0),
    code: (a) => {
      a.emit('mov', R.cr8, R.rax);
      nops(a);
    },
    look: LOOK,
  },
  {
    name: 'vid_in_service_masks',
    set: VID,
    vapic: { ...bit(A.IRR, 0x41), ...bit(A.ISR, 0x71) },
    fields: status(0x41, 0x71),
    code: nops,
    look: LOOK,
  },
  {
    name: 'vid_nested',
    set: VID,
    vapic: { ...bit(A.IRR, 0x71), ...bit(A.ISR, 0x41) },
    fields: status(0x71, 0x41),
    code: nops,
    look: LOOK,
  },
  {
    name: 'vid_eoi',
    set: VID,
    vapic: { ...bit(A.ISR, 0x71), ...bit(A.IRR, 0x41) },
    fields: status(0x41, 0x71),
    regs: PAGE,
    code: writeEoi,
    look: LOOK,
  },
  {
    name: 'vid_eoi_exit',
    set: VID,
    vapic: bit(A.ISR, 0x41),
    fields: [...status(0, 0x41), [C.EOI_EXIT_BITMAP1, 2]],
    regs: PAGE,
    code: writeEoi,
    look: LOOK,
  },
  {
    name: 'vid_eoi_other_exit',
    set: VID,
    vapic: bit(A.ISR, 0x41),
    fields: [...status(0, 0x41), [C.EOI_EXIT_BITMAP1, 4]],
    regs: PAGE,
    code: writeEoi,
    look: LOOK,
  },
  {
    name: 'vid_self_ipi',
    set: VID,
    fields: status(0, 0),
    regs: { ...PAGE, rax: 0x4_0041 },
    code: (a) => {
      a.emit('mov', m32({ base: R.rbx, disp: A.ICR }), R.eax);
      a.emit('nop');
    },
    look: LOOK,
  },
  {
    name: 'vid_other_ipi',
    set: VID,
    fields: status(0, 0),
    regs: { ...PAGE, rax: 0x8_0041 },
    code: (a) => {
      a.emit('mov', m32({ base: R.rbx, disp: A.ICR }), R.eax);
      a.emit('nop');
    },
    look: LOOK,
  },
  {
    name: 'vid_window_closed_by_window_exiting',
    set: { ...VID, cpu: CPU_BASED.TPR_SHADOW | CPU_BASED.INTR_WINDOW_EXITING },
    vapic: bit(A.IRR, 0x41),
    fields: status(0x41, 0),
    code: nops,
    look: LOOK,
  },
  {
    name: 'vid_injection_first',
    set: VID,
    vapic: bit(A.IRR, 0x41),
    fields: [...status(0x41, 0), [C.VM_ENTRY_INTR_INFO_FIELD, 0x8000_0300 | VECTOR.UD]],
    code: nops,
    look: LOOK,
  },
];

const msr = (
  name: string,
  set: Controls,
  insn: 'rdmsr' | 'wrmsr',
  register: number,
  more: Partial<ApicCase> = {},
): ApicCase => ({
  name,
  set,
  vapic: VALUES,
  regs: { rcx: x2(register), rax: 0x20 },
  code: (a) => {
    a.emit(insn);
    a.emit('nop');
  },
  show: ['rax', 'rdx'],
  look: [register],
  ...more,
});

const X2_CASES: readonly ApicCase[] = [
  msr('x2_rdmsr_tpr', X2, 'rdmsr', A.TASKPRI),
  msr('x2_wrmsr_tpr', X2, 'wrmsr', A.TASKPRI),
  msr('x2_wrmsr_tpr_reserved', X2, 'wrmsr', A.TASKPRI, { regs: { rcx: x2(A.TASKPRI), rax: 0x120 } }),
  msr('x2_wrmsr_tpr_below', X2, 'wrmsr', A.TASKPRI, { fields: [[C.TPR_THRESHOLD, 4]] }),
  msr('x2_virt_rdmsr_id', X2_VID, 'rdmsr', A.ID),
  msr('x2_virt_rdmsr_version', X2_VID, 'rdmsr', A.LVR),
  msr('x2_virt_rdmsr_icr', X2_VID, 'rdmsr', A.ICR),
  msr('x2_virt_rdmsr_isr', X2_VID, 'rdmsr', word(A.ISR, 0x41), { vapic: bit(A.ISR, 0x41) }),
  msr('x2_vid_eoi', X2_VID, 'wrmsr', A.EOI, {
    vapic: bit(A.ISR, 0x41),
    fields: status(0, 0x41),
    regs: { rcx: x2(A.EOI) },
    look: LOOK,
  }),
  msr('x2_vid_eoi_not_zero', X2_VID, 'wrmsr', A.EOI, {
    vapic: bit(A.ISR, 0x41),
    fields: status(0, 0x41),
    regs: { rcx: x2(A.EOI), rax: 1 },
    look: LOOK,
  }),
  msr('x2_vid_eoi_exit', X2_VID, 'wrmsr', A.EOI, {
    vapic: bit(A.ISR, 0x41),
    fields: [...status(0, 0x41), [C.EOI_EXIT_BITMAP1, 2]],
    regs: { rcx: x2(A.EOI) },
    look: LOOK,
  }),
  msr('x2_vid_self_ipi', X2_VID, 'wrmsr', A.SELF_IPI, {
    vapic: {},
    fields: status(0, 0),
    regs: { rcx: x2(A.SELF_IPI), rax: 0x41 },
    look: LOOK,
  }),
  msr('x2_vid_tpr_unmasks', X2_VID, 'wrmsr', A.TASKPRI, {
    vapic: { ...bit(A.IRR, 0x41), [A.TASKPRI]: 0x50 },
    fields: status(0x41, 0),
    regs: { rcx: x2(A.TASKPRI), rax: 0 },
    look: LOOK,
  }),
];

/** All of them. */
export const APIC_CASES: readonly VmxCase[] = [
  ...TPR_CASES,
  ...ACCESS_CASES,
  ...REGISTER_CASES,
  ...VID_CASES,
  ...X2_CASES,
].map(apicCase);
