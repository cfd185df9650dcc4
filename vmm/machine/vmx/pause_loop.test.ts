// SPDX-License-Identifier: GPL-2.0-only
/** PAUSE-loop exiting. SDM, "Instructions That Cause VM Exits Conditionally" (PAUSE), "Controls for PAUSE-Loop Exiting". */
import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { COST } from '../cost/points.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { SEL, VmxBox } from './testing/fixture.ts';
import { vmxCapabilityMsr } from './vmx_unit.ts';

/** 0: pause; dec ecx; jnz 0; vmcall */
const LOOP = [0xf3, 0x90, 0xff, 0xc9, 0x75, 0xfa, 0x0f, 0x01, 0xc1];
const TURNS = 20;

/** Cycles from one PAUSE of the loop to the next: three instructions, and what PAUSE costs besides. */
const turn = ({ cpu }: VmxBox): number => 3 * cpu.prices[COST.INSN]! + cpu.prices[COST.PAUSE]!;

/** A guest that executes PAUSE in a loop; gap and window in turns of the loop plus cycles. */
function spinning(gap: number, window: number, cycles = { gap: 0, window: 0 }): VmxBox {
  const box = new VmxBox().begin().code(LOOP);
  setReg(box.cpu, 1, BigInt(TURNS));
  box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.PAUSE_LOOP_EXITING);
  box.write(C.PLE_GAP, gap * turn(box) + cycles.gap);
  return box.write(C.PLE_WINDOW, window * turn(box) + cycles.window);
}

/** Turns that the guest has completed. */
const turns = (box: VmxBox): number => TURNS - Number(getReg(box.cpu, 1));

describe('PAUSE-loop exiting', () => {
  it('is reported by the capability MSR', () => {
    const [, may1] = vmxCapabilityMsr(new VmxBox().cpu.vmx, VMX_MSR.IA32_VMX_PROCBASED_CTLS2)!;
    expect(may1 & SECONDARY_EXEC.PAUSE_LOOP_EXITING).toBe(SECONDARY_EXEC.PAUSE_LOOP_EXITING);
  });

  // The PAUSE after n turns comes n turns after the first of the loop.
  it.each([
    { window: 5, cycles: 0, done: 6 },
    { window: 5, cycles: -1, done: 5 },
    { window: 0, cycles: 0, done: 1 },
  ])('exits when more than $window turns and $cycles cycles have passed', ({ window, cycles, done }) => {
    const box = spinning(1, window, { gap: 0, window: cycles });
    expect(box.launch()).toBe(R.PAUSE_INSTRUCTION);
    expect(turns(box)).toBe(done);
    expect([box.ripOffset(), box.read(I.VM_EXIT_INSTRUCTION_LEN)]).toEqual([0, 2]);
    expect([box.read(I.EXIT_QUALIFICATION), box.read(G.RFLAGS) & RFLAGS.RF]).toEqual([0, 0]);
  });

  it('does not exit from a loop that ends within the window', () => {
    const box = spinning(1, TURNS);
    expect(box.launch()).toBe(R.VMCALL);
    expect(turns(box)).toBe(TURNS);
  });

  it('takes each PAUSE for the first of a loop if more than the gap lies between', () => {
    expect(spinning(1, 0, { gap: -1, window: 0 }).launch()).toBe(R.VMCALL);
    expect(spinning(1, 0).launch()).toBe(R.PAUSE_INSTRUCTION);
  });

  it('reads gap and window as unsigned', () => {
    const box = spinning(0, 0).write(C.PLE_GAP, 0xffff_ffff);
    expect(box.launch()).toBe(R.PAUSE_INSTRUCTION);
    const wide = spinning(1, 0).write(C.PLE_WINDOW, 0xffff_ffff);
    expect(wide.launch()).toBe(R.VMCALL);
  });

  it('begins anew with each VM entry', () => {
    const box = spinning(1, 5).write(C.PLE_GAP, 0xffff_ffff);
    expect([box.launch(), turns(box)]).toEqual([R.PAUSE_INSTRUCTION, 6]);
    // The PAUSE that exited is executed first; six turns later the next exit is due.
    expect([box.resume(), turns(box)]).toEqual([R.PAUSE_INSTRUCTION, 12]);
  });

  it('is ignored at CPL 3', () => {
    const box = spinning(1, 0).write(G.CS_SELECTOR, SEL.USER_CS).write(G.CS_AR_BYTES, 0xa0fb);
    box.write(G.SS_SELECTOR, SEL.USER_DS).write(G.SS_AR_BYTES, 0xc0f3);
    for (const name of ['DS', 'ES', 'FS', 'GS'] as const) box.write(G[`${name}_AR_BYTES`], 0xc0f3);
    expect(box.launch()).toBe(R.VMCALL);
    expect(turns(box)).toBe(TURNS);
  });

  it('is ignored under PAUSE exiting, which exits at once', () => {
    const box = spinning(1, TURNS).change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.PAUSE_EXITING);
    expect([box.launch(), turns(box)]).toEqual([R.PAUSE_INSTRUCTION, 0]);
  });

  it('needs its control', () => {
    const box = spinning(1, 0).change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.PAUSE_LOOP_EXITING);
    expect(box.launch()).toBe(R.VMCALL);
  });
});
