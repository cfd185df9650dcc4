// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits due to exceptions and EPT faults, and what they record. SDM, "Information for VM Exits Due to Vectored
 * Events", "Information for VM Exits That Occur During Event Delivery", "Exit Qualification for EPT Violations".
 */
import { describe, expect, it } from 'vitest';
import { PIN_BASED } from '../../../lib/x86/vmx/controls.ts';
import { GUEST_INTR_STATE } from '../../../lib/x86/vmx/guest_state.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { setReg } from '../cpu/regs.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { vmreadHigh } from './vmcs_access.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const UD2 = [0x0f, 0x0b];
/** mov eax, [rbx] */
const LOAD = [0x8b, 0x03];
/** mov [rbx], eax */
const STORE = [0x89, 0x03];
const HOLE = 0x1_0000_0000;
const EVENT = (info: number): number => (info | 0x8000_0000) >>> 0;

const guest = (bytes: readonly number[]): VmxBox => new VmxBox().begin().code([...bytes, ...VMCALL]);

/** Make one 4-KByte page of the EPT different: the 2-MByte region at RAM_BASE gets a table, `entry` is the page's. */
function eptPage(box: VmxBox, page: number, entry: number): void {
  box.word(AT.EPT_PDPT, AT.EPT_PD | 7);
  for (let n = 0; n < 512; n++) {
    box.word(AT.EPT_PD + 8 * n, (n << 21) | 0xb7);
    box.word(AT.EPT_PT + 8 * n, (AT.VMXON + n * 0x1000) | 0x37);
  }
  box.word(AT.EPT_PD + 8 * (AT.VMXON >>> 21), AT.EPT_PT | 7);
  box.word(AT.EPT_PT + 8 * ((page >>> 12) & 511), entry);
}

describe('exceptions', () => {
  it('UD exits by its bit: hardware exception, no error code, RIP at the instruction', () => {
    const box = guest(UD2).write(C.EXCEPTION_BITMAP, 1 << 6);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 6));
    expect(box.ripOffset()).toBe(0);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(0);
    expect(box.read(G.RFLAGS) & RFLAGS.RF).toBe(RFLAGS.RF);
  });

  it('UD without its bit is delivered in the guest', () => {
    const box = guest(UD2)
      .gate(6, AT.HANDLER)
      .code(VMCALL, AT.HANDLER)
      .write(C.EXCEPTION_BITMAP, 1 << 13);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.RIP)).toBe(AT.HANDLER);
  });

  it('GP exits with its error code', () => {
    // mov ds, ax with a selector beyond the GDT limit
    const box = guest([0x8e, 0xd8]).write(C.EXCEPTION_BITMAP, 1 << 13);
    setReg(box.cpu, 0, 0x1000n);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 0x800 | 13));
    expect(box.read(I.VM_EXIT_INTR_ERROR_CODE)).toBe(0x1000);
  });

  it('INT3 exits as a software exception with its length', () => {
    const box = guest([0xcc]).write(C.EXCEPTION_BITMAP, 1 << 3);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.SOFT_EXCEPTION | 3));
    expect(box.read(I.VM_EXIT_INSTRUCTION_LEN)).toBe(1);
    expect(box.ripOffset()).toBe(0);
  });

  it('INT n does not look at the exception bitmap', () => {
    const box = guest([0xcd, 0x06])
      .gate(6, AT.HANDLER)
      .code(VMCALL, AT.HANDLER)
      .write(C.EXCEPTION_BITMAP, 0xffff_ffff);
    expect(box.launch()).toBe(R.VMCALL);
  });

  it('PF exits with the address as qualification and leaves CR2 alone', () => {
    const box = guest(LOAD).write(C.EXCEPTION_BITMAP, 1 << 14);
    setReg(box.cpu, 3, BigInt(HOLE) + 0x123n);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 0x800 | 14));
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(0x123);
    expect(vmreadHigh(box.cpu, I.EXIT_QUALIFICATION)).toBe(1);
    expect(box.cpu.s[48]).toBe(0);
  });

  // SDM: exit iff bit 14 equals (error code & mask) == match. The access is a supervisor read of a missing page: 0.
  it.each([
    { bit: 1, mask: 0, match: 0, exits: true },
    { bit: 1, mask: 0, match: 1, exits: false },
    { bit: 0, mask: 0, match: 1, exits: true },
    { bit: 1, mask: 2, match: 2, exits: false },
    { bit: 0, mask: 2, match: 2, exits: true },
    { bit: 0, mask: 2, match: 0, exits: false },
  ])('PF with bit $bit, mask $mask, match $match: exit is $exits', ({ bit, mask, match, exits }) => {
    const box = guest(LOAD).gate(14, AT.HANDLER).code(VMCALL, AT.HANDLER);
    box
      .write(C.EXCEPTION_BITMAP, bit << 14)
      .write(C.PAGE_FAULT_ERROR_CODE_MASK, mask)
      .write(C.PAGE_FAULT_ERROR_CODE_MATCH, match);
    setReg(box.cpu, 3, BigInt(HOLE));
    expect(box.launch()).toBe(exits ? R.EXCEPTION_NMI : R.VMCALL);
  });

  it('a fault during delivery reports the first event as IDT-vectoring information', () => {
    // UD whose gate is not present: NP, which exits.
    const box = guest(UD2).write(C.EXCEPTION_BITMAP, 1 << 11);
    box.word(AT.IDT + 6 * 16 + 4, 0x0e00);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 0x800 | 11));
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 6));
  });

  it('a fault that would make a double fault exits by its own bit of the exception bitmap first', () => {
    const box = guest([0x8e, 0xd8]).write(C.EXCEPTION_BITMAP, (1 << 8) | (1 << 11));
    setReg(box.cpu, 0, 0x1000n);
    box.word(AT.IDT + 13 * 16 + 4, 0x0e00);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 0x800 | 11));
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 0x800 | 13));
  });

  it('an exit due to the double fault itself has no IDT-vectoring information', () => {
    // GP whose gate is not present: NP while GP is delivered is a double fault.
    const box = guest([0x8e, 0xd8]).write(C.EXCEPTION_BITMAP, 1 << 8);
    setReg(box.cpu, 0, 0x1000n);
    box.word(AT.IDT + 13 * 16 + 4, 0x0e00);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 0x800 | 8));
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(0);
  });

  it('a triple fault exits without IDT-vectoring information', () => {
    const box = guest(UD2).write(G.IDTR_LIMIT, 0);
    expect(box.launch()).toBe(R.TRIPLE_FAULT);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(0);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(0);
  });

  it('a software interrupt whose delivery exits records type and length', () => {
    const box = guest([0xcd, 0x30]).write(C.EXCEPTION_BITMAP, 1 << 11);
    box.word(AT.IDT + 0x30 * 16 + 4, 0x0e00);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.SOFT_INTR | 0x30));
    expect(box.read(I.VM_EXIT_INSTRUCTION_LEN)).toBe(2);
  });
});

describe('EPT faults', () => {
  const touch = (bytes: readonly number[], entry: number): VmxBox => {
    const box = guest(bytes);
    eptPage(box, AT.DATA, entry);
    setReg(box.cpu, 3, BigInt(AT.DATA) + 8n);
    box.launch();
    return box;
  };

  // SDM: bits 2:0 the access, 5:3 what the EPT entries allow, 7 linear address valid, 8 it is the final address.
  it.each([
    { name: 'load of a missing page', bytes: LOAD, entry: 0, qual: 0x181 },
    { name: 'store to a missing page', bytes: STORE, entry: 0, qual: 0x182 },
    { name: 'store to a read-only page', bytes: STORE, entry: AT.DATA | 0x35, qual: 0x1aa },
    { name: 'load of an execute-only page', bytes: LOAD, entry: AT.DATA | 0x34, qual: 0x1a1 },
  ])('$name', ({ bytes, entry, qual }) => {
    const box = touch(bytes, entry);
    expect(box.read(I.VM_EXIT_REASON)).toBe(R.EPT_VIOLATION);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(qual);
    expect(box.read(I.GUEST_PHYSICAL_ADDRESS)).toBe(AT.DATA + 8);
    expect(box.read(I.GUEST_LINEAR_ADDRESS)).toBe(AT.DATA + 8);
    expect(box.ripOffset()).toBe(0);
    expect(box.read(G.RFLAGS) & RFLAGS.RF).toBe(RFLAGS.RF);
  });

  it('write without read permission is a misconfiguration', () => {
    const box = touch(LOAD, AT.DATA | 0x32);
    expect(box.read(I.VM_EXIT_REASON)).toBe(R.EPT_MISCONFIG);
    expect(box.read(I.GUEST_PHYSICAL_ADDRESS)).toBe(AT.DATA + 8);
  });

  it('the guest goes on after the mapping is made', () => {
    const box = touch(LOAD, 0);
    box.word(AT.EPT_PT + 8 * ((AT.DATA >>> 12) & 511), AT.DATA | 0x37);
    box.word(AT.DATA + 8, 0x1234);
    expect(box.resume()).toBe(R.VMCALL);
    expect(box.cpu.s[0]).toBe(0x1234);
  });

  it('a violation while an event is delivered reports the event', () => {
    const box = guest(UD2);
    eptPage(box, AT.IDT, 0);
    expect(box.launch()).toBe(R.EPT_VIOLATION);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 6));
    // Which half of the gate is read first is not architectural.
    expect(box.read(I.GUEST_PHYSICAL_ADDRESS) & ~0xf).toBe(AT.IDT + 6 * 16);
  });
});

describe('NMI unblocking due to IRET', () => {
  /** IRETQ whose stack is in a hole: PF after NMIs were unblocked. */
  const iret = (...fields: [number, number][]): VmxBox => {
    const box = guest([0x48, 0xcf])
      .write(C.EXCEPTION_BITMAP, 1 << 14)
      .write(G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.NMI);
    box.write(G.RSP, HOLE);
    for (const [name, bits] of fields) box.change(name, bits);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    return box;
  };
  const UNBLOCK = 0x1000;

  it('is bit 12 of the interruption information, and blocking has ended', () => {
    const box = iret([C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VIRTUAL_NMIS]);
    expect(box.read(I.VM_EXIT_INTR_INFO) & UNBLOCK).toBe(UNBLOCK);
    expect(box.read(G.INTERRUPTIBILITY_INFO)).toBe(0);
  });

  it('does not happen with NMI exiting without virtual NMIs', () => {
    const box = iret();
    expect(box.read(I.VM_EXIT_INTR_INFO) & UNBLOCK).toBe(0);
    expect(box.read(G.INTERRUPTIBILITY_INFO)).toBe(GUEST_INTR_STATE.NMI);
  });

  it('is bit 12 of the qualification of an EPT violation', () => {
    const box = guest([0x48, 0xcf]).change(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VIRTUAL_NMIS);
    box.write(G.INTERRUPTIBILITY_INFO, GUEST_INTR_STATE.NMI).write(G.RSP, AT.DATA);
    eptPage(box, AT.DATA, 0);
    expect(box.launch()).toBe(R.EPT_VIOLATION);
    expect(box.read(I.EXIT_QUALIFICATION) & UNBLOCK).toBe(UNBLOCK);
  });
});

describe('debug exceptions', () => {
  it('exit with the cause as qualification: single step', () => {
    const box = guest([0x90])
      .write(C.EXCEPTION_BITMAP, 1 << 1)
      .write(G.RFLAGS, RFLAGS.FIXED | RFLAGS.TF);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(EVENT(INTR_TYPE.HARD_EXCEPTION | 1));
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(0x4000);
    expect(box.ripOffset()).toBe(1);
  });
});
