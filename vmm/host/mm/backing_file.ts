// SPDX-License-Identifier: GPL-2.0-only
/**
 * What shared mappings map: a memfd (page cache of managed frames, after mm/shmem.c), or a file of unmanaged frames that
 * are mapped without a struct page, as guest_memfd or a device driver does. Frames come on first touch.
 */
import { pfn as toPfn } from '../../../lib/x86/addr.ts';
import { BugError } from '../../machine/errors.ts';
import type { MmStruct } from './mm_struct.ts';
import { GFP } from './page_alloc.ts';
import type { MmServices } from './services.ts';
import type { MappedFile } from './vma.ts';

export class BackingFile implements MappedFile {
  readonly name: string;
  readonly managed: boolean;
  readonly nrPages: number;
  /** Every address space that ever mapped it. */
  readonly mappers = new Set<MmStruct>();
  readonly #services: MmServices;
  readonly #pages: Int32Array;
  readonly #owner: number;
  /** Name under which a punched hole frees frames. */
  readonly hole: number;

  constructor(services: MmServices, name: string, nrPages: number, kind: 'memfd' | 'unmanaged') {
    this.#services = services;
    this.name = name;
    this.managed = kind === 'memfd';
    this.nrPages = nrPages;
    this.#pages = new Int32Array(nrPages).fill(-1);
    this.hole = services.pages.owner(`hole punched into ${name}`);
    this.#owner = services.pages.owner(`${kind} ${name}`);
  }

  get nrMappers(): number {
    return this.mappers.size;
  }

  /** The frame at a page index, or -1 if there is none yet. */
  peek(index: number): number {
    return this.#pages[index] ?? -1;
  }

  /** The frame at a page index, allocated if need be; -ENOMEM. The file keeps its own reference to a managed frame. */
  frame(index: number): number {
    if (index < 0 || index >= this.nrPages)
      throw new BugError(`${this.name}: page ${index} is beyond its end`);
    const known = this.#pages[index]!;
    if (known >= 0) return known;
    const { pages, unmanaged } = this.#services;
    const frame = this.managed ? pages.allocPage(this.#owner, GFP.ZERO) : unmanaged.alloc(this.#owner);
    if (frame >= 0) this.#pages[index] = frame;
    return frame;
  }

  /** Put another frame in the place of an old one, which is the caller's from now on. */
  replace(index: number, frame: number): void {
    this.#pages[index] = frame;
  }

  /** Give up the frame at a page index. */
  drop(index: number, by: number): void {
    const frame = this.peek(index);
    if (frame < 0) return;
    this.#pages[index] = -1;
    if (this.managed) this.#services.pages.putPage(toPfn(frame), by);
    else this.#services.unmanaged.free(toPfn(frame), by);
  }
}
