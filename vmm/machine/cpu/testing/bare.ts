// SPDX-License-Identifier: GPL-2.0-only
/**
 * A bare machine for the interpreter's tests: one CPU in 64-bit mode, a few mapped pages, bytes to run. Programs end in
 * HLT, which tier0 hands over as a system instruction.
 */
import { PROFILES } from '../../cost/profiles.ts';
import { RAM_BASE } from '../../layout.ts';
import { createMachine, type Machine } from '../../machine.ts';
import type { TlbPolicy } from '../../mmu/mmu.ts';
import type { Cpu } from '../cpu.ts';
import { execute, GO_ON } from '../execute.ts';
import { fetchAddress } from '../fetch.ts';
import { getRflags, setRflags } from '../flags.ts';
import { getReg, getRip, setReg, setRip } from '../regs.ts';
import { RUN, S } from '../state.ts';
import { enterLongMode } from '../system/reset.ts';
import { tier0 } from '../tier0.ts';

/** Linear addresses; two pages of code, four of data, two of stack, each followed by a hole. */
export const CODE = 0x40_0000n;
export const DATA = 0x1_2345_6000n;
export const STACK = 0x7fff_ffff_0000n;
export const STACK_TOP = STACK + 0x2000n;
export const HLT = 0xf4;

const CODE_PHYS = RAM_BASE + 0x10_0000;
const DATA_PHYS = RAM_BASE + 0x11_0000;
const STACK_PHYS = RAM_BASE + 0x12_0000;
const RW = 0x3;

export interface Bare {
  readonly machine: Machine;
  readonly cpu: Cpu;
  /** Map one page. `flags` as in a page-table entry. */
  map(linear: bigint, phys: number, flags: number): void;
  /** Host physical address of a linear address in one of the areas above. */
  phys(linear: bigint): number;
}

/** Build the machine and put `code` at CODE; RIP is there, RSP at STACK_TOP. */
export function bare(code: readonly number[], tlb: TlbPolicy = 'real'): Bare {
  const machine = createMachine({ profile: PROFILES.skylake, nrCpus: 1, ramBytes: 0x40_0000, tlb, seed: 1 });
  const { i32, u8 } = machine.mem;
  let nextTable = RAM_BASE + 0x1000;
  const map = (linear: bigint, phys: number, flags: number): void => {
    let table = RAM_BASE;
    for (const shift of [39n, 30n, 21n]) {
      const at = (table >> 2) + Number((linear >> shift) & 511n) * 2;
      if (i32[at] === 0) {
        i32[at] = nextTable | 0x7;
        nextTable += 0x1000;
      }
      table = i32[at]! & -4096;
    }
    i32[(table >> 2) + Number((linear >> 12n) & 511n) * 2] = phys | flags;
  };
  const areas = [
    [CODE, CODE_PHYS, 2],
    [DATA, DATA_PHYS, 4],
    [STACK, STACK_PHYS, 2],
  ] as const;
  for (const [linear, phys, pages] of areas) {
    for (let n = 0; n < pages; n++) map(linear + BigInt(n) * 0x1000n, phys + n * 0x1000, RW);
  }
  const cpu = machine.cpus[0]!;
  u8.set(code, CODE_PHYS);
  enterLongMode(cpu, { cr3: RAM_BASE, rip: CODE, rsp: STACK_TOP });
  const phys = (linear: bigint): number => {
    const area = areas.find(([base, , pages]) => linear >= base && linear < base + BigInt(pages) * 0x1000n)!;
    return area[1] + Number(linear - area[0]);
  };
  return { machine, cpu, map, phys };
}

/** The state that a program leaves: registers by number, flags, RIP, clock and how it ended. */
export interface Outcome {
  readonly result: number;
  readonly regs: readonly bigint[];
  readonly rflags: number;
  readonly rip: bigint;
  readonly clock: number;
}

export function outcome(cpu: Cpu, result: number): Outcome {
  const regs = Array.from({ length: 16 }, (_, n) => getReg(cpu, n));
  return { result, regs, rflags: getRflags(cpu), rip: getRip(cpu), clock: cpu.clock[0]! };
}

/** Run to the deadline (default: to the end) with the loop. */
export function run(cpu: Cpu, deadline = Infinity): Outcome {
  return outcome(cpu, tier0(cpu, deadline));
}

/** Run every instruction by its out-of-line operation, with the same rules of time. */
export function runOutOfLine(cpu: Cpu, deadline = Infinity): Outcome {
  const { s } = cpu;
  for (;;) {
    if (cpu.clock[0]! >= deadline || s[S.PENDING] !== 0) return outcome(cpu, RUN.DEADLINE);
    const hpa = fetchAddress(cpu, s[S.RIP]!, s[S.RIP + 1]!);
    if (hpa < 0) return outcome(cpu, RUN.FAULT);
    const x = cpu.code.insnOf(cpu.code.find(hpa >>> 12, hpa & 0xfff));
    const result = execute(cpu, x, deadline, hpa);
    if (result !== GO_ON) return outcome(cpu, result);
  }
}

export interface Setup {
  /** Registers by number. */
  readonly regs?: Readonly<Record<number, bigint>>;
  readonly rflags?: number;
  /** 64-bit words at DATA. */
  readonly data?: readonly bigint[];
}

/** Load registers, flags and data. */
export function load(b: Bare, { regs = {}, rflags, data = [] }: Setup): void {
  const { cpu, machine } = b;
  for (const [n, value] of Object.entries(regs)) setReg(cpu, Number(n), BigInt.asUintN(64, value));
  if (rflags !== undefined) setRflags(cpu, rflags);
  for (const [n, value] of data.entries())
    machine.mem.view.setBigUint64(b.phys(DATA) + n * 8, BigInt.asUintN(64, value), true);
}

/** The 64-bit word at a linear address. */
export function peek(b: Bare, linear: bigint): bigint {
  return b.machine.mem.view.getBigUint64(b.phys(linear), true);
}

/**
 * Run `code` and HLT on a fresh state of a shared machine; both ways of executing must agree. Registers not named are
 * zero, RSP is STACK_TOP.
 */
export function runOn(b: Bare, code: readonly number[], setup: Setup = {}): Outcome {
  const start = (): void => {
    for (let n = 0; n < 16; n++) setReg(b.cpu, n, n === 4 ? STACK_TOP : 0n);
    setRip(b.cpu, CODE);
    setRflags(b.cpu, 0);
    b.machine.mem.u8.set([...code, HLT], CODE_PHYS);
    b.machine.noteStore(CODE_PHYS as never, code.length + 1);
    load(b, setup);
  };
  start();
  const slow = runOutOfLine(b.cpu);
  const data = b.machine.mem.u8.slice(DATA_PHYS, DATA_PHYS + 64);
  start();
  const fast = run(b.cpu);
  const same =
    JSON.stringify([slow.result, slow.regs.map(String), slow.rflags, String(slow.rip)]) ===
    JSON.stringify([fast.result, fast.regs.map(String), fast.rflags, String(fast.rip)]);
  if (!same)
    throw new Error(`the loop and the operations disagree on ${code.map((c) => c.toString(16)).join(' ')}`);
  if (Buffer.compare(data, b.machine.mem.u8.slice(DATA_PHYS, DATA_PHYS + 64)) !== 0)
    throw new Error('memory differs');
  return fast;
}
