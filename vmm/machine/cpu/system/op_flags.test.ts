// SPDX-License-Identifier: GPL-2.0-only
/** CLI STI PUSHF POPF STAC CLAC, HLT PAUSE MONITOR MWAIT, INVLPG INVPCID. Expectations: SDM, instruction reference. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { MISC_ENABLE, MSR } from '../../../../lib/x86/msr.ts';
import { CR4, RFLAGS } from '../../../../lib/x86/registers.ts';
import { COST } from '../../cost/points.ts';
import { UnimplementedError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { getRflags } from '../flags.ts';
import { getReg, getRip, setReg } from '../regs.ts';
import { S } from '../state.ts';
import type { LongModeEntry } from './reset.ts';
import { AT, type Outcome, Rig } from './testing/rig.ts';

const [CLI, STI, PUSHF, POPF, HLT] = [0xfa, 0xfb, 0x9c, 0x9d, 0xf4];
const UD2 = [0x0f, 0x0b];

describe('CLI and STI', () => {
  it('change IF at or below IOPL, else GP', () => {
    for (const [code, before, after] of [
      [CLI, RFLAGS.IF, 0],
      [STI, 0, RFLAGS.IF],
    ] as const) {
      const allowed = new Rig().exec([code, ...UD2], { cpl: 3, rflags: RFLAGS.IOPL | before });
      expect([allowed.vector, allowed.frame.rflags & BigInt(RFLAGS.IF)]).toEqual([VECTOR.UD, BigInt(after)]);
      const refused = new Rig().exec([code, ...UD2], { cpl: 3, rflags: before });
      expect([refused.vector, refused.frame.rflags & BigInt(RFLAGS.IF)]).toEqual([VECTOR.GP, BigInt(before)]);
    }
  });

  it('under CR4.PVI at level 3 stop the run: virtual interrupts are not modelled', () => {
    expect(() => new Rig().exec([CLI], { cpl: 3, cr4: CR4.PVI })).toThrow(UnimplementedError);
  });
});

describe('PUSHF and POPF', () => {
  function popf(value: number, options: Partial<LongModeEntry> = {}, code = [POPF]): number {
    const rig = new Rig();
    const user = options.cpl === 3;
    rig.poke64(user ? AT.USER_STACK : AT.STACK, BigInt(value));
    const out = rig.exec([...code, ...(user ? UD2 : [HLT])], options);
    return user ? Number(out.frame.rflags) & ~RFLAGS.RF : getRflags(rig.cpu);
  }
  const ALL = 0x3f_ffff & ~RFLAGS.TF;

  it('at level 0 load everything but RF, VM, VIF, VIP and the fixed bits', () => {
    const mask = RFLAGS.RF | RFLAGS.VM | RFLAGS.VIF | RFLAGS.VIP | 0x8028;
    expect(popf(ALL)).toBe((ALL & ~mask) | 2);
    expect(popf(0, { rflags: RFLAGS.IOPL | RFLAGS.IF | RFLAGS.ID })).toBe(2);
  });

  it('at level 3 leave IOPL alone, and IF unless IOPL is 3', () => {
    expect(popf(ALL, { cpl: 3 }) & (RFLAGS.IF | RFLAGS.IOPL)).toBe(0);
    expect(popf(RFLAGS.IF, { cpl: 3, rflags: RFLAGS.IOPL }) & (RFLAGS.IF | RFLAGS.IOPL)).toBe(
      RFLAGS.IF | RFLAGS.IOPL,
    );
  });

  it('with 16 bits leave the upper flags', () => {
    expect(popf(0x3_f000 & ALL, { rflags: RFLAGS.ID }, [0x66, POPF])).toBe(
      RFLAGS.ID | RFLAGS.IOPL | RFLAGS.NT | 2,
    );
  });

  it('PUSHF shows RF as zero and moves RSP by the operand size', () => {
    const rig = new Rig();
    rig.exec([PUSHF, HLT], { rflags: RFLAGS.CF | RFLAGS.RF });
    expect([rig.peek64(AT.STACK - 8), getReg(rig.cpu, 4)]).toEqual([3n, BigInt(AT.STACK - 8)]);
    rig.exec([0x66, PUSHF, HLT], { rflags: RFLAGS.ID });
    expect([rig.peek64(AT.STACK - 2) & 0xffffn, getReg(rig.cpu, 4)]).toEqual([2n, BigInt(AT.STACK - 2)]);
  });

  it('take page faults with RSP unchanged', () => {
    for (const [code, rsp] of [
      [PUSHF, AT.HOLE + 8],
      [POPF, AT.HOLE],
    ] as const) {
      const rig = new Rig();
      rig.gate(VECTOR.PF, { ist: 1 });
      expect(rig.exec([code], { rsp: BigInt(rsp) })).toMatchObject({
        vector: VECTOR.PF,
        frame: { rsp: BigInt(rsp) },
      });
    }
  });

  it('TF comes in by POPF without a trap of the POPF itself', () => {
    const rig = new Rig();
    rig.poke64(AT.STACK, BigInt(RFLAGS.TF));
    expect(rig.exec([POPF, 0x90, HLT]).frame.rip).toBe(BigInt(AT.CODE + 2));
  });
});

describe('STAC and CLAC', () => {
  const [STAC, CLAC] = [
    [0x0f, 0x01, 0xcb],
    [0x0f, 0x01, 0xca],
  ];
  it('open and close user pages under SMAP', () => {
    const touch = [0x8b, 0x08]; // mov ecx, [rax]
    const at = (cpu: Cpu): void => setReg(cpu, 0, BigInt(AT.USER_DATA));
    const smap = { cr4: CR4.SMAP };
    expect(new Rig().exec([...STAC, ...touch, HLT], smap, at).vector).toBe(-1);
    expect(new Rig().exec([...STAC, ...CLAC, ...touch, HLT], smap, at).vector).toBe(VECTOR.PF);
  });
  it('are UD at level 3', () => {
    for (const code of [STAC, CLAC]) expect(new Rig().exec(code, { cpl: 3 }).vector).toBe(VECTOR.UD);
  });
});

describe('HLT, PAUSE, MONITOR, MWAIT, WBINVD', () => {
  const MONITOR = [0x0f, 0x01, 0xc8];
  const MWAIT = [0x0f, 0x01, 0xc9];

  it('HLT, INVD and WBINVD need level 0', () => {
    for (const code of [[HLT], [0x0f, 0x08], [0x0f, 0x09]]) {
      expect(new Rig().exec(code, { cpl: 3 }).vector).toBe(VECTOR.GP);
      expect(new Rig().exec([...code, HLT]).vector).toBe(-1);
    }
  });

  it('PAUSE costs its price', () => {
    const rig = new Rig();
    rig.exec([0xf3, 0x90, HLT]);
    expect(rig.cpu.counts[COST.PAUSE]).toBe(1);
  });

  it('MONITOR and MWAIT go on; UD at level 3 and when disabled, GP for other ECX, PF of the operand', () => {
    const go = (
      code: number[],
      rax: number,
      rcx = 0n,
      options = {},
      before?: (rig: Rig) => void,
    ): Outcome => {
      const rig = new Rig();
      before?.(rig);
      return rig.exec([...code, HLT], options, (cpu) => {
        setReg(cpu, 0, BigInt(rax));
        setReg(cpu, 1, rcx);
      });
    };
    expect(go([...MONITOR, 0x31, 0xc0, ...MWAIT], AT.DATA).vector).toBe(-1);
    const off = ({ cpu }: Rig): void => {
      const value = Number(cpu.sys.msrs.get(cpu, MSR.IA32_MISC_ENABLE)) & ~MISC_ENABLE.MWAIT;
      expect(cpu.sys.msrs.write(cpu, MSR.IA32_MISC_ENABLE, value, 0)).toBe(true);
    };
    for (const code of [MONITOR, MWAIT]) {
      expect(go(code, AT.DATA, 0n, { cpl: 3 }).vector).toBe(VECTOR.UD);
      expect(go(code, AT.DATA, 0n, {}, off).vector).toBe(VECTOR.UD);
      expect(go(code, AT.DATA, 1n).vector).toBe(VECTOR.GP);
    }
    expect(go(MONITOR, AT.HOLE).vector).toBe(VECTOR.PF);
  });
});

describe('INVLPG and INVPCID', () => {
  const TOUCH = [0x8b, 0x08]; // mov ecx, [rax]
  /** Touch a page, take it away in the tables, invalidate, touch again. */
  function reuse(flush: readonly number[], cr4 = 0, rdx = 0n): Outcome {
    const rig = new Rig();
    rig.load([...TOUCH, HLT, ...flush, ...TOUCH, HLT], { cr4 });
    setReg(rig.cpu, 0, BigInt(AT.DATA));
    setReg(rig.cpu, 2, rdx);
    setReg(rig.cpu, 6, BigInt(AT.STACK));
    rig.go();
    rig.pte(AT.DATA, 0n);
    rig.cpu.s[S.ACTIVITY] = 0;
    return rig.go();
  }

  it('a changed table is seen after INVLPG of the page, and not before', () => {
    expect(reuse([]).vector).toBe(-1);
    expect(reuse([0x0f, 0x01, 0x38]).vector).toBe(VECTOR.PF);
    // invlpg [rsi]: another page
    expect(reuse([0x0f, 0x01, 0x3e]).vector).toBe(-1);
  });

  // invpcid rdx, [rsi]; the descriptor at AT.STACK is zero: PCID 0, address 0
  const INVPCID = [0x66, 0x0f, 0x38, 0x82, 0x16];
  it('INVPCID types 1, 2 and 3 drop it, type 0 of another address does not', () => {
    for (const type of [1n, 2n, 3n]) expect(reuse(INVPCID, 0, type).vector).toBe(VECTOR.PF);
    expect(reuse(INVPCID, 0, 0n).vector).toBe(-1);
  });

  function invpcid(type: bigint, words: readonly bigint[], cr4 = 0, at: number = AT.DATA): Outcome {
    const rig = new Rig();
    words.forEach((word, n) => rig.poke64(AT.DATA + n * 8, word));
    return rig.exec([...INVPCID, HLT], { cr4 }, (cpu) => {
      setReg(cpu, 2, type);
      setReg(cpu, 6, BigInt(at));
    });
  }

  it.each<[string, bigint, readonly bigint[], number]>([
    ['a type above 3', 4n, [], CR4.PCIDE],
    ['a type with an upper half', 1n << 32n, [], CR4.PCIDE],
    ['reserved descriptor bits', 1n, [0x1000n, 0n], CR4.PCIDE],
    ['reserved upper descriptor bits', 1n, [1n << 32n, 0n], CR4.PCIDE],
    ['a PCID without CR4.PCIDE', 1n, [1n, 0n], 0],
    ['an address that is not canonical', 0n, [0n, 1n << 47n], CR4.PCIDE],
  ])('INVPCID refuses %s', (_name, type, words, cr4) => {
    expect(invpcid(type, words, cr4)).toMatchObject({ vector: VECTOR.GP, errorCode: 0 });
  });

  it('INVPCID accepts a PCID with CR4.PCIDE, and faults on its operand', () => {
    expect(invpcid(1n, [0xfffn, 0n], CR4.PCIDE).vector).toBe(-1);
    expect(invpcid(2n, [0n, 1n << 47n]).vector).toBe(-1);
    expect(invpcid(2n, [], 0, AT.HOLE).vector).toBe(VECTOR.PF);
    expect(invpcid(2n, [], 0, AT.HOLE - 8).vector).toBe(VECTOR.PF);
  });

  it('need level 0; INVLPG of a non-canonical address does nothing', () => {
    for (const code of [INVPCID, [0x0f, 0x01, 0x38]])
      expect(new Rig().exec(code, { cpl: 3 }).vector).toBe(VECTOR.GP);
    const out = new Rig().exec([0x0f, 0x01, 0x38, HLT], {}, (cpu) => setReg(cpu, 0, 1n << 47n));
    expect(out.vector).toBe(-1);
  });
});

describe('Instructions of the other vendor', () => {
  it.each([
    ['VMRUN', [0x0f, 0x01, 0xd8]],
    ['VMMCALL', [0x0f, 0x01, 0xd9]],
    ['CLGI', [0x0f, 0x01, 0xdd]],
  ])('%s is a UD', (_name, code) => {
    const rig = new Rig();
    expect(rig.exec(code).vector).toBe(VECTOR.UD);
    expect(getRip(rig.cpu)).toBe(rig.handler(VECTOR.UD) + 1n);
  });
});
