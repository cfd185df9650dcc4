// SPDX-License-Identifier: GPL-2.0-only
/** Two machines with the same tables and code, one that may use the quick run and one that may not. */
import { expect } from 'vitest';
import { PTE } from '../../../../lib/x86/paging.ts';
import { CR4 } from '../../../../lib/x86/registers.ts';
import { PROFILES } from '../../cost/profiles.ts';
import * as layout from '../../layout.ts';
import { createMachine, type Machine } from '../../machine.ts';
import { auditFastTlb } from '../../mmu/audit.ts';
import { mmuContextChanged } from '../../mmu/context.ts';
import type { Cpu } from '../cpu.ts';
import { SCRATCH, setReg } from '../regs.ts';
import { RUN, S } from '../state.ts';
import { enterLongMode } from '../system/reset.ts';
import { tier0 } from '../tier0.ts';

const { RAM_BASE } = layout;
const MIB = 0x10_0000;
export const CODE = RAM_BASE + 4 * MIB;
const LIST = RAM_BASE + 5 * MIB;
export const DATA_PHYS = RAM_BASE + 8 * MIB;
export const PAGES = 4096;
export const GOOD = PTE.P | PTE.RW | PTE.A | PTE.D;

// prettier-ignore
const LOOP = [
  0x48, 0x8b, 0x06,             // mov rax, [rsi]
  0x48, 0x89, 0x08,             // mov [rax], rcx
  0x48, 0x8b, 0x50, 0x08,       // mov rdx, [rax + 8]
  0x48, 0x83, 0xc6, 0x08,       // add rsi, 8
  0xeb, 0xf0,                   // jmp start
];

/** A machine whose data pages begin at 4 GiB; `flags` by page. */
export class Side {
  readonly machine: Machine;
  readonly cpu: Cpu;
  #next = RAM_BASE + 4096;

  constructor(quick: boolean) {
    this.machine = createMachine({
      profile: PROFILES.skylake,
      nrCpus: 1,
      ramBytes: 32 * MIB,
      tlb: 'real',
      seed: 1,
    });
    this.cpu = this.machine.cpus[0]!;
    for (let at = CODE; at < LIST + MIB; at += 4096) this.map(BigInt(at), at, GOOD);
    this.machine.mem.u8.set(LOOP, CODE);
    enterLongMode(this.cpu, { cr3: RAM_BASE, rip: BigInt(CODE), rsp: BigInt(LIST) });
    this.cpu.s[S.CR4] = this.cpu.s[S.CR4]! | CR4.PGE | CR4.PCIDE;
    mmuContextChanged(this.cpu);
    this.cpu.misses = quick ? 8100 : Infinity;
  }

  map(linear: bigint, phys: number, flags: number, high = 0): void {
    const { i32 } = this.machine.mem;
    let table = RAM_BASE;
    for (const shift of [39n, 30n, 21n]) {
      const at = (table >> 2) + Number((linear >> shift) & 511n) * 2;
      if ((i32[at]! & 1) === 0) {
        i32[at] = this.#next | PTE.P | PTE.RW | PTE.US | PTE.A;
        this.#next += 4096;
      }
      table = i32[at]! & -4096;
    }
    const at = (table >> 2) + Number((linear >> 12n) & 511n) * 2;
    i32[at] = phys | flags;
    i32[at + 1] = high;
  }

  /** Touch pages in order, in slices of so many cycles; the faults of those that may not be, as text. */
  touch(pages: readonly number[], slice = 1e6): string[] {
    const { cpu } = this;
    const found: string[] = [];
    const { view } = this.machine.mem;
    pages.forEach((page, n) => {
      view.setBigUint64(LIST + n * 8, 0x1_0000_0000n + BigInt(page) * 4096n, true);
    });
    view.setBigUint64(LIST + pages.length * 8, 0x7fff_ffff_f000n, true);
    setReg(cpu, 6, BigInt(LIST));
    for (;;) {
      cpu.s[S.RIP] = CODE;
      cpu.s[S.RIP + 1] = 0;
      let result: number = RUN.DEADLINE;
      while (result === RUN.DEADLINE) result = tier0(cpu, cpu.clock[0]! + slice);
      expect(result).toBe(RUN.FAULT);
      const { fault } = cpu;
      found.push(`${fault.vector}/${fault.errorCode}/${fault.linHi}:${fault.linLo}`);
      if (fault.linHi !== 1) return found;
      setReg(cpu, 6, BigInt(cpu.s[S.GPR + 12]! + 8));
    }
  }

  /** All state that either of the two ways writes. */
  bytes(): Buffer[] {
    const { mem } = this.machine;
    const part = (from: number, length: number): Buffer => Buffer.from(mem.memory.buffer, from, length);
    return [
      part(0, 4 * SCRATCH.TMP),
      part(4 * SCRATCH.GENERATION, 4 * (SCRATCH.KIND - SCRATCH.GENERATION)),
      part(4 * (SCRATCH.AT + 1), layout.QUICK_RIGHTS_OFFSET - 4 * (SCRATCH.AT + 1)),
      part(layout.FRAME_STATE_BASE, mem.size / 4096),
      part(layout.FRAME_HINT_BASE, mem.size / 2048),
      part(RAM_BASE, 4 * MIB),
      part(LIST, mem.size - LIST),
      part(mem.size, layout.TLB_BLOCK_SIZE),
    ];
  }
}

/** Flags and high words of leaf entries: most are common, some take every other way. */
const LEAVES: readonly (readonly [flags: number, high: number])[] = [
  [GOOD, 0],
  [GOOD, 0],
  [GOOD | PTE.US, 0],
  [GOOD | PTE.G, 0],
  [GOOD & ~PTE.RW, 0],
  [GOOD & ~PTE.D, 0],
  [GOOD & ~PTE.A, 0],
  [0, 0],
  [GOOD, -0x8000_0000],
  [GOOD | PTE.US, 0x5800_0000],
  [GOOD, 0x0000_4000],
];

/** One of them, by a hash. */
export const leafOf = (n: number): readonly [flags: number, high: number] =>
  LEAVES[(Math.imul(n, 0x9e37_79b1) >>> 20) % LEAVES.length]!;

/** The one that may, and the one that may not; entries of the data pages by page. */
export function pair(leafOf: (page: number) => readonly [number, number]): [Side, Side] {
  const sides: [Side, Side] = [new Side(true), new Side(false)];
  for (const side of sides) {
    for (let page = 0; page < PAGES; page++) {
      const [flags, high] = leafOf(page);
      side.map(0x1_0000_0000n + BigInt(page) * 4096n, DATA_PHYS + page * 4096, flags, high);
    }
  }
  return sides;
}

/** Every byte is the same on both. */
export function expectSame([quick, plain]: [Side, Side]): void {
  const other = plain.bytes();
  quick.bytes().forEach((bytes, n) => {
    if (bytes.equals(other[n]!)) return;
    const at = bytes.findIndex((byte, i) => byte !== other[n]![i]);
    expect.fail(`part ${n} differs at 0x${at.toString(16)}: ${bytes[at]} instead of ${other[n]![at]}`);
  });
  expect(quick.cpu.quick).toBeDefined();
  expect(plain.cpu.quick).toBeUndefined();
  expect(auditFastTlb(quick.cpu)).toEqual([]);
}
