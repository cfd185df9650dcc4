// SPDX-License-Identifier: GPL-2.0-only
/**
 * Memory of the VMX programs: pages that L1 gives to the hardware or to L2, known by guest physical address, and a linear
 * window in which all guest memory is mapped. Also L2's EPT, an identity map, and the entries of it that cases change.
 */
import { gpa, PAGE_SIZE, type Gpa } from '../../../lib/x86/addr.ts';
import {
  array,
  at,
  type Expr,
  type GuestCode,
  guestFn,
  guestGlobal,
  invept,
  lit,
  type Operand,
  type Place,
  ptr,
  select,
  u64,
  u8,
} from '../../../lib/guest/index.ts';
import type { AnyType, IntType } from '../../../lib/guest/index.ts';
import { symbolAddress, u64Bytes } from '../../../lib/kvm_util/guest_global.ts';
import { type KvmVm, MEM_REGION_SLOT_DEFAULT, vmPhyPagesAlloc } from '../../../lib/kvm_util/kvm_util.ts';
import {
  virtMap,
  vmAllocPageTable,
  vmGetPageTableEntry,
  writeGuest,
} from '../../../lib/kvm_util/x86/page_table.ts';
import { __tdpMap, tdpGetPte } from '../../../lib/kvm_util/x86/tdp.ts';
import { PG_LEVEL } from '../../../lib/x86/paging.ts';
import { VMX_EPT_EXTENT } from '../../../lib/x86/vmx/capability_msrs.ts';
import { e9_printf } from '../e9.ts';
import { APIC_PAGE } from './l2_idt.ts';
import { LOAD_BASE } from '../boot/boot_sector.ts';

const PAGES = [
  ...(['vmcs2', 'ioa', 'iob', 'vapic', 'apic_access', 'store', 'load', 'entry', 'data', 'data2'] as const),
  ...(['stack', 'list', 'pml', 'posted', 'idt', 'junk'] as const),
  // The page table that maps SPECIAL: not allocated here, but known.
  'table',
] as const;
export type PageName = (typeof PAGES)[number];

/** Other addresses that the host fills in: EPT entries by what they map, and the root. */
const ENTRIES = [
  ...(['ept_root', 'ept_data', 'ept_data2', 'ept_table', 'ept_apic', 'ept_junk', 'ept_idt'] as const),
  ...(['ept_stack', 'pte_special'] as const),
] as const;
export type EntryName = (typeof ENTRIES)[number];

/** All guest memory, at its guest physical address plus this. */
export const DIRECT = 0x7000_0000_0000n;
/** A linear page with paging structures of its own: it maps the page `data`. */
export const SPECIAL = 0x6000_0000_0000n;

/** Guest physical addresses of the pages, then those of the entries. */
export const vx_areas = guestGlobal('vx_areas', array(u64, PAGES.length + ENTRIES.length));

/** The guest physical address of a page. */
export const pageGpa = (name: PageName): Place<IntType> => vx_areas.at(PAGES.indexOf(name));
/** The linear address of a page. */
export const pageVa = (name: PageName): Expr => direct(pageGpa(name));
/** The linear address of guest physical memory. */
export const direct = (address: Operand): Expr => lit(address).cast(u64).add(DIRECT);
/** Something in a page. */
export const inPage = <T extends AnyType>(type: T, name: PageName, offset: number | Operand): Place<T> =>
  at(type, pageVa(name).add(offset));
/** A paging-structure entry. */
export const entryOf = (name: EntryName): Place<IntType> => at(u64, direct(entryGpa(name)));
/** Rights and memory type of an entry of L2's EPT that maps as all do: read, write, execute, write-back. */
export const EPT_LEAF = 0x37;

/** The page that each changeable entry maps. */
const EPT_LEAVES = [
  ['ept_data', 'data'],
  ['ept_data2', 'data2'],
  ['ept_table', 'table'],
  ['ept_junk', 'junk'],
  ['ept_idt', 'idt'],
  ['ept_stack', 'stack'],
] as const;
export type EptLeaf = (typeof EPT_LEAVES)[number][0];

/** Drops what is cached of L2's EPT. */
export const flushEpt = guestFn('vx_flush_ept', [], (g) => {
  invept(g, VMX_EPT_EXTENT.GLOBAL, 0);
});

/** An entry of L2's EPT with other low bits, and the page that it maps. */
export function setEpt(g: GuestCode, leaf: EptLeaf, bits: Operand): void {
  const page = EPT_LEAVES.find(([name]) => name === leaf)![1];
  g.set(entryOf(leaf), pageGpa(page).or(bits));
  flushEpt(g);
}

/** The changeable entries as they were. */
export const resetEpt = guestFn('vx_reset_ept', [], (g) => {
  for (const [leaf, page] of EPT_LEAVES) g.set(entryOf(leaf), pageGpa(page).or(EPT_LEAF));
});

/** The value that an entry of ENTRIES stands for: an address. */
export const entryGpa = (name: EntryName): Place<IntType> =>
  vx_areas.at(PAGES.length + ENTRIES.indexOf(name));

/** Pages of guest memory that all this takes. */
export const AREA_PAGES = 128;

/** Prints an address by the page that it is in: addresses as numbers would change with every change of the image. */
export const vx_place = guestFn('vx_place', [ptr(u8), u64], (g, name, address) => {
  const offset = g.let(address.and(0xfff));
  const page = g.let(address.sub(offset));
  const physical = g.let(
    select(page.ge(DIRECT).land(page.lt(DIRECT + 0x1_0000_0000n)), page.sub(DIRECT), page),
  );
  PAGES.forEach((known, n) =>
    g.if(physical.eq(vx_areas.at(n)), () => {
      e9_printf(g, ` %s=${known}+%lx`, name, offset);
      g.return();
    }),
  );
  e9_printf(g, ' %s=%lx', name, address);
});

function allocPage(vm: KvmVm): Gpa {
  return vmPhyPagesAlloc(vm, 1, gpa(0), MEM_REGION_SLOT_DEFAULT);
}

/** Allocate and map everything; gives the pages. */
export function prepareAreas(vm: KvmVm): Readonly<Record<PageName, Gpa>> {
  const region = vm.regions.get(MEM_REGION_SLOT_DEFAULT);
  const bytes = region.npages * PAGE_SIZE - LOAD_BASE;
  const pages = Object.fromEntries(PAGES.map((name) => [name, allocPage(vm)])) as Record<PageName, Gpa>;
  virtMap(vm, SPECIAL, pages.data, 1);
  const special = vmGetPageTableEntry(vm, SPECIAL).at;
  pages.table = gpa(special - (special % PAGE_SIZE));
  virtMap(vm, DIRECT + BigInt(LOAD_BASE), gpa(LOAD_BASE), bytes / PAGE_SIZE);
  vm.arch.tdpPgd = vmAllocPageTable(vm);
  __tdpMap(vm, LOAD_BASE, LOAD_BASE, bytes, PG_LEVEL.L4K);
  // L1 sends itself interrupts.
  virtMap(vm, BigInt(APIC_PAGE), gpa(APIC_PAGE), 1);
  // The local APIC's page leads to the APIC-access page.
  __tdpMap(vm, APIC_PAGE, pages.apic_access, PAGE_SIZE, PG_LEVEL.L4K);
  const entries: Record<EntryName, number> = {
    ept_root: vm.arch.tdpPgd,
    ept_data: tdpGetPte(vm, pages.data),
    ept_data2: tdpGetPte(vm, pages.data2),
    ept_table: tdpGetPte(vm, pages.table),
    ept_apic: tdpGetPte(vm, APIC_PAGE),
    ept_junk: tdpGetPte(vm, pages.junk),
    ept_idt: tdpGetPte(vm, pages.idt),
    ept_stack: tdpGetPte(vm, pages.stack),
    pte_special: special,
  };
  const values = [...PAGES.map((name) => pages[name]), ...ENTRIES.map((name) => entries[name])];
  const start = symbolAddress(vm, vx_areas.symbol);
  values.forEach((value, n) => writeGuest(vm, start + BigInt(8 * n), u64Bytes(BigInt(value))));
  return pages;
}
