// SPDX-License-Identifier: GPL-2.0-only
/** IRET and the fast system calls. Expectations: SDM, instruction reference, 64-bit mode. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { MSR } from '../../../../lib/x86/msr.ts';
import { EFER, RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR } from '../../../../lib/x86/segments.ts';
import { UnimplementedError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { getReg, getRip, setReg } from '../regs.ts';
import { BLOCKING, S, SEGF, SEGN } from '../state.ts';
import { segAt } from './descriptors.ts';
import { FLAT_SELECTOR, type LongModeEntry } from './reset.ts';
import { AT, type Outcome, Rig } from './testing/rig.ts';

const IRETQ = [0x48, 0xcf];

interface Frame {
  rip?: bigint;
  cs?: number;
  rflags?: number;
  rsp?: bigint;
  ss?: number;
}

/** Execute IRETQ at CPL 0 over a frame; `code` stands at its target AT.CODE + 0x100. */
function iret(
  frame: Frame,
  options: Partial<LongModeEntry> = {},
  rig = new Rig(),
): { rig: Rig; out: Outcome } {
  const words = [
    frame.rip ?? BigInt(AT.CODE + 0x100),
    BigInt(frame.cs ?? FLAT_SELECTOR.KERNEL_CS),
    BigInt(frame.rflags ?? 2),
    frame.rsp ?? BigInt(AT.STACK + 0x100),
    BigInt(frame.ss ?? FLAT_SELECTOR.KERNEL_DS),
  ];
  words.forEach((word, n) => rig.poke64(AT.STACK + n * 8, word));
  rig.poke(AT.CODE + 0x100, [0x90, 0xf4]);
  rig.poke(AT.USER + 0x100, [0x0f, 0x0b]);
  rig.load(IRETQ, options);
  return { rig, out: rig.go() };
}
const toUser: Frame = {
  rip: BigInt(AT.USER + 0x100),
  cs: FLAT_SELECTOR.USER_CS,
  ss: FLAT_SELECTOR.USER_DS,
  rsp: BigInt(AT.USER_STACK),
};

describe('IRET', () => {
  it('returns at the same level: RIP, RSP, SS and all flags', () => {
    const rflags = RFLAGS.CF | RFLAGS.DF | RFLAGS.IOPL | RFLAGS.ID | RFLAGS.FIXED;
    const { rig, out } = iret({ rflags });
    expect([out.vector, getRip(rig.cpu), getReg(rig.cpu, 4)]).toEqual([
      -1,
      BigInt(AT.CODE + 0x102),
      BigInt(AT.STACK + 0x100),
    ]);
    expect(rig.cpu.s[S.RFLAGS_SYS]! & (RFLAGS.DF | RFLAGS.IOPL | RFLAGS.ID)).toBe(rflags & ~(RFLAGS.CF | 2));
  });

  it('returns to the outer level and drops data segments that it may not see', () => {
    const rig = new Rig();
    const { out } = iret(toUser, {}, rig);
    expect([out.vector, out.frame.cs, out.frame.ss, out.frame.rsp]).toEqual([
      VECTOR.UD,
      BigInt(FLAT_SELECTOR.USER_CS),
      BigInt(FLAT_SELECTOR.USER_DS),
      BigInt(AT.USER_STACK),
    ]);
    for (const seg of [SEGN.DS, SEGN.ES, SEGN.FS, SEGN.GS]) {
      expect([rig.cpu.s[segAt(seg) + SEGF.SEL], rig.cpu.s[segAt(seg) + SEGF.AR]]).toEqual([0, AR.UNUSABLE]);
    }
  });

  it('accepts a null SS for 64-bit code below level 3 only', () => {
    expect(iret({ ss: 0 }).out.vector).toBe(-1);
    const { out } = iret({ ...toUser, ss: 3 });
    expect([out.vector, out.errorCode]).toEqual([VECTOR.GP, 0]);
    expect(iret({ ss: 1 }).out.vector).toBe(VECTOR.GP);
  });

  it('at level 3 changes IF only if IOPL allows, and never IOPL', () => {
    for (const iopl of [0, RFLAGS.IOPL]) {
      const rig = new Rig();
      rig.load([...IRETQ], { cpl: 3, rsp: BigInt(AT.USER_DATA), rflags: iopl });
      const frame = [
        AT.USER + 0x100,
        FLAT_SELECTOR.USER_CS,
        RFLAGS.IF | RFLAGS.CF | 0x3002,
        AT.USER_STACK,
        FLAT_SELECTOR.USER_DS,
      ];
      frame.forEach((word, n) => rig.poke64(AT.USER_DATA + n * 8, BigInt(word)));
      rig.poke(AT.USER + 0x100, [0x0f, 0x0b]);
      const out = rig.go();
      expect(out.frame.rflags).toBe(BigInt(RFLAGS.CF | RFLAGS.RF | 2 | iopl | (iopl === 0 ? 0 : RFLAGS.IF)));
    }
  });

  it.each<[string, Frame, number, number]>([
    ['null CS', { cs: 0 }, VECTOR.GP, 0],
    ['CS beyond the GDT', { cs: 0x90 }, VECTOR.GP, 0x90],
    ['CS that is data', { cs: 0x10 }, VECTOR.GP, 0x10],
    ['CS whose DPL is not its RPL', { cs: FLAT_SELECTOR.KERNEL_CS | 3 }, VECTOR.GP, 8],
    ['CS with DPL above RPL', { cs: FLAT_SELECTOR.USER_CS & ~3 }, VECTOR.GP, 0x20],
    ['RIP that is not canonical', { rip: 1n << 47n }, VECTOR.GP, 0],
    ['SS of another level', { ss: FLAT_SELECTOR.USER_DS }, VECTOR.GP, 0x18],
    ['SS that is code', { ss: FLAT_SELECTOR.KERNEL_CS }, VECTOR.GP, 8],
    ['SS beyond the GDT', { ss: 0x90 }, VECTOR.GP, 0x90],
  ])('is refused: %s', (_name, frame, vector, error) => {
    const { out } = iret(frame);
    expect([out.vector, out.errorCode, out.frame.rip]).toEqual([vector, error, BigInt(AT.CODE)]);
  });

  it('needs present segments: NP for CS, SS for SS', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.S | 0xb | AR.L);
    rig.descriptor(0x48, 0, 0xffff_ffff, AR.S | 0x3);
    expect(iret({ cs: 0x40 }, {}, rig).out).toMatchObject({ vector: VECTOR.NP, errorCode: 0x40 });
    expect(iret({ ss: 0x48 }, {}, rig).out).toMatchObject({ vector: VECTOR.SS, errorCode: 0x48 });
  });

  it('checks conforming code by DPL <= RPL and refuses L with D', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.P | AR.S | 0xf | AR.L);
    expect(iret({ cs: 0x40 }, {}, rig).out.vector).toBe(-1);
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.P | AR.S | 0xf | AR.L | 0x60);
    expect(iret({ cs: 0x40 }, {}, rig).out.vector).toBe(VECTOR.GP);
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.P | AR.S | 0xb | AR.L | AR.DB);
    expect(iret({ cs: 0x40 }, {}, rig).out.vector).toBe(VECTOR.GP);
  });

  it('is a GP with NT, and never returns to an inner level', () => {
    expect(iret({}, { rflags: RFLAGS.NT }).out).toMatchObject({ vector: VECTOR.GP, errorCode: 0 });
    const rig = new Rig();
    rig.load(IRETQ, { cpl: 3 });
    [AT.CODE, 8, 2, AT.STACK, 0x10].forEach((word, n) => rig.poke64(AT.USER_STACK + n * 8, BigInt(word)));
    expect(rig.go()).toMatchObject({ vector: VECTOR.GP, errorCode: 8 });
  });

  it('ends blocking by NMI even if it faults', () => {
    const rig = new Rig();
    rig.load(IRETQ, { rflags: RFLAGS.NT });
    rig.cpu.s[S.BLOCKING] = BLOCKING.NMI;
    expect(rig.go().vector).toBe(VECTOR.GP);
    expect(rig.cpu.s[S.BLOCKING]).toBe(0);
  });

  it('with a stack that is not mapped is a page fault', () => {
    const rig = new Rig();
    rig.gate(VECTOR.PF, { ist: 1 });
    const out = rig.exec(IRETQ, { rsp: BigInt(AT.HOLE) });
    expect([out.vector, out.frame.rsp]).toEqual([VECTOR.PF, BigInt(AT.HOLE)]);
  });

  it('to compatibility mode or with 16-bit operands stops the run', () => {
    const rig = new Rig();
    rig.descriptor(0x40, 0, 0xffff_ffff, AR.P | AR.S | 0xb | AR.DB);
    expect(() => iret({ cs: 0x40 }, {}, rig)).toThrow(UnimplementedError);
    expect(() => new Rig().exec([0x66, 0xcf])).toThrow(UnimplementedError);
  });

  it('with 32-bit operands pops five words of four bytes', () => {
    const rig = new Rig();
    [AT.CODE + 0x100, 8, 2, AT.STACK + 0x40, 0x10].forEach((word, n) =>
      rig.machine.mem.view.setUint32(AT.STACK + n * 4, word, true),
    );
    rig.poke(AT.CODE + 0x100, [0xf4]);
    rig.exec([0xcf]);
    expect([getRip(rig.cpu), getReg(rig.cpu, 4)]).toEqual([BigInt(AT.CODE + 0x101), BigInt(AT.STACK + 0x40)]);
  });
});

function setMsr(cpu: Cpu, msr: number, value: bigint): void {
  expect(
    cpu.sys.msrs.write(cpu, msr, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n))),
  ).toBe(true);
}

describe('SYSCALL and SYSRET', () => {
  const SYSCALL = [0x0f, 0x05];
  const SYSRETQ = [0x48, 0x0f, 0x07];
  const program = (cpu: Cpu): void => {
    // SYSCALL loads 0x08 and 0x10; SYSRET loads 0x10 + 16 = 0x20 and 0x10 + 8 = 0x18.
    setMsr(cpu, MSR.STAR, 0x0010_0008_0000_0000n);
    setMsr(cpu, MSR.LSTAR, BigInt(AT.CODE + 0x200));
    setMsr(cpu, MSR.SYSCALL_MASK, BigInt(RFLAGS.IF | RFLAGS.DF));
  };

  it('goes to LSTAR at level 0 with RCX, R11 and masked flags, without touching RSP', () => {
    const rig = new Rig();
    rig.poke(AT.CODE + 0x200, [0xf4]);
    rig.exec(SYSCALL, { cpl: 3, rflags: RFLAGS.IF | RFLAGS.DF | RFLAGS.CF }, program);
    const { s } = rig.cpu;
    expect([getReg(rig.cpu, 1), getReg(rig.cpu, 11)]).toEqual([
      BigInt(AT.USER + 2),
      BigInt(RFLAGS.IF | RFLAGS.DF | RFLAGS.CF | 2),
    ]);
    expect([getRip(rig.cpu), s[S.CPL], s[segAt(SEGN.CS) + SEGF.SEL], s[segAt(SEGN.SS) + SEGF.SEL]]).toEqual([
      BigInt(AT.CODE + 0x201),
      0,
      8,
      0x10,
    ]);
    expect(s[S.RFLAGS_SYS]! & (RFLAGS.IF | RFLAGS.DF)).toBe(0);
    expect(getReg(rig.cpu, 4)).toBe(BigInt(AT.USER_STACK));
  });

  it('comes back to level 3 with the flags of R11 but RF and VM', () => {
    const rig = new Rig();
    rig.poke(AT.USER + 0x40, [0x0f, 0x0b]);
    const out = rig.exec(SYSRETQ, {}, (cpu) => {
      program(cpu);
      setReg(cpu, 1, BigInt(AT.USER + 0x40));
      setReg(cpu, 11, BigInt(RFLAGS.RF | RFLAGS.VM | RFLAGS.IF | RFLAGS.CF));
    });
    expect(out).toMatchObject({
      vector: VECTOR.UD,
      frame: {
        cs: 0x23n,
        ss: 0x1bn,
        rip: BigInt(AT.USER + 0x40),
        rflags: BigInt(RFLAGS.IF | RFLAGS.CF | RFLAGS.RF | 2),
      },
    });
  });

  it('are UD without EFER.SCE; SYSRET is GP at level 3 and for a return address that is not canonical', () => {
    const noSce = (cpu: Cpu): void => void (cpu.s[S.EFER] = cpu.s[S.EFER]! & ~EFER.SCE);
    for (const code of [SYSCALL, SYSRETQ]) expect(new Rig().exec(code, {}, noSce).vector).toBe(VECTOR.UD);
    expect(new Rig().exec(SYSRETQ, { cpl: 3 }).vector).toBe(VECTOR.GP);
    const out = new Rig().exec(SYSRETQ, {}, (cpu) => setReg(cpu, 1, 1n << 47n));
    expect([out.vector, out.frame.cs]).toEqual([VECTOR.GP, 8n]);
    expect(() => new Rig().exec([0x0f, 0x07])).toThrow(UnimplementedError);
  });
});

describe('SYSENTER and SYSEXIT', () => {
  const program = (cpu: Cpu): void => {
    setMsr(cpu, MSR.IA32_SYSENTER_CS, 8n);
    setMsr(cpu, MSR.IA32_SYSENTER_EIP, BigInt(AT.CODE + 0x200));
    setMsr(cpu, MSR.IA32_SYSENTER_ESP, BigInt(AT.RSP0));
    setReg(cpu, 1, BigInt(AT.USER_STACK));
    setReg(cpu, 2, BigInt(AT.USER + 0x40));
  };

  it('SYSENTER goes to level 0 with interrupts off', () => {
    const rig = new Rig();
    rig.poke(AT.CODE + 0x200, [0xf4]);
    rig.exec([0x0f, 0x34], { cpl: 3, rflags: RFLAGS.IF }, program);
    expect([getRip(rig.cpu), getReg(rig.cpu, 4), rig.cpu.s[S.CPL]]).toEqual([
      BigInt(AT.CODE + 0x201),
      BigInt(AT.RSP0),
      0,
    ]);
    expect(rig.cpu.s[S.RFLAGS_SYS]! & RFLAGS.IF).toBe(0);
  });

  it('SYSEXIT goes to level 3 with CS + 32 and CS + 40', () => {
    const rig = new Rig();
    rig.poke(AT.USER + 0x40, [0x0f, 0x0b]);
    const out = rig.exec([0x48, 0x0f, 0x35], {}, program);
    expect(out).toMatchObject({
      vector: VECTOR.UD,
      frame: { cs: 0x2bn, ss: 0x33n, rsp: BigInt(AT.USER_STACK) },
    });
  });

  it('are GP with a null SYSENTER_CS, SYSEXIT also at level 3 and for addresses that are not canonical', () => {
    expect(new Rig().exec([0x0f, 0x34], { cpl: 3 }).vector).toBe(VECTOR.GP);
    expect(new Rig().exec([0x48, 0x0f, 0x35]).vector).toBe(VECTOR.GP);
    expect(new Rig().exec([0x48, 0x0f, 0x35], { cpl: 3 }, program).vector).toBe(VECTOR.GP);
    for (const reg of [1, 2]) {
      const out = new Rig().exec([0x48, 0x0f, 0x35], {}, (cpu) => {
        program(cpu);
        setReg(cpu, reg, 1n << 47n);
      });
      expect(out.vector).toBe(VECTOR.GP);
    }
    expect(() => new Rig().exec([0x0f, 0x35], {}, program)).toThrow(UnimplementedError);
  });
});
