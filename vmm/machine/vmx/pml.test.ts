// SPDX-License-Identifier: GPL-2.0-only
/**
 * Page-modification logging under a VMCS, and its VM exit. SDM, "Page-Modification Logging", "Exit Qualification",
 * "Information for VM Exits That Occur During Event Delivery", "Saving RIP, RSP, RFLAGS, and SSP". How a walk logs is in
 * mmu/pml.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_INTR_STATE } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { setReg } from '../cpu/regs.ts';
import { AT, EPTP, VmxBox } from './testing/fixture.ts';
import { vmxCapabilityMsr } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const UD2 = [0x0f, 0x0b];
const IRETQ = [0x48, 0xcf];
/** mov eax, [rbx]; mov [rbx], eax */
const LOAD = [0x8b, 0x03];
const STORE = [0x89, 0x03];
const FULL = 0xffff;
const LOG = AT.SPARE;
/** EPT leaf: write-back, everything allowed, accessed; with 0x200 dirty. */
const CLEAN = 0x137;
const DIRTY = 0x337;
const STACK = AT.STACK_TOP - 0x1000;
const entryOf = (page: number): number => AT.EPT_PT + 8 * ((page >>> 12) & 511);

/** A guest with EPT's flags enabled whose pages are all dirty but `page`. */
function guest(bytes: readonly number[], page: number, index = 511): VmxBox {
  const box = new VmxBox().begin().code([...bytes, ...VMCALL]);
  box.word(AT.EPT_PML4, AT.EPT_PDPT | 0x107);
  box.word(AT.EPT_PDPT, AT.EPT_PD | 0x107);
  for (let n = 0; n < 512; n++) {
    box.word(AT.EPT_PD + 8 * n, (n << 21) | 0x80 | DIRTY);
    box.word(AT.EPT_PT + 8 * n, (AT.VMXON + n * 0x1000) | DIRTY);
  }
  box.word(AT.EPT_PD + 8 * (AT.VMXON >>> 21), AT.EPT_PT | 0x107);
  box.word(entryOf(page), page | CLEAN);
  setReg(box.cpu, 3, BigInt(AT.DATA) + 8n);
  setReg(box.cpu, 0, 0x1234n);
  box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_PML).write(C.EPT_POINTER, EPTP | 0x40);
  return box.write(C.PML_ADDRESS, LOG).write(G.PML_INDEX, index);
}

const logEntry = (box: VmxBox, n: number): bigint => box.cpu.mem.u64[LOG / 8 + n]!;
const wordAt = (box: VmxBox, at: number): number => box.cpu.mem.i32[at >>> 2]!;
const EVENT = (info: number): number => (info | 0x8000_0000) >>> 0;

describe('enable PML', () => {
  it('is reported by the capability MSR', () => {
    const [, may1] = vmxCapabilityMsr(new VmxBox().cpu.vmx, VMX_MSR.IA32_VMX_PROCBASED_CTLS2)!;
    expect(may1 & SECONDARY_EXEC.ENABLE_PML).toBe(SECONDARY_EXEC.ENABLE_PML);
  });

  it('logs a store, and the VMCS has the next index', () => {
    const box = guest(STORE, AT.DATA);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.read(G.PML_INDEX), logEntry(box, 511)]).toEqual([510, BigInt(AT.DATA)]);
    expect(wordAt(box, entryOf(AT.DATA)) & 0xfff).toBe(DIRTY);
  });

  it('logs no load', () => {
    const box = guest(LOAD, AT.DATA);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.read(G.PML_INDEX), logEntry(box, 511)]).toEqual([511, 0n]);
  });

  it('uses the last entry and then the index FFFFH without an exit', () => {
    const box = guest(STORE, AT.DATA, 0);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.read(G.PML_INDEX), logEntry(box, 0)]).toEqual([FULL, BigInt(AT.DATA)]);
  });

  it.each([
    {
      name: 'the control is 0',
      change: (b: VmxBox) => b.change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.ENABLE_PML),
    },
    {
      name: 'the EPTP does not enable accessed and dirty flags',
      change: (b: VmxBox) => b.write(C.EPT_POINTER, EPTP),
    },
  ])('does nothing if $name', ({ change }) => {
    const box = guest(STORE, AT.DATA, FULL);
    change(box);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.read(G.PML_INDEX), logEntry(box, 511)]).toEqual([FULL, 0n]);
  });

  it('ends with the VM exit and holds again from the next entry, with the address and index then in the VMCS', () => {
    const box = guest([...VMCALL, ...STORE], AT.DATA);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.cpu.mmu.pmlPage).toBe(-1);
    box
      .write(C.PML_ADDRESS, AT.IO_BITMAP_A)
      .write(G.PML_INDEX, 7)
      .write(G.RIP, AT.CODE + VMCALL.length);
    expect(box.resume()).toBe(R.VMCALL);
    expect(box.cpu.mem.u64[AT.IO_BITMAP_A / 8 + 7]).toBe(BigInt(AT.DATA));
    expect(box.read(G.PML_INDEX)).toBe(6);
  });

  it('writes outside of memory to the bus', () => {
    const box = guest(STORE, AT.DATA).write(C.PML_ADDRESS, 0x1_0000_0000);
    const seen: number[][] = [];
    box.cpu.sys.mmioWrite = (hpa, size, lo, hi) => seen.push([hpa, size, lo, hi]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(seen).toEqual([[0x1_0000_0000 + 8 * 511, 8, AT.DATA, 0]]);
  });
});

describe('a log-full VM exit', () => {
  it('comes before the store, which happens after the log was emptied', () => {
    const box = guest(STORE, AT.DATA, FULL).write(I.GUEST_PHYSICAL_ADDRESS, 0x77);
    expect(box.launch()).toBe(R.PML_FULL);
    expect([box.read(I.EXIT_QUALIFICATION), box.read(I.IDT_VECTORING_INFO_FIELD)]).toEqual([0, 0]);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(0);
    expect([box.ripOffset(), box.read(G.RFLAGS) & RFLAGS.RF]).toEqual([0, RFLAGS.RF]);
    expect(wordAt(box, entryOf(AT.DATA)) & 0xfff).toBe(CLEAN);
    expect([wordAt(box, AT.DATA + 8), box.read(G.PML_INDEX)]).toEqual([0, FULL]);
    expect(box.write(G.PML_INDEX, 511).resume()).toBe(R.VMCALL);
    expect([wordAt(box, AT.DATA + 8), logEntry(box, 511)]).toEqual([0x1234, BigInt(AT.DATA)]);
  });

  it('does not come for a store to a dirty page', () => {
    const box = guest(STORE, STACK, FULL);
    expect(box.launch()).toBe(R.VMCALL);
    expect(wordAt(box, AT.DATA + 8)).toBe(0x1234);
  });

  it('comes for the fetch of an instruction from a page that is not accessed', () => {
    const box = guest(STORE, AT.CODE, FULL);
    box.word(entryOf(AT.CODE), AT.CODE | (CLEAN & ~0x100));
    expect(box.launch()).toBe(R.PML_FULL);
    expect(wordAt(box, entryOf(AT.CODE)) & 0x300).toBe(0);
  });

  it('while an event is delivered reports the event, and RF as the delivery had it', () => {
    const box = guest([0xcd, 0x30], STACK, FULL).gate(0x30, AT.HANDLER);
    expect(box.launch()).toBe(R.PML_FULL);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.SOFT_INTR | 0x30));
    expect(box.read(I.VM_EXIT_INSTRUCTION_LEN)).toBe(2);
    expect(box.read(G.RFLAGS) & RFLAGS.RF).toBe(0);
    expect(box.ripOffset()).toBe(0);
  });

  it('while an exception is delivered reports the exception', () => {
    const box = guest(UD2, STACK, FULL).gate(6, AT.HANDLER).code(VMCALL, AT.HANDLER);
    expect(box.launch()).toBe(R.PML_FULL);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 6));
    expect(
      box
        .write(G.PML_INDEX, 511)
        .write(C.VM_ENTRY_INTR_INFO_FIELD, EVENT(INTR_TYPE.HARD_EXCEPTION | 6))
        .resume(),
    ).toBe(R.VMCALL);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
    expect(logEntry(box, 511)).toBe(BigInt(STACK));
  });

  it.each([
    { name: 'is set if IRET had ended virtual-NMI blocking', blocking: GUEST_INTR_STATE.NMI, bit: 0x1000 },
    { name: 'is clear if there was none', blocking: 0, bit: 0 },
  ])('bit 12 of the qualification $name', ({ blocking, bit }) => {
    const box = guest(IRETQ, AT.DATA, FULL).change(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VIRTUAL_NMIS);
    box.write(G.INTERRUPTIBILITY_INFO, blocking).write(G.RSP, AT.DATA);
    box.word(entryOf(AT.DATA), AT.DATA | (CLEAN & ~0x100));
    expect(box.launch()).toBe(R.PML_FULL);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(bit);
    expect(box.read(G.INTERRUPTIBILITY_INFO)).toBe(0);
  });
});
