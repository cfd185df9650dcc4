// SPDX-License-Identifier: GPL-2.0-only
/** Control and debug registers. Expectations: SDM, MOV to/from control and debug registers, CLTS, LMSW, SMSW, XSETBV. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { CR0, CR4, DR6, DR7 } from '../../../../lib/x86/registers.ts';
import type { Cpu } from '../cpu.ts';
import { getReg, setReg } from '../regs.ts';
import { S } from '../state.ts';
import { type Outcome, Rig } from './testing/rig.ts';

const HLT = 0xf4;
const TO_CR = {
  cr0: [0x0f, 0x22, 0xc0],
  cr2: [0x0f, 0x22, 0xd0],
  cr3: [0x0f, 0x22, 0xd8],
  cr4: [0x0f, 0x22, 0xe0],
};
const TO_CR8 = [0x44, 0x0f, 0x22, 0xc0];

function write(
  code: readonly number[],
  rax: bigint,
  setup?: (cpu: Cpu) => void,
  cr4 = 0,
): { rig: Rig; out: Outcome } {
  const rig = new Rig();
  const out = rig.exec([...code, HLT], { cr4 }, (cpu) => {
    setReg(cpu, 0, rax);
    setup?.(cpu);
  });
  return { rig, out };
}

const BASE0 = BigInt(CR0.PE | CR0.ET | CR0.NE | CR0.WP) | BigInt(CR0.PG);
const BASE4 = BigInt(CR4.PAE | CR4.PGE | CR4.OSFXSR);

describe('MOV to CR', () => {
  it.each([
    ['CR0 upper half', TO_CR.cr0, BASE0 | (1n << 32n)],
    ['CR0 without PG in 64-bit mode', TO_CR.cr0, BASE0 & ~BigInt(CR0.PG)],
    ['CR0 without PE', TO_CR.cr0, BASE0 & ~1n],
    ['CR0 with NW but not CD', TO_CR.cr0, BASE0 | BigInt(CR0.NW)],
    ['CR3 above MAXPHYADDR', TO_CR.cr3, 1n << 46n],
    ['CR3 bit 63 without PCIDE', TO_CR.cr3, 1n << 63n],
    ['CR4 upper half', TO_CR.cr4, BASE4 | (1n << 32n)],
    ['CR4 bit that no feature has', TO_CR.cr4, BASE4 | (1n << 31n)],
    ['CR4.UMIP without the feature', TO_CR.cr4, BASE4 | BigInt(CR4.UMIP)],
    ['CR4.LA57 in IA-32e mode', TO_CR.cr4, BASE4 | BigInt(CR4.LA57)],
    ['CR4 without PAE in IA-32e mode', TO_CR.cr4, BASE4 & ~BigInt(CR4.PAE)],
    ['CR8 above 15', TO_CR8, 16n],
    ['CR8 upper half', TO_CR8, 1n << 32n],
  ])('is a GP and changes nothing: %s', (_name, code, value) => {
    const { rig, out } = write(code, value);
    expect([out.vector, out.errorCode]).toEqual([VECTOR.GP, 0]);
    expect(BigInt(rig.cpu.s[S.CR0]! >>> 0)).toBe(BASE0);
    expect(BigInt(rig.cpu.s[S.CR4]! >>> 0)).toBe(BASE4);
    expect(rig.cpu.apic.cr8()).toBe(0);
  });

  it('ignores undefined low bits of CR0 and keeps ET set', () => {
    const { rig, out } = write(TO_CR.cr0, (BASE0 | 0x40n) & ~BigInt(CR0.ET));
    expect(out.vector).toBe(-1);
    expect(BigInt(rig.cpu.s[S.CR0]! >>> 0)).toBe(BASE0);
  });

  it('refuses PCIDE while CR3 has a PCID', () => {
    const set = (cpu: Cpu): void => void (cpu.s[S.CR3] = cpu.s[S.CR3]! | 1);
    expect(write(TO_CR.cr4, BASE4 | BigInt(CR4.PCIDE), set).out.vector).toBe(VECTOR.GP);
    expect(write(TO_CR.cr4, BASE4 | BigInt(CR4.PCIDE)).out.vector).toBe(-1);
  });

  it('takes bit 63 of the CR3 operand as no-flush with PCIDE and does not store it', () => {
    const rig = new Rig();
    const cpu = rig.load([...TO_CR.cr3, HLT], { cr4: CR4.PCIDE });
    setReg(cpu, 0, (1n << 63n) | BigInt(cpu.s[S.CR3]! | 5));
    expect(rig.go().vector).toBe(-1);
    expect([cpu.s[S.CR3]! & 0xfff, cpu.s[S.CR3 + 1]]).toEqual([5, 0]);
  });

  it('has CR2 with 64 bits and CR8 as TPR bits 7:4', () => {
    const { rig } = write(TO_CR.cr2, 0x1234_5678_9abc_def0n);
    expect([rig.cpu.s[S.CR2]! >>> 0, rig.cpu.s[S.CR2 + 1]]).toEqual([0x9abc_def0, 0x1234_5678]);
    expect(write(TO_CR8, 9n).rig.cpu.apic.read(0x80)).toBe(0x90);
  });

  it.each([
    ['to CR1', [0x0f, 0x22, 0xc8]],
    ['from CR5', [0x0f, 0x20, 0xe8]],
    ['to CR15', [0x44, 0x0f, 0x22, 0xf8]],
  ])('is a UD for registers that do not exist: %s', (_name, code) => {
    expect(write(code, 0n).out.vector).toBe(VECTOR.UD);
  });

  it.each([
    ['MOV CR0', TO_CR.cr0],
    ['MOV from CR0', [0x0f, 0x20, 0xc0]],
    ['CLTS', [0x0f, 0x06]],
    ['LMSW', [0x0f, 0x01, 0xf0]],
    ['MOV DR0', [0x0f, 0x23, 0xc0]],
  ])('is a GP at CPL 3: %s', (_name, code) => {
    const rig = new Rig();
    const out = rig.exec(code, { cpl: 3 });
    expect([out.vector, out.errorCode]).toEqual([VECTOR.GP, 0]);
  });
});

describe('MOV from CR', () => {
  it.each([
    ['CR0', [0x0f, 0x20, 0xc0], S.CR0],
    ['CR2', [0x0f, 0x20, 0xd0], S.CR2],
    ['CR3', [0x0f, 0x20, 0xd8], S.CR3],
    ['CR4', [0x0f, 0x20, 0xe0], S.CR4],
  ])('%s', (_name, code, word) => {
    const { rig } = write(code, -1n);
    expect(getReg(rig.cpu, 0)).toBe(BigInt(rig.cpu.s[word]! >>> 0));
  });

  it('CR8 reads the TPR', () => {
    const { rig } = write([0x44, 0x0f, 0x20, 0xc0], -1n, (cpu) => cpu.apic.setCr8(7));
    expect(getReg(rig.cpu, 0)).toBe(7n);
  });
});

describe('CLTS, LMSW, SMSW', () => {
  it('CLTS clears TS only', () => {
    const { rig } = write([0x0f, 0x06], 0n, (cpu) => void (cpu.s[S.CR0] = cpu.s[S.CR0]! | CR0.TS | CR0.MP));
    expect(rig.cpu.s[S.CR0]! & (CR0.TS | CR0.MP)).toBe(CR0.MP);
  });

  it('LMSW loads MP, EM, TS and cannot clear PE', () => {
    const { rig, out } = write([0x0f, 0x01, 0xf0], 0xen);
    expect(out.vector).toBe(-1);
    expect(rig.cpu.s[S.CR0]! & 0xf).toBe(0xf);
    expect(write([0x0f, 0x01, 0xf0], 0n).rig.cpu.s[S.CR0]! & 0xf).toBe(CR0.PE);
  });

  it('LMSW takes the fault of its memory operand', () => {
    expect(write([0x0f, 0x01, 0x30], 0x1_0000_0000n).out.vector).toBe(VECTOR.PF);
  });

  it('SMSW writes 64 bits to a register and 16 to memory, at any CPL', () => {
    const { rig } = write([0x48, 0x0f, 0x01, 0xe0], 0n);
    expect(getReg(rig.cpu, 0)).toBe(BASE0);
    const user = new Rig();
    user.exec([0x48, 0x0f, 0x01, 0xe0, 0x0f, 0x0b], { cpl: 3 });
    expect(getReg(user.cpu, 0)).toBe(BASE0);
  });
});

describe('MOV DR', () => {
  const TO_DR7 = [0x0f, 0x23, 0xf8];
  const TO_DR6 = [0x0f, 0x23, 0xf0];

  it('keeps the fixed bits of DR6 and DR7', () => {
    expect(write(TO_DR6, 0n).rig.cpu.s[S.DR + 12]! >>> 0).toBe(DR6.FIXED_1);
    expect(write(TO_DR7, 0n).rig.cpu.s[S.DR + 14]).toBe(DR7.FIXED_1);
    expect(write(TO_DR7, 0xf700_d800n).rig.cpu.s[S.DR + 14]! >>> 0).toBe(0xf700_0400);
  });

  it('stores 64 bits in DR0 to DR3 and reads them back', () => {
    const { rig } = write([0x0f, 0x23, 0xd8, 0x0f, 0x21, 0xd9], 0x0000_7fff_1234_5678n);
    expect(getReg(rig.cpu, 1)).toBe(0x0000_7fff_1234_5678n);
  });

  it.each([
    ['DR6', TO_DR6],
    ['DR7', TO_DR7],
  ])('refuses an upper half in %s', (_name, code) => {
    expect(write(code, 1n << 32n).out.vector).toBe(VECTOR.GP);
  });

  it('makes DR4 another name of DR6, and a UD with CR4.DE', () => {
    const DR4_TO_RAX = [0x0f, 0x21, 0xe0];
    const { rig, out } = write(DR4_TO_RAX, 0n);
    expect([out.vector, getReg(rig.cpu, 0)]).toEqual([-1, BigInt(DR6.FIXED_1)]);
    expect(write(DR4_TO_RAX, 0n, undefined, CR4.DE).out.vector).toBe(VECTOR.UD);
  });

  it('is a UD for DR8', () => {
    expect(write([0x44, 0x0f, 0x21, 0xc0], 0n).out.vector).toBe(VECTOR.UD);
  });

  it('raises DB with BD under general detect, before the access, and clears GD', () => {
    const { rig, out } = write(TO_DR6, 0n, (cpu) => void (cpu.s[S.DR + 14] = DR7.FIXED_1 | DR7.GD));
    expect(out.vector).toBe(VECTOR.DB);
    expect(rig.cpu.s[S.DR + 12]! & DR6.BD).toBe(DR6.BD);
    expect(rig.cpu.s[S.DR + 14]).toBe(DR7.FIXED_1);
  });
});

describe('XGETBV and XSETBV', () => {
  const XSETBV = [0x0f, 0x01, 0xd1];
  const run = (rax: bigint, rcx = 0n, rdx = 0n, cr4: number = CR4.OSXSAVE): { rig: Rig; out: Outcome } =>
    write(
      XSETBV,
      rax,
      (cpu) => {
        setReg(cpu, 1, rcx);
        setReg(cpu, 2, rdx);
      },
      cr4,
    );

  it('accept what leaf 0xd says', () => {
    expect(run(0x203n).rig.cpu.s[S.XCR0]).toBe(0x203);
  });

  it.each([
    ['the x87 bit is clear', 2n, 0n, 0n],
    ['a state component does not exist', 7n, 0n, 0n],
    ['ECX is not zero', 1n, 1n, 0n],
    ['EDX is not zero', 1n, 0n, 1n],
  ])('XSETBV is a GP if %s', (_name, rax, rcx, rdx) => {
    expect(run(rax, rcx, rdx).out.vector).toBe(VECTOR.GP);
  });

  it('are UD without CR4.OSXSAVE; XGETBV is a GP for other ECX and works at CPL 3', () => {
    expect(run(1n, 0n, 0n, 0).out.vector).toBe(VECTOR.UD);
    expect(write([0x0f, 0x01, 0xd0], 0n).out.vector).toBe(VECTOR.UD);
    const ecx = (cpu: Cpu): void => setReg(cpu, 1, 1n);
    expect(write([0x0f, 0x01, 0xd0], 0n, ecx, CR4.OSXSAVE).out.vector).toBe(VECTOR.GP);
    const user = new Rig();
    user.exec([0x0f, 0x01, 0xd0, 0x0f, 0x0b], { cpl: 3, cr4: CR4.OSXSAVE }, (cpu) => setReg(cpu, 0, 0n));
    expect(getReg(user.cpu, 0)).toBe(1n);
    const xsetbv = new Rig();
    expect(xsetbv.exec(XSETBV, { cpl: 3, cr4: CR4.OSXSAVE }).vector).toBe(VECTOR.GP);
  });
});
