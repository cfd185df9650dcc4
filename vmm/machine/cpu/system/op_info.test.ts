// SPDX-License-Identifier: GPL-2.0-only
/** CPUID, time stamp, MSRs, random numbers, PKRU, FS/GS bases. Expectations: SDM, instruction reference and MSR chapter. */
import { describe, expect, it } from 'vitest';
import { APICBASE } from '../../../../lib/x86/apic.ts';
import { X86_FEATURE, X86_FEATURE_EXT } from '../../../../lib/x86/cpuid.ts';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { MISC_ENABLE, MSR } from '../../../../lib/x86/msr.ts';
import { CR4, EFER, RFLAGS } from '../../../../lib/x86/registers.ts';
import { UnimplementedError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags } from '../flags.ts';
import { getReg, setReg } from '../regs.ts';
import { S, SEGN } from '../state.ts';
import { segAt } from './descriptors.ts';
import type { LongModeEntry } from './reset.ts';
import { AT, type Outcome, Rig } from './testing/rig.ts';

const HLT = 0xf4;
type Regs = readonly [rax?: bigint, rcx?: bigint, rdx?: bigint];

function run(
  code: readonly number[],
  regs: Regs = [],
  options: Partial<LongModeEntry> = {},
  rig = new Rig(),
): Result {
  const out = rig.exec([...code, options.cpl === 3 ? 0x90 : HLT], options, (cpu) => {
    setReg(cpu, 0, regs[0] ?? 0n);
    setReg(cpu, 1, regs[1] ?? 0n);
    setReg(cpu, 2, regs[2] ?? 0n);
  });
  return { rig, out, cpu: rig.cpu };
}
interface Result {
  readonly rig: Rig;
  readonly out: Outcome;
  readonly cpu: Cpu;
}

const [CPUID, RDTSC, RDTSCP, RDMSR, WRMSR, RDPMC] = [
  [0x0f, 0xa2],
  [0x0f, 0x31],
  [0x0f, 0x01, 0xf9],
  [0x0f, 0x32],
  [0x0f, 0x30],
  [0x0f, 0x33],
] as const;

const wrmsr = (msr: number, value: bigint, rig = new Rig()): Result =>
  run(WRMSR, [value & 0xffff_ffffn, BigInt(msr), value >> 32n], {}, rig);
const msr = (rig: Rig, number: number): bigint => rig.cpu.sys.msrs.get(rig.cpu, number);

describe('CPUID', () => {
  const leaf = (eax: number, ecx = 0, options: Partial<LongModeEntry> = {}): bigint[] => {
    const { cpu } = run(CPUID, [BigInt(eax), BigInt(ecx), -1n], options);
    return [0, 3, 1, 2].map((n) => getReg(cpu, n));
  };

  it('names the vendor and clears the upper halves', () => {
    const [max, ebx, ecx, edx] = leaf(0);
    expect([max, ebx, edx, ecx]).toEqual([0x15n, 0x756e_6547n, 0x4965_6e69n, 0x6c65_746en]);
  });

  it('answers beyond the highest basic leaf with the data of that leaf', () => {
    expect(leaf(0x40000000)).toEqual(leaf(0x15));
    expect(leaf(0x16)).toEqual(leaf(0x15));
    expect(leaf(0x80000009)).toEqual(leaf(0x15));
  });

  it('follows CR4: OSXSAVE and OSPKE', () => {
    const bit = (n: number): bigint => 1n << BigInt(n);
    expect(leaf(1)[2]! & bit(27)).toBe(0n);
    expect(leaf(1, 0, { cr4: CR4.OSXSAVE })[2]! & bit(27)).toBe(bit(27));
    expect(leaf(7)[2]! & bit(4)).toBe(0n);
    expect(leaf(7, 0, { cr4: CR4.PKE })[2]! & bit(4)).toBe(bit(4));
  });

  it('hides APIC and MWAIT when they are disabled', () => {
    const rig = new Rig();
    const { apic, msrs } = rig.cpu.sys;
    apic.setBase(apic.baseLo & ~APICBASE.ENABLE, 0);
    expect(
      msrs.write(
        rig.cpu,
        MSR.IA32_MISC_ENABLE,
        Number(msr(rig, MSR.IA32_MISC_ENABLE)) & ~MISC_ENABLE.MWAIT,
        0,
      ),
    ).toBe(true);
    const { cpu } = run(CPUID, [1n], {}, rig);
    expect([getReg(cpu, 2) & (1n << 9n), getReg(cpu, 1) & 8n]).toEqual([0n, 0n]);
  });

  it('gives the size of the enabled XSAVE state, and the topology sub-leaf back', () => {
    expect(leaf(0xd)[1]).toBe(576n);
    const rig = new Rig();
    rig.cpu.s[S.XCR0] = 0x203;
    expect(getReg(run(CPUID, [0xdn], {}, rig).cpu, 3)).toBe(0xa88n);
    expect(leaf(0xb, 5)[2]).toBe(5n);
  });

  it('claims what the machine has', () => {
    const { cpuid } = new Rig().cpu.sys;
    for (const feature of [X86_FEATURE.VMX, X86_FEATURE.PCID, X86_FEATURE.INVPCID, X86_FEATURE_EXT.GBPAGES]) {
      expect(cpuid.has(feature)).toBe(true);
    }
    for (const feature of [X86_FEATURE.AVX, X86_FEATURE.SHSTK, X86_FEATURE_EXT.SVM])
      expect(cpuid.has(feature)).toBe(false);
    expect(cpuid.rows().length).toBeGreaterThan(20);
  });
});

describe('Time stamp', () => {
  it('is the clock plus the offset, 64 bits wide', () => {
    const { cpu } = run([...RDTSC, ...RDTSC], [-1n, 0n, -1n]);
    expect(getReg(cpu, 2)).toBe(0n);
    const first = getReg(cpu, 0);
    expect(first).toBeLessThanOrEqual(BigInt(cpu.clock[0]!));
    const rig = new Rig();
    rig.cpu.clock[0] = 12345;
    expect(rig.cpu.sys.msrs.write(rig.cpu, MSR.IA32_TSC, -0x100, -1)).toBe(true);
    expect(msr(rig, MSR.IA32_TSC)).toBe(0xffff_ffff_ffff_ff00n);
    expect(msr(rig, MSR.IA32_TSC_ADJUST)).toBe(0xffff_ffff_ffff_ff00n - 12345n);
    rig.cpu.clock[0] += 0x1_0000_0100;
    expect(msr(rig, MSR.IA32_TSC)).toBe(0x1_0000_0000n);
    rig.cpu.sys.vmxTscOffset.set([-1, -1]);
    expect(msr(rig, MSR.IA32_TSC)).toBe(0xffff_ffffn);
  });

  it('moves with IA32_TSC_ADJUST by the difference', () => {
    const rig = new Rig();
    const before = msr(rig, MSR.IA32_TSC) - BigInt(rig.cpu.clock[0]!);
    wrmsr(MSR.IA32_TSC_ADJUST, 1000n, rig);
    wrmsr(MSR.IA32_TSC_ADJUST, 300n, rig);
    expect(msr(rig, MSR.IA32_TSC) - BigInt(rig.cpu.clock[0]!)).toBe(before + 300n);
    expect(msr(rig, MSR.IA32_TSC_ADJUST)).toBe(300n);
  });

  it('RDTSCP adds TSC_AUX; both are GP at CPL 3 under CR4.TSD', () => {
    const rig = new Rig();
    wrmsr(MSR.TSC_AUX, 0x1234n, rig);
    expect(getReg(run(RDTSCP, [], {}, rig).cpu, 1)).toBe(0x1234n);
    for (const code of [RDTSC, RDTSCP]) {
      expect(run(code, [], { cpl: 3, cr4: CR4.TSD }).out.vector).toBe(VECTOR.GP);
      expect(run([...code, 0x0f, 0x0b], [], { cpl: 3 }).out.vector).toBe(VECTOR.UD);
      expect(run(code, [], { cr4: CR4.TSD }).out.vector).toBe(-1);
    }
  });
});

describe('RDMSR and WRMSR', () => {
  it.each([RDMSR, WRMSR])('are GP at CPL 3', (...code) => {
    expect(run(code, [0n, BigInt(MSR.EFER)], { cpl: 3 }).out.vector).toBe(VECTOR.GP);
  });

  it('are GP for a register that does not exist; RDMSR splits the value', () => {
    expect(run(RDMSR, [0n, 0x1234_5678n]).out.vector).toBe(VECTOR.GP);
    expect(wrmsr(0x1234_5678, 0n).out.vector).toBe(VECTOR.GP);
    const rig = new Rig();
    wrmsr(MSR.KERNEL_GS_BASE, 0x7fff_1234_5678n, rig);
    const { cpu } = run(RDMSR, [-1n, BigInt(MSR.KERNEL_GS_BASE), -1n], {}, rig);
    expect([getReg(cpu, 0), getReg(cpu, 2)]).toEqual([0x1234_5678n, 0x7fffn]);
  });

  it.each([
    ['EFER bit 1', MSR.EFER, 0xd03n],
    ['EFER upper half', MSR.EFER, 0xd01n | (1n << 32n)],
    ['EFER.SVME on Intel', MSR.EFER, 0x1d01n],
    ['LME cleared under paging', MSR.EFER, 0xc01n],
    ['LSTAR not canonical', MSR.LSTAR, 1n << 47n],
    ['CSTAR not canonical', MSR.CSTAR, 1n << 63n],
    ['FS base not canonical', MSR.FS_BASE, 1n << 50n],
    ['SYSENTER_EIP not canonical', MSR.IA32_SYSENTER_EIP, 1n << 50n],
    ['FMASK upper half', MSR.SYSCALL_MASK, 1n << 32n],
    ['TSC_AUX upper half', MSR.TSC_AUX, 1n << 32n],
    ['PAT type 2', MSR.IA32_CR_PAT, 2n],
    ['PAT type 8', MSR.IA32_CR_PAT, 8n << 56n],
    ['MISC_ENABLE read-only bit', MSR.IA32_MISC_ENABLE, 1n],
    ['DEBUGCTL reserved bit', MSR.IA32_DEBUGCTL, 4n],
    ['FEATURE_CONTROL locked', MSR.IA32_FEAT_CTL, 5n],
    ['APIC_BASE reserved bit', MSR.IA32_APICBASE, 0xfee0_0801n],
    ['APIC_BASE above MAXPHYADDR', MSR.IA32_APICBASE, (1n << 46n) | 0xfee0_0800n],
    ['MTRRcap read-only', MSR.MTRRcap, 0x508n],
    ['MTRR type 2', MSR.MTRRdefType, 0xc02n],
    ['MTRR fixed type 7', MSR.MTRRfix64K_00000, 7n],
    ['MTRR mask reserved bit', MSR.MTRRphysBase0 + 1, 1n],
    ['MTRR base above MAXPHYADDR', MSR.MTRRphysBase0, 1n << 46n],
    ['x2APIC register in xAPIC mode', 0x808, 0n],
    ['VMX capability', 0x480, 0n],
  ])('refuse %s', (_name, number, value) => {
    const { out } = wrmsr(number, value);
    expect([out.vector, out.errorCode]).toEqual([VECTOR.GP, 0]);
  });

  it.each([
    ['LSTAR', MSR.LSTAR, 0xffff_8000_0000_0000n],
    ['STAR', MSR.STAR, 0x0013_0008_0000_0000n],
    ['PAT', MSR.IA32_CR_PAT, 0x0007_0406_0105_0406n],
    ['DEBUGCTL', MSR.IA32_DEBUGCTL, 1n],
    ['MTRR', MSR.MTRRphysBase0 + 2, 0x8000_0006n],
    ['KERNEL_GS_BASE', MSR.KERNEL_GS_BASE, 0xffff_ffff_8000_0000n],
    ['MCG_STATUS', MSR.IA32_MCG_STATUS, 4n],
  ])('store %s', (_name, number, value) => {
    const { rig, out } = wrmsr(number, value);
    expect([out.vector, msr(rig, number)]).toEqual([-1, value]);
  });

  it('EFER keeps LMA whatever is written to it', () => {
    const { rig, out } = wrmsr(MSR.EFER, BigInt(EFER.LME | EFER.SCE));
    expect([out.vector, msr(rig, MSR.EFER)]).toEqual([-1, BigInt(EFER.LME | EFER.SCE | EFER.LMA)]);
  });

  it('IA32_FEATURE_CONTROL can be written until it is locked', () => {
    const rig = new Rig();
    rig.cpu.sys.featCtl = 0;
    expect(wrmsr(MSR.IA32_FEAT_CTL, 2n, rig).out.vector).toBe(VECTOR.GP);
    expect(wrmsr(MSR.IA32_FEAT_CTL, 5n, rig).out.vector).toBe(-1);
    expect(wrmsr(MSR.IA32_FEAT_CTL, 5n, rig).out.vector).toBe(VECTOR.GP);
  });

  it('IA32_APIC_BASE enters x2APIC mode, after which its registers are MSRs and the page is gone', () => {
    const rig = new Rig();
    wrmsr(MSR.IA32_APICBASE, 0xfee0_0d00n, rig);
    expect(wrmsr(0x808, 0x30n, rig).out.vector).toBe(-1);
    expect(run(RDMSR, [0n, 0x808n], {}, rig).cpu.apic.cr8()).toBe(3);
    rig.cpu.sys.mmioWrite(0xfee0_0080, 4, 0x50, 0);
    expect(rig.cpu.apic.cr8()).toBe(3);
    expect(() => wrmsr(MSR.IA32_APICBASE, 0x1000_0d00n, rig)).toThrow(UnimplementedError);
  });

  it('the TSC deadline goes to the APIC timer', () => {
    const rig = new Rig();
    rig.cpu.apic.write(0xf0, 0x1ff);
    rig.cpu.apic.write(0x320, 0x4_0040);
    wrmsr(MSR.IA32_TSC_DEADLINE, 1n << 40n, rig);
    expect([msr(rig, MSR.IA32_TSC_DEADLINE), rig.cpu.apic.timer.deadline]).toEqual([1n << 40n, 2 ** 40]);
  });

  it('names registers, and fails loudly when a test asks for one that is not there', () => {
    const { cpu } = new Rig();
    expect([cpu.sys.msrs.nameOf(MSR.LSTAR), cpu.sys.msrs.nameOf(0x999)]).toEqual(['LSTAR', 'MSR 0x999']);
    expect(() => cpu.sys.msrs.get(cpu, 0x999)).toThrow('MSR 0x999');
  });

  it('RDPMC is a GP: there are no counters', () => {
    expect(run(RDPMC).out.vector).toBe(VECTOR.GP);
    expect(run(RDPMC, [], { cpl: 3 }).out.vector).toBe(VECTOR.GP);
  });
});

describe('RDRAND, RDSEED', () => {
  const code = { rdrand: [0x48, 0x0f, 0xc7, 0xf0], rdseed: [0x48, 0x0f, 0xc7, 0xf8] };

  it('set CF, clear the other flags, and repeat with the seed', () => {
    for (const insn of Object.values(code)) {
      const first = run(insn, [], { rflags: RFLAGS.OF | RFLAGS.ZF | RFLAGS.SF });
      expect(getRflags(first.cpu)).toBe(RFLAGS.CF | RFLAGS.FIXED);
      expect(getReg(first.cpu, 0)).toBe(getReg(run(insn).cpu, 0));
    }
    const { cpu } = run([...code.rdrand, 0x48, 0x89, 0xc3, ...code.rdrand]);
    expect(getReg(cpu, 0)).not.toBe(getReg(cpu, 3));
  });

  it('write the operand size', () => {
    expect(getReg(run([0x66, 0x0f, 0xc7, 0xf0], [-1n]).cpu, 0) >> 16n).toBe(0xffff_ffff_ffffn);
    expect(getReg(run([0x0f, 0xc7, 0xf0], [-1n]).cpu, 0) >> 32n).toBe(0n);
  });

  it('RDPID is a UD without the feature', () => {
    expect(run([0xf3, 0x0f, 0xc7, 0xf8]).out.vector).toBe(VECTOR.UD);
  });
});

describe('RDPKRU, WRPKRU', () => {
  const PKE = { cr4: CR4.PKE };
  const [RDPKRU, WRPKRU] = [
    [0x0f, 0x01, 0xee],
    [0x0f, 0x01, 0xef],
  ];

  it('read and write PKRU', () => {
    const { cpu } = run([...WRPKRU, 0x31, 0xc0, ...RDPKRU], [0xfffc_fffcn], PKE);
    expect([cpu.s[S.PKRU]! >>> 0, getReg(cpu, 0), getReg(cpu, 2)]).toEqual([0xfffc_fffc, 0xfffc_fffcn, 0n]);
  });

  it('are UD without CR4.PKE, GP for other ECX or EDX', () => {
    expect(run(RDPKRU).out.vector).toBe(VECTOR.UD);
    expect(run(WRPKRU).out.vector).toBe(VECTOR.UD);
    expect(run(RDPKRU, [0n, 1n], PKE).out.vector).toBe(VECTOR.GP);
    expect(run(WRPKRU, [0n, 1n], PKE).out.vector).toBe(VECTOR.GP);
    expect(run(WRPKRU, [0n, 0n, 1n], PKE).out.vector).toBe(VECTOR.GP);
  });
});

describe('FS and GS bases', () => {
  const FSGS = { cr4: CR4.FSGSBASE };
  const insn = (modrm: number, rex = 0x48): number[] => [0xf3, rex, 0x0f, 0xae, modrm];

  it.each([
    ['FS', 0xd0, 0xc0, SEGN.FS],
    ['GS', 0xd8, 0xc8, SEGN.GS],
  ])('of %s are written and read', (_name, write, read, seg) => {
    const { cpu } = run([...insn(write), 0x31, 0xc0, ...insn(read)], [0xffff_8765_4321_0000n], FSGS);
    expect(getReg(cpu, 0)).toBe(0xffff_8765_4321_0000n);
    expect(cpu.s[segAt(seg)]! >>> 0).toBe(0x4321_0000);
    const narrow = run([0xf3, 0x0f, 0xae, write], [0xffff_8765_4321_0000n], FSGS);
    expect(narrow.cpu.s[segAt(seg) + 1]).toBe(0);
  });

  it('are UD without CR4.FSGSBASE and GP if not canonical', () => {
    expect(run(insn(0xd0)).out.vector).toBe(VECTOR.UD);
    expect(run(insn(0xc0)).out.vector).toBe(VECTOR.UD);
    expect(run(insn(0xd0), [1n << 47n], FSGS).out.vector).toBe(VECTOR.GP);
  });

  it('SWAPGS exchanges GS with its kernel twin, at CPL 0 only', () => {
    const rig = new Rig();
    wrmsr(MSR.KERNEL_GS_BASE, 0x1111_2222_3000n, rig);
    rig.load([0x0f, 0x01, 0xf8, HLT]);
    expect(rig.cpu.sys.msrs.write(rig.cpu, MSR.GS_BASE, AT.DATA, 0)).toBe(true);
    rig.go();
    expect([msr(rig, MSR.GS_BASE), msr(rig, MSR.KERNEL_GS_BASE)]).toEqual([
      0x1111_2222_3000n,
      BigInt(AT.DATA),
    ]);
    expect(run([0x0f, 0x01, 0xf8], [], { cpl: 3 }).out.vector).toBe(VECTOR.GP);
  });
});
