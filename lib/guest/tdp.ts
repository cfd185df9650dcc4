// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1's EPT made by L1 itself: for images without a host half (which has vm_enable_tdp() and tdp_map() of
 * lib/x86/processor.c in tools/testing/selftests/kvm; the names here are those with the prefix guest_). Tables come from an
 * array of pages; guest virtual and guest physical addresses of them differ by a constant. 4 levels, write-back.
 */
import { EPTE, PG_LEVEL } from '../x86/paging.ts';
import type { GuestCode } from './dsl/builder.ts';
import { at, type Expr, lit, type Place } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import { type GuestGlobal, guestGlobal } from './dsl/global.ts';
import type { Operand } from './dsl/rvalue.ts';
import { struct } from './dsl/struct.ts';
import { array, type IntType, ptr, s32, u64 } from './dsl/types.ts';
import { __GUEST_ASSERT } from './guest_assert.ts';
import { Page } from './vmx_pages.ts';

/** A hierarchy under construction. */
export const TdpMmu = struct('struct tdp_mmu', {
  /** Guest physical address of the root: what vmx_pages.eptp_gpa takes. */
  pgd: u64,
  /** The next free table and the end of the array, guest physical. */
  next: u64,
  end: u64,
  /** Guest virtual minus guest physical address of the tables. */
  offset: u64,
});

const LEVELS = 4;
const EPTE_RWX = EPTE.R | EPTE.W | EPTE.X;
const EPTE_MT_WB = 6 << 3;
const ADDRESS_MASK = 0x000f_ffff_ffff_f000n;

/** Pages for the tables of a hierarchy. */
export const tdp_tables_global = (symbol: string, pages: number): GuestGlobal =>
  guestGlobal(symbol, array(Page, pages));

const takeTable = guestFn('tdp_take_table', [ptr(TdpMmu)], u64, (g, mmu) => {
  __GUEST_ASSERT(g, mmu.f.next.lt(mmu.f.end), 'no page is left for a table at 0x%lx', mmu.f.end);
  const table = g.let(mmu.f.next);
  g.inc(mmu.f.next, 4096);
  g.return(table);
});

/** Begins a hierarchy: `tables` is the array of zeroed pages, `gpa` its guest physical address. */
export const guest_tdp_init = guestFn(
  'guest_tdp_init',
  [ptr(TdpMmu), ptr(), u64, u64],
  (g, mmu, tables, gpa, pages) => {
    g.set(mmu.f.next, gpa);
    g.set(mmu.f.end, gpa.add(pages.mul(4096)));
    g.set(mmu.f.offset, tables.cast(u64).sub(gpa));
    g.set(mmu.f.pgd, takeTable(g, mmu));
  },
);

/** The entry that maps `address` at `level`, with the tables above it made as needed. */
export const guest_tdp_get_pte = guestFn(
  'guest_tdp_get_pte',
  [ptr(TdpMmu), u64, s32],
  ptr(u64),
  (g, mmu, address, level) => {
    const table = g.local(u64, mmu.f.pgd);
    const current = g.local(s32, LEVELS);
    const entry = g.local(ptr(u64));
    g.loop(() => {
      const index = address.shr(current.mul(9).add(3)).and(0x1ff);
      g.set(entry, table.add(mmu.f.offset).add(index.mul(8)).cast(ptr(u64)));
      g.if(current.eq(level), () => g.return(entry));
      g.if(entry.deref().and(EPTE_RWX).eq(0), () => {
        const made = takeTable(g, mmu);
        g.set(entry.deref(), made.or(EPTE_RWX));
      });
      const large = 'a large page of level %d maps 0x%lx';
      __GUEST_ASSERT(g, entry.deref().and(EPTE.PS).eq(0), large, current, address);
      g.set(table, entry.deref().and(ADDRESS_MASK));
      g.dec(current);
    });
    g.return(0);
  },
);

/** Maps `size` bytes from `nested_paddr` to `paddr` in pages of a level (PG_LEVEL). */
export const __guest_tdp_map = guestFn(
  '__guest_tdp_map',
  [ptr(TdpMmu), u64, u64, u64, s32],
  (g, mmu, nested_paddr, paddr, size, level) => {
    const step = g.local(u64, lit(1).cast(u64).shl(level.mul(9).add(3)));
    const leaf = g.local(u64, EPTE_RWX | EPTE_MT_WB);
    g.if(level.gt(PG_LEVEL.L4K), () => g.set(leaf, '|=', EPTE.PS));
    const done = g.local(u64);
    g.forRange(done, 0, size, step, () => {
      const entry = guest_tdp_get_pte(g, mmu, nested_paddr.add(done), level);
      __GUEST_ASSERT(g, entry.deref().eq(0), '0x%lx is mapped already', nested_paddr.add(done));
      g.set(entry.deref(), paddr.add(done).or(leaf));
    });
  },
);

/** Maps 4-KByte pages. */
export const guest_tdp_map = (
  g: GuestCode,
  mmu: Operand,
  nested_paddr: Operand,
  paddr: Operand,
  size: Operand,
): void => __guest_tdp_map(g, mmu, nested_paddr, paddr, size, PG_LEVEL.L4K);

/** Maps addresses to themselves in pages of a level. */
export const guest_tdp_identity_map = (
  g: GuestCode,
  mmu: Operand,
  address: Operand,
  size: Operand,
  level: number = PG_LEVEL.L4K,
): void => __guest_tdp_map(g, mmu, address, address, size, level);

/** The leaf entry of a 4-KByte page as a place. */
export const guest_tdp_pte = (g: GuestCode, mmu: Operand, address: Operand): Place<IntType> => {
  const entry: Expr = guest_tdp_get_pte(g, mmu, address, PG_LEVEL.L4K);
  return at(u64, entry);
};
