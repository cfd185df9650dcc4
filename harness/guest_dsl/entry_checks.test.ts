// SPDX-License-Identifier: GPL-2.0-only
/**
 * The entry-check matrix and the instruction cases on the emulated processor itself: L1 is in VMX root operation of the machine.
 * Expected: the tables, whose rows name the sections of the SDM. vmx_entry_checks_test runs the same on KVM's nested VMX.
 */
import { describe, expect, it } from 'vitest';
import {
  GUEST_DONE,
  guest_tsc_khz,
  type GuestCode,
  guestFn,
  idt_handlers,
  linkImage,
  UCALL,
  ucall_pool,
} from '../../lib/guest/index.ts';
import { ENTRY_CASES, ENTRY_ROWS } from '../../lib/guest/entry_checks/cases.ts';
import { INSN_CASES, INSN_RESULTS, insnCheckProgram } from '../../lib/guest/entry_checks/insn_cases.ts';
import { type Outcome, OutcomeRecord, outcomeText } from '../../lib/guest/entry_checks/outcome.ts';
import { entry_check_set_up, entryCheckProgram } from '../../lib/guest/entry_checks/program.ts';
import { ENTRY_RESULTS } from '../../lib/guest/entry_checks/tables.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../lib/x86/vmx/controls.ts';
import { VMX_EPT_CAP, VMX_MISC, VMX_MSR } from '../../lib/x86/vmx/capability_msrs.ts';
import { PTE } from '../../lib/x86/paging.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { BOX_IMAGE_BASE } from './guest_box.ts';
import { VmxBox } from './vmx_box.ts';

interface Case {
  readonly name: string;
  readonly expected: Outcome;
}

/** The recorded outcomes as text. */
function outcomes(box: VmxBox, symbol: string, nr: number): string[] {
  const start = Number(box.image.addressOf(symbol));
  const { view } = box.machine.mem;
  return Array.from({ length: nr }, (_, n) => {
    const at = (field: string): number => start + n * OutcomeRecord.size + OutcomeRecord.offsetof(field);
    const [kind, number] = [view.getUint32(at('kind'), true), view.getUint32(at('number'), true)];
    return outcomeText({ kind, number, qualification: box.peek64(at('qualification')) });
  });
}

interface Ends {
  readonly wrong: readonly unknown[];
  readonly skipped: readonly string[];
  readonly ran: number;
}

/** Runs a program of L1 and gives the cases that ended otherwise than expected. */
function runCases(
  run: (g: GuestCode) => void,
  symbol: string,
  cases: readonly Case[],
  change: (box: VmxBox) => void = () => undefined,
): Ends {
  const guestCode = guestFn('guest_code', [], (g) => {
    entry_check_set_up(g);
    run(g);
    GUEST_DONE(g);
  });
  const box = new VmxBox(
    linkImage({ base: BOX_IMAGE_BASE, entry: guestCode, roots: [idt_handlers, guest_tsc_khz, ucall_pool] }),
  );
  makeUserPages(box);
  change(box);
  box.call(guestCode);
  expect(box.ucalls.map(({ cmd, buffer }) => [cmd, buffer])).toEqual([[UCALL.DONE, '']]);
  const text = outcomes(box, symbol, cases.length);
  const lines = cases.map(({ name, expected }, n) => ({
    name,
    got: text[n]!,
    expected: outcomeText(expected),
  }));
  const ran = lines.filter(({ got }) => got !== 'skipped');
  return {
    wrong: ran.filter(({ got, expected }) => got !== expected),
    skipped: lines.filter(({ got }) => got === 'skipped').map(({ name }) => name),
    ran: ran.length,
  };
}

/** The box's pages are user pages then: page tables begin with PML4, PDPT and the directory of the image. */
function makeUserPages(box: VmxBox): void {
  for (let at = RAM_BASE; at < RAM_BASE + 3 * 4096; at += 8) {
    const entry = box.peek64(at);
    if ((entry & BigInt(PTE.P)) !== 0n) box.poke64(at, entry | BigInt(PTE.US));
  }
}

/** A processor with fewer capabilities: what a Skylake server has and the rows ask not to be there. */
function lesser({ cpu }: VmxBox): void {
  const { vmx, sys } = cpu;
  const { caps } = vmx;
  const fewer = {
    ...caps,
    eptCap: caps.eptCap & ~(VMX_EPT_CAP.UC_BIT | VMX_EPT_CAP.AD_BIT),
    misc:
      caps.misc & ~(VMX_MISC.ZERO_LEN_INS | VMX_MISC.ACTIVITY_SHUTDOWN | VMX_MISC.VMWRITE_SHADOW_RO_FIELDS),
    cpuBased: { ...caps.cpuBased, may1: caps.cpuBased.may1 & ~CPU_BASED.MONITOR_TRAP_FLAG },
    secondary: { ...caps.secondary, may1: caps.secondary.may1 & ~SECONDARY_EXEC.SHADOW_VMCS },
  };
  Object.defineProperty(vmx, 'caps', { value: fewer });
  const msr = (number: number, lo: number, hi: number): void =>
    sys.msrs.constant(number, 'IA32_VMX MSR', lo, hi);
  msr(VMX_MSR.IA32_VMX_EPT_VPID_CAP, fewer.eptCap, fewer.vpidCapHi);
  msr(VMX_MSR.IA32_VMX_MISC, fewer.misc, 0);
  msr(VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, fewer.cpuBased.must1, fewer.cpuBased.may1);
  msr(VMX_MSR.IA32_VMX_PROCBASED_CTLS2, 0, fewer.secondary.may1);
}

describe('the entry-check matrix on bare hardware', () => {
  const runAll = (change?: (box: VmxBox) => void): Ends => {
    const program = entryCheckProgram(ENTRY_CASES);
    return runCases((g) => program.run(g), ENTRY_RESULTS, ENTRY_CASES, change);
  };
  const skipped: string[] = [];

  it('every case ends as the SDM says, at least 1000 cases run', () => {
    const { wrong, ran, ...all } = runAll();
    skipped.push(...all.skipped);
    expect(wrong).toEqual([]);
    expect(ran).toBeGreaterThan(1000);
  });

  it('on a processor that lacks capabilities the rest of the cases runs', () => {
    const less = runAll(lesser);
    expect(less.wrong).toEqual([]);
    expect(less.skipped.filter((name) => skipped.includes(name))).toEqual([]);
  });

  it('names are unique, and every row is complete', () => {
    expect(new Set(ENTRY_CASES.map(({ name }) => name)).size).toBe(ENTRY_CASES.length);
    expect(
      ENTRY_ROWS.filter(({ section, valid, invalid }) => section === '' || (!valid && !invalid)),
    ).toEqual([]);
  });
});

describe('the VMX instruction cases on bare hardware', () => {
  it('every case ends as the SDM says, at least 230 cases run', () => {
    const program = insnCheckProgram(INSN_CASES);
    const { wrong, ran } = runCases((g) => program.run(g), INSN_RESULTS, INSN_CASES);
    expect(wrong).toEqual([]);
    expect(ran).toBeGreaterThan(230);
  });

  it('on a processor that lacks capabilities the rest of the cases runs', () => {
    const program = insnCheckProgram(INSN_CASES);
    const { wrong, skipped } = runCases((g) => program.run(g), INSN_RESULTS, INSN_CASES, lesser);
    expect(wrong).toEqual([]);
    expect(skipped.filter((name) => name.includes('without'))).toEqual([]);
  });

  it('names are unique, and every instruction is there', () => {
    expect(new Set(INSN_CASES.map(({ name }) => name)).size).toBe(INSN_CASES.length);
    expect([...new Set(INSN_CASES.map(({ section }) => section))].sort()).toEqual([
      ...['INVEPT', 'INVVPID', 'VMCALL', 'VMCLEAR', 'VMFUNC', 'VMLAUNCH', 'VMPTRLD', 'VMPTRST'],
      ...['VMREAD', 'VMRESUME', 'VMWRITE', 'VMXOFF', 'VMXON'],
    ]);
  });
});
