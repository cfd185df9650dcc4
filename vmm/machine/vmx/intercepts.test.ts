// SPDX-License-Identifier: GPL-2.0-only
/**
 * VM exits due to instructions, as machine code: reason, length, qualification, instruction information. Expectations
 * are from SDM "Instructions That Cause VM Exits", "Exit Qualification" and "Information for VM Exits Due to Instruction
 * Execution". Each guest ends with VMCALL, which is where it exits if the instruction does not.
 */
import { describe, expect, it } from 'vitest';
import { CR0, CR4 } from '../../../lib/x86/registers.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { setReg } from '../cpu/regs.ts';
import { AT, VmxBox } from './testing/fixture.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
type Setup = (box: VmxBox) => unknown;
const cpuBased =
  (bits: number): Setup =>
  (box) =>
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, bits);
const secondary =
  (bits: number): Setup =>
  (box) =>
    box.change(C.SECONDARY_VM_EXEC_CONTROL, bits);
const cr4 =
  (bits: number): Setup =>
  (box) =>
    box.change(G.CR4, bits);
const both =
  (...steps: Setup[]): Setup =>
  (box) => {
    for (const step of steps) step(box);
  };
const reg =
  (n: number, value: number): Setup =>
  (box) => {
    setReg(box.cpu, n, BigInt(value));
  };
const [RAX, RCX, RDX, RBX, RSI, RDI] = [0, 1, 2, 3, 6, 7];

interface Row {
  readonly name: string;
  readonly bytes: readonly number[];
  /** What makes it exit; without it the guest goes on, unless `always`. */
  readonly when?: Setup;
  /** Needed with and without the exit. */
  readonly before?: Setup;
  readonly reason: number;
  readonly qual?: number;
  readonly info?: number;
  readonly gla?: number;
}

// prettier-ignore
const ROWS: readonly Row[] = [
  { name: 'CPUID', bytes: [0x0f, 0xa2], reason: R.CPUID },
  { name: 'INVD', bytes: [0x0f, 0x08], reason: R.INVD },
  { name: 'XSETBV', bytes: [0x0f, 0x01, 0xd1], before: cr4(CR4.OSXSAVE), reason: R.XSETBV },
  { name: 'HLT', bytes: [0xf4], reason: R.HLT },
  { name: 'RDTSC', bytes: [0x0f, 0x31], when: cpuBased(CPU_BASED.RDTSC_EXITING), reason: R.RDTSC },
  { name: 'RDTSCP', bytes: [0x0f, 0x01, 0xf9], before: secondary(SECONDARY_EXEC.ENABLE_RDTSCP),
    when: cpuBased(CPU_BASED.RDTSC_EXITING), reason: R.RDTSCP },
  { name: 'RDPMC', bytes: [0x0f, 0x33], before: cpuBased(CPU_BASED.RDPMC_EXITING), reason: R.RDPMC },
  { name: 'PAUSE', bytes: [0xf3, 0x90], when: cpuBased(CPU_BASED.PAUSE_EXITING), reason: R.PAUSE_INSTRUCTION },
  { name: 'WBINVD', bytes: [0x0f, 0x09], when: secondary(SECONDARY_EXEC.WBINVD_EXITING), reason: R.WBINVD },
  { name: 'RDRAND ebx', bytes: [0x0f, 0xc7, 0xf3], when: secondary(SECONDARY_EXEC.RDRAND_EXITING), reason: R.RDRAND,
    info: (3 << 3) | (1 << 11) },
  { name: 'RDSEED r9', bytes: [0x49, 0x0f, 0xc7, 0xf9], when: secondary(SECONDARY_EXEC.RDSEED_EXITING), reason: R.RDSEED,
    info: (9 << 3) | (2 << 11) },
  { name: 'INVLPG [rbx+8]', bytes: [0x0f, 0x01, 0x7b, 0x08], before: reg(RBX, 0x1234_5000),
    when: cpuBased(CPU_BASED.INVLPG_EXITING), reason: R.INVLPG, qual: 0x1234_5008 },
  { name: 'INVPCID rax, [rbx+rcx*4+16]', bytes: [0x66, 0x0f, 0x38, 0x82, 0x44, 0x8b, 0x10],
    before: both(secondary(SECONDARY_EXEC.ENABLE_INVPCID), reg(RBX, AT.DATA), reg(RAX, 2)),
    when: cpuBased(CPU_BASED.INVLPG_EXITING), reason: R.INVPCID, qual: 0x10,
    info: 2 | (2 << 7) | (3 << 15) | (1 << 18) | (3 << 23) },
  { name: 'MOV cr3, rbx', bytes: [0x0f, 0x22, 0xdb], before: reg(RBX, AT.PML4), when: cpuBased(CPU_BASED.CR3_LOAD_EXITING),
    reason: R.CR_ACCESS, qual: 0x303 },
  { name: 'MOV rcx, cr3', bytes: [0x0f, 0x20, 0xd9], when: cpuBased(CPU_BASED.CR3_STORE_EXITING), reason: R.CR_ACCESS, qual: 0x113 },
  { name: 'MOV cr8, rax', bytes: [0x44, 0x0f, 0x22, 0xc0], when: cpuBased(CPU_BASED.CR8_LOAD_EXITING), reason: R.CR_ACCESS, qual: 0x008 },
  { name: 'MOV r9, cr8', bytes: [0x45, 0x0f, 0x20, 0xc1], when: cpuBased(CPU_BASED.CR8_STORE_EXITING), reason: R.CR_ACCESS, qual: 0x918 },
  { name: 'MOV cr4, rax that changes a masked bit', bytes: [0x0f, 0x22, 0xe0], before: reg(RAX, CR4.PAE | CR4.VMXE | CR4.PGE),
    when: (box) => box.write(C.CR4_GUEST_HOST_MASK, CR4.PGE), reason: R.CR_ACCESS, qual: 0x004 },
  { name: 'MOV cr0, rax that changes a masked bit', bytes: [0x0f, 0x22, 0xc0], before: reg(RAX, 0x8000_0031),
    when: (box) => box.write(C.CR0_GUEST_HOST_MASK, CR0.WP).write(C.CR0_READ_SHADOW, CR0.WP), reason: R.CR_ACCESS, qual: 0x000 },
  { name: 'CLTS', bytes: [0x0f, 0x06],
    when: (box) => box.write(C.CR0_GUEST_HOST_MASK, CR0.TS).write(C.CR0_READ_SHADOW, CR0.TS), reason: R.CR_ACCESS, qual: 0x20 },
  { name: 'LMSW ax', bytes: [0x0f, 0x01, 0xf0], before: reg(RAX, 0xa009),
    when: (box) => box.write(C.CR0_GUEST_HOST_MASK, CR0.TS), reason: R.CR_ACCESS, qual: 0xa009_0030 },
  { name: 'LMSW [rbx]', bytes: [0x0f, 0x01, 0x33], before: both(reg(RBX, AT.DATA), (box) => { box.word(AT.DATA, 0x7008); }),
    when: (box) => box.write(C.CR0_GUEST_HOST_MASK, CR0.TS), reason: R.CR_ACCESS, qual: 0x7008_0070, gla: AT.DATA },
  { name: 'MOV dr7, rbx', bytes: [0x0f, 0x23, 0xfb], before: reg(RBX, 0x400), when: cpuBased(CPU_BASED.MOV_DR_EXITING), reason: R.DR_ACCESS, qual: 0x307 },
  { name: 'MOV rcx, dr6', bytes: [0x0f, 0x21, 0xf1], when: cpuBased(CPU_BASED.MOV_DR_EXITING), reason: R.DR_ACCESS, qual: 0x116 },
  { name: 'IN al, 0x60', bytes: [0xe4, 0x60], when: cpuBased(CPU_BASED.UNCOND_IO_EXITING), reason: R.IO_INSTRUCTION, qual: 0x0060_0048 },
  { name: 'OUT dx, eax', bytes: [0xef], before: reg(RDX, 0x1_03f8), when: cpuBased(CPU_BASED.UNCOND_IO_EXITING),
    reason: R.IO_INSTRUCTION, qual: 0x03f8_0003 },
  { name: 'INSB', bytes: [0x6c], before: both(reg(RDX, 0x71), reg(RDI, AT.DATA)), when: cpuBased(CPU_BASED.UNCOND_IO_EXITING),
    reason: R.IO_INSTRUCTION, qual: 0x0071_0018, info: 2 << 7, gla: AT.DATA },
  { name: 'REP OUTSW', bytes: [0xf3, 0x66, 0x6f], before: both(reg(RDX, 0x80), reg(RSI, AT.DATA), reg(RCX, 1)),
    when: cpuBased(CPU_BASED.UNCOND_IO_EXITING), reason: R.IO_INSTRUCTION, qual: 0x0080_0031, info: (2 << 7) | (3 << 15), gla: AT.DATA },
  { name: 'LGDT [rbx]', bytes: [0x0f, 0x01, 0x13], before: both(reg(RBX, AT.DATA), (box) => { box.word(AT.DATA, 0x3f); }),
    when: secondary(SECONDARY_EXEC.DESC), reason: R.GDTR_IDTR, qual: 0, info: (2 << 7) | (1 << 11) | (3 << 15) | (1 << 22) | (3 << 23) | (2 << 28) },
  { name: 'SIDT [rsp+8]', bytes: [0x0f, 0x01, 0x4c, 0x24, 0x08], when: secondary(SECONDARY_EXEC.DESC), reason: R.GDTR_IDTR, qual: 8,
    info: (2 << 7) | (1 << 11) | (2 << 15) | (1 << 22) | (4 << 23) | (1 << 28) },
  { name: 'SLDT ecx', bytes: [0x0f, 0x00, 0xc1], when: secondary(SECONDARY_EXEC.DESC), reason: R.LDTR_TR, qual: 0, info: (1 << 3) | (1 << 10) },
  { name: 'STR edx', bytes: [0x0f, 0x00, 0xca], when: secondary(SECONDARY_EXEC.DESC), reason: R.LDTR_TR, info: (2 << 3) | (1 << 10) | (1 << 28) },
  { name: 'LLDT ax', bytes: [0x0f, 0x00, 0xd0], before: reg(RAX, 0), when: secondary(SECONDARY_EXEC.DESC), reason: R.LDTR_TR, info: (1 << 10) | (2 << 28) },
  { name: 'VMCLEAR [rbx]', bytes: [0x66, 0x0f, 0xc7, 0x33], before: reg(RBX, AT.DATA), reason: R.VMCLEAR,
    info: (2 << 7) | (3 << 15) | (1 << 22) | (3 << 23) },
  { name: 'VMPTRLD [rip+0x20]', bytes: [0x0f, 0xc7, 0x35, 0x20, 0, 0, 0], reason: R.VMPTRLD, qual: AT.CODE + 7 + 0x20,
    info: (2 << 7) | (3 << 15) | (1 << 22) | (1 << 27) },
  { name: 'VMPTRLD fs:[0x40]', bytes: [0x64, 0x0f, 0xc7, 0x34, 0x25, 0x40, 0, 0, 0], before: (box) => box.write(G.FS_BASE, 0x7000_0000),
    reason: R.VMPTRLD, qual: 0x40, info: (2 << 7) | (4 << 15) | (1 << 22) | (1 << 27) },
  { name: 'OUTSB from gs', bytes: [0x65, 0x6e], before: both(reg(RDX, 0x80), reg(RSI, 0x10), (box) => box.write(G.GS_BASE, AT.DATA)),
    when: cpuBased(CPU_BASED.UNCOND_IO_EXITING), reason: R.IO_INSTRUCTION, qual: 0x0080_0010, info: (2 << 7) | (5 << 15), gla: AT.DATA + 0x10 },
  { name: 'VMPTRST [rbx-8]', bytes: [0x0f, 0xc7, 0x7b, 0xf8], reason: R.VMPTRST, qual: 0xffff_fff8,
    info: (2 << 7) | (3 << 15) | (1 << 22) | (3 << 23) },
  { name: 'VMXON [rbx]', bytes: [0xf3, 0x0f, 0xc7, 0x33], reason: R.VMON, info: (2 << 7) | (3 << 15) | (1 << 22) | (3 << 23) },
  { name: 'VMREAD rcx, rbx', bytes: [0x0f, 0x78, 0xd9], reason: R.VMREAD, info: (1 << 3) | (1 << 10) | (3 << 28) },
  { name: 'VMWRITE rbx, [rcx]', bytes: [0x0f, 0x79, 0x19], reason: R.VMWRITE, info: (2 << 7) | (3 << 15) | (1 << 22) | (1 << 23) | (3 << 28) },
  { name: 'INVEPT rax, [rbx]', bytes: [0x66, 0x0f, 0x38, 0x80, 0x03], reason: R.INVEPT, info: (2 << 7) | (3 << 15) | (1 << 22) | (3 << 23) },
  { name: 'INVVPID rcx, [rbx]', bytes: [0x66, 0x0f, 0x38, 0x81, 0x0b], reason: R.INVVPID,
    info: (2 << 7) | (3 << 15) | (1 << 22) | (3 << 23) | (1 << 28) },
  { name: 'VMLAUNCH', bytes: [0x0f, 0x01, 0xc2], reason: R.VMLAUNCH },
  { name: 'VMRESUME', bytes: [0x0f, 0x01, 0xc3], reason: R.VMRESUME },
  { name: 'VMXOFF', bytes: [0x0f, 0x01, 0xc4], reason: R.VMOFF },
];

describe('exits due to instructions', () => {
  const run = ({ bytes }: Row, ...setups: (Setup | undefined)[]): VmxBox => {
    const box = new VmxBox().begin().code([...bytes, ...VMCALL]);
    for (const setup of setups) setup?.(box);
    box.launch();
    return box;
  };

  it.each(ROWS)('$name exits', (row) => {
    const box = run(row, row.before, row.when);
    expect(box.read(VMCS_INFO.VM_EXIT_REASON)).toBe(row.reason);
    expect(box.ripOffset()).toBe(0);
    expect(box.read(VMCS_INFO.VM_EXIT_INSTRUCTION_LEN)).toBe(row.bytes.length);
    if (row.qual !== undefined) expect(box.read(VMCS_INFO.EXIT_QUALIFICATION)).toBe(row.qual >>> 0);
    if (row.info !== undefined) expect(box.read(VMCS_INFO.VMX_INSTRUCTION_INFO)).toBe(row.info >>> 0);
    if (row.gla !== undefined) expect(box.read(VMCS_INFO.GUEST_LINEAR_ADDRESS)).toBe(row.gla);
    expect(box.read(VMCS_INFO.VM_EXIT_INTR_INFO)).toBe(0);
  });

  it.each(ROWS.filter((row) => row.when !== undefined))('$name does not exit without its control', (row) => {
    const box = run(row, row.before);
    expect(box.read(VMCS_INFO.VM_EXIT_REASON)).toBe(R.VMCALL);
    expect(box.ripOffset()).toBe(row.bytes.length);
  });
});

describe('control registers without an exit', () => {
  const runs = (bytes: readonly number[], setup: Setup): VmxBox => {
    const box = new VmxBox().begin().code([...bytes, ...VMCALL]);
    setup(box);
    expect(box.launch()).toBe(R.VMCALL);
    return box;
  };

  it('a CR3-target value is loaded without an exit, any other value exits', () => {
    const target = both(reg(RBX, AT.PML4), cpuBased(CPU_BASED.CR3_LOAD_EXITING), (box) =>
      box.write(C.CR3_TARGET_COUNT, 2).write(C.CR3_TARGET_VALUE1, AT.PML4),
    );
    runs([0x0f, 0x22, 0xdb], target);
    const box = new VmxBox().begin().code([0x0f, 0x22, 0xdb]);
    both(target, (b) => b.write(C.CR3_TARGET_COUNT, 1))(box);
    expect(box.launch()).toBe(R.CR_ACCESS);
  });

  it('MOV from CR0 and CR4 read masked bits from the shadow', () => {
    const box = runs([0x0f, 0x20, 0xc0, 0x0f, 0x20, 0xe1], (b) =>
      b
        .write(C.CR0_GUEST_HOST_MASK, CR0.TS | CR0.NE)
        .write(C.CR0_READ_SHADOW, CR0.TS)
        .write(C.CR4_GUEST_HOST_MASK, CR4.VMXE | CR4.PGE)
        .write(C.CR4_READ_SHADOW, CR4.PGE),
    );
    expect(box.cpu.s[0]! >>> 0).toBe((CR0.PE | CR0.WP | CR0.ET | CR0.PG | CR0.TS) >>> 0);
    expect(box.cpu.s[2]! >>> 0).toBe(CR4.PAE | CR4.PGE);
  });

  it('a write that keeps the shadow leaves masked bits alone', () => {
    // The guest writes VMXE as 0, which is what its shadow says; the real bit must stay 1.
    const box = runs(
      [0x0f, 0x22, 0xe0],
      both(reg(RAX, CR4.PAE | CR4.PGE), (b) => b.write(C.CR4_GUEST_HOST_MASK, CR4.VMXE)),
    );
    expect(box.read(G.CR4)).toBe(CR4.PAE | CR4.PGE | CR4.VMXE);
  });

  it('CLTS with TS masked and 0 in the shadow changes nothing', () => {
    const box = runs([0x0f, 0x06], (b) => b.change(G.CR0, CR0.TS).write(C.CR0_GUEST_HOST_MASK, CR0.TS));
    expect(box.read(G.CR0) & CR0.TS).toBe(CR0.TS);
  });

  it('LMSW cannot clear PE, so a masked PE that reads 1 does not exit', () => {
    runs(
      [0x0f, 0x01, 0xf0],
      both(reg(RAX, 0), (b) => b.write(C.CR0_GUEST_HOST_MASK, CR0.PE).write(C.CR0_READ_SHADOW, CR0.PE)),
    );
  });

  it('a value that VMX operation forbids is a GP, not an exit', () => {
    const box = new VmxBox().begin().code([0x0f, 0x22, 0xe0]);
    both(reg(RAX, CR4.PAE), (b) => b.write(C.EXCEPTION_BITMAP, 1 << 13))(box);
    expect(box.launch()).toBe(R.EXCEPTION_NMI);
    expect(box.read(VMCS_INFO.VM_EXIT_INTR_INFO)).toBe(0x8000_0b0d);
  });

  it('CR8 accesses go to the virtual-APIC page with the TPR shadow', () => {
    const box = runs(
      [0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc3],
      both(reg(RAX, 9), cpuBased(CPU_BASED.TPR_SHADOW)),
    );
    expect(box.cpu.mem.i32[(AT.VAPIC + 0x80) >>> 2]).toBe(0x90);
    expect(box.cpu.s[2 * RBX]).toBe(9);
    expect(box.cpu.apic.cr8()).toBe(0);
  });

  it('a VTPR below the threshold exits after the instruction', () => {
    const box = new VmxBox().begin().code([0x44, 0x0f, 0x22, 0xc0, 0x90, ...VMCALL]);
    both(
      reg(RAX, 4),
      cpuBased(CPU_BASED.TPR_SHADOW),
      (b) => b.write(C.TPR_THRESHOLD, 5),
      (b) => {
        b.word(AT.VAPIC + 0x80, 0x50);
      },
    )(box);
    expect(box.launch()).toBe(R.TPR_BELOW_THRESHOLD);
    expect(box.ripOffset()).toBe(4);
    box.cpu.mem.i32[(AT.VAPIC + 0x80) >>> 2] = 0x50;
    expect(box.resume()).toBe(R.VMCALL);
  });
});
