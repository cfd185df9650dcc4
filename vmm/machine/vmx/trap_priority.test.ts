// SPDX-License-Identifier: GPL-2.0-only
/**
 * Several causes at one instruction boundary. SDM, "Priority Among Concurrent Events", "Monitor Trap Flag", "APIC-Write
 * Emulation" and "VM Exits Induced by the TPR Threshold".
 */
import { describe, expect, it } from 'vitest';
import { APIC_DM, APIC_REG } from '../../../lib/x86/apic.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { DR6, RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY, GUEST_INTR_STATE } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { RUN } from '../cpu/state.ts';
import { cpuRun, nextWakeup } from '../cpu/system/run.ts';
import { SanitizerError } from '../errors.ts';
import { vmlaunch } from './entry.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { vmclear, vmptrld } from './vmcs_insns.ts';
import { VMX_RESULT } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const NOP = 0x90;
const EOI = [0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30]; // wrmsr(0x80b, 0)
const CR8 = [0x44, 0x0f, 0x22, 0xc0]; // mov cr8, rax
const { VIRTUALIZE_X2APIC_MODE, VIRTUAL_INTR_DELIVERY, VIRTUALIZE_APIC_ACCESSES } = SECONDARY_EXEC;
const MTF_EVENT = 0x8000_0700;

const guest = (code: readonly number[], secondary = 0): VmxBox =>
  new VmxBox()
    .begin()
    .code([...code, ...VMCALL])
    .change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.TPR_SHADOW)
    .change(C.SECONDARY_VM_EXEC_CONTROL, secondary);

/** An EOI of vector 51H, which exits. */
function eoi(): VmxBox {
  const box = guest(EOI, VIRTUALIZE_X2APIC_MODE | VIRTUAL_INTR_DELIVERY).write(G.INTR_STATUS, 0x5100);
  return box.write(C.EOI_EXIT_BITMAP1, 0x2_0000);
}

describe('the traps of APIC virtualization', () => {
  it('come before MTF, which is dropped', () => {
    const box = eoi().change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.MONITOR_TRAP_FLAG);
    // One MTF exit after each of the three instructions before WRMSR.
    for (let n = 0; n < 3; n++) expect(n === 0 ? box.launch() : box.resume()).toBe(R.MONITOR_TRAP_FLAG);
    expect(box.resume()).toBe(R.EOI_INDUCED);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(0x51);
    expect(box.change(C.CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED.MONITOR_TRAP_FLAG).resume()).toBe(R.VMCALL);
  });

  it('come before INIT, which stays pending', () => {
    const box = guest(CR8).write(C.TPR_THRESHOLD, 5);
    box.word(AT.VAPIC + APIC_REG.TASKPRI, 0x50);
    expect(vmlaunch(box.cpu)).toBe(VMX_RESULT.SUCCEED);
    expect(cpuRun(box.cpu, box.cpu.clock[0]! + 1)).toBe(RUN.DEADLINE); // after MOV to CR8
    box.cpu.sys.initPending = 1;
    expect(cpuRun(box.cpu, box.cpu.clock[0]! + 1000)).toBe(RUN.VMEXIT);
    expect(box.read(I.VM_EXIT_REASON)).toBe(R.TPR_BELOW_THRESHOLD);
    box.word(AT.VAPIC + APIC_REG.TASKPRI, 0x50);
    expect(box.resume()).toBe(R.INIT_SIGNAL);
  });

  it.each([
    ['an injected MTF', (box: VmxBox) => box.write(C.VM_ENTRY_INTR_INFO_FIELD, MTF_EVENT)],
    ['INIT', (box: VmxBox) => void (box.cpu.sys.initPending = 1)],
  ])('a threshold above VTPR at entry comes before %s', (_, change) => {
    const box = guest([NOP], VIRTUALIZE_APIC_ACCESSES).write(C.APIC_ACCESS_ADDR, AT.SPARE);
    change(box.write(C.TPR_THRESHOLD, 3));
    expect(box.launch()).toBe(R.TPR_BELOW_THRESHOLD);
  });

  it('do not disturb a guest in shutdown, nor does MTF', () => {
    const box = guest([NOP], VIRTUALIZE_APIC_ACCESSES).write(C.APIC_ACCESS_ADDR, AT.SPARE);
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.MONITOR_TRAP_FLAG).write(C.TPR_THRESHOLD, 3);
    box.write(G.ACTIVITY_STATE, GUEST_ACTIVITY.SHUTDOWN);
    expect(vmlaunch(box.cpu)).toBe(VMX_RESULT.SUCCEED);
    expect(cpuRun(box.cpu, box.cpu.clock[0]! + 1000)).toBe(RUN.HLT);
    expect(nextWakeup(box.cpu)).toBe(Infinity);
    box.cpu.clock[0] = box.cpu.clock[0]! + 1000;
    expect(cpuRun(box.cpu, box.cpu.clock[0] + 1000)).toBe(RUN.HLT);
  });
});

describe('after a debug trap', () => {
  /** A single-step trap is pending; its handler runs fifty NOPs. */
  function trapped(secondary = 0): VmxBox {
    const box = guest([NOP], secondary).gate(VECTOR.DB, AT.HANDLER).gate(0x45, AT.DATA).code(VMCALL, AT.DATA);
    box.code([...new Array<number>(50).fill(NOP), ...VMCALL], AT.HANDLER);
    // A trap gate leaves RFLAGS.IF alone.
    box.word(AT.IDT + 16 + 4, box.cpu.mem.i32[(AT.IDT + 16 + 4) >> 2]! | 0x100);
    return box.write(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF).write(G.PENDING_DBG_EXCEPTIONS, DR6.BS);
  }

  it('an external interrupt exits before the first instruction of the handler', () => {
    const box = trapped();
    box.cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    box.cpu.apic.receive(APIC_DM.FIXED, 0x80, 0);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
  });

  it('so does an NMI, and a window', () => {
    const nmi = trapped();
    nmi.cpu.sys.nmiPending = 1;
    expect(nmi.launch()).toBe(R.EXCEPTION_NMI);
    expect(nmi.read(I.VM_EXIT_INTR_INFO) & 0x7ff).toBe(INTR_TYPE.NMI_INTR | VECTOR.NMI);
    const window = trapped().change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.INTR_WINDOW_EXITING);
    expect(window.launch()).toBe(R.INTERRUPT_WINDOW);
    expect([nmi.read(G.RIP), window.read(G.RIP)]).toEqual([AT.HANDLER, AT.HANDLER]);
  });

  it('and a virtual interrupt is delivered there', () => {
    const box = trapped(VIRTUAL_INTR_DELIVERY).write(G.INTR_STATUS, 0x45);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.RIP)).toBe(AT.DATA);
  });

  it('that no bit makes valid, nothing is delivered: B1 alone', () => {
    // SDM, "Delivery of Pending Debug Exceptions after VM Entry"; Bochs agrees.
    const box = trapped()
      .write(G.PENDING_DBG_EXCEPTIONS, DR6.B1)
      .code([NOP, ...VMCALL]);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.read(G.RIP), box.read(G.PENDING_DBG_EXCEPTIONS)]).toEqual([AT.CODE + 1, 0]);
  });

  it('wakes a guest in HLT before an interrupt exits', () => {
    const box = trapped().write(G.ACTIVITY_STATE, GUEST_ACTIVITY.HLT).write(G.PENDING_DBG_EXCEPTIONS, 0x1001);
    box.change(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.EXT_INTR_MASK);
    box.cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    box.cpu.apic.receive(APIC_DM.FIXED, 0x80, 0);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
  });
});

describe('an external interrupt that exits', () => {
  // SDM, "Event Blocking": RFLAGS.IF does not control it, but it may be "blocked for other reasons". Bochs agrees on these.
  it.each([
    ['STI', GUEST_INTR_STATE.STI, 1],
    ['MOV SS', GUEST_INTR_STATE.MOV_SS, 1],
    ['nothing', 0, 0],
  ] as const)('waits for one instruction while %s blocks', (_, blocking, instructions) => {
    const box = guest([NOP, NOP, ...VMCALL]).write(G.RFLAGS, RFLAGS.FIXED | RFLAGS.IF);
    box.write(G.INTERRUPTIBILITY_INFO, blocking).change(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.EXT_INTR_MASK);
    box.cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    box.cpu.apic.receive(APIC_DM.FIXED, 0x80, 0);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect([box.read(G.RIP), box.read(G.INTERRUPTIBILITY_INFO)]).toEqual([AT.CODE + instructions, 0]);
  });
});

describe('addresses in the memory of the machine itself', () => {
  it('end a VM entry that uses them with both names', () => {
    const box = guest([NOP]).write(C.VIRTUAL_APIC_PAGE_ADDR, 0x1000);
    expect(() => box.launch()).toThrow(SanitizerError);
    expect(() => box.launch()).toThrow(/VIRTUAL_APIC_PAGE_ADDR at 0x1000, which is the machine's own memory/);
  });

  it('hold no VMCS, and VMCLEAR does not write to them', () => {
    const { cpu } = new VmxBox().begin();
    const before = cpu.mem.u8.slice(0x2000, 0x3000);
    expect(vmptrld(cpu, 0x2000)).toBe(VMX_RESULT.FAIL_VALID);
    expect(vmclear(cpu, 0x2000)).toBe(VMX_RESULT.SUCCEED);
    expect(cpu.mem.u8.slice(0x2000, 0x3000)).toEqual(before);
  });
});
