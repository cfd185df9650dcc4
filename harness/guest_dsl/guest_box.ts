// SPDX-License-Identifier: GPL-2.0-only
/**
 * A machine without KVM that runs functions of a guest image: identity-mapped RAM, GDT, the IDT of the guest library, a ucall
 * pool and a device at the ucall port. It stands for the host half of the library in tests of compiler and library.
 */
import { hpa } from '../../lib/x86/addr.ts';
import { AR, encodeDescriptor, encodeGate64, SYS_TYPE } from '../../lib/x86/segments.ts';
import {
  exception_handlers,
  type FnLinkable,
  guest_tsc_khz,
  type GuestImage,
  idt_handlers,
  KVM_MAX_VCPUS,
  NUM_INTERRUPTS,
  type Place,
  Ucall,
  UCALL_MAX_ARGS,
  UCALL_PIO_PORT,
  ucall_pool,
  UcallHeader,
} from '../../lib/guest/index.ts';
import { PROFILES } from '../../vmm/machine/cost/profiles.ts';
import type { Cpu } from '../../vmm/machine/cpu/cpu.ts';
import { getReg, getRip, setReg } from '../../vmm/machine/cpu/regs.ts';
import { RUN } from '../../vmm/machine/cpu/state.ts';
import { enterLongMode, FLAT_SELECTOR, type LongModeEntry } from '../../vmm/machine/cpu/system/reset.ts';
import { cpuRun } from '../../vmm/machine/cpu/system/run.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { createMachine, type Machine } from '../../vmm/machine/machine.ts';

// prettier-ignore
const AT = {
  PML4: RAM_BASE, PDPT: RAM_BASE + 0x1000, PD: RAM_BASE + 0x2000, PD_APIC: RAM_BASE + 0x3000, GDT: RAM_BASE + 0x4000,
  IDT: RAM_BASE + 0x5000, HANDLERS: RAM_BASE + 0x6000, RETURN: RAM_BASE + 0x7000, STACK: RAM_BASE + 0x4_0000,
  SCRATCH: RAM_BASE + 0x5_0000, IMAGE: RAM_BASE + 0x10_0000, POOL: RAM_BASE + 0x40_0000,
} as const;
const RAM_BYTES = 0x80_0000;
const LARGE_PAGE = 0x20_0000;
/** Present, writable, large. */
const LARGE = 0x83;
const TABLE = 0x3;
/** Registers that a function must preserve, by number: rbx, rsp, rbp, r12 to r15. */
const PRESERVED = [3, 4, 5, 12, 13, 14, 15] as const;
const [RAX, RSP, RDI] = [0, 4, 7] as const;
const ARGUMENTS = [7, 6, 2, 1, 8, 9] as const;

/** A ucall as the host sees it. */
export interface SeenUcall {
  readonly cmd: number;
  readonly args: readonly bigint[];
  readonly buffer: string;
}

/** Where guest images for the box are linked. */
export const BOX_IMAGE_BASE = AT.IMAGE;
/** Where the box's GDT lies. */
export const BOX_GDT = AT.GDT;
/** Memory that a test may use. */
export const BOX_SCRATCH = AT.SCRATCH;

export class GuestBox {
  readonly machine: Machine;
  readonly cpu: Cpu;
  readonly image: GuestImage;
  /** The ucalls so far. */
  readonly ucalls: SeenUcall[] = [];

  constructor(image: GuestImage) {
    this.image = image;
    this.machine = createMachine({
      profile: PROFILES.skylake,
      nrCpus: 1,
      ramBytes: RAM_BYTES,
      tlb: 'real',
      seed: 1,
    });
    this.cpu = this.machine.cpus[0]!;
    this.#pageTables();
    this.#descriptors();
    this.machine.mem.u8.set(image.bytes, AT.IMAGE);
    this.machine.mem.u8[AT.RETURN] = 0xf4; // hlt
    this.#ucallPool();
    if (image.symbols.has(idt_handlers.symbol)) this.#interrupts();
    this.machine.io.ports.add({
      base: UCALL_PIO_PORT,
      length: 1,
      read: (_offset, _size, out) => {
        out[0] = 0;
        this.#ucall(getReg(this.cpu, RDI));
      },
      write: () => undefined,
    });
  }

  /** Calls a function as the ABI says; gives rax. */
  call(fn: FnLinkable, args: readonly bigint[] = [], cycles = 50_000_000): bigint {
    const { cpu } = this;
    const rsp = BigInt(AT.STACK - 8);
    enterLongMode(cpu, this.entryState(this.image.addressOf(fn), rsp));
    this.poke64(AT.STACK - 8, BigInt(AT.RETURN));
    PRESERVED.forEach((reg) => reg !== RSP && setReg(cpu, reg, BigInt(reg) << 40n));
    args.forEach((value, i) => setReg(cpu, ARGUMENTS[i]!, value));
    const deadline = cpu.clock[0]! + cycles;
    let result: number;
    // After a VM exit the CPU goes on in the code that HOST_RIP names.
    do result = cpuRun(cpu, deadline);
    while (result === RUN.VMEXIT);
    const rip = getRip(cpu);
    const at = this.image.locate(rip);
    if (result !== RUN.HLT || rip !== BigInt(AT.RETURN) + 1n) {
      throw new Error(
        `${fn.symbol} stopped (${result}) at 0x${rip.toString(16)} ${at ? `${at.file}:${at.line}` : ''}`,
      );
    }
    for (const reg of PRESERVED) {
      const expected = reg === RSP ? rsp + 8n : BigInt(reg) << 40n;
      if (getReg(cpu, reg) !== expected) throw new Error(`${fn.symbol} does not preserve register ${reg}`);
    }
    return getReg(cpu, RAX);
  }

  /** The state in which a function is called. */
  protected entryState(rip: bigint, rsp: bigint): LongModeEntry {
    return {
      cr3: AT.PML4,
      rip,
      rsp,
      gdt: { base: BigInt(AT.GDT), limit: 0x3f },
      idt: { base: BigInt(AT.IDT), limit: NUM_INTERRUPTS * 16 - 1 },
    };
  }

  poke64(at: number, value: bigint): void {
    this.machine.mem.view.setBigUint64(at, BigInt.asUintN(64, value), true);
    this.machine.noteStore(hpa(at), 8);
  }

  peek64(at: number): bigint {
    return this.machine.mem.view.getBigUint64(at, true);
  }

  /** Writes a guest global of eight or four bytes. */
  writeGlobal(global: Place & { readonly symbol: string }, value: bigint): void {
    const at = Number(this.image.addressOf(global.symbol));
    if (global.type.size === 4) this.machine.mem.view.setUint32(at, Number(value), true);
    else this.poke64(at, value);
  }

  /** vm_install_exception_handler(). */
  installHandler(vector: number, handler: FnLinkable): void {
    this.poke64(AT.HANDLERS + vector * 8, this.image.addressOf(handler));
  }

  #pageTables(): void {
    this.poke64(AT.PML4, BigInt(AT.PDPT | TABLE));
    this.poke64(AT.PDPT, BigInt(AT.PD | TABLE));
    this.poke64(AT.PDPT + 3 * 8, BigInt(AT.PD_APIC | TABLE));
    for (let at = RAM_BASE; at < RAM_BASE + RAM_BYTES; at += LARGE_PAGE) {
      this.poke64(AT.PD + (at / LARGE_PAGE) * 8, BigInt(at | LARGE));
    }
    const apic = 0xfee0_0000;
    this.poke64(AT.PD_APIC + ((apic >>> 21) & 511) * 8, BigInt(apic) | BigInt(LARGE));
  }

  #descriptors(): void {
    const words = (selector: number, ar: number): void =>
      encodeDescriptor(0, 0xffff_ffff, ar).forEach((word, i) =>
        this.machine.mem.view.setInt32(AT.GDT + selector + i * 4, word, true),
      );
    words(FLAT_SELECTOR.KERNEL_CS, AR.P | AR.S | 0xb | AR.L | AR.G);
    words(FLAT_SELECTOR.KERNEL_DS, AR.P | AR.S | 0x3 | AR.DB | AR.G);
  }

  #interrupts(): void {
    const table = Number(this.image.addressOf(idt_handlers));
    for (let vector = 0; vector < NUM_INTERRUPTS; vector++) {
      const words = encodeGate64(
        SYS_TYPE.INTERRUPT_GATE64,
        FLAT_SELECTOR.KERNEL_CS,
        this.peek64(table + vector * 8),
        0,
        0,
      );
      words.forEach((word, i) => this.machine.mem.view.setInt32(AT.IDT + vector * 16 + i * 4, word, true));
    }
    this.writeGlobal(exception_handlers, BigInt(AT.HANDLERS));
    this.writeGlobal(guest_tsc_khz, BigInt(PROFILES.skylake.tscKhz));
  }

  #ucallPool(): void {
    if (!this.image.symbols.has(ucall_pool.symbol)) return;
    this.writeGlobal(ucall_pool, BigInt(AT.POOL));
    for (let i = 0; i < KVM_MAX_VCPUS; i++) {
      const at = AT.POOL + UcallHeader.offsetof('ucalls') + i * Ucall.size;
      this.poke64(at + Ucall.offsetof('hva'), BigInt(at));
    }
  }

  #ucall(address: bigint): void {
    const at = Number(BigInt.asIntN(64, address));
    if (at <= 0) {
      this.ucalls.push({ cmd: at, args: [], buffer: '' });
      return;
    }
    const args = Array.from({ length: UCALL_MAX_ARGS }, (_, i) =>
      this.peek64(at + Ucall.offsetof('args') + i * 8),
    );
    const text = this.machine.mem.u8.subarray(at + Ucall.offsetof('buffer'), at + Ucall.offsetof('hva'));
    const buffer = new TextDecoder().decode(text.slice(0, text.indexOf(0)));
    this.ucalls.push({ cmd: Number(this.peek64(at)), args, buffer });
  }
}
