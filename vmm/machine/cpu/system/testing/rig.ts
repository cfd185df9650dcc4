// SPDX-License-Identifier: GPL-2.0-only
/**
 * A bare machine for tests of system instructions: identity-mapped RAM with a supervisor and a user half, GDT, TSS, and
 * an IDT whose handler for each vector is one HLT of its own, so that RIP tells which exception came.
 */
import { hpa } from '../../../../../lib/x86/addr.ts';
import { encodeDescriptor, encodeGate64, AR, SYS_TYPE, TSS64 } from '../../../../../lib/x86/segments.ts';
import { PROFILES } from '../../../cost/profiles.ts';
import { RAM_BASE } from '../../../layout.ts';
import { createMachine, type Machine } from '../../../machine.ts';
import type { Cpu } from '../../cpu.ts';
import { getReg, getRip } from '../../regs.ts';
import { ACTIVITY, RUN, S } from '../../state.ts';
import { enterLongMode, FLAT_SELECTOR, type LongModeEntry } from '../reset.ts';
import { cpuRun } from '../run.ts';

/** Physical (and linear) addresses of the rig's parts. From USER up pages are user pages. */
// prettier-ignore
export const AT = {
  PML4: RAM_BASE, PDPT: RAM_BASE + 0x1000, PD: RAM_BASE + 0x2000, PT: RAM_BASE + 0x3000, GDT: RAM_BASE + 0x4000,
  IDT: RAM_BASE + 0x5000, TSS: RAM_BASE + 0x6000, LDT: RAM_BASE + 0x9000,
  CODE: RAM_BASE + 0x1_0000, HANDLERS: RAM_BASE + 0x1_8000, DATA: RAM_BASE + 0x2_0000,
  STACK: RAM_BASE + 0x3_0000, RSP0: RAM_BASE + 0x4_0000, IST1: RAM_BASE + 0x5_0000,
  USER: RAM_BASE + 0x8_0000, USER_DATA: RAM_BASE + 0x9_0000, USER_STACK: RAM_BASE + 0xa_0000,
  /** Not mapped. */
  HOLE: RAM_BASE + 0xc_0000,
  END: RAM_BASE + 0x10_0000,
} as const;

/** Bytes between two handlers. */
const HANDLER_STRIDE = 16;

/** What came out of running a piece of code. */
export interface Outcome {
  /** RUN.* of the last cpuRun. */
  readonly result: number;
  /** Vector whose handler was reached, or -1. */
  readonly vector: number;
  /** Error code and the frame that was pushed, if a handler was reached. */
  readonly errorCode: number;
  readonly frame: {
    readonly rip: bigint;
    readonly cs: bigint;
    readonly rflags: bigint;
    readonly rsp: bigint;
    readonly ss: bigint;
  };
}

export class Rig {
  readonly machine: Machine;
  readonly cpu: Cpu;

  constructor(nrCpus = 1) {
    this.machine = createMachine({
      profile: PROFILES.skylake,
      nrCpus,
      ramBytes: 0x10_0000,
      tlb: 'real',
      seed: 1,
    });
    this.cpu = this.machine.cpus[0]!;
    this.#map();
    this.#tables();
  }

  /** Put code at AT.CODE (CPL 0) or AT.USER (CPL 3) and the CPU in front of it. */
  load(code: readonly number[], options: Partial<LongModeEntry> = {}): Cpu {
    const user = options.cpl === 3;
    const at = user ? AT.USER : AT.CODE;
    this.poke(at, code);
    this.start(this.cpu, at, { ...options, rsp: options.rsp ?? BigInt(user ? AT.USER_STACK : AT.STACK) });
    return this.cpu;
  }

  /** Put a CPU in front of an address. */
  start(cpu: Cpu, rip: number, options: Partial<LongModeEntry> = {}): void {
    enterLongMode(cpu, {
      cr3: AT.PML4,
      rip: BigInt(rip),
      rsp: BigInt(AT.STACK),
      gdt: { base: BigInt(AT.GDT), limit: 0x8f },
      idt: { base: BigInt(AT.IDT), limit: 0xfff },
      tss: { selector: FLAT_SELECTOR.TSS, base: AT.TSS, limit: 0x67 + 0x2001 },
      ...options,
    });
  }

  /** Load the code and run until HLT (also that of a handler), `max` cycles at most. */
  exec(code: readonly number[], options: Partial<LongModeEntry> = {}, before?: (cpu: Cpu) => void): Outcome {
    this.load(code, options);
    before?.(this.cpu);
    return this.go();
  }

  /** Run until HLT, shutdown or 100000 cycles. */
  go(cpu: Cpu = this.cpu): Outcome {
    const result = cpuRun(cpu, cpu.clock[0]! + 100_000);
    return outcomeOf(this, cpu, result);
  }

  /** Run exactly `n` instructions (of those that cost no more than one step at a time). */
  step(n = 1): void {
    for (let i = 0; i < n; i++) cpuRun(this.cpu, this.cpu.clock[0]! + 1);
  }

  poke(at: number, bytes: readonly number[]): void {
    this.machine.mem.u8.set(bytes, at);
    this.machine.noteStore(hpa(at), bytes.length);
  }

  poke64(at: number, value: bigint): void {
    this.machine.mem.view.setBigUint64(at, BigInt.asUintN(64, value), true);
  }

  peek64(at: number): bigint {
    return this.machine.mem.view.getBigUint64(at, true);
  }

  /** Write a descriptor at an offset of the GDT. */
  descriptor(offset: number, base: number, limit: number, ar: number): void {
    const [lo, hi] = encodeDescriptor(base, limit, ar);
    this.machine.mem.view.setInt32(AT.GDT + offset, lo, true);
    this.machine.mem.view.setInt32(AT.GDT + offset + 4, hi, true);
  }

  /** Write the gate of a vector. */
  gate(
    vector: number,
    options: { type?: number; selector?: number; target?: bigint; dpl?: number; ist?: number },
  ): void {
    const {
      type = SYS_TYPE.INTERRUPT_GATE64,
      selector = FLAT_SELECTOR.KERNEL_CS,
      dpl = 0,
      ist = 0,
    } = options;
    const words = encodeGate64(type, selector, options.target ?? this.handler(vector), dpl, ist);
    words.forEach((word, n) => this.machine.mem.view.setInt32(AT.IDT + vector * 16 + n * 4, word, true));
  }

  /** Address of the handler of a vector. */
  handler(vector: number): bigint {
    return BigInt(AT.HANDLERS + vector * HANDLER_STRIDE);
  }

  /** Change the page-table entry of an address; no flush. */
  pte(at: number, value: bigint): void {
    this.poke64(AT.PT + ((at - RAM_BASE) >> 12) * 8, value);
  }

  #map(): void {
    const rwu = 7n;
    this.poke64(AT.PML4, BigInt(AT.PDPT) | rwu);
    this.poke64(AT.PDPT, BigInt(AT.PD) | rwu);
    this.poke64(AT.PD + 8 * 8, BigInt(AT.PT) | rwu);
    for (let at: number = RAM_BASE; at < AT.END; at += 0x1000) {
      if (at !== AT.HOLE) this.pte(at, BigInt(at) | (at >= AT.USER ? 7n : 3n));
    }
    // The local APIC's page, for xAPIC accesses: 0xfee00000 as a 2 MiB page in a page directory of its own.
    const apicPd = RAM_BASE + 0xb000;
    this.poke64(AT.PDPT + 3 * 8, BigInt(apicPd) | rwu);
    this.poke64(apicPd + 0x1f7 * 8, 0xfee0_0083n);
  }

  #tables(): void {
    const flat = 0xffff_ffff;
    this.descriptor(FLAT_SELECTOR.KERNEL_CS, 0, flat, AR.P | AR.S | 0xb | AR.L);
    this.descriptor(FLAT_SELECTOR.KERNEL_DS, 0, flat, AR.P | AR.S | 0x3 | AR.DB);
    this.descriptor(FLAT_SELECTOR.USER_DS & ~3, 0, flat, AR.P | AR.S | 0x3 | AR.DB | 0x60);
    this.descriptor(FLAT_SELECTOR.USER_CS & ~3, 0, flat, AR.P | AR.S | 0xb | AR.L | 0x60);
    this.descriptor(FLAT_SELECTOR.TSS, AT.TSS, 0x67 + 0x2001, AR.P | SYS_TYPE.TSS64_BUSY);
    for (let vector = 0; vector < 256; vector++) {
      this.gate(vector, {});
      this.machine.mem.u8[AT.HANDLERS + vector * HANDLER_STRIDE] = 0xf4;
    }
    this.poke64(AT.TSS + TSS64.RSP0, BigInt(AT.RSP0));
    this.poke64(AT.TSS + TSS64.IST1, BigInt(AT.IST1));
    // I/O bitmap behind the TSS: everything forbidden.
    this.machine.mem.view.setUint16(AT.TSS + TSS64.IO_MAP_BASE, 0x68, true);
    this.machine.mem.u8.fill(0xff, AT.TSS + 0x68, AT.TSS + 0x68 + 0x2001);
  }
}

function outcomeOf(rig: Rig, cpu: Cpu, result: number): Outcome {
  const rip = Number(getRip(cpu)) - 1 - AT.HANDLERS;
  const reached =
    result === RUN.HLT && rip >= 0 && rip < 256 * HANDLER_STRIDE && cpu.s[S.ACTIVITY] === ACTIVITY.HLT;
  const vector = reached ? rip / HANDLER_STRIDE : -1;
  const hasCode = [8, 10, 11, 12, 13, 14, 17].includes(vector);
  const sp = Number(getReg(cpu, 4));
  const at = sp + (hasCode ? 8 : 0);
  const word = (n: number): bigint => (reached ? rig.peek64(at + n * 8) : 0n);
  return {
    result,
    vector,
    errorCode: hasCode ? Number(rig.peek64(sp)) : 0,
    frame: { rip: word(0), cs: word(1), rflags: word(2), rsp: word(3), ss: word(4) },
  };
}
