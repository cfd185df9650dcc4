// SPDX-License-Identifier: GPL-2.0-only
/** A machine from its options: determinism, wiring of CPUs, APICs, I/O and frames. */
import { describe, expect, it } from 'vitest';
import { hpa, pfn } from '../../lib/x86/addr.ts';
import { APIC_DM, APIC_ICR, APIC_REG } from '../../lib/x86/apic.ts';
import { X86_FEATURE, X86_FEATURE_EXT } from '../../lib/x86/cpuid.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CR0, RFLAGS } from '../../lib/x86/registers.ts';
import { VMX_MSR } from '../../lib/x86/vmx/capability_msrs.ts';
import { PROFILES } from './cost/profiles.ts';
import { getRflags } from './cpu/flags.ts';
import { getRip } from './cpu/regs.ts';
import { S } from './cpu/state.ts';
import { cpuid } from './cpu/system/cpuid.ts';
import { initCpu, resetCpu } from './cpu/system/reset.ts';
import { Rig } from './cpu/system/testing/rig.ts';
import { BugError, UnimplementedError } from './errors.ts';
import { MAX_CPUS, RAM_BASE } from './layout.ts';
import { createMachine, type Machine, type MachineOptions } from './machine.ts';

const OPTIONS: MachineOptions = {
  profile: PROFILES.skylake,
  nrCpus: 2,
  ramBytes: 0x10_0000,
  tlb: 'real',
  seed: 7,
};
const make = (change: Partial<MachineOptions> = {}): Machine => createMachine({ ...OPTIONS, ...change });

describe('createMachine', () => {
  it('builds CPUs after RESET, the first one the bootstrap processor', () => {
    const { cpus } = make();
    expect(cpus.map((cpu) => cpu.apic.baseLo >>> 0)).toEqual([0xfee0_0900, 0xfee0_0800]);
    for (const cpu of cpus) {
      expect([getRip(cpu), getRflags(cpu), cpu.s[S.CR0]! >>> 0]).toEqual([
        0xfff0n,
        RFLAGS.FIXED,
        CR0.ET | CR0.NW | CR0.CD,
      ]);
    }
  });

  it('refuses impossible numbers of CPUs', () => {
    expect(() => make({ nrCpus: 0 })).toThrow(BugError);
    expect(() => make({ nrCpus: MAX_CPUS + 1 })).toThrow(BugError);
  });

  it('draws the same random numbers from the same seed, others from another', () => {
    const draw = (seed: number): number[] =>
      Array.from(
        { length: 4 },
        (
          (rng) => () =>
            rng.next()
        )(make({ seed }).rng),
      );
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  it('gives each CPU its APIC ID in CPUID and on the bus', () => {
    const { cpus, apicBus } = make({ nrCpus: 3 });
    const out = new Int32Array(4);
    cpus.forEach((cpu, id) => {
      cpuid(cpu, 1, 0, out);
      expect(out[1]! >>> 24).toBe(id);
      cpuid(cpu, 0xb, 0, out);
      expect(out[3]).toBe(id);
    });
    for (const cpu of cpus) cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    expect(apicBus.send(cpus[0]!.apic, { icr: 0x40 | APIC_ICR.DEST_MASK, dest: 0, broadcast: 0xff })).toBe(2);
    expect(cpus.map((cpu) => cpu.s[S.PENDING])).toEqual([1, 1, 1]);
  });

  it('has VMX on Intel and not on AMD', () => {
    const intel = make().cpus[0]!;
    const amd = make({ profile: PROFILES.milan }).cpus[0]!;
    expect([intel.sys.cpuid.has(X86_FEATURE.VMX), amd.sys.cpuid.has(X86_FEATURE.VMX)]).toEqual([true, false]);
    expect([intel.sys.msrs.has(VMX_MSR.IA32_VMX_BASIC), amd.sys.msrs.has(VMX_MSR.IA32_VMX_BASIC)]).toEqual([
      true,
      false,
    ]);
    expect(amd.sys.cpuid.has(X86_FEATURE_EXT.LM)).toBe(true);
    const out = new Int32Array(4);
    cpuid(amd, 0, 0, out);
    expect(out[1]).toBe(0x6874_7541); // "Auth"
  });

  it('reports stores from outside to the code cache, and retired frames to every fast TLB', () => {
    const rig = new Rig();
    rig.exec([0xf4]);
    rig.poke(0x101_0000, [0x90, 0xf4]);
    rig.start(rig.cpu, 0x101_0000);
    rig.go();
    expect(getRip(rig.cpu)).toBe(0x101_0002n);
    const machine = make();
    machine.frames.take(pfn(RAM_BASE >>> 12), machine.frames.intern('test'));
    expect(() => machine.frames.retire(pfn(RAM_BASE >>> 12), 0)).not.toThrow();
    expect(() => machine.noteStore(hpa(RAM_BASE), 8)).not.toThrow();
    expect(() => machine.dropWriteTags(pfn(RAM_BASE >>> 12))).not.toThrow();
  });

  it('a CPU that was not put into 64-bit mode does not run', () => {
    expect(() => new Rig(2).go(make().cpus[0])).toThrow(UnimplementedError);
  });
});

describe('RESET', () => {
  it('takes back what software did to registers, MSRs, TSC and APIC', () => {
    const [cpu] = make().cpus as [Machine['cpus'][number]];
    const fresh = cpu.sys.msrs.get(cpu, MSR.IA32_CR_PAT);
    cpu.sys.msrs.write(cpu, MSR.IA32_CR_PAT, 0, 0);
    cpu.sys.msrs.write(cpu, MSR.IA32_TSC_ADJUST, 5, 0);
    cpu.sys.msrs.write(cpu, MSR.LSTAR, 5, 0);
    cpu.sys.msrs.write(cpu, MSR.TSC_AUX, 5, 0);
    cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    cpu.s[S.GPR] = 5;
    resetCpu(cpu);
    for (const msr of [MSR.IA32_TSC_ADJUST, MSR.LSTAR, MSR.TSC_AUX])
      expect(cpu.sys.msrs.get(cpu, msr)).toBe(0n);
    expect(cpu.sys.msrs.get(cpu, MSR.IA32_CR_PAT)).toBe(fresh);
    expect([cpu.apic.isSoftwareEnabled(), cpu.s[S.GPR]]).toEqual([false, 0]);
  });

  it('of the APIC is part of INIT, once the processor takes it, and that of MSRs is not', () => {
    const [cpu] = make().cpus as [Machine['cpus'][number]];
    cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    cpu.sys.msrs.write(cpu, MSR.LSTAR, 5, 0);
    cpu.apic.receive(APIC_DM.INIT, 0, APIC_ICR.LEVEL_ASSERT);
    expect(cpu.apic.isSoftwareEnabled()).toBe(true);
    initCpu(cpu);
    expect([cpu.apic.isSoftwareEnabled(), cpu.sys.msrs.get(cpu, MSR.LSTAR)]).toEqual([false, 5n]);
  });
});

describe('Devices', () => {
  it('answer at their physical addresses, nothing elsewhere; the APIC page belongs to the CPU', () => {
    const machine = make();
    const [first, second] = machine.cpus;
    const seen: string[] = [];
    machine.io.mmio.add({
      base: 0xd000_0000,
      length: 0x1000,
      read: (offset, size, out) => out.set([offset, size]),
      write: (offset, size, lo, hi) => seen.push([offset, size, lo, hi].join()),
    });
    const out = new Int32Array(2);
    first!.sys.mmioRead(0xd000_0010, 8, out);
    expect([...out]).toEqual([0x10, 8]);
    first!.sys.mmioWrite(0xd000_0020, 4, 9, 0);
    expect(seen).toEqual(['32,4,9,0']);
    first!.sys.mmioRead(0xd000_1000, 8, out);
    expect([...out]).toEqual([-1, -1]);
    first!.sys.mmioRead(0xd000_1000, 1, out);
    expect(out[0]).toBe(0xff);
    second!.sys.mmioRead(0xfee0_0020, 4, out);
    expect(out[0]).toBe(1 << 24);
    second!.sys.mmioRead(0xfee0_0023, 1, out);
    expect(out[0]).toBe(1);
    second!.sys.mmioWrite(0xfee0_0080, 2, 0x50, 0);
    second!.sys.mmioWrite(0xfee0_0084, 4, 0x50, 0);
    expect(second!.apic.cr8()).toBe(0);
    second!.sys.mmioRead(0xfee0_0300, 8, out);
    expect([...out]).toEqual([0, 0]);
  });
});
