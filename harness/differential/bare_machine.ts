// SPDX-License-Identifier: GPL-2.0-only
/**
 * The third place where a program runs: the emulated machine without L0. Its CPU begins where the boot sector ends, in
 * 64-bit mode on identity-mapped memory at the entry code, with the disk's bytes in RAM. There the guest is the machine's
 * only software, as on Bochs: what differs then is the machine's, not L0's.
 */
import { hpa } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { PROFILES } from '../../vmm/machine/cost/profiles.ts';
import { getRip } from '../../vmm/machine/cpu/regs.ts';
import { RUN } from '../../vmm/machine/cpu/state.ts';
import { enterLongMode } from '../../vmm/machine/cpu/system/reset.ts';
import type { Cpu } from '../../vmm/machine/cpu/cpu.ts';
import { cpuRun, nextWakeup } from '../../vmm/machine/cpu/system/run.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { createMachine, type Machine } from '../../vmm/machine/machine.ts';
import { LOAD_BASE, SECTOR } from './boot/boot_sector.ts';
import { GUEST_BEGINS } from './boot/entry_code.ts';
import { E9_PORT, SHUTDOWN_PORT, SHUTDOWN_WORD } from './e9.ts';

const RAM_BYTES = 0x0400_0000;
/** PML4, PDPT and GDT at the end of RAM. */
const TABLES = RAM_BASE + RAM_BYTES - 0x3000;
const GDT = TABLES + 0x2000;
/** A guest that takes longer hangs. */
const CYCLES = 20_000_000_000;
const SLICE = 10_000_000;

function poke64(machine: Machine, at: number, value: bigint): void {
  machine.mem.view.setBigUint64(at, value, true);
  machine.noteStore(hpa(at), 8);
}

/** The boot sector's tables: 1 GiB at 0, and the one of the local APIC. */
function identityMap(machine: Machine): void {
  poke64(machine, TABLES, BigInt(TABLES + 0x1000) | 3n);
  poke64(machine, TABLES + 0x1000, 0x83n);
  poke64(machine, TABLES + 0x1000 + 3 * 8, 0xc000_0083n);
  poke64(machine, GDT + 8, 0x0020_9a00_0000_0000n);
  poke64(machine, GDT + 16, 0x0000_9200_0000_0000n);
}

/** A halted CPU until its next timer; false if nothing will wake it. */
function sleep(cpu: Cpu): boolean {
  const wakeup = nextWakeup(cpu);
  if (wakeup === Infinity) return false;
  cpu.clock[0] = Math.max(cpu.clock[0]!, wakeup);
  return true;
}

/** Run a disk's guest on the bare machine; `entry` is the address of its entry code. */
export function runBare(disk: Uint8Array, entry: number): string {
  const machine = createMachine({
    profile: PROFILES.skylake,
    nrCpus: 1,
    ramBytes: RAM_BYTES,
    tlb: 'real',
    seed: 1,
  });
  identityMap(machine);
  machine.mem.u8.set(disk.subarray(SECTOR), LOAD_BASE);
  const said: { bytes: number[]; word: string } = { bytes: [], word: '' };
  const nothing = (): undefined => undefined;
  const { ports } = machine.io;
  ports.add({
    base: E9_PORT,
    length: 1,
    read: nothing,
    write: (_at, _size, lo) => said.bytes.push(lo & 0xff),
  });
  ports.add({
    base: SHUTDOWN_PORT,
    length: 1,
    read: nothing,
    write: (_at, _size, lo) => (said.word += String.fromCharCode(lo & 0xff)),
  });
  const cpu = machine.cpus[0]!;
  const gdt = { base: BigInt(GDT), limit: 0x17 };
  enterLongMode(cpu, { cr3: TABLES, rip: BigInt(entry), rsp: BigInt(TABLES), gdt });
  const end = cpu.clock[0]! + CYCLES;
  while (said.word !== SHUTDOWN_WORD) {
    const result = cpuRun(cpu, cpu.clock[0]! + SLICE);
    // After a VM exit the CPU goes on in the guest's own root operation.
    const goesOn = result === RUN.DEADLINE || result === RUN.VMEXIT || (result === RUN.HLT && sleep(cpu));
    if (!goesOn || cpu.clock[0]! > end)
      throw new Error(
        `the machine stopped (${result}) at ${hex(getRip(cpu))}\n${textOf(said.bytes).slice(-300)}`,
      );
  }
  return textOf(said.bytes);
}

const textOf = (bytes: readonly number[]): string => {
  const text = new TextDecoder().decode(new Uint8Array(bytes));
  return text.slice(text.indexOf(`${GUEST_BEGINS}\n`) + GUEST_BEGINS.length + 1);
};
