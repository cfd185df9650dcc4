// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest of save_restore_pf_stress_test, as L1 or as L2: it reads one page after the other, each not present, and makes it not
 * present again. After x86/save_restore_pf_stress_test.c of the KVM selftests.
 */
import {
  array,
  at,
  ExRegs,
  get_cr2,
  get_cr3,
  get_cr4,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_FAIL,
  guestFn,
  guestGlobal,
  type GuestImage,
  guestUnit,
  invlpg,
  linkGuest,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  READ_ONCE,
  s32,
  select,
  u64,
  vmlaunch,
  vmreadz,
  VmxPages,
  WRITE_ONCE,
} from '../../lib/guest/index.ts';
import { PG_LEVEL, PTE } from '../../lib/x86/paging.ts';
import { CR4 } from '../../lib/x86/registers.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';

export const TEST_MEM_BASE_GVA = 0xc000_0000;
export const TEST_PGTABLE_GVA_OFFSET = 0xd000_0000;
export const PATTERN = 0xabcd_efab_cdef_abcdn;
export const PTRS_PER_PTE = 512;
const PHYSICAL_PAGE_MASK = 0x000f_ffff_ffff_f000n;
const L2_GUEST_STACK_SIZE = 256;

const expected_vaddr = guestGlobal('expected_vaddr', u64);
export const guest_faults = guestGlobal('guest_faults', u64);

/** The entry that maps a page, in the window through which the guest sees its page tables. */
const guest_get_pte = guestFn('guest_get_pte', [u64], ptr(u64), (g, vaddr) => {
  const level = g.local(s32, select(get_cr4(g).and(CR4.LA57), PG_LEVEL.L256T, PG_LEVEL.L512G));
  const table = g.local(u64, get_cr3(g).and(PHYSICAL_PAGE_MASK));
  const entry = g.local(ptr(u64));
  g.loop(() => {
    const index = vaddr.shr(level.mul(9).add(3)).and(PTRS_PER_PTE - 1);
    g.set(entry, table.add(TEST_PGTABLE_GVA_OFFSET).add(index.mul(8)).cast(ptr(u64)));
    g.if(level.eq(PG_LEVEL.L4K), () => g.return(entry));
    GUEST_ASSERT(g, entry.deref().and(PTE.P).ne(0));
    GUEST_ASSERT(g, entry.deref().and(PTE.PS).eq(0));
    g.set(table, entry.deref().and(PHYSICAL_PAGE_MASK));
    g.dec(level);
  });
  g.return(0);
});

export const guest_pf_handler = guestFn('guest_pf_handler', [ptr(ExRegs)], (g) => {
  const fault_addr = g.local(u64, get_cr2(g));
  GUEST_ASSERT_EQ(g, fault_addr, READ_ONCE(expected_vaddr));
  const pte = guest_get_pte(g, fault_addr);
  GUEST_ASSERT(g, pte.deref().and(PTE.P).eq(0));
  g.set(pte.deref(), '|=', PTE.P);
  g.inc(guest_faults);
});

const accessMemory = (level: 'L1' | 'L2', symbol: string) =>
  guestUnit(level).fn(symbol, [], (g) => {
    const i = g.local(u64, 0);
    const vaddr = g.local(u64);
    g.loop(() => {
      g.set(vaddr, i.mod(PTRS_PER_PTE).mul(4096).add(TEST_MEM_BASE_GVA));
      WRITE_ONCE(g, expected_vaddr, vaddr);
      const value = g.local(u64, READ_ONCE(at(u64, vaddr)));
      GUEST_ASSERT_EQ(g, value, PATTERN);
      const pte = guest_get_pte(g, vaddr);
      g.set(pte.deref(), '&=', ~BigInt(PTE.P));
      invlpg(g, vaddr);
      g.inc(i);
    });
  });

const guest_access_memory = accessMemory('L1', 'guest_access_memory');
const l2_access_memory = accessMemory('L2', 'l2_access_memory');

const l1_guest_code = guestFn('l1_guest_code', [ptr(VmxPages)], (g, vmx) => {
  const l2_guest_stack = g.local(array(u64, L2_GUEST_STACK_SIZE));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2_access_memory, l2_guest_stack.at(L2_GUEST_STACK_SIZE).addr());
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_FAIL(g, 'Unexpected VM exit, reason 0x%lx', vmreadz(g, VMCS_INFO.VM_EXIT_REASON));
});

/** The image with the memory accesses in L1 or in L2. */
export const linkPfStress = (where: 'L1' | 'L2'): GuestImage =>
  linkGuest(where === 'L1' ? guest_access_memory : l1_guest_code, guest_pf_handler, guest_faults);
