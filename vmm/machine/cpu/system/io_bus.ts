// SPDX-License-Identifier: GPL-2.0-only
/**
 * The machine's port and memory-mapped I/O space outside of RAM and local APICs. Shared by all CPUs. Nothing answers at
 * an address without a device: reads give ones, writes are lost, as on a PC.
 */
import { BugError } from '../../errors.ts';
import { hex } from '../../../../lib/x86/bits.ts';

/** A device's range of ports or of physical addresses. */
export interface IoDevice {
  readonly base: number;
  readonly length: number;
  /** Read `size` (1, 2, 4 or 8) bytes at base + offset into out[0], out[1]. */
  read(offset: number, size: number, out: Int32Array): void;
  write(offset: number, size: number, lo: number, hi: number): void;
}

export class IoSpace {
  readonly #devices: IoDevice[] = [];

  /** Plug a device in; ranges must not overlap. */
  add(device: IoDevice): void {
    const end = device.base + device.length;
    const clash = this.#devices.find((d) => device.base < d.base + d.length && d.base < end);
    if (clash !== undefined)
      throw new BugError(`I/O range at ${hex(device.base)} overlaps ${hex(clash.base)}`);
    this.#devices.push(device);
  }

  read(address: number, size: number, out: Int32Array): void {
    const device = this.#find(address);
    out[0] = size >= 4 ? -1 : (1 << (size * 8)) - 1;
    out[1] = size === 8 ? -1 : 0;
    device?.read(address - device.base, size, out);
  }

  write(address: number, size: number, lo: number, hi: number): void {
    const device = this.#find(address);
    device?.write(address - device.base, size, lo, hi);
  }

  #find(address: number): IoDevice | undefined {
    return this.#devices.find((d) => address >= d.base && address < d.base + d.length);
  }
}

/** What all CPUs of a machine share on the I/O side. */
export interface IoBus {
  readonly ports: IoSpace;
  readonly mmio: IoSpace;
}
