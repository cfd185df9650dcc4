// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits at instruction boundaries: windows, interrupts, NMIs, preemption timer, monitor trap flag. SDM, "Other Causes of
 * VM Exits", "VMX-Preemption Timer", "Monitor Trap Flag".
 */
import { describe, expect, it } from 'vitest';
import { APIC_DM } from '../../../lib/x86/apic.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY, GUEST_INTR_STATE } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { COST } from '../cost/points.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { BLOCKING, RUN, S } from '../cpu/state.ts';
import { cpuRun, nextWakeup } from '../cpu/system/run.ts';
import { vmlaunch } from './entry.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { VMX_RESULT } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const NOP = 0x90;
const [STI, CLI] = [0xfb, 0xfa];
const EVENT = (info: number): number => (info | 0x8000_0000) >>> 0;
const ON = RFLAGS.FIXED | RFLAGS.IF;
const guest = (...bytes: number[]): VmxBox => new VmxBox().begin().code([...bytes, ...VMCALL]);
const pin = (box: VmxBox, set: number, clear = 0): VmxBox =>
  box.change(C.PIN_BASED_VM_EXEC_CONTROL, set, clear);
const cpuBased = (box: VmxBox, set: number): VmxBox => box.change(C.CPU_BASED_VM_EXEC_CONTROL, set);
/** An interrupt of `vector` is pending in the physical local APIC. */
function interrupt(box: VmxBox, vector: number): VmxBox {
  box.cpu.apic.write(0xf0, 0x1ff);
  box.cpu.apic.receive(APIC_DM.FIXED, vector, 0);
  return box;
}

describe('interrupt window', () => {
  it('exits at once if interrupts are unblocked', () => {
    const box = cpuBased(guest(NOP), CPU_BASED.INTR_WINDOW_EXITING).write(G.RFLAGS, ON);
    expect(box.launch()).toBe(R.INTERRUPT_WINDOW);
    expect(box.ripOffset()).toBe(0);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(0);
  });

  it('exits after the instruction that follows STI', () => {
    const box = cpuBased(guest(NOP, STI, NOP, NOP), CPU_BASED.INTR_WINDOW_EXITING);
    expect(box.launch()).toBe(R.INTERRUPT_WINDOW);
    expect(box.ripOffset()).toBe(3);
  });

  it('does not exit while IF is 0, nor between STI and CLI', () => {
    expect(cpuBased(guest(NOP, STI, CLI, NOP), CPU_BASED.INTR_WINDOW_EXITING).launch()).toBe(R.VMCALL);
  });

  it('wakes a guest in HLT', () => {
    const box = cpuBased(guest(NOP), CPU_BASED.INTR_WINDOW_EXITING)
      .write(G.RFLAGS, ON)
      .write(G.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
    expect(box.launch()).toBe(R.INTERRUPT_WINDOW);
    expect(box.read(G.ACTIVITY_STATE)).toBe(GUEST_ACTIVITY.HLT);
  });
});

describe('external interrupts', () => {
  it('exit with the vector acknowledged, whatever IF is', () => {
    const box = interrupt(guest(NOP), 0x41);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.EXT_INTR | 0x41));
    expect(box.cpu.apic.highestDeliverable()).toBe(-1);
  });

  it('stay pending without acknowledge on exit', () => {
    const box = interrupt(guest(NOP), 0x41).change(C.VM_EXIT_CONTROLS, 0, VM_EXIT.ACK_INTR_ON_EXIT);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(0);
    expect(box.cpu.apic.highestDeliverable()).toBe(0x41);
  });

  it('are delivered through the guest IDT without external-interrupt exiting', () => {
    const box = interrupt(guest(NOP), 0x41)
      .write(G.RFLAGS, ON)
      .gate(0x41, AT.HANDLER)
      .code(VMCALL, AT.HANDLER);
    pin(box, 0, PIN_BASED.EXT_INTR_MASK);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
  });

  it('do not disturb a guest in shutdown, an NMI does', () => {
    const box = interrupt(guest(NOP), 0x41).write(G.ACTIVITY_STATE, GUEST_ACTIVITY.SHUTDOWN);
    box.cpu.sys.nmiPending = 1;
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.cpu.apic.highestDeliverable()).toBe(0x41);
  });
});

describe('NMIs', () => {
  it('exit with NMI exiting and block NMIs in the host', () => {
    const box = guest(NOP);
    box.cpu.sys.nmiPending = 1;
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.NMI_INTR | 2));
    expect(box.cpu.s[S.BLOCKING]! & BLOCKING.NMI).toBe(BLOCKING.NMI);
    expect(box.read(G.INTERRUPTIBILITY_INFO)).toBe(0);
  });

  it('wait while they are blocked, but not if it is virtual NMIs that are blocked', () => {
    const blocked = guest(NOP).write(G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.NMI);
    blocked.cpu.sys.nmiPending = 1;
    expect(blocked.launch()).toBe(R.VMCALL);
    const virtual = pin(guest(NOP), PIN_BASED.VIRTUAL_NMIS).write(
      G.INTERRUPTIBILITY_INFO,
      GUEST_INTR_STATE.NMI,
    );
    virtual.cpu.sys.nmiPending = 1;
    expect(virtual.launch()).toBe(R.EXCEPTION_NMI);
    expect(virtual.read(G.INTERRUPTIBILITY_INFO)).toBe(GUEST_INTR_STATE.NMI);
  });

  it('are delivered before an external interrupt exits, which comes before the first instruction of the handler', () => {
    const box = pin(guest(NOP), 0, PIN_BASED.NMI_EXITING).gate(2, AT.HANDLER).code(VMCALL, AT.HANDLER);
    interrupt(box, 0x41).cpu.sys.nmiPending = 1;
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
  });

  it('are delivered in the guest without NMI exiting', () => {
    const box = pin(guest(NOP), 0, PIN_BASED.NMI_EXITING).gate(2, AT.HANDLER).code(VMCALL, AT.HANDLER);
    box.cpu.sys.nmiPending = 1;
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
    expect(box.read(G.INTERRUPTIBILITY_INFO)).toBe(GUEST_INTR_STATE.NMI);
  });

  it('the NMI window opens when virtual NMIs are unblocked', () => {
    const make = (blocking: number): VmxBox => {
      const box = pin(guest(NOP), PIN_BASED.VIRTUAL_NMIS).write(G.INTERRUPTIBILITY_INFO, blocking);
      return cpuBased(box, CPU_BASED.NMI_WINDOW_EXITING);
    };
    expect(make(0).launch()).toBe(R.NMI_WINDOW);
    expect(make(GUEST_INTR_STATE.NMI).launch()).toBe(R.VMCALL);
    const shadow = make(GUEST_INTR_STATE.MOV_SS);
    expect(shadow.launch()).toBe(R.NMI_WINDOW);
    expect(shadow.ripOffset()).toBe(1);
  });

  it('an NMI has priority over an interrupt, the NMI window over both', () => {
    const box = interrupt(pin(guest(NOP), PIN_BASED.VIRTUAL_NMIS), 0x41);
    box.cpu.sys.nmiPending = 1;
    cpuBased(box, CPU_BASED.NMI_WINDOW_EXITING | CPU_BASED.INTR_WINDOW_EXITING).write(G.RFLAGS, ON);
    expect(box.launch()).toBe(R.NMI_WINDOW);
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED.NMI_WINDOW_EXITING);
    expect(box.resume()).toBe(R.EXCEPTION_NMI);
    expect(box.resume()).toBe(R.INTERRUPT_WINDOW);
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, 0, CPU_BASED.INTR_WINDOW_EXITING);
    expect(box.resume()).toBe(R.EXTERNAL_INTERRUPT);
  });
});

describe('INIT', () => {
  it('exits in non-root operation', () => {
    const box = guest(NOP);
    box.cpu.sys.initPending = 1;
    expect(box.launch()).toBe(R.INIT_SIGNAL);
    expect(box.cpu.sys.initPending).toBe(0);
  });
});

describe('preemption timer', () => {
  const RATE = 2 ** 7;
  /** jmp $ with a timer of `value`. */
  function spin(value: number): VmxBox {
    const box = pin(guest(0xeb, 0xfe), PIN_BASED.VMX_PREEMPTION_TIMER).write(
      G.VMX_PREEMPTION_TIMER_VALUE,
      value,
    );
    return box.change(C.VM_EXIT_CONTROLS, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
  }

  it.each([1, 2, 17, 1000])(
    'of %s exits at the cycle at which the TSC bit has changed that often',
    (value) => {
      const box = spin(value);
      const { cpu } = box;
      const entered = cpu.clock[0]! + cpu.prices[COST.VM_ENTRY]!;
      expect(box.launch()).toBe(R.PREEMPTION_TIMER);
      // launch() has read the exit reason since.
      const exited = cpu.clock[0]! - cpu.prices[COST.VM_EXIT]! - cpu.prices[COST.VMREAD]!;
      expect(exited).toBe((Math.floor(entered / RATE) + value) * RATE);
      expect(box.read(G.VMX_PREEMPTION_TIMER_VALUE)).toBe(0);
    },
  );

  it('saves what is left, and runs on from there', () => {
    const box = spin(1000).code([...Array.from({ length: 300 }, () => NOP), ...VMCALL, 0xeb, 0xfe]);
    expect(box.launch()).toBe(R.VMCALL);
    const left = box.read(G.VMX_PREEMPTION_TIMER_VALUE);
    expect(left).toBeGreaterThanOrEqual(1000 - Math.ceil(301 / RATE) - 1);
    expect(left).toBeLessThan(1000);
    box.write(G.RIP, AT.CODE + 303);
    expect(box.resume()).toBe(R.PREEMPTION_TIMER);
  });

  it('counts while the guest is in HLT', () => {
    const box = spin(5).write(G.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
    expect(vmlaunch(box.cpu)).toBe(VMX_RESULT.SUCCEED);
    expect(cpuRun(box.cpu, Infinity)).toBe(RUN.HLT);
    box.cpu.clock[0] = nextWakeup(box.cpu);
    expect(cpuRun(box.cpu, Infinity)).toBe(RUN.VMEXIT);
    expect(box.read(I.VM_EXIT_REASON)).toBe(R.PREEMPTION_TIMER);
  });

  it('of 0 exits before the first instruction', () => {
    const box = spin(0);
    expect(box.launch()).toBe(R.PREEMPTION_TIMER);
    expect(box.ripOffset()).toBe(0);
  });
});

describe('monitor trap flag', () => {
  it('exits after each instruction', () => {
    const box = cpuBased(guest(NOP, NOP, 0x31, 0xc0), CPU_BASED.MONITOR_TRAP_FLAG);
    const offsets: number[] = [];
    for (let reason = box.launch(); reason === R.MONITOR_TRAP_FLAG; reason = box.resume())
      offsets.push(box.ripOffset());
    expect(offsets).toEqual([1, 2, 4]);
  });

  it('exits before the first instruction of the handler after an injected event', () => {
    const box = cpuBased(guest(NOP), CPU_BASED.MONITOR_TRAP_FLAG).gate(0x30, AT.HANDLER).write(G.RFLAGS, ON);
    box.write(C.VM_ENTRY_INTR_INFO_FIELD, EVENT(INTR_TYPE.EXT_INTR | 0x30));
    expect(box.launch()).toBe(R.MONITOR_TRAP_FLAG);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
  });

  it('can be injected: an exit before the first instruction without the control', () => {
    const box = guest(NOP).write(C.VM_ENTRY_INTR_INFO_FIELD, EVENT(INTR_TYPE.OTHER_EVENT));
    expect(box.launch()).toBe(R.MONITOR_TRAP_FLAG);
    expect(box.ripOffset()).toBe(0);
    expect(box.resume()).toBe(R.VMCALL);
  });

  it('exits after one iteration of a string instruction', () => {
    const box = cpuBased(guest(0xf3, 0xaa), CPU_BASED.MONITOR_TRAP_FLAG);
    setReg(box.cpu, 1, 3n);
    setReg(box.cpu, 7, BigInt(AT.DATA));
    expect(box.launch()).toBe(R.MONITOR_TRAP_FLAG);
    expect(box.ripOffset()).toBe(0);
    expect(getReg(box.cpu, 1)).toBe(2n);
  });
});
