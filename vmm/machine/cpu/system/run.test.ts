// SPDX-License-Identifier: GPL-2.0-only
/**
 * The outer loop: interrupts, NMIs, shadows, HLT, single step, breakpoints, deadlines. Expectations: SDM, "Interrupt and
 * Exception Handling" and "Debug, Branch Profile, TSC".
 */
import { describe, expect, it } from 'vitest';
import { APIC_DM, APIC_LVT, APIC_REG } from '../../../../lib/x86/apic.ts';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { DR6, DR7, RFLAGS } from '../../../../lib/x86/registers.ts';
import { UnimplementedError } from '../../errors.ts';
import type { Cpu } from '../cpu.ts';
import { getReg, getRip, setReg } from '../regs.ts';
import { ACTIVITY, BLOCKING, RUN, S } from '../state.ts';
import { cpuRun, nextWakeup } from './run.ts';
import { AT, Rig } from './testing/rig.ts';

const [NOP, HLT, STI, CLI] = [0x90, 0xf4, 0xfb, 0xfa];
const IF = { rflags: RFLAGS.IF };

function withApic(rig: Rig): Cpu {
  rig.cpu.apic.write(APIC_REG.SPIV, 0x1ff);
  return rig.cpu;
}

function interrupt(cpu: Cpu, vector: number): void {
  cpu.apic.receive(APIC_DM.FIXED, vector, 0);
}

describe('External interrupts', () => {
  it('are taken at the next boundary with IF set, without RF, and go to ISR', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([NOP, NOP, HLT], IF);
    rig.step();
    interrupt(rig.cpu, 0x41);
    const out = rig.go();
    expect([out.vector, out.frame.rip, out.frame.rflags]).toEqual([
      0x41,
      BigInt(AT.CODE + 1),
      BigInt(RFLAGS.IF | 2),
    ]);
    expect(rig.cpu.apic.vectors.highestInService()).toBe(0x41);
  });

  it('wait while IF is clear', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([NOP, CLI, NOP, HLT]);
    interrupt(rig.cpu, 0x41);
    expect(rig.go().vector).toBe(-1);
    expect(rig.cpu.apic.highestDeliverable()).toBe(0x41);
  });

  it('wait for one more instruction after STI', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([STI, NOP, NOP, HLT]);
    interrupt(rig.cpu, 0x41);
    expect(rig.go().frame.rip).toBe(BigInt(AT.CODE + 2));
  });

  it('are not held back by STI if IF was set already', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([STI, NOP, HLT], IF);
    rig.step();
    expect(rig.cpu.s[S.BLOCKING]).toBe(0);
  });

  it('are never taken between STI and CLI', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([STI, CLI, HLT]);
    interrupt(rig.cpu, 0x41);
    expect(rig.go().vector).toBe(-1);
  });

  it('wait for one more instruction after MOV SS and POP-like loads of SS', () => {
    const rig = new Rig();
    withApic(rig);
    // mov ss, ax
    rig.load([0x8e, 0xd0, NOP, NOP, HLT], IF);
    setReg(rig.cpu, 0, 0x10n);
    rig.step();
    expect(rig.cpu.s[S.BLOCKING]).toBe(BLOCKING.MOV_SS);
    interrupt(rig.cpu, 0x41);
    expect(rig.go().frame.rip).toBe(BigInt(AT.CODE + 3));
  });

  it('wake a halted processor: STI HLT cannot lose one', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([STI, HLT, NOP]);
    interrupt(rig.cpu, 0x41);
    const out = rig.go();
    expect([out.vector, out.frame.rip]).toEqual([0x41, BigInt(AT.CODE + 2)]);
  });

  it('leave a processor halted with IF clear', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([HLT, NOP]);
    expect(rig.go().result).toBe(RUN.HLT);
    interrupt(rig.cpu, 0x41);
    expect(rig.go().result).toBe(RUN.HLT);
    expect(getRip(rig.cpu)).toBe(BigInt(AT.CODE + 1));
  });

  it('respect CR8', () => {
    const rig = new Rig();
    withApic(rig);
    // mov cr8, rax; hlt
    rig.load([0x44, 0x0f, 0x22, 0xc0, NOP, HLT], IF);
    setReg(rig.cpu, 0, 4n);
    rig.step();
    interrupt(rig.cpu, 0x4f);
    expect(rig.go().vector).toBe(-1);
    interrupt(rig.cpu, 0x50);
    expect(rig.go().vector).toBe(0x50);
  });

  it('are ended by an EOI through the xAPIC page', () => {
    const rig = new Rig();
    withApic(rig);
    // mov [rax], ecx
    rig.load([0x89, 0x08, HLT], IF);
    interrupt(rig.cpu, 0x41);
    interrupt(rig.cpu, 0x31);
    rig.poke(Number(rig.handler(0x41)), [0x89, 0x08, STI, HLT]);
    setReg(rig.cpu, 0, 0xfee0_00b0n);
    const out = rig.go();
    expect([out.vector, out.frame.rip]).toEqual([0x31, rig.handler(0x41) + 4n]);
  });
});

describe('NMI', () => {
  it('is taken with IF clear, blocks itself until IRET, and one more waits', () => {
    const rig = new Rig();
    withApic(rig);
    rig.poke(Number(rig.handler(VECTOR.NMI)), [NOP, 0x48, 0xcf]);
    rig.load([NOP, NOP, HLT]);
    rig.cpu.apic.receive(APIC_DM.NMI, 0, 0);
    rig.step();
    expect(getRip(rig.cpu)).toBe(rig.handler(VECTOR.NMI));
    expect(rig.cpu.s[S.BLOCKING]).toBe(BLOCKING.NMI);
    rig.cpu.apic.receive(APIC_DM.NMI, 0, 0);
    rig.step();
    expect([rig.cpu.sys.nmiPending, getRip(rig.cpu)]).toEqual([1, rig.handler(VECTOR.NMI) + 1n]);
    rig.step();
    expect(rig.cpu.s[S.BLOCKING]).toBe(0);
    rig.step();
    expect(getRip(rig.cpu)).toBe(rig.handler(VECTOR.NMI));
  });

  it('comes before an interrupt and wakes from HLT', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([HLT, NOP], IF);
    rig.go();
    interrupt(rig.cpu, 0x41);
    rig.cpu.apic.receive(APIC_DM.NMI, 0, 0);
    expect(rig.go().vector).toBe(VECTOR.NMI);
  });
});

describe('Timer', () => {
  it('interrupts at its deadline to the cycle, whatever runs', () => {
    const rig = new Rig();
    withApic(rig);
    // jmp .
    rig.load([0xeb, 0xfe], IF);
    rig.step();
    const start = rig.cpu.clock[0]!;
    rig.cpu.apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x50);
    rig.cpu.apic.timer.writeTscDeadline(start + 1234, 0);
    cpuRun(rig.cpu, start + 1234);
    expect([rig.cpu.clock[0], getRip(rig.cpu)]).toEqual([start + 1234, BigInt(AT.CODE)]);
    expect(rig.go().vector).toBe(0x50);
  });

  it('is what a halted processor waits for', () => {
    const rig = new Rig();
    withApic(rig);
    rig.load([HLT, NOP], IF);
    rig.cpu.apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_TSCDEADLINE | 0x50);
    rig.cpu.apic.timer.writeTscDeadline(50_000, 0);
    expect(rig.go().result).toBe(RUN.HLT);
    expect(nextWakeup(rig.cpu)).toBe(50_000);
    rig.cpu.clock[0] = 50_000;
    expect(rig.go().vector).toBe(0x50);
  });
});

describe('IPIs between processors', () => {
  it('travel through the bus and appear before the next instruction of the target', () => {
    const rig = new Rig(2);
    const [first, second] = rig.machine.cpus as [Cpu, Cpu];
    for (const cpu of [first, second]) cpu.apic.write(APIC_REG.SPIV, 0x1ff);
    rig.start(second, AT.CODE, { ...IF, rsp: BigInt(AT.IST1) });
    rig.load([0xeb, 0xfe]);
    first.apic.write(APIC_REG.ICR2, 1 << 24);
    first.apic.write(APIC_REG.ICR, 0x66);
    expect(rig.go(second).vector).toBe(0x66);
  });

  it('INIT stops the processor; a startup IPI needs real mode, which is not modelled', () => {
    const rig = new Rig(2);
    const second = rig.machine.cpus[1]!;
    rig.start(second, AT.CODE);
    rig.load([0xeb, 0xfe]);
    second.apic.receive(APIC_DM.INIT, 0, 0);
    expect(rig.go(second).result).toBe(RUN.HLT);
    expect(second.s[S.ACTIVITY]).toBe(ACTIVITY.WAIT_SIPI);
    second.apic.receive(APIC_DM.STARTUP, 0x9a, 0);
    expect(() => rig.go(second)).toThrow(UnimplementedError);
  });
});

describe('Single step', () => {
  it('traps after each instruction with DR6.BS and the next RIP', () => {
    const rig = new Rig();
    const out = rig.exec([NOP, HLT], { rflags: RFLAGS.TF });
    expect([out.vector, out.frame.rip, out.frame.rflags]).toEqual([
      VECTOR.DB,
      BigInt(AT.CODE + 1),
      BigInt(RFLAGS.TF | 2),
    ]);
    expect(rig.cpu.s[S.DR + 12]! & DR6.BS).toBe(DR6.BS);
  });

  it('traps after system instructions too, but not after INT n', () => {
    const rig = new Rig();
    expect(rig.exec([CLI, HLT], { rflags: RFLAGS.TF }).frame.rip).toBe(BigInt(AT.CODE + 1));
    expect(new Rig().exec([0xcd, 0x30], { rflags: RFLAGS.TF }).vector).toBe(0x30);
  });

  it('begins after the instruction that follows POPF', () => {
    const rig = new Rig();
    rig.poke64(AT.STACK, BigInt(RFLAGS.TF | 2));
    const out = rig.exec([0x9d, NOP, NOP, HLT]);
    expect([out.vector, out.frame.rip]).toEqual([VECTOR.DB, BigInt(AT.CODE + 2)]);
  });

  it('is held back by MOV SS for one instruction', () => {
    const rig = new Rig();
    const out = rig.exec([0x8e, 0xd0, NOP, NOP, HLT], { rflags: RFLAGS.TF }, (cpu) => setReg(cpu, 0, 0x10n));
    expect([out.vector, out.frame.rip]).toEqual([VECTOR.DB, BigInt(AT.CODE + 3)]);
  });

  it('does not trap an instruction that faults', () => {
    const out = new Rig().exec([0x0f, 0x0b], { rflags: RFLAGS.TF });
    expect(out.vector).toBe(VECTOR.UD);
  });
});

describe('Breakpoints', () => {
  it('fault before the instruction at the address, and RF lets it pass once', () => {
    const rig = new Rig();
    rig.load([NOP, NOP, HLT]);
    rig.cpu.s[S.DR + 4] = AT.CODE + 1;
    rig.cpu.s[S.DR + 14] = DR7.FIXED_1 | (1 << 4);
    const out = rig.go();
    expect([out.vector, out.frame.rip, rig.cpu.s[S.DR + 12]! & 0xf]).toEqual([
      VECTOR.DB,
      BigInt(AT.CODE + 1),
      4,
    ]);
    const sp = Number(getReg(rig.cpu, 4));
    rig.poke64(sp + 16, out.frame.rflags | BigInt(RFLAGS.RF));
    rig.poke(Number(rig.handler(VECTOR.DB)) + 1, [0x48, 0xcf]);
    rig.cpu.s[S.ACTIVITY] = ACTIVITY.ACTIVE;
    rig.go();
    expect(getRip(rig.cpu)).toBe(BigInt(AT.CODE + 3));
  });

  it('stop the run if they watch data: that is not modelled', () => {
    const rig = new Rig();
    rig.load([NOP, HLT]);
    rig.cpu.s[S.DR + 14] = DR7.FIXED_1 | 1 | (1 << 16);
    expect(() => rig.go()).toThrow(UnimplementedError);
  });
});

describe('Deadlines', () => {
  const program = [
    0x48,
    0xff,
    0xc0, // inc rax
    0x0f,
    0x31, // rdtsc
    0x48,
    0x01,
    0xc3, // add rbx, rax
    0xcd,
    0x30, // int 0x30
    0x48,
    0xff,
    0xc9, // dec rcx
    0x75,
    0xf1, // jnz
    HLT,
  ];
  function run(slice: (n: number) => number): string {
    const rig = new Rig();
    withApic(rig);
    rig.poke(Number(rig.handler(0x30)), [0x48, 0xcf]);
    rig.poke(Number(rig.handler(0x50)), [0x48, 0xff, 0xc6, 0x48, 0xcf]);
    rig.load(program, IF);
    setReg(rig.cpu, 1, 200n);
    rig.cpu.apic.write(APIC_REG.LVTT, APIC_LVT.TIMER_PERIODIC | 0x50);
    rig.cpu.apic.write(APIC_REG.TMICT, 17);
    let result: number = RUN.DEADLINE;
    for (let n = 0; result === RUN.DEADLINE; n++) result = cpuRun(rig.cpu, rig.cpu.clock[0]! + slice(n));
    return `${result} ${rig.cpu.clock[0]} ${[0, 1, 3, 4, 6].map((n) => getReg(rig.cpu, n)).join(' ')}`;
  }

  it('cut anywhere, the state and the clock at the end are the same', () => {
    const whole = run(() => 1e9);
    expect(whole.startsWith(`${RUN.HLT} `)).toBe(true);
    for (const step of [1, 2, 7, 100, 1001]) expect(run(() => step)).toBe(whole);
    expect(run((n) => 1 + ((n * 7919) % 53))).toBe(whole);
  });

  it('already passed, nothing runs', () => {
    const rig = new Rig();
    rig.load([NOP, HLT]);
    expect(cpuRun(rig.cpu, rig.cpu.clock[0]!)).toBe(RUN.DEADLINE);
    expect(getRip(rig.cpu)).toBe(BigInt(AT.CODE));
  });
});
