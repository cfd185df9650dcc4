// SPDX-License-Identifier: GPL-2.0-only
/** Operands in devices, operands that cross from RAM into a device, and faults in the second half of an instruction. */
import { describe, expect, it } from 'vitest';
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { setReg, setRip } from './regs.ts';
import { RUN } from './state.ts';
import { type Bare, bare, DATA, peek, run, runOn, STACK, STACK_TOP } from './testing/bare.ts';

const DEVICE_PHYS = 0x9000_0000;
const DEVICE = DATA + 0x4000n; // directly after the RAM at DATA

interface Log {
  readonly reads: (readonly [offset: number, size: number])[];
  readonly writes: (readonly [offset: number, size: number, lo: number, hi: number])[];
}

function withDevice(): { b: Bare; log: Log } {
  const b = bare([]);
  const log: Log = { reads: [], writes: [] };
  b.machine.io.mmio.add({
    base: DEVICE_PHYS,
    length: 0x1000,
    read(offset, size, out) {
      log.reads.push([offset, size]);
      out[0] = 0x0403_0201 + offset;
      out[1] = 0x0807_0605;
    },
    write(offset, size, lo, hi) {
      log.writes.push([offset, size, lo, hi]);
    },
  });
  b.map(DEVICE, DEVICE_PHYS, 3);
  return { b, log };
}

describe('operands in devices', () => {
  it('loads and stores reach the device with their size', () => {
    const { b, log } = withDevice();
    expect(runOn(b, [0x48, 0x8b, 0x07], { regs: { 7: DEVICE } }).regs[0]).toBe(0x0807_0605_0403_0201n);
    expect(runOn(b, [0x8b, 0x47, 0x10], { regs: { 7: DEVICE } }).regs[0]).toBe(0x0403_0211n);
    expect(runOn(b, [0x0f, 0xb6, 0x07], { regs: { 7: DEVICE } }).regs[0]).toBe(1n);
    runOn(b, [0x89, 0x47, 0x20], { regs: { 7: DEVICE, 0: 0x1234n } });
    expect(log.reads).toEqual([
      [0, 8],
      [0, 8],
      [0x10, 4],
      [0x10, 4],
      [0, 1],
      [0, 1],
    ]);
    expect(log.writes).toEqual([
      [0x20, 4, 0x1234, 0],
      [0x20, 4, 0x1234, 0],
    ]);
  });

  it('a read-modify-write reads once and writes once', () => {
    const { b, log } = withDevice();
    runOn(b, [0x83, 0x07, 0x01], { regs: { 7: DEVICE } });
    expect([log.reads.length, log.writes]).toEqual([
      2,
      [
        [0, 4, 0x0403_0202, 0],
        [0, 4, 0x0403_0202, 0],
      ],
    ]);
  });

  it('an operand that crosses from RAM into a device is taken apart', () => {
    const { b, log } = withDevice();
    const o = runOn(b, [0x48, 0x89, 0x07, 0x48, 0x8b, 0x1f], {
      regs: { 7: DEVICE - 4n, 0: 0x8877_6655_4433_2211n },
    });
    expect(o.result).toBe(RUN.SYS);
    expect(peek(b, DEVICE - 8n) >> 32n).toBe(0x4433_2211n);
    expect(log.writes.slice(0, 4)).toEqual([
      [0, 1, 0x55, 0],
      [1, 1, 0x66, 0],
      [2, 1, 0x77, 0],
      [3, 1, 0x88, 0],
    ]);
    expect(o.regs[3]! & 0xffff_ffffn).toBe(0x4433_2211n);
    expect(o.regs[3]! >> 32n).toBe(0x0403_0201n);
  });
});

describe('faults in the second half', () => {
  const b = bare([]);
  const hole = DATA + 0x4000n;

  it('POP to memory, ENTER and FXRSTOR change nothing', () => {
    const pop = runOn(b, [0x8f, 0x07], { regs: { 4: STACK_TOP - 8n, 7: hole } });
    expect([pop.result, pop.regs[4]]).toEqual([RUN.FAULT, STACK_TOP - 8n]);
    const copies = runOn(b, [0xc8, 0, 0, 3], { regs: { 5: hole + 8n } });
    expect([copies.result, copies.regs[4], copies.regs[5]]).toEqual([RUN.FAULT, STACK_TOP, hole + 8n]);
    const low = runOn(b, [0xc8, 0x00, 0x40, 0], { regs: { 4: STACK + 0x800n } });
    expect([low.result, low.regs[4], low.regs[5]]).toEqual([RUN.FAULT, STACK + 0x800n, 0n]);
    for (const code of [
      [0x0f, 0xae, 0x07],
      [0x0f, 0xae, 0x0f],
    ]) {
      expect(runOn(b, code, { regs: { 7: hole - 0x100n } }).result).toBe(RUN.FAULT);
      expect(b.cpu.fault.linLo).toBe(Number(BigInt.asIntN(32, hole + 0xf8n)));
    }
    expect(runOn(b, [0xd7], { regs: { 3: hole } }).result).toBe(RUN.FAULT);
    expect(runOn(b, [0x0f, 0xc7, 0x0f], { regs: { 7: hole - 4n } }).result).toBe(RUN.FAULT);
  });

  it('LOOP to a non-canonical target gives RCX back', () => {
    const { cpu } = b;
    b.map(0x7fff_ffff_f000n, b.phys(DATA), 3);
    b.machine.mem.u8.set([0xe2, 0x7f], b.phys(DATA) + 0xff0);
    setRip(cpu, 0x7fff_ffff_fff0n);
    setReg(cpu, 1, 5n);
    const o = run(cpu);
    expect([o.result, o.regs[1], cpu.fault.vector]).toEqual([RUN.FAULT, 5n, VECTOR.GP]);
  });
});
