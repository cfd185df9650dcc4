// SPDX-License-Identifier: GPL-2.0-only
/**
 * The boot sector of an exported guest: from the BIOS's real mode straight to 64-bit mode on identity-mapped memory, then
 * the rest of the disk to LOAD_BASE by programmed I/O, then a jump to the entry code there. SDM, "Initializing IA-32e
 * Mode"; ATA, "READ SECTOR(S)". The real-mode bytes are a table, since the assembler knows 64-bit mode only.
 */
import { Assembler } from '../../../lib/asm/assembler.ts';
import { lab, R } from '../../../lib/asm/operands.ts';
import { BugError } from '../../../vmm/machine/errors.ts';

/** Where the disk's second sector goes, and what follows it: above the PC's ROMs, and where the machine's RAM begins. */
export const LOAD_BASE = 0x100_0000;
export const SECTOR = 512;

const BOOT = 0x7c00;
/** Page tables of the boot sector's own: PML4 and one PDPT with 1 GiB pages. */
const [PML4, PDPT] = [0x1000, 0x2000] as const;
const GDT = { CODE: 0x08, DATA: 0x10 } as const;

const le16 = (value: number): readonly number[] => [value & 0xff, (value >> 8) & 0xff];
/** mov word [at], value */
const movWord = (at: number, value: number): readonly number[] => [0xc7, 0x06, ...le16(at), ...le16(value)];

/** The real-mode part, and its length with the GDT behind it; `gdtr` and `long` are addresses. */
function realMode(gdtr: number, long: number): readonly number[] {
  return [
    [0xfa, 0xfc], // cli; cld
    [0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // xor ax, ax; mov ds, es, ss
    [0xbc, ...le16(BOOT)], // mov sp, 0x7c00
    [0xe4, 0x92, 0x0c, 0x02, 0xe6, 0x92], // A20 by port 0x92
    [0xb0, 0xff, 0xe6, 0x21, 0xe6, 0xa1], // mask both 8259s
    [0xfb, 0x90, 0x90, 0xfa], // sti; nop; nop; cli: what they had asserted before goes to the BIOS
    [0xbf, ...le16(PML4), 0xb9, ...le16(0x1000), 0x31, 0xc0, 0xf3, 0xab], // clear the tables
    movWord(PML4, PDPT | 3),
    movWord(PDPT, 0x83), // 1 GiB at 0
    movWord(PDPT + 3 * 8, 0x83), // 1 GiB at 3 GiB: the local APIC
    movWord(PDPT + 3 * 8 + 2, 0xc000),
    [0x66, 0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0], // mov eax, CR4.PAE; mov cr4, eax
    [0x66, 0xb8, ...le16(PML4), 0, 0, 0x0f, 0x22, 0xd8], // mov cr3
    [0x66, 0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32], // mov ecx, IA32_EFER; rdmsr
    [0x66, 0x0d, 0, 1, 0, 0, 0x0f, 0x30], // or eax, LME; wrmsr
    [0x0f, 0x01, 0x16, ...le16(gdtr)], // lgdt
    [0x66, 0xb8, 0x11, 0, 0, 0x80, 0x0f, 0x22, 0xc0], // mov cr0: PG, ET, PE
    [0xea, ...le16(long), ...le16(GDT.CODE)], // jmp far
  ].flat();
}

/** Null, 64-bit code, data; and before them the operand of LGDT. */
const descriptors = (gdt: number): readonly number[] => [
  ...[...le16(0x17), ...le16(gdt), 0, 0],
  ...[0, 0, 0, 0, 0, 0, 0, 0],
  ...[0, 0, 0, 0, 0, 0x9a, 0x20, 0],
  ...[0, 0, 0, 0, 0, 0x92, 0, 0],
];

const ATA = { DATA: 0x1f0, COUNT: 0x1f2, LBA: 0x1f3, DEVICE: 0x1f6, STATUS: 0x1f7 } as const;
const ATA_BSY = 0x80;
const ATA_DRQ = 0x08;
const READ_SECTORS = 0x20;

/** Spins until the drive's status has `set` and not BSY. */
function waitDrive(a: Assembler, set: number): void {
  const again = a.unique('wait');
  a.emit('mov', R.edx, ATA.STATUS);
  a.label(again.name);
  a.emit('in', R.al, R.dx);
  a.emit('test', R.al, ATA_BSY);
  a.emit('jnz', again);
  if (set === 0) return;
  a.emit('test', R.al, set);
  a.emit('jz', again);
}

/** One sector from LBA ebx to [rdi]. */
function readSector(a: Assembler): void {
  waitDrive(a, 0);
  a.emit('mov', R.edx, ATA.DEVICE);
  a.emit('mov', R.al, 0xe0);
  a.emit('out', R.dx, R.al);
  a.emit('mov', R.edx, ATA.COUNT);
  a.emit('mov', R.al, 1);
  a.emit('out', R.dx, R.al);
  a.emit('mov', R.eax, R.ebx);
  for (let byte = 0; byte < 3; byte++) {
    a.emit('inc', R.edx);
    a.emit('out', R.dx, R.al);
    a.emit('shr', R.eax, 8);
  }
  a.emit('mov', R.edx, ATA.STATUS);
  a.emit('mov', R.al, READ_SECTORS);
  a.emit('out', R.dx, R.al);
  waitDrive(a, ATA_DRQ);
  a.emit('mov', R.edx, ATA.DATA);
  a.emit('mov', R.ecx, SECTOR / 2);
  a.emit('rep insw');
}

function longMode(base: number, sectors: number, entry: number): Uint8Array {
  const a = new Assembler();
  a.emit('mov', R.eax, GDT.DATA);
  for (const reg of [R.ds, R.es, R.ss]) a.emit('mov', reg, R.eax);
  a.emit('mov', R.esp, BOOT);
  a.emit('mov', R.edi, LOAD_BASE);
  a.emit('mov', R.ebx, 1);
  a.label('next');
  readSector(a);
  a.emit('inc', R.ebx);
  a.emit('cmp', R.ebx, sectors);
  a.emit('jbe', lab('next'));
  a.emit('mov', R.eax, entry);
  a.emit('jmp', R.rax);
  return a.finish({ base: BigInt(base) }).bytes;
}

/** The boot sector of a disk with `sectors` sectors behind it; `entry` is where they begin to run. */
export function bootSector(sectors: number, entry: number): Uint8Array {
  const gdtr = BOOT + realMode(0, 0).length;
  const gdt = gdtr + 6;
  const long = gdtr + descriptors(0).length;
  const code = longMode(long, sectors, entry);
  const bytes = new Uint8Array(SECTOR);
  const parts = [...realMode(gdtr, long), ...descriptors(gdt), ...code];
  if (parts.length > SECTOR - 2) throw new BugError(`the boot sector has ${parts.length} bytes`);
  bytes.set(parts);
  bytes.set([0x55, 0xaa], SECTOR - 2);
  return bytes;
}
