// SPDX-License-Identifier: GPL-2.0-only
/**
 * The quick walk against the TypeScript that it stands for: the same program on two machines, one without it, must
 * leave the same bytes everywhere (registers, clock, counts, fast TLB, modelled TLB, frame tables) and the same faults.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PTE } from '../../../lib/x86/paging.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { PROFILES } from '../cost/profiles.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { SCRATCH, setReg } from '../cpu/regs.ts';
import { RUN, S } from '../cpu/state.ts';
import { enterLongMode } from '../cpu/system/reset.ts';
import { tier0 } from '../cpu/tier0.ts';
import { SanitizerError } from '../errors.ts';
import * as layout from '../layout.ts';
import { createMachine, type Machine } from '../machine.ts';
import type { Pfn } from '../../../lib/x86/addr.ts';
import { auditFastTlb } from './audit.ts';
import { mmuContextChanged } from './context.ts';
import { invlpg, movCr3Flush } from './invalidate.ts';
import { makeQuickWalk, QUICK } from './quick_walk.ts';
import { setStaleCheck } from './stale_hit.ts';

const { RAM_BASE } = layout;
const MIB = 0x10_0000;
const CODE = RAM_BASE + 4 * MIB;
const LIST = RAM_BASE + 5 * MIB;
const DATA_PHYS = RAM_BASE + 8 * MIB;
const PAGES = 4096;
const GOOD = PTE.P | PTE.RW | PTE.A | PTE.D;

// prettier-ignore
const LOOP = [
  0x48, 0x8b, 0x06,             // mov rax, [rsi]
  0x48, 0x89, 0x08,             // mov [rax], rcx
  0x48, 0x8b, 0x50, 0x08,       // mov rdx, [rax + 8]
  0x48, 0x83, 0xc6, 0x08,       // add rsi, 8
  0xeb, 0xf0,                   // jmp start
];

/** A machine whose data pages begin at 4 GiB; `flags` by page. */
class Side {
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
    this.cpu.mmu.misses = quick ? 8100 : Infinity;
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
      part(0, 4 * SCRATCH.WALK_PRICE),
      part(4 * SCRATCH.WALK_PRICE + 4, layout.QUICK_RIGHTS_OFFSET - 4 * SCRATCH.WALK_PRICE - 4),
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

interface Step {
  readonly pages: readonly number[];
  readonly event: 'none' | 'invlpg' | 'flush' | 'pcid' | 'user' | 'global off';
}

const step: fc.Arbitrary<Step> = fc.record({
  pages: fc
    .tuple(fc.nat(PAGES - 1), fc.integer({ min: 1, max: 1300 }), fc.constantFrom(1, 3, 517))
    .map(([first, n, stride]) => Array.from({ length: n }, (_, i) => (first + i * stride) % PAGES)),
  event: fc.constantFrom('none', 'none', 'invlpg', 'flush', 'pcid', 'user', 'global off'),
});

function act(cpu: Cpu, event: Step['event']): void {
  const { s } = cpu;
  if (event === 'invlpg') invlpg(cpu, 0x5000, 1);
  else if (event === 'flush') movCr3Flush(cpu, { noflush: false });
  else if (event === 'pcid') s[S.CR3] = s[S.CR3]! ^ 5;
  else if (event === 'global off') s[S.CR4] = s[S.CR4]! ^ CR4.PGE;
  else if (event === 'user') s[S.PKRU] = s[S.PKRU]! ^ 4;
  mmuContextChanged(cpu);
}

function pair(leafOf: (page: number) => readonly [number, number]): [Side, Side] {
  const sides: [Side, Side] = [new Side(true), new Side(false)];
  for (const side of sides) {
    for (let page = 0; page < PAGES; page++) {
      const [flags, high] = leafOf(page);
      side.map(0x1_0000_0000n + BigInt(page) * 4096n, DATA_PHYS + page * 4096, flags, high);
    }
  }
  return sides;
}

function expectSame([quick, plain]: [Side, Side]): void {
  const other = plain.bytes();
  quick.bytes().forEach((bytes, n) => {
    if (bytes.equals(other[n]!)) return;
    const at = bytes.findIndex((byte, i) => byte !== other[n]![i]);
    expect.fail(`part ${n} differs at 0x${at.toString(16)}: ${bytes[at]} instead of ${other[n]![at]}`);
  });
  expect(quick.cpu.mmu.quick).toBeDefined();
  expect(plain.cpu.mmu.quick).toBeUndefined();
  expect(auditFastTlb(quick.cpu)).toEqual([]);
}

const all = Array.from({ length: PAGES }, (_, n) => n);

describe('the quick walk', () => {
  it('leaves every byte as the TypeScript does, whatever the tables say', () => {
    fc.assert(
      fc.property(fc.nat(1000), fc.array(step, { minLength: 3, maxLength: 8 }), (salt, steps) => {
        const both = pair((page) => LEAVES[(Math.imul(page + salt, 0x9e37_79b1) >>> 20) % LEAVES.length]!);
        for (const { pages, event } of [{ pages: all, event: 'none' } as const, ...steps]) {
          expect(both[0].touch(pages)).toEqual(both[1].touch(pages));
          expectSame(both);
          for (const side of both) act(side.cpu, event);
        }
      }),
      { numRuns: 8, seed: 11 },
    );
  });

  it('takes nearly every store of a plain loop over more pages than the TLB has', () => {
    const both = pair(() => [GOOD, 0]);
    for (const side of both) side.touch(all);
    expectSame(both);
    const { mmu } = both[0].cpu;
    const { quick } = mmu;
    const answers = [0, 0, 0, 0];
    mmu.quick = (...args) => {
      const answer = quick!(...args);
      answers[answer]!++;
      return answer;
    };
    for (const side of both) side.touch(all);
    expect(answers[QUICK.EXECUTED]).toBeGreaterThan(0.99 * PAGES);
    mmu.quick = quick;
    expectSame(both);
  });

  it('stops at the same instructions', () => {
    const both = pair(() => [GOOD, 0]);
    for (const side of both) side.touch(all);
    for (const slice of [1, 2, 3, 30, 31, 101]) {
      for (const side of both) side.touch(all, slice);
      expectSame(both);
    }
  });

  it('finds that a table or a page was freed', () => {
    for (const freed of ['page', 'table'] as const) {
      const both = pair(() => [GOOD, 0]);
      for (const side of both) {
        const { frames, mem } = side.machine;
        side.touch(all);
        const owner = frames.intern('test');
        const pages = mem.size / 4096;
        const victim = freed === 'page' ? (DATA_PHYS >> 12) + 3 : (RAM_BASE >> 12) + 4;
        for (let pfn = RAM_BASE >> 12; pfn < pages; pfn++) frames.take(pfn as Pfn, owner);
        side.touch(all);
        frames.retire(victim as Pfn, owner);
        expect(() => side.touch(all)).toThrow(SanitizerError);
        expect(() => side.touch(all)).toThrow(
          freed === 'page' ? /use after free|free frame/ : /freed page table/,
        );
      }
      expectSame(both);
    }
  });

  it('is not used while hits are checked against the tables', () => {
    const [side] = pair(() => [GOOD, 0]);
    side.touch(all);
    setStaleCheck(side.cpu, 'hits');
    side.cpu.mmu.quick = () => expect.fail('used');
    expect(side.touch(all)).toHaveLength(1);
  });

  it('is not made for a TLB that lies outside of the memory', () => {
    for (const tlb of ['keep-forever', 'keep-nothing'] as const) {
      const { cpus } = createMachine({ profile: PROFILES.milan, nrCpus: 2, ramBytes: MIB, tlb, seed: 1 });
      expect(makeQuickWalk(cpus[1]!, cpus[1]!.mmu)).toBeUndefined();
    }
  });
});
