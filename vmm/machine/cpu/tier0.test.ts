// SPDX-License-Identifier: GPL-2.0-only
/** The loop's own promises: precise faults, exact deadlines, self-modifying code, page crossing, its size and labels. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR0, EFER, RFLAGS } from '../../../lib/x86/registers.ts';
import { RAM_BASE } from '../layout.ts';
import { HOT } from './hot.ts';
import { getReg, getRip, setReg, setRip } from './regs.ts';
import { FAULT, RUN, S } from './state.ts';
import { SYSOP } from './sys_insn.ts';
import { bare, CODE, DATA, HLT, load, outcome, peek, run, runOn, STACK, STACK_TOP } from './testing/bare.ts';

const HOLE = DATA + 0x4000n;

describe('faults', () => {
  const b = bare([]);

  it('leave registers, flags and memory as they were, with RIP at the instruction', () => {
    const codes = [
      [0x48, 0x89, 0x07],
      [0x48, 0x8b, 0x07],
      [0x48, 0x01, 0x07],
      [0x48, 0x03, 0x07],
      [0xff, 0x07],
      [0xff, 0x37],
      [0x8f, 0x07],
      [0x48, 0x0f, 0xb1, 0x1f],
      [0x48, 0x87, 0x1f],
      [0xff, 0x17],
      [0xff, 0x27],
      [0x0f, 0xb6, 0x07],
      [0x48, 0x0f, 0x45, 0x07],
      [0x0f, 0x95, 0x07],
      [0xc6, 0x07, 0x01],
      [0x48, 0xf7, 0x3f],
      [0x48, 0x0f, 0xab, 0x07],
      [0x48, 0xab],
      [0x48, 0xad],
      [0x48, 0xa7],
      [0xf6, 0x17],
      [0x48, 0xd1, 0x27],
      [0x48, 0x0f, 0xaf, 0x07],
      [0x48, 0x8b, 0x44, 0x0f, 0x10],
      [0x48, 0x0f, 0xa5, 0x1f],
      [0x0f, 0xc7, 0x0f],
      [0x48, 0x0f, 0xc1, 0x07],
    ];
    for (const code of codes) {
      const regs = { 0: 1n, 1: 2n, 2: 3n, 3: 4n, 4: STACK_TOP - 64n, 6: HOLE, 7: HOLE };
      const o = runOn(b, code, { regs, rflags: RFLAGS.CF });
      expect(o.result, code.join()).toBe(RUN.FAULT);
      expect(o.rip).toBe(CODE);
      expect(o.rflags).toBe(RFLAGS.CF | RFLAGS.FIXED);
      expect(o.regs).toEqual([
        1n,
        2n,
        3n,
        4n,
        STACK_TOP - 64n,
        0n,
        HOLE,
        HOLE,
        0n,
        0n,
        0n,
        0n,
        0n,
        0n,
        0n,
        0n,
      ]);
      expect([b.cpu.fault.kind, b.cpu.fault.vector]).toEqual([FAULT.EXCEPTION, VECTOR.PF]);
      expect(b.cpu.fault.linLo >>> 12).toBe(Number((HOLE >> 12n) & 0xfffffn));
    }
  });

  it('stack accesses that fail leave RSP alone, also PUSH and CALL to a hole', () => {
    for (const code of [[0x50], [0xe8, 0, 0, 0, 0], [0xff, 0xd0], [0xc8, 0, 0, 0], [0xc8, 0x10, 0, 3]]) {
      const o = runOn(b, code, { regs: { 4: STACK, 0: CODE } });
      expect([o.result, o.regs[4], b.cpu.fault.errorCode & PFERR.WRITE]).toEqual([
        RUN.FAULT,
        STACK,
        PFERR.WRITE,
      ]);
    }
    for (const code of [[0x58], [0xc3], [0xc2, 8, 0]]) {
      expect(runOn(b, code, { regs: { 4: STACK_TOP } }).regs[4]).toBe(STACK_TOP);
    }
    expect(runOn(b, [0xc9], { regs: { 5: HOLE } }).regs[4]).toBe(STACK_TOP);
  });

  it('a store that crosses into a hole writes nothing', () => {
    const at = HOLE - 4n;
    const before = peek(b, HOLE - 8n);
    const o = runOn(b, [0x48, 0x89, 0x07], { regs: { 0: 0x1122_3344_5566_7788n, 7: at } });
    expect([o.result, peek(b, HOLE - 8n)]).toEqual([RUN.FAULT, before]);
    const ok = runOn(b, [0x48, 0x89, 0x07, 0x48, 0x8b, 0x1f], {
      regs: { 0: 0x1122_3344_5566_7788n, 7: DATA + 0xffdn },
    });
    expect([ok.result, ok.regs[3]]).toEqual([RUN.SYS, 0x1122_3344_5566_7788n]);
  });

  it('non-canonical data raises GP, by way of the stack SS; a non-canonical target raises GP at the branch', () => {
    const bad = 0x8000_0000_0000_0000n;
    const vectorOf = (code: readonly number[], regs: Record<number, bigint>): number => {
      const o = runOn(b, code, { regs });
      expect([o.result, o.rip]).toEqual([RUN.FAULT, CODE]);
      return b.cpu.fault.vector;
    };
    expect(vectorOf([0x48, 0x8b, 0x07], { 7: bad })).toBe(VECTOR.GP);
    expect(vectorOf([0x48, 0x8b, 0x45, 0], { 5: bad })).toBe(VECTOR.SS);
    expect(vectorOf([0x48, 0x8b, 0x04, 0x24], { 4: bad })).toBe(VECTOR.SS);
    expect(vectorOf([0x50], { 4: bad })).toBe(VECTOR.SS);
    expect(vectorOf([0xc3], { 4: bad })).toBe(VECTOR.SS);
    expect(vectorOf([0xff, 0xe0], { 0: bad })).toBe(VECTOR.GP);
    expect(vectorOf([0xff, 0xd0], { 0: bad })).toBe(VECTOR.GP);
    load(b, { data: [bad] });
    expect(vectorOf([0xff, 0x27], { 7: DATA })).toBe(VECTOR.GP);
  });

  it('a RET to a non-canonical address faults before RSP moves', () => {
    const o = runOn(b, [0xc3], { regs: { 4: DATA }, data: [0x8000_0000_0000_0000n] });
    expect([o.result, o.regs[4], b.cpu.fault.vector]).toEqual([RUN.FAULT, DATA, VECTOR.GP]);
  });

  it('UD for what is no instruction and for LOCK where it is not allowed, GP for more than 15 bytes', () => {
    for (const code of [
      [0x06],
      [0x0f, 0x0b],
      [0x0f, 0xb9, 0xc0],
      [0xf0, 0x90],
      [0xf0, 0x01, 0xc0],
      [0xf0, 0x48, 0x8b, 0x07],
      [0xf0, 0x39, 0x07],
      [0x8d, 0xc0],
      [0xc6, 0xc8, 0],
      [0x0f, 0xaa],
    ]) {
      const o = runOn(b, code);
      expect([o.result, o.rip, b.cpu.fault.vector], code.join()).toEqual([RUN.FAULT, CODE, VECTOR.UD]);
    }
    const long = [...Array<number>(15).fill(0x66), 0x90];
    expect([runOn(b, long).result, b.cpu.fault.vector]).toEqual([RUN.FAULT, VECTOR.GP]);
    expect(runOn(b, long.slice(1)).result).toBe(RUN.SYS);
  });

  it('what real processors have and this one has not stops the run, with the bytes', () => {
    for (const code of [[0x0f, 0x58, 0xc0], [0xd9, 0xe8], [0xc5, 0xf8, 0x77], [0xcb]]) {
      expect(() => runOn(b, code)).toThrow(/instruction is not modelled.*RIP 0x0000000000400000.*bytes/);
    }
  });
});

describe('modes', () => {
  it('code outside of 64-bit mode and alignment checks are refused', () => {
    const b = bare([HLT]);
    b.cpu.s[S.CR0]! |= CR0.AM;
    b.cpu.s[S.RFLAGS_SYS]! |= RFLAGS.AC;
    expect(run(b.cpu).result).toBe(RUN.SYS);
    b.cpu.s[S.CPL] = 3;
    expect(() => run(b.cpu)).toThrow(/alignment checking/);
    b.cpu.s[S.CPL] = 0;
    b.cpu.s[S.EFER]! &= ~EFER.LMA;
    expect(() => run(b.cpu)).toThrow(/64-bit mode/);
  });

  it('code in a page that is not RAM is refused', () => {
    const b = bare([0xff, 0xe0]);
    b.map(0x60_0000n, 0x7f00_0000, 3);
    setReg(b.cpu, 0, 0x60_0000n);
    expect(() => run(b.cpu)).toThrow(/outside of RAM/);
  });
});

describe('system instructions', () => {
  it('are handed over with their operands, RIP still at them and not counted', () => {
    const b = bare([0x48, 0x01, 0xd8, 0x64, 0x48, 0x0f, 0x01, 0x7c, 0x8b, 0x10]); // add; invlpg fs:[rbx + rcx * 4 + 16]
    setReg(b.cpu, 3, 0x1000n);
    setReg(b.cpu, 1, 2n);
    const fs = S.SEG + 4 * 5;
    b.cpu.s[fs] = 0x50_0000;
    const o = run(b.cpu);
    const { insn } = b.cpu;
    expect([o.result, o.rip, b.cpu.counts[0]]).toEqual([RUN.SYS, CODE + 3n, 1]);
    expect(insn).toMatchObject({
      op: SYSOP.INVLPG,
      length: 7,
      rm: -1,
      seg: 4,
      base: 3,
      index: 1,
      scale: 2,
      disp: 16,
    });
    expect(insn.eaLo).toBe(0x50_1018);
  });

  it('ports, strings, control and segment registers', () => {
    const sys = (code: readonly number[]): object => {
      const b = bare(code);
      setReg(b.cpu, 6, DATA);
      setReg(b.cpu, 7, DATA + 64n);
      expect(run(b.cpu).result).toBe(RUN.SYS);
      return { ...b.cpu.insn };
    };
    expect(sys([0xe4, 0x80])).toMatchObject({ op: SYSOP.IN, size: 1, imm: 0x80, length: 2 });
    expect(sys([0x48, 0xef])).toMatchObject({ op: SYSOP.OUT, size: 4, imm: -1 });
    expect(sys([0xf3, 0x66, 0x6d])).toMatchObject({
      op: SYSOP.INS,
      size: 2,
      rep: 1,
      eaLo: Number(BigInt.asIntN(32, DATA + 64n)),
    });
    expect(sys([0x6e])).toMatchObject({
      op: SYSOP.OUTS,
      size: 1,
      rep: 0,
      eaLo: Number(BigInt.asIntN(32, DATA)),
    });
    expect(sys([0x44, 0x0f, 0x22, 0xc3])).toMatchObject({ op: SYSOP.MOV_TO_CR, reg: 8, rm: 3, size: 8 });
    expect(sys([0x8e, 0xe8])).toMatchObject({ op: SYSOP.MOV_TO_SREG, reg: 5, rm: 0 });
    expect(sys([0x0f, 0xa8])).toMatchObject({ op: SYSOP.PUSH_SREG, reg: 5, size: 8 });
    expect(sys([0x48, 0xcf])).toMatchObject({ op: SYSOP.IRET, size: 8 });
    expect(sys([0xcd, 0x80])).toMatchObject({ op: SYSOP.INT, imm: 0x80 });
  });
});

describe('deadlines', () => {
  const loop = [0x48, 0xff, 0xc0, 0xeb, 0xfb]; // inc rax; jmp

  it('the loop stops at the first boundary at or after the deadline', () => {
    const b = bare(loop);
    run(b.cpu, 1);
    for (const n of [1, 2, 3, 10, 1000, 65_537]) {
      const start = b.cpu.clock[0]!;
      expect(run(b.cpu, start + n).result).toBe(RUN.DEADLINE);
      expect(b.cpu.clock[0]).toBe(start + n);
    }
    const now = b.cpu.clock[0]!;
    expect(run(b.cpu, now).clock).toBe(now);
    expect(b.cpu.counts[0]).toBe(Number(getReg(b.cpu, 0)) * 2 - (getRip(b.cpu) === CODE ? 0 : 1));
  });

  it('an instruction that has begun is completed though its walk passes the deadline', () => {
    const b = bare([0x48, 0x8b, 0x1f, HLT]);
    setReg(b.cpu, 7, DATA);
    load(b, { data: [42n] });
    const o = run(b.cpu, 1);
    expect([o.result, o.regs[3], o.rip]).toEqual([RUN.DEADLINE, 42n, CODE + 3n]);
    expect(o.clock).toBeGreaterThan(1);
  });

  it('a raised S.PENDING stops at once, before the first instruction', () => {
    const b = bare(loop);
    b.cpu.s[S.PENDING] = 1;
    expect(run(b.cpu).result).toBe(RUN.DEADLINE);
    expect(getReg(b.cpu, 0)).toBe(0n);
  });
});

describe('self-modifying code', () => {
  it('a store into the next instruction is seen by it', () => {
    // mov byte [rip + 1], 7 (the immediate of the next); mov bl, 5
    const b = bare([0xc6, 0x05, 0x01, 0, 0, 0, 0x07, 0xb3, 0x05, HLT]);
    expect(run(b.cpu).regs[3]).toBe(7n);
  });

  it('a loop that patches itself runs the new code, data beside code does not disturb', () => {
    // loop: inc byte [rip + 8]; mov bl, 0 (patched); dec rcx; jnz loop; hlt
    const b = bare([0xfe, 0x05, 0x01, 0, 0, 0, 0xb3, 0x00, 0x48, 0xff, 0xc9, 0x75, 0xf3, HLT]);
    setReg(b.cpu, 1, 100n);
    expect(run(b.cpu).regs[3]).toBe(100n);
    // loop: inc qword [rip + 0x100]; dec rcx; jnz loop: the same page, no instruction is touched
    const data = bare([0x48, 0xff, 0x05, 0x00, 0x01, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf4, HLT]);
    setReg(data.cpu, 1, 50n);
    run(data.cpu, 200);
    const { generation } = data.machine.code;
    expect(run(data.cpu).result).toBe(RUN.SYS);
    expect(data.machine.code.generation).toBe(generation);
    expect(peek(data, CODE + 0x107n)).toBe(50n);
  });

  it('REP MOVS over code, stores by the kernel and retired frames are noticed', () => {
    const b = bare([0xf3, 0xa4, 0xb3, 0x00, HLT]); // rep movsb onto "mov bl, 0"
    setReg(b.cpu, 1, 2n);
    setReg(b.cpu, 6, DATA);
    setReg(b.cpu, 7, CODE + 2n);
    load(b, { data: [0x09b3n] });
    expect(run(b.cpu).regs[3]).toBe(9n);
    const { code, mem } = b.machine;
    const at = b.phys(CODE);
    expect(code.hasCode(at >>> 12)).toBe(true);
    mem.u8[at + 3] = 0x33;
    b.machine.noteStore((at + 3) as never, 1);
    expect(code.hasCode(at >>> 12)).toBe(false);
    setRip(b.cpu, CODE + 2n);
    expect(run(b.cpu).regs[3]).toBe(0x33n);
    code.invalidateFrame(at >>> 12);
    expect(code.hasCode(at >>> 12)).toBe(false);
  });

  it('code by two linear addresses is decoded once, and a store by one is seen by the other', () => {
    const b = bare([0xb3, 0x01, 0xff, 0xe0]); // mov bl, 1; jmp rax
    b.map(0x70_0000n, b.phys(CODE), 3);
    setReg(b.cpu, 0, 0x70_0000n);
    run(b.cpu, b.cpu.clock[0]! + 500);
    const alias = b.machine.code.generation;
    load(b, { regs: { 7: 0x70_0001n } });
    expect(alias).toBe(0);
    expect([CODE, CODE + 2n, 0x70_0000n, 0x70_0002n]).toContain(getRip(b.cpu));
  });
});

describe('page crossing', () => {
  it('instructions that cross a page, jumps between pages and straight runs into the next page', () => {
    const b = bare([]);
    const { u8 } = b.machine.mem;
    const at = b.phys(CODE);
    u8.set([0xe9, 0xf8, 0x0f, 0, 0], at); // jmp CODE + 0xffd
    // mov rax, imm64 (10 bytes from 0xffd); add rax, 1; call CODE + 0x10; hlt
    u8.set(
      [0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0x48, 0x83, 0xc0, 0x01, 0xe8, 0, 0xf0, 0xff, 0xff, HLT],
      at + 0xffd,
    );
    u8.set([0xb3, 0x44, 0xc3], at + 0x1010 - 0x1000);
    const o = run(b.cpu);
    expect([o.result, o.regs[0], o.regs[3]]).toEqual([RUN.SYS, 0x0807_0605_0403_0202n, 0x44n]);
    expect(o.rip).toBe(CODE + 0xffdn + 19n);
  });

  it('a straight run falls into the next page', () => {
    const b = bare([0xe9, 0xf7, 0x0f, 0, 0]); // jmp CODE + 0xffc
    const at = b.phys(CODE);
    b.machine.mem.u8.set([0xb3, 0x01, 0xb1, 0x02, 0xb2, 0x03, HLT], at + 0xffc);
    expect(run(b.cpu).regs.slice(1, 4)).toEqual([2n, 3n, 1n]);
  });

  it('a fetch fault is reported for the missing second page, a page fault on the fetch of a missing page', () => {
    const b = bare([0xe9, 0xf9, 0x1f, 0, 0]); // jmp CODE + 0x1ffe
    b.machine.mem.u8.set([0x48, 0xb8], b.phys(CODE) + 0x1ffe);
    const o = run(b.cpu);
    expect([o.result, o.rip, b.cpu.fault.linLo]).toEqual([RUN.FAULT, CODE + 0x1ffen, Number(CODE) + 0x2000]);
    setRip(b.cpu, CODE + 0x2000n);
    expect([run(b.cpu).result, b.cpu.fault.vector]).toEqual([RUN.FAULT, VECTOR.PF]);
    expect(outcome(b.cpu, 0).rip).toBe(CODE + 0x2000n);
  });
});

describe('policies of the modelled TLB', () => {
  it('with nothing kept every instruction is fetched by a walk, and the results are the same', () => {
    const code = [0x48, 0xff, 0xc0, 0x50, 0x5b, 0xff, 0xc9, 0x75, 0xf7, HLT];
    const outcomes = (['real', 'keep-forever', 'keep-nothing'] as const).map((tlb) => {
      const b = bare(code, tlb);
      setReg(b.cpu, 1, 20n);
      return run(b.cpu);
    });
    for (const o of outcomes) expect([o.result, o.regs[0], o.regs[3]]).toEqual([RUN.SYS, 20n, 20n]);
    expect(outcomes[0]!.clock).toBe(outcomes[1]!.clock);
    expect(outcomes[2]!.clock).toBeGreaterThan(outcomes[1]!.clock * 5);
  });

  it('data that displaces the code page from the fast TLB does not stop the loop nor cost cycles', () => {
    const data = CODE + 0x40_0000n; // the same slot of the direct-mapped fast TLB
    const code = [0x48, 0x89, 0x07, 0xff, 0xc9, 0x75, 0xf9, HLT];
    const clocks = [DATA, data].map((at) => {
      const b = bare(code);
      b.map(data, RAM_BASE + 0x20_0000, 3);
      setReg(b.cpu, 1, 100n);
      setReg(b.cpu, 7, at);
      expect(run(b.cpu).result).toBe(RUN.SYS);
      return b.cpu.clock[0];
    });
    expect(clocks[0]).toBe(clocks[1]);
  });
});

describe('the source of the loop', () => {
  const source = readFileSync(new URL('tier0.ts', import.meta.url), 'utf8');

  it('labels its cases with the numbers of HOT', () => {
    const labels = [...source.matchAll(/case (\d+): \{ \/\/ ([A-Z_0-9]+)( \+ (\d+))?$/gm)];
    expect(labels.length).toBeGreaterThan(85);
    for (const [, number, name, , plus] of labels) {
      expect(HOT[name as keyof typeof HOT] + Number(plus ?? 0), name).toBe(Number(number));
    }
    const seen = new Set(labels.map((l) => Number(l[1])));
    for (const [name, number] of Object.entries(HOT)) expect(seen.has(number), name).toBe(true);
  });

  it('stays below 45 KB of bytecode, well under what V8 optimises', () => {
    const script = `const { tier0 } = await import(${JSON.stringify(new URL('tier0.ts', import.meta.url).href)});
      try { tier0({}, 0); } catch {}`;
    const flags = [
      '--print-bytecode',
      '--print-bytecode-filter=tier0',
      '--import',
      'tsx',
      '--input-type=module',
      '-e',
    ];
    const { stdout } = spawnSync(process.execPath, [...flags, script], {
      encoding: 'utf8',
      maxBuffer: 1 << 26,
    });
    const length = Number(/^Bytecode length: (\d+)$/m.exec(stdout)?.[1]);
    expect(length).toBeGreaterThan(5_000);
    expect(length).toBeLessThan(45_000);
  });
});
