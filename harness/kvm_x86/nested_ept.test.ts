// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 changes EPT12 while L0 shadows it: real stores of L1 to write-protected tables, by instructions that L0 emulates and by
 * one that it does not. Expected: SDM, "Invalidating Cached EPT-Based Translations": after INVEPT L2 sees the change; KVM's
 * statistics tell which way it went.
 */
import { describe, expect, it } from 'vitest';
import {
  array,
  at,
  cmpxchg,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guestFn,
  guestGlobal,
  guestUnit,
  invept,
  lit,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  READ_ONCE,
  u64,
  vmcall,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import { type KvmVm, readGpaU64, vmUserspaceMemRegionAdd, writeGpaU64 } from '../../lib/kvm_util/kvm_util.ts';
import { virtMap } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { tdpIdentityMapDefaultMemslots, tdpMap, vmEnableTdp } from '../../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { gpa, type Gpa } from '../../lib/x86/addr.ts';
import { VMX_EPT_EXTENT } from '../../lib/x86/vmx/capability_msrs.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { nextSync, withVm } from './small_vm.ts';

/** Two pages of L1, their contents, and where L2 sees one of them; 2 MiB further it sees the other. */
const PAGES = 0xc000_0000;
const FIRST = 0x1111;
const SECOND = 0x2222;
const ALIAS = 0xd000_0000;
const OTHER_ALIAS = ALIAS + 0x20_0000;
/** Where L1 sees its tables of levels 2 and 1 for the alias. */
const TABLES = 0x7000_0000;

const L2 = guestUnit('L2').fn;
const seen = guestGlobal('seen', u64);

const l2Code = L2('l2_code', [], (g) => {
  g.loop(() => {
    g.set(seen, READ_ONCE(at(u64, lit(ALIAS).cast(u64))));
    vmcall(g);
  });
});

/** L2 has said what it sees; the next entry goes on behind its VMCALL. */
function expectSeen(g: GuestCode, value: number): void {
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
  GUEST_ASSERT_EQ(g, seen, value);
  const length = vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
  vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(length));
}

function invalidate(g: GuestCode): void {
  GUEST_ASSERT_EQ(g, invept(g, VMX_EPT_EXTENT.GLOBAL, 0), 0);
}

/** L1: `pde` and `pte` are the entries of the alias, the others those of the other page. */
const l1Code = guestFn(
  'l1_code',
  [ptr(VmxPages), ptr(u64), ptr(u64), u64, u64],
  (g, vmx, pde, pte, otherPde, otherPte) => {
    const stack = g.local(array(u64, 64));
    const first = g.let(pde.deref());
    const firstPte = g.let(pte.deref());
    GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
    GUEST_ASSERT(g, load_vmcs(g, vmx));
    prepare_vmcs(g, vmx, l2Code, stack.at(63).addr());
    GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
    expectSeen(g, FIRST);

    g.set(pde.deref(), otherPde);
    invalidate(g);
    GUEST_ASSERT_EQ(g, vmresume(g), 0);
    expectSeen(g, SECOND);

    // With the accessed flag that L0 has set meanwhile.
    const now = g.let(pde.deref());
    GUEST_ASSERT_EQ(g, cmpxchg(g, pde.deref(), now, first), now);
    invalidate(g);
    GUEST_ASSERT_EQ(g, vmresume(g), 0);
    expectSeen(g, FIRST);

    g.set(pte.deref(), otherPte);
    invalidate(g);
    GUEST_ASSERT_EQ(g, vmresume(g), 0);
    expectSeen(g, SECOND);

    g.set(pte.deref(), firstPte);
    invalidate(g);
    GUEST_ASSERT_EQ(g, vmresume(g), 0);
    expectSeen(g, FIRST);
    GUEST_DONE(g);
  },
);

/** Where the entry of a level for an address of L2 is in L1's memory. */
function entryOf(vm: KvmVm, address: number, level: number): Gpa {
  let table = Number(vm.arch.tdpPgd);
  for (let current = 4; ; current--) {
    const entry = gpa(table + 8 * (Math.floor(address / 2 ** (3 + 9 * current)) % 512));
    if (current === level) return entry;
    table = Number(readGpaU64(vm, entry) & 0xf_ffff_ffff_f000n);
  }
}

/** Make a table visible to L1; the linear address of one of its entries. */
function showEntry(vm: KvmVm, linear: number, entry: Gpa): bigint {
  virtMap(vm, BigInt(linear), gpa(entry - (entry % 4096)), 1);
  return BigInt(linear + (entry % 4096));
}

describe('EPT12 that L1 changes', () => {
  it('is followed by what L2 sees, whichever instruction writes it', () => {
    const host = withVm(l1Code, function* ({ host: { module }, vm, vcpu }) {
      vmEnableTdp(vm);
      const vmx = vcpuAllocVmx(vm);
      yield* vmUserspaceMemRegionAdd(vm, { slot: 1, guestPhysAddr: gpa(PAGES), npages: 2, flags: 0 });
      writeGpaU64(vm, gpa(PAGES), BigInt(FIRST));
      writeGpaU64(vm, gpa(PAGES + 0x1000), BigInt(SECOND));
      virtMap(vm, BigInt(ALIAS), gpa(ALIAS), 1);
      tdpMap(vm, ALIAS, PAGES, 4096);
      tdpMap(vm, OTHER_ALIAS, PAGES + 0x1000, 4096);
      const entry = (level: number): bigint =>
        showEntry(vm, TABLES + level * 4096, entryOf(vm, ALIAS, level));
      const other = (level: number): bigint => readGpaU64(vm, entryOf(vm, OTHER_ALIAS, level));
      vcpuArgsSet(vcpu, vmx, entry(2), entry(1), other(2), other(1));
      tdpIdentityMapDefaultMemslots(vm);
      expect(yield* nextSync(vcpu)).toEqual([]);
      const { stat, vcpus } = module.vmList[0]!;
      expect(stat.mmu_pte_write).toBe(1);
      expect(stat.mmu_pde_zapped).toBe(1);
      expect(vcpus[0]!.stat.insn_emulation).toBe(2);
      expect(vcpus[0]!.stat.insn_emulation_fail).toBe(0);
      expect(stat.mmu_shadow_zapped).toBeGreaterThan(0);
    });
    expect(host.module.vmList).toHaveLength(0);
  });
});
