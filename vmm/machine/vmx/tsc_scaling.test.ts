// SPDX-License-Identifier: GPL-2.0-only
/**
 * TSC scaling. SDM, "Changes to Instruction Behavior in VMX Non-Root Operation" (RDMSR, RDTSC, RDTSCP) and "Time-Stamp
 * Counter Offset and Multiplier": (TSC * multiplier) >> 48, then the offset, for whoever reads the TSC in the guest.
 */
import { describe, expect, it } from 'vitest';
import { MSR } from '../../../lib/x86/msr.ts';
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { VmxBox } from './testing/fixture.ts';
import { vmwrite64 } from './vmcs_access.ts';
import { vmxCapabilityMsr } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const READERS = { RDTSC: [0x0f, 0x31], RDTSCP: [0x0f, 0x01, 0xf9], RDMSR: [0x0f, 0x32] } as const;
const WRMSR = [0x0f, 0x30];
const ONE = 1n << 48n;
const u64 = (value: bigint): bigint => BigInt.asUintN(64, value);

interface Setup {
  readonly code: readonly number[];
  /** IA32_TIME_STAMP_COUNTER shortly before the entry. */
  readonly tsc?: bigint;
  readonly multiplier?: bigint;
  readonly offset?: bigint;
  /** Controls that are 0 although the fields are filled. */
  readonly without?: 'offsetting' | 'scaling';
}

/** A guest about to be entered; whatever the setup, the same number of cycles has passed. */
function guest({ code, tsc = 0x1234_5678_9abcn, multiplier = ONE, offset = 0n, without }: Setup): VmxBox {
  const box = new VmxBox().begin().code([...code, ...VMCALL]);
  const { cpu } = box;
  vmwrite64(cpu, C.TSC_OFFSET, u64(offset));
  vmwrite64(cpu, C.TSC_MULTIPLIER, multiplier);
  const scaling = without === 'scaling' ? 0 : SECONDARY_EXEC.TSC_SCALING;
  box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_RDTSCP | scaling);
  box.change(C.CPU_BASED_VM_EXEC_CONTROL, without === 'offsetting' ? 0 : CPU_BASED.USE_TSC_OFFSETTING);
  setReg(cpu, 1, BigInt(MSR.IA32_TSC));
  cpu.sys.msrs.write(
    cpu,
    MSR.IA32_TSC,
    Number(BigInt.asIntN(32, tsc)),
    Number(BigInt.asIntN(32, tsc >> 32n)),
  );
  return box;
}

/** What the guest's reader gives. */
function read(setup: Setup): bigint {
  const box = guest(setup);
  expect(box.launch()).toBe(R.VMCALL);
  return (getReg(box.cpu, 2) << 32n) | getReg(box.cpu, 0);
}

describe('use TSC scaling', () => {
  it('is reported by the capability MSR', () => {
    const [, may1] = vmxCapabilityMsr(new VmxBox().cpu.vmx, VMX_MSR.IA32_VMX_PROCBASED_CTLS2)!;
    expect(may1 & SECONDARY_EXEC.TSC_SCALING).toBe(SECONDARY_EXEC.TSC_SCALING);
  });

  it.each(Object.entries(READERS))('scales what %s reads, and adds the offset after that', (_name, code) => {
    const own = read({ code, without: 'offsetting' });
    expect(own >> 24n).toBe(0x1234_56n);
    expect(read({ code, multiplier: 2n * ONE, offset: 1000n })).toBe(2n * own + 1000n);
    expect(read({ code, multiplier: ONE / 2n, offset: -5n })).toBe(own / 2n - 5n);
  });

  // Bits 127:48 of the product are kept, of which a register holds 64.
  it.each([
    { name: '1', multiplier: ONE, of: (t: bigint) => t },
    { name: '2, and drops what goes beyond bit 63', multiplier: 2n * ONE, of: (t: bigint) => u64(t << 1n) },
    { name: '1/2, and rounds down', multiplier: ONE >> 1n, of: (t: bigint) => t >> 1n },
    { name: 'the least', multiplier: 1n, of: (t: bigint) => t >> 48n },
    { name: '1 and a bit', multiplier: ONE + 1n, of: (t: bigint) => u64(t + (t >> 48n)) },
    { name: '2^15', multiplier: 1n << 63n, of: (t: bigint) => u64(t << 15n) },
    {
      name: 'the greatest',
      multiplier: 2n ** 64n - 1n,
      of: (t: bigint) => u64((t * (2n ** 64n - 1n)) >> 48n),
    },
  ])('by $name is exact in 128 bits', ({ multiplier, of }) => {
    const code = READERS.RDTSC;
    for (const tsc of [0n, 0xffff_ffffn, 0xfedc_ba98_7654_3211n, 2n ** 63n]) {
      const own = read({ code, tsc, without: 'scaling' });
      expect(read({ code, tsc, multiplier })).toBe(of(own));
    }
  });

  it('has no effect without TSC offsetting', () => {
    const code = READERS.RDTSC;
    const own = read({ code, without: 'scaling' });
    expect(read({ code, multiplier: 2n * ONE, offset: 77n, without: 'offsetting' })).toBe(own);
  });

  it('is not done while the control is 0, though the offset is added', () => {
    const code = READERS.RDTSC;
    const own = read({ code, without: 'offsetting' });
    expect(read({ code, multiplier: 2n * ONE, offset: 77n, without: 'scaling' })).toBe(own + 77n);
  });

  it('ends with the VM exit', () => {
    const box = guest({ code: READERS.RDTSC, multiplier: 8n * ONE });
    box.launch();
    const { cpu } = box;
    cpu.sys.msrs.read(cpu, MSR.IA32_TSC, cpu.sys.value);
    const host = (BigInt(cpu.sys.value[1]! >>> 0) << 32n) | BigInt(cpu.sys.value[0]! >>> 0);
    expect(host >> 24n).toBe(0x1234_56n);
  });

  it('does not change what WRMSR makes of the TSC', () => {
    const box = guest({ code: WRMSR, multiplier: 8n * ONE, offset: 99n });
    setReg(box.cpu, 0, 0x1000n);
    setReg(box.cpu, 2, 0x55n);
    expect(box.launch()).toBe(R.VMCALL);
    const { cpu } = box;
    cpu.sys.msrs.read(cpu, MSR.IA32_TSC, cpu.sys.value);
    expect(cpu.sys.value[1]).toBe(0x55);
    // The exit and its price have passed since.
    expect(cpu.sys.value[0]! >>> 0).toBeLessThan(0x4000);
  });
});

describe('what runs on the TSC itself', () => {
  const scalings = [
    { name: 'unscaled', multiplier: ONE },
    { name: 'scaled by 8', multiplier: 8n * ONE },
  ];

  it.each(scalings)('IA32_TSC_DEADLINE counts in unscaled cycles: $name', ({ multiplier }) => {
    const box = guest({ code: WRMSR, tsc: 0n, multiplier, offset: 12345n });
    const { cpu } = box;
    // LVT timer in TSC-deadline mode.
    cpu.apic.write(0xf0, 0x1ff);
    cpu.apic.write(0x320, 0x4_0030);
    setReg(cpu, 1, BigInt(MSR.IA32_TSC_DEADLINE));
    setReg(cpu, 0, 1_000_000n);
    setReg(cpu, 2, 0n);
    const born = cpu.clock[0]!;
    expect(box.launch()).toBe(R.VMCALL);
    expect(cpu.apic.timer.deadline).toBe(born + 1_000_000);
  });

  it.each(scalings)('the preemption timer counts in unscaled cycles: $name', ({ multiplier }) => {
    // jmp $
    const box = guest({ code: [0xeb, 0xfe], tsc: 0n, multiplier });
    const { cpu } = box;
    box.change(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.VMX_PREEMPTION_TIMER);
    const born = cpu.clock[0]!;
    box.write(G.VMX_PREEMPTION_TIMER_VALUE, 1000);
    expect(box.launch()).toBe(R.PREEMPTION_TIMER);
    // 1000 changes of TSC bit 7, entry and exit.
    const cycles = cpu.clock[0]! - born;
    expect(cycles).toBeGreaterThanOrEqual(999 * 128);
    expect(cycles).toBeLessThan(1100 * 128);
  });
});
