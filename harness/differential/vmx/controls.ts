// SPDX-License-Identifier: GPL-2.0-only
/**
 * When L2 exits though its instruction does not: monitor trap flag, preemption timer, interrupt and NMI windows, external
 * interrupts, activity states. SDM, "Other Causes of VM Exits", "VM-Entry Controls for Event Injection" and "Activity State".
 */
import { m64, R } from '../../../lib/asm/operands.ts';
import { at, type GuestCode, u32, vmreadz } from '../../../lib/guest/index.ts';
import { APIC_REG } from '../../../lib/x86/apic.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { VMX_MISC } from '../../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, PIN_BASED, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { GUEST_ACTIVITY, GUEST_INTR_STATE } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { e9_printf } from '../e9.ts';
import { SPECIAL } from './areas.ts';
import { APIC_PAGE, L1_VECTOR } from './l2_idt.ts';
import type { L2Asm, VmxCase } from './cases.ts';

const C = VMCS_CTRL;
const G = VMCS_GUEST;
const IF = [G.RFLAGS, 2 | RFLAGS.IF] as const;
const HLT_STATE = [G.ACTIVITY_STATE, GUEST_ACTIVITY.HLT] as const;

const nops = (a: L2Asm): void => {
  for (let n = 0; n < 8; n++) a.emit('nop');
};

const inject = (type: number, vector: number): NonNullable<VmxCase['fields']> => [
  [C.VM_ENTRY_INTR_INFO_FIELD, (INTR_INFO.VALID_MASK | type | vector) >>> 0],
  [C.VM_ENTRY_INSTRUCTION_LEN, 2],
];
const EXTERNAL = inject(INTR_TYPE.EXT_INTR, 0x41);
const UD = inject(INTR_TYPE.HARD_EXCEPTION, VECTOR.UD);

const MTF = { cpu: CPU_BASED.MONITOR_TRAP_FLAG } as const;
const MTF_CASES: readonly VmxCase[] = [
  { name: 'mtf_nop', set: MTF, code: nops },
  { name: 'mtf_twice', set: MTF, code: nops, after: (_, { resume }) => resume('mtf_twice.2') },
  { name: 'mtf_ud', set: MTF, code: (a) => a.emit('ud2') },
  { name: 'mtf_int_n', set: MTF, code: (a) => a.emit('int', 0x45) },
  { name: 'mtf_int3', set: MTF, code: (a) => a.emit('int3') },
  { name: 'mtf_vmcall', set: MTF, code: (a) => a.emit('vmcall') },
  { name: 'mtf_cpuid', set: MTF, code: (a) => a.emit('cpuid') },
  { name: 'mtf_inject_ud', set: MTF, fields: UD, code: nops },
  { name: 'mtf_inject_external', set: MTF, fields: [...EXTERNAL, IF], code: nops },
  {
    name: 'mtf_rep',
    set: MTF,
    regs: { rcx: 3, rdi: SPECIAL },
    code: (a) => {
      a.emit('rep stosb');
      nops(a);
    },
    show: ['rcx'],
    after: (_, { resume }) => {
      resume('mtf_rep.2');
      resume('mtf_rep.3');
      resume('mtf_rep.4');
    },
  },
  {
    name: 'mtf_mov_ss',
    set: MTF,
    regs: { rbx: 0x10 },
    code: (a) => {
      a.emit('mov', R.ss, R.ebx);
      nops(a);
    },
  },
  {
    name: 'mtf_sti',
    set: MTF,
    code: (a) => {
      a.emit('sti');
      nops(a);
    },
  },
  { name: 'mtf_tf', set: MTF, fields: [[G.RFLAGS, 2 | RFLAGS.TF]], code: nops },
];

const TIMER = { pin: PIN_BASED.VMX_PREEMPTION_TIMER } as const;
const SAVED = { ...TIMER, exit: VM_EXIT.SAVE_VMX_PREEMPTION_TIMER } as const;
const timer = (value: number): readonly [number, number] => [G.VMX_PREEMPTION_TIMER_VALUE, value];

/** The timer's value after the exit, where it does not depend on time. */
const sayTimer = (g: GuestCode): void => {
  e9_printf(g, '  timer %lx\n', vmreadz(g, G.VMX_PREEMPTION_TIMER_VALUE));
};

const TIMER_CASES: readonly VmxCase[] = [
  { name: 'timer_0', set: TIMER, fields: [timer(0)], code: nops },
  { name: 'timer_0_saved', set: SAVED, fields: [timer(0)], code: nops, after: sayTimer },
  {
    name: 'timer_not_saved',
    set: TIMER,
    clear: { exit: VM_EXIT.SAVE_VMX_PREEMPTION_TIMER },
    fields: [timer(0x7fff_ffff)],
    code: nops,
    after: sayTimer,
  },
  { name: 'timer_off', clear: TIMER, fields: [timer(0)], code: nops },
  { name: 'timer_long', set: TIMER, fields: [timer(0x7fff_ffff)], code: nops },
  { name: 'timer_0_inject', set: TIMER, fields: [timer(0), ...UD], code: nops },
  {
    name: 'timer_0_if_mov_ss',
    set: TIMER,
    fields: [timer(0), [G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.MOV_SS]],
    code: nops,
  },
  { name: 'timer_0_hlt', set: TIMER, fields: [timer(0), HLT_STATE], code: nops },
  { name: 'timer_hlt', set: TIMER, fields: [timer(20), HLT_STATE], code: nops },
  {
    name: 'timer_hlt_instruction',
    set: TIMER,
    clear: { cpu: CPU_BASED.HLT_EXITING },
    fields: [timer(200)],
    code: (a) => a.emit('hlt'),
  },
  {
    name: 'timer_loop',
    set: TIMER,
    fields: [timer(20)],
    code: (a) => {
      a.label('again');
      a.emit('jmp', a.to('again'));
    },
  },
  {
    name: 'timer_0_shutdown',
    set: TIMER,
    misc: VMX_MISC.ACTIVITY_SHUTDOWN,
    fields: [timer(0), [G.ACTIVITY_STATE, GUEST_ACTIVITY.SHUTDOWN]],
    code: nops,
  },
  { name: 'timer_0_mtf', set: { ...TIMER, ...MTF }, fields: [timer(0)], code: nops },
  {
    name: 'timer_0_tf',
    set: TIMER,
    fields: [timer(0), [G.RFLAGS, 2 | RFLAGS.TF], [G.PENDING_DBG_EXCEPTIONS, 0x4000]],
    code: nops,
  },
];

const WINDOW = { cpu: CPU_BASED.INTR_WINDOW_EXITING } as const;
const NMI_WINDOW = {
  pin: PIN_BASED.NMI_EXITING | PIN_BASED.VIRTUAL_NMIS,
  cpu: CPU_BASED.NMI_WINDOW_EXITING,
} as const;
const VIRTUAL_NMIS = { pin: NMI_WINDOW.pin } as const;
const BLOCKED = [G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.NMI] as const;

/** IRET to what follows it. */
function iret(a: L2Asm): void {
  a.emit('mov', R.rcx, R.rsp);
  a.emit('push', 0x10);
  a.emit('push', R.rcx);
  a.emit('push', 2);
  a.emit('push', 8);
  a.emit('call', a.to('next'));
  a.label('next');
  // The return address is that of this instruction; go on behind the IRET.
  a.emit('add', m64({ base: R.rsp }), 7);
  a.emit('iretq');
  nops(a);
}

const WINDOW_CASES: readonly VmxCase[] = [
  { name: 'window_open', set: WINDOW, fields: [IF], code: nops },
  { name: 'window_closed', set: WINDOW, code: nops },
  { name: 'window_sti', set: WINDOW, code: (a) => {
      a.emit('nop');
      a.emit('sti');
      nops(a);
    } },
  { name: 'window_sti_mov_ss', set: WINDOW, regs: { rbx: 0x10 }, code: (a) => {
      a.emit('sti');
      a.emit('mov', R.ss, R.ebx);
      nops(a);
    } },
  { name: 'window_popf', set: WINDOW, code: (a) => {
      a.emit('push', 0x202);
      a.emit('popfq');
      nops(a);
    } },
  { name: 'window_blocked_by_sti', set: WINDOW, fields: [IF, [G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.STI]], code: nops },
  { name: 'window_blocked_by_mov_ss', set: WINDOW, fields: [IF, [G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.MOV_SS]], code: nops },
  { name: 'window_inject', set: WINDOW, fields: [IF, ...EXTERNAL], code: nops },
  { name: 'window_inject_hlt', set: WINDOW, fields: [IF, HLT_STATE, ...EXTERNAL], code: nops },
  { name: 'nmi_window_open', set: NMI_WINDOW, code: nops },
  { name: 'nmi_window_blocked', set: NMI_WINDOW, fields: [BLOCKED], code: nops },
  { name: 'nmi_window_iret', set: NMI_WINDOW, fields: [BLOCKED], code: iret },
  { name: 'nmi_window_mov_ss', set: NMI_WINDOW, fields: [[G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.MOV_SS]], code: nops },
  { name: 'virtual_nmi_injected', set: VIRTUAL_NMIS, fields: inject(INTR_TYPE.NMI_INTR, VECTOR.NMI), code: nops },
  { name: 'virtual_nmi_injected_window', set: NMI_WINDOW, fields: inject(INTR_TYPE.NMI_INTR, VECTOR.NMI), code: nops },
  { name: 'virtual_nmi_iret', set: VIRTUAL_NMIS, fields: [BLOCKED], code: iret },
  { name: 'nmi_blocked_iret_faults', set: VIRTUAL_NMIS, fields: [BLOCKED, [C.EXCEPTION_BITMAP, 1 << VECTOR.GP]], code: (a) => {
      for (let n = 0; n < 3; n++) a.emit('push', 2);
      a.emit('push', 0x1238);
      a.emit('push', 0);
      a.emit('iretq');
    } },
]; // prettier-ignore

const ACTIVITY_CASES: readonly VmxCase[] = [
  { name: 'hlt_inject_external', fields: [IF, HLT_STATE, ...EXTERNAL], code: nops },
  { name: 'hlt_inject_nmi', fields: [HLT_STATE, ...inject(INTR_TYPE.NMI_INTR, VECTOR.NMI)], code: nops },
  { name: 'hlt_inject_db', fields: [HLT_STATE, ...inject(INTR_TYPE.HARD_EXCEPTION, VECTOR.DB)], code: nops },
  { name: 'hlt_inject_mc', fields: [HLT_STATE, ...inject(INTR_TYPE.HARD_EXCEPTION, VECTOR.MC)], code: nops },
  {
    name: 'hlt_exiting_at_entry',
    set: { cpu: CPU_BASED.HLT_EXITING },
    fields: [IF, HLT_STATE, ...EXTERNAL],
    code: nops,
  },
  { name: 'hlt_mtf', set: MTF, fields: [HLT_STATE, IF, ...EXTERNAL], code: nops },
];

/** L1 sends itself an interrupt with IF clear, so that it is pending when L2 begins. */
function selfIpi(g: GuestCode): void {
  const reg = (offset: number) => at(u32, APIC_PAGE + offset);
  g.set(reg(APIC_REG.SPIV), 0x1ff);
  g.set(reg(APIC_REG.ICR), 0x4_0000 | L1_VECTOR);
}

/** What is in service ends, and what is pending goes to L1's handler. */
function drain(g: GuestCode): void {
  g.set(at(u32, APIC_PAGE + APIC_REG.EOI), 0);
  g.insn('sti');
  g.insn('nop');
  g.insn('cli');
  g.set(at(u32, APIC_PAGE + APIC_REG.SPIV), 0xff);
}

const EXITING = { pin: PIN_BASED.EXT_INTR_MASK } as const;
const ACK = { ...EXITING, exit: VM_EXIT.ACK_INTR_ON_EXIT } as const;
const pending = (row: Omit<VmxCase, 'before' | 'after'>): VmxCase => ({
  ...row,
  before: selfIpi,
  after: drain,
});

const INTERRUPT_CASES: readonly Omit<VmxCase, 'before' | 'after'>[] = [
  {
    name: 'interrupt_exits',
    set: EXITING,
    clear: { exit: VM_EXIT.ACK_INTR_ON_EXIT },
    fields: [IF],
    code: nops,
  },
  { name: 'interrupt_exits_if_clear', set: EXITING, clear: { exit: VM_EXIT.ACK_INTR_ON_EXIT }, code: nops },
  { name: 'interrupt_exits_ack', set: ACK, fields: [IF], code: nops },
  {
    name: 'interrupt_exits_sti',
    set: ACK,
    fields: [IF, [G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.STI]],
    code: nops,
  },
  {
    name: 'interrupt_exits_mov_ss',
    set: ACK,
    fields: [IF, [G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.MOV_SS]],
    code: nops,
  },
  { name: 'interrupt_exits_hlt', set: ACK, fields: [IF, HLT_STATE], code: nops },
  { name: 'interrupt_exits_inject', set: ACK, fields: [IF, ...UD], code: nops },
  { name: 'interrupt_delivered', clear: EXITING, fields: [IF], code: nops },
  { name: 'interrupt_held', clear: EXITING, code: nops },
  {
    name: 'interrupt_delivered_after_sti',
    clear: EXITING,
    code: (a) => {
      a.emit('sti');
      nops(a);
    },
  },
];

/** All of them. */
export const CONTROL_CASES: readonly VmxCase[] = [
  ...MTF_CASES,
  ...TIMER_CASES,
  ...WINDOW_CASES,
  ...ACTIVITY_CASES,
  ...INTERRUPT_CASES.map(pending),
];
