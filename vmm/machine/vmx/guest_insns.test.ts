// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMX instructions as machine code on a bare machine, in the manual's order of checks: UD, exit, GP, operand, outcome in
 * RFLAGS. SDM, the VMX instruction reference and "Conventions" (VMsucceed, VMfailInvalid, VMfailValid).
 */
import { describe, expect, it } from 'vitest';
import { CR4, RFLAGS } from '../../../lib/x86/registers.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { ARITH_FLAGS, getRflags, setRflags } from '../cpu/flags.ts';
import { getReg, getRip, setReg } from '../cpu/regs.ts';
import { enterLongMode } from '../cpu/system/reset.ts';
import { cpuRun } from '../cpu/system/run.ts';
import { RUN, S } from '../cpu/state.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import { vmread32, vmwrite32 } from './vmcs_access.ts';
import { vmclear, vmptrld, vmxon } from './vmcs_insns.ts';

const RBX = 3;
const CF = RFLAGS.CF;
const ZF = RFLAGS.ZF;
// prettier-ignore
const CODE = {
  VMXON: [0xf3, 0x0f, 0xc7, 0x33], VMXON_REG: [0xf3, 0x0f, 0xc7, 0xf3], VMXOFF: [0x0f, 0x01, 0xc4],
  VMCLEAR: [0x66, 0x0f, 0xc7, 0x33], VMPTRLD: [0x0f, 0xc7, 0x33], VMPTRST: [0x0f, 0xc7, 0x3b],
  VMREAD: [0x0f, 0x78, 0xc1], VMREAD_MEM: [0x0f, 0x78, 0x03], VMWRITE: [0x0f, 0x79, 0xc1], VMWRITE_MEM: [0x0f, 0x79, 0x03],
  VMLAUNCH: [0x0f, 0x01, 0xc2], VMRESUME: [0x0f, 0x01, 0xc3], VMCALL: [0x0f, 0x01, 0xc1], VMFUNC: [0x0f, 0x01, 0xd4],
  INVEPT: [0x66, 0x0f, 0x38, 0x80, 0x03], INVVPID: [0x66, 0x0f, 0x38, 0x81, 0x03],
} as const;
const MEMORY_OPERAND = ['VMXON', 'VMCLEAR', 'VMPTRLD', 'VMPTRST', 'INVEPT', 'INVVPID'] as const;

/** Execute one instruction in 64-bit mode; the vector of the exception it raised, or -1. */
function step(box: VmxBox, bytes: readonly number[]): number {
  const { cpu } = box;
  for (let vector = 0; vector < 32; vector++) box.gate(vector, AT.HANDLER + 16 * vector);
  box.code(bytes);
  cpu.s[S.RIP] = AT.CODE;
  cpu.s[S.RIP + 1] = 0;
  setRflags(cpu, getRflags(cpu) | ARITH_FLAGS);
  expect(cpuRun(cpu, cpu.clock[0]! + 1)).toBe(RUN.DEADLINE);
  const rip = Number(getRip(cpu));
  if (rip === AT.CODE + bytes.length) return -1;
  return (rip - AT.HANDLER) / 16;
}
/** Outcome flags; all six were set before. */
const flags = (box: VmxBox): number => getRflags(box.cpu) & ARITH_FLAGS;

/** A pointer operand in memory at DATA, whose address is in RBX. */
function operand(box: VmxBox, lo: number, hi = 0): VmxBox {
  box.word(AT.DATA, lo);
  box.word(AT.DATA + 4, hi);
  box.word(AT.DATA + 8, 0);
  box.word(AT.DATA + 12, 0);
  setReg(box.cpu, RBX, BigInt(AT.DATA));
  return box;
}
const bare = (): VmxBox => operand(new VmxBox(), AT.VMXON);
const inRoot = (): VmxBox => {
  const box = bare();
  vmxon(box.cpu, AT.VMXON);
  return box;
};
const withVmcs = (): VmxBox => {
  const box = inRoot();
  vmclear(box.cpu, AT.VMCS);
  vmptrld(box.cpu, AT.VMCS);
  return box;
};
function toUser(box: VmxBox): VmxBox {
  const { cpu } = box;
  cpu.mem.i32[(AT.TSS + 4) >>> 2] = AT.STACK_TOP;
  enterLongMode(cpu, {
    cr3: AT.PML4,
    rip: BigInt(AT.CODE),
    rsp: BigInt(AT.STACK_TOP - 0x800),
    cpl: 3,
    cr4: cpu.s[S.CR4]!,
    gdt: { base: BigInt(AT.GDT), limit: 0x3f },
    idt: { base: BigInt(AT.IDT), limit: 0xfff },
    tss: { selector: 0x28, base: AT.TSS },
  });
  setReg(cpu, RBX, BigInt(AT.DATA));
  return box;
}

describe('faults of VMX instructions', () => {
  it.each(Object.entries(CODE).filter(([name]) => name !== 'VMXON'))(
    '%s is UD outside of VMX operation',
    (_name, bytes) => {
      expect(step(bare(), bytes)).toBe(6);
    },
  );

  it('VMXON is UD without CR4.VMXE, and with a register operand', () => {
    const box = bare();
    box.cpu.s[S.CR4] = CR4.PAE;
    expect(step(box, CODE.VMXON)).toBe(6);
    expect(step(bare(), CODE.VMXON_REG)).toBe(6);
  });

  it('VMXON is GP unless IA32_FEATURE_CONTROL is locked with VMX enabled', () => {
    for (const value of [0, 1, 4]) {
      const box = bare();
      box.cpu.sys.featCtl = value;
      expect(step(box, CODE.VMXON)).toBe(13);
    }
  });

  it('VMXON is GP with CR0.NE clear', () => {
    const box = bare();
    box.cpu.s[S.CR0] = box.cpu.s[S.CR0]! & ~0x20;
    expect(step(box, CODE.VMXON)).toBe(13);
  });

  const privileged = Object.entries(CODE).filter(([name]) => name !== 'VMFUNC' && name !== 'VMXON_REG');
  it.each(privileged)('%s is GP at CPL 3 in VMX root operation', (_name, bytes) => {
    expect(step(toUser(withVmcs()), bytes)).toBe(13);
  });

  it('VMXON is GP at CPL 3 outside of VMX operation', () => {
    expect(step(toUser(bare()), CODE.VMXON)).toBe(13);
  });

  it('VMFUNC and register forms are UD in VMX root operation', () => {
    expect(step(withVmcs(), CODE.VMFUNC)).toBe(6);
    expect(step(withVmcs(), CODE.VMXON_REG)).toBe(6);
  });

  it.each(MEMORY_OPERAND.filter((name) => name !== 'VMXON'))(
    '%s raises the page fault of its operand',
    (name) => {
      const box = withVmcs();
      setReg(box.cpu, RBX, 0x1_0000_0000n);
      setReg(box.cpu, 0, 1n);
      expect(step(box, CODE[name])).toBe(14);
    },
  );

  it('VMXON outside of VMX operation raises the page fault of its operand, inside it does not read it', () => {
    const box = bare();
    setReg(box.cpu, RBX, 0x1_0000_0000n);
    expect(step(box, CODE.VMXON)).toBe(14);
    const root = withVmcs();
    setReg(root.cpu, RBX, 0x1_0000_0000n);
    expect(step(root, CODE.VMXON)).toBe(-1);
    expect(flags(root)).toBe(ZF);
    expect(root.error()).toBe(VMXERR.VMXON_IN_VMX_ROOT_OPERATION);
  });
});

describe('outcomes in RFLAGS', () => {
  it('VMXON succeeds with all six flags clear', () => {
    const box = bare();
    expect(step(box, CODE.VMXON)).toBe(-1);
    expect(flags(box)).toBe(0);
    expect(box.cpu.vmx.vmxonPtr).toBe(AT.VMXON);
  });

  it('VMXON of a bad pointer sets CF', () => {
    const box = operand(bare(), AT.VMXON, 1);
    expect(step(box, CODE.VMXON)).toBe(-1);
    expect(flags(box)).toBe(CF);
    expect(box.cpu.vmx.vmxon).toBe(false);
  });

  it('VMCLEAR, VMPTRLD, VMPTRST and VMXOFF do what they say', () => {
    const box = operand(inRoot(), AT.VMCS);
    for (const insn of [CODE.VMCLEAR, CODE.VMPTRLD]) {
      expect(step(box, insn)).toBe(-1);
      expect(flags(box)).toBe(0);
    }
    setReg(box.cpu, RBX, BigInt(AT.DATA + 0x100));
    step(box, CODE.VMPTRST);
    expect(box.cpu.mem.i32[(AT.DATA + 0x100) >>> 2]).toBe(AT.VMCS);
    operand(box, AT.VMCS);
    step(box, CODE.VMCLEAR);
    step(box, CODE.VMPTRST);
    expect(box.cpu.mem.u64[AT.DATA / 8]).toBe(0xffff_ffff_ffff_ffffn);
    expect(step(box, CODE.VMXOFF)).toBe(-1);
    expect(box.cpu.vmx.vmxon).toBe(false);
  });

  it('VMPTRLD of the VMXON region sets ZF with error 10', () => {
    const box = operand(withVmcs(), AT.VMXON);
    step(box, CODE.VMPTRLD);
    expect(flags(box)).toBe(ZF);
    expect(box.error()).toBe(VMXERR.VMPTRLD_VMXON_POINTER);
  });

  it('VMCALL in VMX root operation is error 1', () => {
    const box = withVmcs();
    step(box, CODE.VMCALL);
    expect(flags(box)).toBe(ZF);
    expect(box.error()).toBe(VMXERR.VMCALL_IN_VMX_ROOT_OPERATION);
  });

  it('VMREAD and VMWRITE take registers and memory', () => {
    const box = withVmcs();
    const { cpu } = box;
    setReg(cpu, 0, BigInt(VMCS_GUEST.RIP));
    setReg(cpu, 1, 0x1234_5678_9abcn);
    step(box, CODE.VMWRITE);
    expect(flags(box)).toBe(0);
    setReg(cpu, 1, 0n);
    step(box, CODE.VMREAD);
    expect(getReg(cpu, 1)).toBe(0x1234_5678_9abcn);
    step(box, CODE.VMREAD_MEM);
    expect(cpu.mem.u64[AT.DATA / 8]).toBe(0x1234_5678_9abcn);
    operand(box, 77);
    step(box, CODE.VMWRITE_MEM);
    expect(vmread32(cpu, VMCS_GUEST.RIP)).toBe(77);
  });

  it('VMREAD and VMWRITE of an encoding beyond 32 bits are error 12', () => {
    for (const insn of [CODE.VMREAD, CODE.VMWRITE]) {
      const box = withVmcs();
      setReg(box.cpu, 0, 0x1_0000_0000n + BigInt(VMCS_GUEST.RIP));
      step(box, insn);
      expect(flags(box)).toBe(ZF);
      expect(box.error()).toBe(VMXERR.UNSUPPORTED_VMCS_COMPONENT);
    }
  });

  it('VMREAD, VMWRITE, VMLAUNCH and VMRESUME set CF without a current VMCS', () => {
    for (const insn of [CODE.VMREAD, CODE.VMWRITE, CODE.VMWRITE_MEM, CODE.VMLAUNCH, CODE.VMRESUME]) {
      const box = inRoot();
      expect(step(box, insn)).toBe(-1);
      expect(flags(box)).toBe(CF);
    }
  });

  it('memory operands of VMREAD and VMWRITE can fault', () => {
    for (const insn of [CODE.VMREAD_MEM, CODE.VMWRITE_MEM]) {
      const box = withVmcs();
      setReg(box.cpu, 0, BigInt(VMCS_GUEST.RIP));
      setReg(box.cpu, RBX, 0x1_0000_0000n);
      expect(step(box, insn)).toBe(14);
    }
  });

  // SDM: types of INVEPT are 1 and 2, of INVVPID 0 to 3.
  it.each([
    { name: 'INVEPT single context', bytes: CODE.INVEPT, type: 1n, lo: AT.EPT_PML4 | 0x1e, ok: true },
    { name: 'INVEPT single context, bad EPTP', bytes: CODE.INVEPT, type: 1n, lo: AT.EPT_PML4, ok: false },
    { name: 'INVEPT global', bytes: CODE.INVEPT, type: 2n, lo: 0, ok: true },
    { name: 'INVEPT type 0', bytes: CODE.INVEPT, type: 0n, lo: 0, ok: false },
    {
      name: 'INVEPT type 2^32 + 1',
      bytes: CODE.INVEPT,
      type: 0x1_0000_0001n,
      lo: AT.EPT_PML4 | 0x1e,
      ok: false,
    },
    { name: 'INVEPT, reserved half', bytes: CODE.INVEPT, type: 2n, lo: 0, high: 1, ok: false },
    { name: 'INVVPID address', bytes: CODE.INVVPID, type: 0n, lo: 1, high: 0x1000, ok: true },
    {
      name: 'INVVPID address, not canonical',
      bytes: CODE.INVVPID,
      type: 0n,
      lo: 1,
      highest: 0x8000,
      ok: false,
    },
    { name: 'INVVPID address, VPID 0', bytes: CODE.INVVPID, type: 0n, lo: 0, ok: false },
    { name: 'INVVPID single', bytes: CODE.INVVPID, type: 1n, lo: 0xffff, ok: true },
    { name: 'INVVPID single, VPID 0', bytes: CODE.INVVPID, type: 1n, lo: 0, ok: false },
    { name: 'INVVPID single, bits 31:16', bytes: CODE.INVVPID, type: 1n, lo: 0x1_0001, ok: false },
    { name: 'INVVPID all', bytes: CODE.INVVPID, type: 2n, lo: 0, ok: true },
    { name: 'INVVPID all, bits 31:16', bytes: CODE.INVVPID, type: 2n, lo: 0x1_0000, ok: false },
    { name: 'INVVPID single, keep globals', bytes: CODE.INVVPID, type: 3n, lo: 1, ok: true },
    { name: 'INVVPID type 4', bytes: CODE.INVVPID, type: 4n, lo: 1, ok: false },
  ])('$name', ({ bytes, type, lo, high = 0, highest = 0, ok }) => {
    const box = operand(withVmcs(), lo);
    box.word(AT.DATA + 8, high);
    box.word(AT.DATA + 12, highest);
    setReg(box.cpu, 0, type);
    expect(step(box, bytes)).toBe(-1);
    expect(flags(box)).toBe(ok ? 0 : ZF);
    if (!ok) expect(box.error()).toBe(VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  });
});

describe('a hypervisor in machine code', () => {
  it('launches a guest, and its host state runs after the exit', () => {
    const box = new VmxBox().begin().code(CODE.VMCALL, AT.SPARE).code([0x90, 0x90], AT.HANDLER);
    const { cpu } = box;
    box.write(VMCS_GUEST.RIP, AT.SPARE).code(CODE.VMLAUNCH);
    expect(cpuRun(cpu, Infinity)).toBe(RUN.VMEXIT);
    expect(box.read(VMCS_INFO.VM_EXIT_REASON)).toBe(EXIT_REASON.VMCALL);
    expect(Number(getRip(cpu))).toBe(AT.HANDLER);
    expect(cpuRun(cpu, cpu.clock[0]! + 1)).toBe(RUN.DEADLINE);
    expect(Number(getRip(cpu))).toBe(AT.HANDLER + 1);
  });

  it('a failed launch is the next instruction with ZF, or the host state with exit reason 33', () => {
    const box = new VmxBox().begin();
    vmwrite32(box.cpu, VMCS_GUEST.RFLAGS, 0);
    box.code(CODE.VMLAUNCH);
    expect(cpuRun(box.cpu, Infinity)).toBe(RUN.VMEXIT);
    expect(box.read(VMCS_INFO.VM_EXIT_REASON)).toBe(0x8000_0021);
    vmwrite32(box.cpu, 0x4012, 0);
    box.cpu.s[S.RIP] = AT.CODE;
    expect(step(box, CODE.VMLAUNCH)).toBe(-1);
    expect(flags(box)).toBe(ZF);
    expect(box.error()).toBe(VMXERR.ENTRY_INVALID_CONTROL_FIELD);
  });
});
