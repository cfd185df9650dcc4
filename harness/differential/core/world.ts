// SPDX-License-Identifier: GPL-2.0-only
/**
 * The address space of harness/reference (code, data, stack and awkward pages) inside of a VM: each page of the reference's
 * image gets a frame of the guest and an entry with the same rights. The VM's own pages become supervisor pages.
 */
import { PTE } from '../../../lib/x86/paging.ts';
import { gpa, PAGE_SIZE, type Gpa } from '../../../lib/x86/addr.ts';
import {
  addrGpa2hva,
  MEM_REGION_SLOT_DEFAULT,
  vmPhyPagesAlloc,
  writeGpaU64,
  type KvmVm,
} from '../../../lib/kvm_util/kvm_util.ts';
import { vmGetPageTableEntry, virtPgMap } from '../../../lib/kvm_util/x86/page_table.ts';
import { RAM_BASE } from '../../../vmm/machine/layout.ts';
import { Random } from '../../reference/random.ts';
import { buildWorld, LARGE_USED, RAM_BYTES } from '../../reference/world.ts';
import { LOAD_BASE } from '../boot/boot_sector.ts';
import type { Privilege } from './snippet.ts';

/** A page of the world: linear address, offset of its frame in the reference's image, entry bits without the address. */
export interface WorldPage {
  readonly linear: bigint;
  readonly offset: number;
  readonly flags: bigint;
  readonly level: 1 | 2;
}

const FRAME = 0x0007_ffff_ffff_f000n;
const RAM = BigInt(RAM_BASE);
/** Where the large page's frames are looked for. */
const LARGE_GPA = LOAD_BASE + 0x40_0000;
const LARGE_PAGES = 512;
/** The bits of an entry that the walker sets. */
const ACCESSED_DIRTY = 0x60n;

/** The reference's RAM with tables and contents; the root is its first page. */
export function worldImage(privilege: Privilege): Uint8Array {
  const image = new Uint8Array(RAM_BYTES);
  buildWorld(image, { user: privilege === 'user', la57: false }, new Random(0x5eed));
  return image;
}

const signExtend = (linear: bigint): bigint => BigInt.asUintN(64, BigInt.asIntN(48, linear));

/** The leaves of the tables in an image. */
export function worldPages(image: Uint8Array): readonly WorldPage[] {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const pages: WorldPage[] = [];
  const walk = (table: number, level: number, above: bigint): void => {
    for (let n = 0; n < 512; n++) {
      const entry = view.getBigUint64(table + n * 8, true);
      if ((entry & 1n) === 0n) continue;
      const linear = above | (BigInt(n) << BigInt(3 + 9 * level));
      const offset = Number((entry & FRAME) - RAM);
      const leaf = level === 1 || (entry & BigInt(PTE.PS)) !== 0n;
      if (!leaf) walk(offset, level - 1, linear);
      else {
        const flags = entry & ~FRAME & ~ACCESSED_DIRTY;
        pages.push({ linear: signExtend(linear), offset, flags, level: level === 1 ? 1 : 2 });
      }
    }
  };
  walk(0, 4, 0n);
  return pages;
}

const bytesOf = ({ level }: WorldPage): number => (level === 1 ? PAGE_SIZE : LARGE_USED);

function frameFor(vm: KvmVm, { level }: WorldPage): Gpa {
  return level === 1
    ? vmPhyPagesAlloc(vm, 1, gpa(0), MEM_REGION_SLOT_DEFAULT)
    : vmPhyPagesAlloc(vm, LARGE_PAGES, gpa(LARGE_GPA), MEM_REGION_SLOT_DEFAULT);
}

/** Pages of guest memory that the world needs at most. */
export const WORLD_PAGES = (LARGE_GPA - LOAD_BASE) / PAGE_SIZE + LARGE_PAGES + 64;

/** Map the world into a VM and fill it. */
export function mapWorld(vm: KvmVm, privilege: Privilege): void {
  for (const page of vm.vpages) clearUser(vm, BigInt(page) << 12n);
  const image = worldImage(privilege);
  for (const page of worldPages(image)) {
    const frame = frameFor(vm, page);
    virtPgMap(vm, page.linear, frame, page.level);
    const { at } = vmGetPageTableEntry(vm, page.linear);
    writeGpaU64(vm, at, BigInt(frame) | page.flags);
    vm.backend.memory.write(addrGpa2hva(vm, frame), image.subarray(page.offset, page.offset + bytesOf(page)));
  }
}

/** SMEP and SMAP would forbid the kernel half its own pages. */
function clearUser(vm: KvmVm, addr: bigint): void {
  const { at, entry } = vmGetPageTableEntry(vm, addr);
  writeGpaU64(vm, at, entry & ~BigInt(PTE.US));
}
