// SPDX-License-Identifier: GPL-2.0-only
/**
 * The boot sector and the entry code, read back by iced-x86, and the disk that they are on. That they work is shown by
 * `nestbed differential` on Bochs. Expected: SDM, "Initializing IA-32e Mode".
 */
import { Decoder, Formatter, FormatterSyntax } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { type GuestCode, guestFn, linkGuest, str } from '../../../lib/guest/index.ts';
import { TestFailure } from '../../../lib/kvm_util/test_util.ts';
import { e9_printf, e9_puts, e9_shutdown } from '../e9.ts';
import { runBare } from '../bare_machine.ts';
import { buildDisk, runOnL0 } from '../guest_vm.ts';
import type { DifferentialProgram } from '../program.ts';
import { bootSector, LOAD_BASE, SECTOR } from './boot_sector.ts';

function disassemble(bytes: Uint8Array, bits: number, address: number, count: number): string[] {
  const decoder = new Decoder(bits, bytes, 0);
  decoder.ip = BigInt(address);
  const formatter = new Formatter(FormatterSyntax.Nasm);
  return Array.from({ length: count }, () => formatter.format(decoder.decode()));
}

describe('the boot sector', () => {
  const sector = bootSector(100, LOAD_BASE);

  it('fits and bears the signature', () => {
    expect(sector.length).toBe(SECTOR);
    expect([...sector.subarray(510)]).toEqual([0x55, 0xaa]);
  });

  it('goes from real mode to 64-bit mode', () => {
    const text = disassemble(sector, 16, 0x7c00, 47).join('\n');
    expect(text).toMatch(/^cli\ncld\nxor ax,ax\nmov ds,ax/);
    const order = [
      'out 0A1h,al',
      'rep stosw',
      'mov cr4,eax',
      'mov cr3,eax',
      'wrmsr',
      'lgdt',
      'mov cr0,eax',
      'jmp 8:',
    ];
    const found = order.map((insn) => text.replaceAll(/ {2,}/g, ' ').indexOf(insn));
    expect(
      found.every((at, n) => at > (found[n - 1] ?? 0)),
      `${found.join()}\n${text}`,
    ).toBe(true);
  });
});

describe('a guest of the corpus', () => {
  const guest = (body: (g: GuestCode) => void): DifferentialProgram => ({
    name: 'some_program',
    summary: '',
    on: ['L0', 'machine'],
    image: () => linkGuest(guestFn('guest_code', [], body)),
  });
  const greeting = guest((g) => {
    e9_puts(g, str('hello\n'));
    e9_printf(g, '%lx %ld\n', 0xab, 7);
    e9_shutdown(g);
  });

  it('speaks through port 0xE9 until it shuts down', () => {
    expect(runOnL0(greeting)).toBe('hello\nab 7\n');
    const { disk, entry } = buildDisk(greeting);
    expect(runBare(disk, entry)).toBe('hello\nab 7\n');
  });

  it('gives the same disk each time, with the boot sector in front', () => {
    const { disk: one, entry } = buildDisk(greeting);
    const { disk: two } = buildDisk(greeting);
    expect(Buffer.compare(one, two)).toBe(0);
    expect((one.length - SECTOR) % 4096).toBe(0);
    expect([...one.subarray(0, SECTOR)]).toEqual([...bootSector(one.length / SECTOR - 1, entry)]);
    expect(entry % 4096).toBe(0);
    // The entry code begins with its greeting for port 0xE9.
    const code = one.subarray(SECTOR + entry - LOAD_BASE);
    expect(disassemble(code, 64, entry, 4)[0]).toMatch(/^lea rsi,/);
    expect(disassemble(code, 64, entry, 4)[3]).toBe('rep outsb');
  });

  it('fails the test with its last words if it does anything else', () => {
    const lost = guest((g) => {
      e9_puts(g, str('last words\n'));
      g.insn('ud2');
    });
    expect(() => runOnL0(lost)).toThrow(TestFailure);
    expect(() => runOnL0(lost)).toThrow(/unhandled exception UD[\s\S]*last words/);
    const halted = buildDisk(guest((g) => g.insn('hlt')));
    expect(() => runBare(halted.disk, halted.entry)).toThrow('the machine stopped');
  });
});
