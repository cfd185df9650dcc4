// SPDX-License-Identifier: GPL-2.0-only
/** VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMLAUNCH, VMRESUME: outcomes and error numbers. SDM, the VMX instruction reference. */
import { describe, expect, it } from 'vitest';
import { CR4 } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { setReg } from '../cpu/regs.ts';
import { BLOCKING, S } from '../cpu/state.ts';
import { BugError, SanitizerError } from '../errors.ts';
import { FLUSH } from '../tlb/flush_ledger.ts';
import { vmlaunch, vmresume } from './entry.ts';
import { vmxInvept, vmxInvvpid } from './invalidate_insns.ts';
import { AT, EPTP, VmxBox } from './testing/fixture.ts';
import { vmclear, vmptrld, vmptrst, vmxoff, vmxon } from './vmcs_insns.ts';
import { VMX_RESULT as RESULT } from './vmx_unit.ts';

const TOO_WIDE = 2 ** 46;
const VMCALL = [0x0f, 0x01, 0xc1];
const on = (): VmxBox => {
  const box = new VmxBox();
  expect(vmxon(box.cpu, AT.VMXON)).toBe(RESULT.SUCCEED);
  return box;
};

describe('VMXON and VMXOFF', () => {
  it.each([
    ['not aligned', AT.VMXON + 8],
    ['beyond the physical-address width', TOO_WIDE],
    ['without the revision identifier', AT.SPARE],
    ['outside of memory', 2 ** 40],
  ])('a region %s is VMfailInvalid', (_name, pa) => {
    const { cpu } = new VmxBox();
    expect(vmxon(cpu, pa)).toBe(RESULT.FAIL_INVALID);
    expect(cpu.vmx.vmxon).toBe(false);
  });

  it('bit 31 of the revision makes it invalid', () => {
    const box = new VmxBox();
    box.word(AT.VMXON, box.cpu.vmx.caps.revision | 0x8000_0000);
    expect(vmxon(box.cpu, AT.VMXON)).toBe(RESULT.FAIL_INVALID);
  });

  it('a second VMXON fails with error 15 if there is a VMCS, else invalid', () => {
    const box = on();
    expect(vmxon(box.cpu, AT.VMXON)).toBe(RESULT.FAIL_INVALID);
    vmptrld(box.cpu, AT.VMCS);
    expect(vmxon(box.cpu, AT.VMXON)).toBe(RESULT.FAIL_VALID);
    expect(box.error()).toBe(VMXERR.VMXON_IN_VMX_ROOT_OPERATION);
  });

  it('L0 that forgets CR4.VMXE is told so', () => {
    const box = new VmxBox();
    box.cpu.s[S.CR4] = CR4.PAE;
    expect(() => vmxon(box.cpu, AT.VMXON)).toThrow(SanitizerError);
  });

  it('VMXON of a guest must have exited before', () => {
    const box = new VmxBox().begin();
    vmlaunch(box.cpu);
    expect(() => vmxon(box.cpu, AT.VMXON)).toThrow(BugError);
  });

  it('after VMXOFF no VMX instruction is allowed', () => {
    const box = on();
    expect(vmxoff(box.cpu)).toBe(RESULT.SUCCEED);
    for (const insn of [vmxoff, vmptrst, vmlaunch, vmresume])
      expect(() => insn(box.cpu)).toThrow(SanitizerError);
    expect(() => vmclear(box.cpu, AT.VMCS)).toThrow(SanitizerError);
    expect(() => vmptrld(box.cpu, AT.VMCS)).toThrow(SanitizerError);
  });
});

describe('VMCLEAR and VMPTRLD', () => {
  /** Error number with VMCS2 current. */
  const errorOf = (insn: (box: VmxBox) => number): number => {
    const box = on();
    vmptrld(box.cpu, AT.VMCS2);
    expect(insn(box)).toBe(RESULT.FAIL_VALID);
    expect(vmptrst(box.cpu)).toBe(AT.VMCS2);
    return box.error();
  };

  it.each([
    ['VMCLEAR, not aligned', (b: VmxBox) => vmclear(b.cpu, AT.VMCS + 4), VMXERR.VMCLEAR_INVALID_ADDRESS],
    ['VMCLEAR, too wide', (b: VmxBox) => vmclear(b.cpu, TOO_WIDE), VMXERR.VMCLEAR_INVALID_ADDRESS],
    ['VMCLEAR of the VMXON region', (b: VmxBox) => vmclear(b.cpu, AT.VMXON), VMXERR.VMCLEAR_VMXON_POINTER],
    ['VMPTRLD, not aligned', (b: VmxBox) => vmptrld(b.cpu, AT.VMCS + 4), VMXERR.VMPTRLD_INVALID_ADDRESS],
    ['VMPTRLD, too wide', (b: VmxBox) => vmptrld(b.cpu, TOO_WIDE), VMXERR.VMPTRLD_INVALID_ADDRESS],
    ['VMPTRLD of the VMXON region', (b: VmxBox) => vmptrld(b.cpu, AT.VMXON), VMXERR.VMPTRLD_VMXON_POINTER],
    [
      'VMPTRLD, wrong revision',
      (b: VmxBox) => vmptrld(b.cpu, AT.SPARE),
      VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID,
    ],
    [
      'VMPTRLD, outside of memory',
      (b: VmxBox) => vmptrld(b.cpu, 2 ** 40),
      VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID,
    ],
  ])('%s', (_name, insn, error) => {
    expect(errorOf(insn)).toBe(error);
  });

  it('a shadow-VMCS indicator is an incorrect revision without VMCS shadowing', () => {
    const box = on();
    const { vmx } = box.cpu;
    const secondary = { ...vmx.caps.secondary, may1: vmx.caps.secondary.may1 & ~SECONDARY_EXEC.SHADOW_VMCS };
    Object.assign(vmx, { caps: { ...vmx.caps, secondary } });
    vmptrld(box.cpu, AT.VMCS2);
    expect(vmptrld(box.cpu, AT.SHADOW)).toBe(RESULT.FAIL_VALID);
    expect(box.error()).toBe(VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
  });

  it('without a current VMCS failures are invalid', () => {
    expect(vmclear(on().cpu, AT.VMXON)).toBe(RESULT.FAIL_INVALID);
  });

  it('VMCLEAR of the current VMCS leaves none, of another one keeps it', () => {
    const box = on();
    vmptrld(box.cpu, AT.VMCS);
    vmclear(box.cpu, AT.VMCS2);
    expect(vmptrst(box.cpu)).toBe(AT.VMCS);
    vmclear(box.cpu, AT.VMCS);
    expect(vmptrst(box.cpu)).toBe(-1);
  });

  it('VMCLEAR outside of memory succeeds and does nothing', () => {
    expect(vmclear(on().cpu, 2 ** 40)).toBe(RESULT.SUCCEED);
  });

  it('a VMCS that is active on another CPU is found', () => {
    const box = new VmxBox(2);
    const [first, second] = box.machine.cpus;
    second!.s[S.CR4] = CR4.VMXE;
    vmxon(first!, AT.VMXON);
    vmxon(second!, AT.VMXON);
    vmclear(first!, AT.VMCS);
    vmptrld(first!, AT.VMCS);
    expect(() => vmptrld(second!, AT.VMCS)).toThrow('active on CPU 0');
    expect(() => vmclear(second!, AT.VMCS)).toThrow('active on CPU 0');
    vmclear(first!, AT.VMCS);
    expect(vmptrld(second!, AT.VMCS)).toBe(RESULT.SUCCEED);
  });
});

describe('VMLAUNCH and VMRESUME', () => {
  it('are invalid without a current VMCS', () => {
    const { cpu } = on();
    expect(vmlaunch(cpu)).toBe(RESULT.FAIL_INVALID);
    expect(vmresume(cpu)).toBe(RESULT.FAIL_INVALID);
  });

  it('follow the launch state', () => {
    const box = new VmxBox().begin().code(VMCALL);
    expect(vmresume(box.cpu)).toBe(RESULT.FAIL_VALID);
    expect(box.error()).toBe(VMXERR.VMRESUME_NONLAUNCHED_VMCS);
    expect(box.launch()).toBe(EXIT_REASON.VMCALL);
    expect(vmlaunch(box.cpu)).toBe(RESULT.FAIL_VALID);
    expect(box.error()).toBe(VMXERR.VMLAUNCH_NONCLEAR_VMCS);
    vmclear(box.cpu, AT.VMCS);
    vmptrld(box.cpu, AT.VMCS);
    expect(box.launch()).toBe(EXIT_REASON.VMCALL);
  });

  it('fail with error 26 under blocking by MOV SS, before the launch state is looked at', () => {
    const box = new VmxBox().begin();
    box.cpu.s[S.BLOCKING] = BLOCKING.MOV_SS;
    expect(vmresume(box.cpu)).toBe(RESULT.FAIL_VALID);
    expect(box.error()).toBe(VMXERR.ENTRY_EVENTS_BLOCKED_BY_MOV_SS);
  });

  it('a VMCS that was never cleared starts with a clear launch state', () => {
    const box = on();
    vmptrld(box.cpu, AT.VMCS);
    box.fillVmcs();
    box.code(VMCALL);
    expect(box.launch()).toBe(EXIT_REASON.VMCALL);
  });
});

describe('INVEPT and INVVPID by L0', () => {
  it('drop what they name', () => {
    const box = new VmxBox().begin().code([0x8b, 0x03, ...VMCALL]);
    setReg(box.cpu, 3, BigInt(AT.DATA));
    box.launch();
    const { ledger } = box.cpu.mmu;
    expect(vmxInvept(box.cpu, 1, EPTP)).toBe(RESULT.SUCCEED);
    expect(ledger.totals(FLUSH.INVEPT_SINGLE).dropped).toBeGreaterThan(0);
    box.resume();
    expect(vmxInvvpid(box.cpu, 1, 1)).toBe(RESULT.SUCCEED);
    expect(ledger.totals(FLUSH.INVVPID_SINGLE).calls).toBe(1);
  });

  it('fail with error 28 for operands that the guest may not use either', () => {
    const box = new VmxBox().begin();
    const fails = [
      vmxInvept(box.cpu, 3, EPTP),
      vmxInvept(box.cpu, 1, EPTP + 2 ** 46),
      vmxInvvpid(box.cpu, 1, 0),
    ];
    expect(fails).toEqual([RESULT.FAIL_VALID, RESULT.FAIL_VALID, RESULT.FAIL_VALID]);
    expect(box.error()).toBe(VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
  });
});
