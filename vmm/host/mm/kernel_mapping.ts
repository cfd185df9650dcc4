// SPDX-License-Identifier: GPL-2.0-only
/**
 * A kernel mapping of guest or other memory: what kmap(), kmap_local_page() and memremap() return instead of a pointer.
 * It remembers the epoch of each frame, so that an access after the frame was freed or re-used is found out.
 */
import { PAGE_SHIFT, PAGE_SIZE, pfn as toPfn, type Pfn } from '../../../lib/x86/addr.ts';
import { hex } from '../../../lib/x86/bits.ts';
import { BugError, SanitizerError } from '../../machine/errors.ts';
import type { HostMemory } from './host_memory.ts';

/** How the memory is reached. */
// prettier-ignore
export const KERNEL_MAPPING = { DIRECT_MAP: 0, KMAP_LOCAL: 1, VMAP: 2 } as const;

export class KernelMapping {
  readonly kind: number;
  readonly pfn: Pfn;
  readonly nrPages: number;
  /** Who mapped it, for the report of a misuse. */
  readonly name: string;
  readonly #machine: HostMemory;
  readonly #epochs: number[];
  #live = true;

  constructor(machine: HostMemory, kind: number, pfn: Pfn, nrPages: number, name: string) {
    this.#machine = machine;
    this.kind = kind;
    this.pfn = pfn;
    this.nrPages = nrPages;
    this.name = name;
    this.#epochs = Array.from({ length: nrPages }, (_, i) => machine.frames.epoch[pfn + i] ?? 0);
  }

  get live(): boolean {
    return this.#live;
  }

  /** The mapping is gone; by its maker only. */
  retire(): void {
    if (!this.#live) throw new SanitizerError(`${this.#what()} is unmapped twice`);
    this.#live = false;
  }

  /** The physical address of `length` bytes at `offset`, after checking that they may be used. */
  hpa(offset: number, length: number): number {
    if (!this.#live) throw new SanitizerError(`use of ${this.#what()} after it was unmapped`);
    if (offset < 0 || offset + length > this.nrPages * PAGE_SIZE) {
      throw new BugError(`${this.#what()}: ${length} bytes at offset ${offset} are outside of it`);
    }
    const last = (offset + length - 1) >>> PAGE_SHIFT;
    for (let page = offset >>> PAGE_SHIFT; page <= last; page++) {
      if (!this.#machine.frames.isCurrent(toPfn(this.pfn + page), this.#epochs[page]!)) this.#stale(page);
    }
    return this.pfn * PAGE_SIZE + offset;
  }

  read8(offset: number): number {
    return this.#machine.mem.u8[this.hpa(offset, 1)]!;
  }

  read32(offset: number): number {
    return this.#machine.mem.view.getUint32(this.hpa(offset, 4), true);
  }

  read64(offset: number): bigint {
    return this.#machine.mem.view.getBigUint64(this.hpa(offset, 8), true);
  }

  /** A copy of the bytes. */
  readBytes(offset: number, length: number): Uint8Array {
    const at = this.hpa(offset, length);
    return this.#machine.mem.u8.slice(at, at + length);
  }

  write8(offset: number, value: number): void {
    const at = this.hpa(offset, 1);
    this.#machine.mem.u8[at] = value;
    this.#machine.noteStore(at, 1);
  }

  write32(offset: number, value: number): void {
    const at = this.hpa(offset, 4);
    this.#machine.mem.view.setUint32(at, value, true);
    this.#machine.noteStore(at, 4);
  }

  write64(offset: number, value: bigint): void {
    const at = this.hpa(offset, 8);
    this.#machine.mem.view.setBigUint64(at, value, true);
    this.#machine.noteStore(at, 8);
  }

  writeBytes(offset: number, bytes: Uint8Array): void {
    const at = this.hpa(offset, bytes.length);
    this.#machine.mem.u8.set(bytes, at);
    this.#machine.noteStore(at, bytes.length);
  }

  #stale(page: number): never {
    const pfn = toPfn(this.pfn + page);
    throw new SanitizerError(
      `use after free through ${this.#what()}, mapped at epoch ${this.#epochs[page]!}: ${this.#machine.frames.story(pfn)}`,
    );
  }

  #what(): string {
    const kinds = ['the direct map', 'kmap_local', 'memremap'];
    return `${kinds[this.kind]!} of pfn ${hex(this.pfn)} for ${this.name}`;
  }
}
