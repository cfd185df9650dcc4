// SPDX-License-Identifier: GPL-2.0-only
/**
 * The machine as the differential test sees it: put a program and its state in, run to a deadline, look at the result.
 * What the interpreter under test stops at (faults, system instructions) is not executed: the test steps over it.
 */
import { CR0 } from '../../lib/x86/registers.ts';
import { type CpuProfile, PROFILES } from '../../vmm/machine/cost/profiles.ts';
import { spend } from '../../vmm/machine/cost/ledger.ts';
import { COST, NR_COST_POINTS } from '../../vmm/machine/cost/points.ts';
import type { Cpu } from '../../vmm/machine/cpu/cpu.ts';
import { getRflags } from '../../vmm/machine/cpu/flags.ts';
import { getReg, getRip, setReg, setRip } from '../../vmm/machine/cpu/regs.ts';
import { RUN, S, SEG_WORDS, SEGF, SEGN } from '../../vmm/machine/cpu/state.ts';
import { SYSOP } from '../../vmm/machine/cpu/sys_insn.ts';
import { dispatchSystem } from '../../vmm/machine/cpu/system/execute.ts';
import { enterLongMode, resetCpu } from '../../vmm/machine/cpu/system/reset.ts';
import { tier0 } from '../../vmm/machine/cpu/tier0.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { createMachine, type Machine } from '../../vmm/machine/machine.ts';
import { mmuContextChanged } from '../../vmm/machine/mmu/context.ts';
import type { TlbPolicy } from '../../vmm/machine/mmu/mmu.ts';
import { EXECUTED } from './ops/control.ts';
import type { Program } from './program.ts';
import type { RefState } from './state.ts';
import { RAM_BYTES } from './world.ts';

/** Cycles in these runs: such numbers that a wrong count does not look right. */
export const MISS_CYCLES = 7;
export const REFERENCE_CYCLES = 3;
export const EXTRA_CYCLES = { lock: 11, div: 13, fence: 17 } as const;

/** A profile in which only what the reference knows takes time. */
function walkProfile(profile: CpuProfile): CpuProfile {
  const prices = new Float64Array(NR_COST_POINTS);
  prices[COST.INSN] = 1;
  prices[COST.TLB_MISS] = MISS_CYCLES;
  prices[COST.WALK_REF] = REFERENCE_CYCLES;
  prices[COST.LOCKED] = EXTRA_CYCLES.lock;
  prices[COST.DIV] = EXTRA_CYCLES.div;
  prices[COST.FENCE] = EXTRA_CYCLES.fence;
  return { ...profile, prices };
}

/** Changes the CPU behind the test's back. */
export type Tamper = (cpu: Cpu) => void;

const EXECUTED_OPS: ReadonlySet<number> = new Set(
  EXECUTED.map((name) => (SYSOP as Readonly<Record<string, number>>)[name]!),
);

export class MachineSide {
  readonly machine: Machine;
  readonly cpu: Cpu;
  readonly #tamper: Tamper | undefined;

  constructor(vendor: Program['vendor'], tlb: TlbPolicy, tamper?: Tamper) {
    const profile = walkProfile(PROFILES[vendor]);
    this.machine = createMachine({ profile, nrCpus: 1, ramBytes: RAM_BYTES, tlb, seed: 1 });
    this.cpu = this.machine.cpus[0]!;
    this.#tamper = tamper;
  }

  get maxPhysBits(): number {
    return this.machine.profile.maxPhysBits;
  }

  get denied(): 'fault' | 'rewalk' {
    return this.machine.profile.permissionFault === 'cached' ? 'fault' : 'rewalk';
  }

  /** Bytes of RAM. */
  ram(offset: number, length: number): Uint8Array {
    return this.machine.mem.u8.subarray(RAM_BASE + offset, RAM_BASE + offset + length);
  }

  /** Put memory from an image. */
  loadMemory(image: Uint8Array, offset: number, length: number): void {
    this.ram(offset, length).set(image.subarray(offset, offset + length));
    this.machine.code.noteStore(RAM_BASE + offset, length);
  }

  /** A fresh CPU in the program's state. */
  start(program: Program, rip: bigint): void {
    const { cpu } = this;
    resetCpu(cpu);
    enterLongMode(cpu, {
      cr3: RAM_BASE,
      rip,
      rsp: 0n,
      cpl: program.user ? 3 : 0,
      rflags: program.rflags,
      cr4: program.cr4,
    });
    if (!program.wp) cpu.s[S.CR0]! &= ~CR0.WP;
    cpu.s[S.PKRU] = program.pkru;
    program.gpr.forEach((value, n) => setReg(cpu, n, value));
    this.#setBase(SEGN.FS, program.fsBase);
    this.#setBase(SEGN.GS, program.gsBase);
    cpu.clock[0] = 0;
    mmuContextChanged(cpu);
  }

  #setBase(segment: number, base: bigint): void {
    const at = S.SEG + segment * SEG_WORDS + SEGF.BASE;
    this.cpu.s[at] = Number(BigInt.asIntN(32, base));
    this.cpu.s[at + 1] = Number(BigInt.asIntN(32, base >> 32n));
  }

  /** Copy the program's state to the reference, so that both begin alike. */
  copyTo(state: RefState): void {
    const { cpu } = this;
    for (let n = 0; n < 16; n++) state.gpr[n] = getReg(cpu, n);
    state.rip = getRip(cpu);
    state.rflags = getRflags(cpu);
    state.fsBase = this.base(SEGN.FS);
    state.gsBase = this.base(SEGN.GS);
    state.cpl = cpu.s[S.CPL]!;
    state.cr0 = cpu.s[S.CR0]!;
    state.cr3 = BigInt(cpu.s[S.CR3]! >>> 0);
    state.cr4 = cpu.s[S.CR4]!;
    state.efer = cpu.s[S.EFER]!;
    state.pkru = cpu.s[S.PKRU]!;
    state.cycles = cpu.clock[0]!;
  }

  /** Base address of a segment. */
  base(segment: number): bigint {
    const at = S.SEG + segment * SEG_WORDS + SEGF.BASE;
    return (BigInt(this.cpu.s[at + 1]! >>> 0) << 32n) | BigInt(this.cpu.s[at]! >>> 0);
  }

  get clock(): number {
    return this.cpu.clock[0]!;
  }

  /** Run; RUN.* */
  run(deadline: number): number {
    const returned = this.#run(deadline);
    this.#tamper?.(this.cpu);
    return returned;
  }

  #run(deadline: number): number {
    const { cpu } = this;
    for (;;) {
      cpu.s[S.PENDING] = 0;
      const returned = tier0(cpu, deadline);
      if (returned !== RUN.SYS || !EXECUTED_OPS.has(cpu.insn.op)) return returned;
      spend(cpu, COST.INSN);
      const result = dispatchSystem(cpu);
      if (result >= 0) return result;
      if (this.clock >= deadline) return RUN.DEADLINE;
    }
  }

  /** Continue elsewhere. */
  moveTo(rip: bigint, rsp: bigint): void {
    setRip(this.cpu, rip);
    setReg(this.cpu, 4, rsp);
  }
}
