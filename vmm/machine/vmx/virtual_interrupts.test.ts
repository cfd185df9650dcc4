// SPDX-License-Identifier: GPL-2.0-only
/**
 * Virtual interrupts, virtualized x2APIC registers and posted interrupts. Expected values: SDM, "APIC Virtualization and
 * Virtual Interrupts", by the name of the section in each group.
 */
import { describe, expect, it } from 'vitest';
import { APIC_DM, APIC_REG } from '../../../lib/x86/apic.ts';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { RFLAGS } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY } from '../../../lib/x86/vmx/guest_state.ts';
import { INTR_INFO, INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { setReg } from '../cpu/regs.ts';
import { AT, VmxBox } from './testing/fixture.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const [NOP, STI] = [0x90, 0xfb];
const HANDLER = AT.HANDLER - AT.CODE;
const ENABLED = RFLAGS.FIXED | RFLAGS.IF;
const { VIRTUALIZE_X2APIC_MODE, APIC_REGISTER_VIRT, VIRTUAL_INTR_DELIVERY } = SECONDARY_EXEC;
const ALL = VIRTUALIZE_X2APIC_MODE | APIC_REGISTER_VIRT | VIRTUAL_INTR_DELIVERY;
const NOTIFICATION = 0xf2;
const le32 = (n: number): number[] => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, n >>> 24];
const wrmsr = (msr: number, lo: number, hi = 0): number[] => [
  ...[0xb9, ...le32(msr)],
  ...[0xb8, ...le32(lo)],
  ...[0xba, ...le32(hi)],
  ...[0x0f, 0x30],
];
const rdmsr = (msr: number): number[] => [0xb9, ...le32(msr), 0x0f, 0x32];

/** A guest with interrupts enabled that ends in VMCALL, as does the handler of vectors 32 and above. */
function guest(code: readonly number[], secondary = ALL): VmxBox {
  const box = new VmxBox()
    .begin()
    .code([...code, ...VMCALL])
    .code(VMCALL, AT.HANDLER);
  for (let vector = 32; vector < 256; vector++) box.gate(vector, AT.HANDLER);
  return box
    .change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.TPR_SHADOW)
    .change(C.SECONDARY_VM_EXEC_CONTROL, secondary)
    .write(G.RFLAGS, ENABLED);
}

const register = (box: VmxBox, offset: number): number => box.cpu.mem.i32[(AT.VAPIC + offset) >> 2]!;
const offsetOf = (reg: number, vector: number): number => reg + (vector >> 5) * 0x10;
const isSet = (box: VmxBox, reg: number, vector: number): boolean =>
  ((register(box, offsetOf(reg, vector)) >>> (vector & 31)) & 1) === 1;

/** Vectors in VIRR and VISR, with RVI and SVI as they must be then. */
function interrupts(box: VmxBox, requested: readonly number[], inService: readonly number[] = []): VmxBox {
  for (const [reg, vectors] of [
    [APIC_REG.IRR, requested],
    [APIC_REG.ISR, inService],
  ] as const) {
    for (const vector of vectors) {
      const at = AT.VAPIC + offsetOf(reg, vector);
      box.word(at, box.cpu.mem.i32[at >> 2]! | (1 << (vector & 31)));
    }
  }
  return box.write(G.INTR_STATUS, Math.max(0, ...requested) | (Math.max(0, ...inService) << 8));
}

describe('Evaluation of Pending Virtual Interrupts, Virtual-Interrupt Delivery', () => {
  it('delivers RVI at VM entry', () => {
    const box = interrupts(guest([NOP]), [0x31, 0x45], [0x21]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
    expect(box.read(G.INTR_STATUS)).toBe(0x4531);
    expect([isSet(box, APIC_REG.IRR, 0x45), isSet(box, APIC_REG.ISR, 0x45)]).toEqual([false, true]);
    expect([isSet(box, APIC_REG.IRR, 0x31), isSet(box, APIC_REG.ISR, 0x21)]).toEqual([true, true]);
    expect(register(box, APIC_REG.PROCPRI)).toBe(0x40);
  });

  it.each([
    ['VTPR', 0x40, 0, 0x40],
    ['VTPR with a subclass', 0x4f, 0, 0x4f],
    ['the interrupt in service', 0x12, 0x48, 0x40],
  ])('holds a vector back that is not of a higher class than %s', (_, vtpr, inService, vppr) => {
    const box = interrupts(guest([NOP]), [0x45], inService === 0 ? [] : [inService]);
    box.word(AT.VAPIC + APIC_REG.TASKPRI, vtpr);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(1);
    expect(register(box, APIC_REG.PROCPRI)).toBe(vppr);
    expect(box.read(G.INTR_STATUS)).toBe(0x45 | (inService << 8));
  });

  it('waits for RFLAGS.IF and for the end of blocking by STI', () => {
    const box = interrupts(guest([NOP, STI, NOP, NOP]), [0x45]).write(G.RFLAGS, RFLAGS.FIXED);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
    // The frame's RIP: the interrupt came after the NOP that follows STI.
    expect(box.cpu.mem.i32[(AT.STACK_TOP - 40) >> 2]! - AT.CODE).toBe(3);
  });

  it('is not recognized with interrupt-window exiting', () => {
    const box = interrupts(guest([NOP]), [0x45]);
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.INTR_WINDOW_EXITING);
    expect(box.launch()).toBe(R.INTERRUPT_WINDOW);
    expect(box.read(G.INTR_STATUS)).toBe(0x45);
  });

  it('wakes a guest in HLT', () => {
    const box = interrupts(guest([NOP]), [0x45]).write(G.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
  });

  it('comes before an external interrupt and after an NMI', () => {
    const box = interrupts(guest([NOP]), [0x45]);
    box.cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    box.cpu.apic.receive(APIC_DM.FIXED, 0x80, 0);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.ripOffset()).toBe(HANDLER);
    const nmi = interrupts(guest([NOP]), [0x45]);
    nmi.cpu.sys.nmiPending = 1;
    expect(nmi.launch()).toBe(R.EXCEPTION_NMI);
    expect(nmi.read(G.INTR_STATUS)).toBe(0x45);
  });

  it('is told by the IDT-vectoring information if its delivery exits', () => {
    const box = interrupts(guest([NOP]), [0x45]);
    box.word(AT.IDT + 0x45 * 16 + 4, 0);
    box.write(C.EXCEPTION_BITMAP, 0xffff_ffff);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(I.IDT_VECTORING_INFO_FIELD)).toBe(
      (INTR_INFO.VALID_MASK | INTR_TYPE.EXT_INTR | 0x45) >>> 0,
    );
  });

  it('leaves RVI alone without the control', () => {
    const box = interrupts(guest([NOP], VIRTUALIZE_X2APIC_MODE), [0x45]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(1);
    expect(box.read(G.INTR_STATUS)).toBe(0x45);
  });
});

describe('TPR Virtualization', () => {
  it.each([
    ['MOV to CR8', [0x44, 0x0f, 0x22, 0xc0]], // mov cr8, rax
    ['WRMSR', wrmsr(0x808, 0x30)],
  ])('delivers what %s no longer holds back', (_, code) => {
    const box = interrupts(guest(code), [0x45]);
    box.word(AT.VAPIC + APIC_REG.TASKPRI, 0x80);
    setReg(box.cpu, 0, 3n);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
    expect(register(box, APIC_REG.TASKPRI)).toBe(0x30);
  });

  it('without virtual-interrupt delivery, WRMSR below the threshold exits after the instruction', () => {
    const code = wrmsr(0x808, 0x4f);
    const box = guest(code, VIRTUALIZE_X2APIC_MODE);
    box.word(AT.VAPIC + APIC_REG.TASKPRI, 0x50);
    expect(box.write(C.TPR_THRESHOLD, 5).launch()).toBe(R.TPR_BELOW_THRESHOLD);
    expect(box.ripOffset()).toBe(code.length);
    expect(register(box, APIC_REG.TASKPRI)).toBe(0x4f);
  });

  it('with it, the threshold does not matter', () => {
    const box = guest(wrmsr(0x808, 0)).write(C.TPR_THRESHOLD, 15);
    expect(box.launch()).toBe(R.VMCALL);
  });
});

describe('EOI Virtualization', () => {
  it('ends the highest interrupt and lets the next in', () => {
    const box = interrupts(guest(wrmsr(0x80b, 0)), [0x45], [0x21, 0x51]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
    expect([isSet(box, APIC_REG.ISR, 0x51), isSet(box, APIC_REG.ISR, 0x21)]).toEqual([false, true]);
    expect(box.read(G.INTR_STATUS)).toBe(0x4500);
  });

  it.each([
    [0x21, C.EOI_EXIT_BITMAP0, 0x2_0000_0000],
    [0x51, C.EOI_EXIT_BITMAP1, 0x2_0000],
    [0xa0, C.EOI_EXIT_BITMAP2, 0x1_0000_0000],
    [0xe3, C.EOI_EXIT_BITMAP3, 0x8_0000_0000],
  ])('exits after the instruction if the bitmap has vector %i', (vector, field, bits) => {
    const code = wrmsr(0x80b, 0);
    const box = interrupts(guest(code), [0xf5], [0x20, vector]).write(field, bits);
    box.word(AT.VAPIC + APIC_REG.TASKPRI, 0xf0);
    expect(box.launch()).toBe(R.EOI_INDUCED);
    expect([box.read(I.EXIT_QUALIFICATION), box.ripOffset()]).toEqual([vector, code.length]);
    expect(box.read(G.INTR_STATUS)).toBe(0x20f5);
    const other = interrupts(guest(code), [], [0x20, vector ^ 1]).write(field, bits);
    expect(other.launch()).toBe(R.VMCALL);
  });
});

describe('Self-IPI Virtualization', () => {
  it('requests the vector', () => {
    const box = interrupts(guest(wrmsr(0x83f, 0x61)), [0x45], [0x50]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
    expect(box.read(G.INTR_STATUS)).toBe(0x6145);
  });

  it('does not lower RVI', () => {
    const box = interrupts(guest(wrmsr(0x83f, 0x33)), [0x45], [0x50]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.read(G.INTR_STATUS)).toBe(0x5045);
    expect(isSet(box, APIC_REG.IRR, 0x33)).toBe(true);
  });

  it('exits after the instruction for a vector below 16', () => {
    const code = wrmsr(0x83f, 0x0f);
    const box = guest(code);
    expect(box.launch()).toBe(R.APIC_WRITE);
    expect([box.read(I.EXIT_QUALIFICATION), box.ripOffset()]).toEqual([APIC_REG.SELF_IPI, code.length]);
    expect(register(box, APIC_REG.SELF_IPI)).toBe(0x0f);
  });
});

describe('Virtualizing MSR-Based APIC Accesses', () => {
  /** The exit, and the exception if it is one; the local APIC itself is in xAPIC mode, so that its MSRs raise GP. */
  function outcome(code: readonly number[], secondary: number): string {
    const box = guest(code, secondary).write(C.EXCEPTION_BITMAP, 1 << VECTOR.GP);
    const reason = box.launch();
    if (reason !== R.EXCEPTION_NMI) return reason === R.VMCALL ? 'done' : `exit ${reason}`;
    return (box.read(I.VM_EXIT_INTR_INFO) & 0xff) === VECTOR.GP && box.ripOffset() < code.length
      ? 'GP'
      : 'other';
  }

  it.each([
    ['TPR, bits 63:8', 0x808, 0x100, 0, 'GP'],
    ['TPR, bits 63:32', 0x808, 0, 1, 'GP'],
    ['TPR', 0x808, 0xff, 0, 'done'],
    ['EOI not 0', 0x80b, 1, 0, 'GP'],
    ['EOI, bits 63:32', 0x80b, 0, 1, 'GP'],
    ['EOI', 0x80b, 0, 0, 'done'],
    ['self IPI, bits 63:8', 0x83f, 0x141, 0, 'GP'],
    ['self IPI', 0x83f, 0x1f, 0, 'done'],
    ['another register', 0x828, 0, 0, 'GP'],
  ])('WRMSR of %s', (_, msr, lo, hi, expected) => {
    const code = [0xfa, ...wrmsr(msr, lo, hi)]; // cli
    expect(outcome(code, ALL)).toBe(expected);
  });

  it.each([0x80b, 0x83f])('WRMSR of %i is plain without virtual-interrupt delivery', (msr) => {
    expect(outcome(wrmsr(msr, 0), VIRTUALIZE_X2APIC_MODE | APIC_REGISTER_VIRT)).toBe('GP');
  });

  it('RDMSR reads any 64 bits of the page with APIC-register virtualization', () => {
    const box = guest(rdmsr(0x830));
    box.word(AT.VAPIC + 0x300, 0x1234_5678);
    box.word(AT.VAPIC + 0x304, 0x0abc_def0);
    expect(box.launch()).toBe(R.VMCALL);
    expect([box.cpu.s[0], box.cpu.s[4]]).toEqual([0x1234_5678, 0x0abc_def0]);
    expect(outcome(rdmsr(0x8ff), ALL)).toBe('done');
    expect(outcome(rdmsr(0x900), ALL)).toBe('GP');
  });

  it('RDMSR reads only the TPR without it, and nothing without x2APIC virtualization', () => {
    expect(outcome(rdmsr(0x808), VIRTUALIZE_X2APIC_MODE)).toBe('done');
    expect(outcome(rdmsr(0x830), VIRTUALIZE_X2APIC_MODE)).toBe('GP');
    expect(outcome(rdmsr(0x808), 0)).toBe('GP');
    expect(outcome(wrmsr(0x808, 0), 0)).toBe('GP');
  });

  it('an MSR bitmap goes first', () => {
    const box = guest(rdmsr(0x808));
    box.cpu.mem.u8[AT.MSR_BITMAP + (0x808 >> 3)] = 1;
    expect(box.launch()).toBe(R.MSR_READ);
  });
});

describe('Posted-Interrupt Processing', () => {
  /** The descriptor holds these vectors and ON, and interrupt `vector` is pending in the local APIC. */
  function posted(code: readonly number[], vectors: readonly number[], vector = NOTIFICATION): VmxBox {
    const box = guest(code).change(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.POSTED_INTR);
    box.write(C.POSTED_INTR_NV, NOTIFICATION).write(C.POSTED_INTR_DESC_ADDR, AT.DATA + 0x40);
    const { i32 } = box.cpu.mem;
    for (const v of vectors) i32[((AT.DATA + 0x40) >> 2) + (v >> 5)]! |= 1 << (v & 31);
    i32[(AT.DATA + 0x60) >> 2] = 3;
    box.cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    box.cpu.apic.receive(APIC_DM.FIXED, vector, 0);
    return box;
  }

  it('takes the requests without a VM exit', () => {
    const box = posted([NOP], [0x31, 0x45, 0xe1]);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
    expect(box.read(G.INTR_STATUS)).toBe(0xe145);
    expect([0x31, 0x45, 0xe1].map((v) => isSet(box, APIC_REG.IRR, v))).toEqual([true, true, false]);
    const { i32 } = box.cpu.mem;
    const descriptor = Array.from(i32.subarray((AT.DATA + 0x40) >> 2, (AT.DATA + 0x68) >> 2));
    expect(descriptor).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    expect(box.cpu.apic.vectors.highestInService()).toBe(0);
  });

  it('merges them with what was requested before', () => {
    const box = interrupts(posted([NOP], [0x45]), [0x61]).write(G.RFLAGS, RFLAGS.FIXED);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(1);
    expect(box.read(G.INTR_STATUS)).toBe(0x61);
    expect([isSet(box, APIC_REG.IRR, 0x45), isSet(box, APIC_REG.IRR, 0x61)]).toEqual([true, true]);
  });

  it('wakes a guest in HLT', () => {
    const box = posted([NOP], [0x45]).write(G.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
    expect(box.launch()).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(HANDLER);
  });

  it('goes on to an external interrupt behind the notification', () => {
    const box = posted([NOP], []);
    box.cpu.apic.receive(APIC_DM.FIXED, 0x80, 0);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe((INTR_INFO.VALID_MASK | 0x80) >>> 0);
  });

  it('any other vector exits', () => {
    const box = posted([NOP], [0x45], 0xf1);
    expect(box.launch()).toBe(R.EXTERNAL_INTERRUPT);
    expect(box.read(I.VM_EXIT_INTR_INFO)).toBe((INTR_INFO.VALID_MASK | 0xf1) >>> 0);
    expect(box.cpu.mem.i32[(AT.DATA + 0x60) >> 2]).toBe(3);
  });
});
