// SPDX-License-Identifier: GPL-2.0-only
/** The VM of save_restore_pf_stress_test: 512 pages that are not present, and a window to the page tables. */
import type { Backend, Steps } from '../../lib/kvm_util/backend.ts';
import {
  addrGpa2hva,
  KVM_UTIL_MIN_VADDR,
  type KvmVcpu,
  type KvmVm,
  readGpaU64,
  writeGpaU64,
} from '../../lib/kvm_util/kvm_util.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { vmInstallExceptionHandler } from '../../lib/kvm_util/x86/exceptions.ts';
import { vmCreateWithL1 } from '../../lib/kvm_util/x86/nested_vm.ts';
import {
  addrGva2gpa,
  PHYSICAL_PAGE_MASK,
  virtMap,
  virtPgMap,
  vmGetPageTableEntry,
  vmPgd,
  vmVaddrAlloc,
} from '../../lib/kvm_util/x86/page_table.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { PTE } from '../../lib/x86/paging.ts';
import {
  guest_pf_handler,
  linkPfStress,
  PATTERN,
  PTRS_PER_PTE,
  TEST_MEM_BASE_GVA,
  TEST_PGTABLE_GVA_OFFSET,
} from './guest.ts';

/** All test addresses lead to one page with the pattern, by entries that are not present. */
function mapPattern(vm: KvmVm): void {
  const page = vmVaddrAlloc(vm, 4096, KVM_UTIL_MIN_VADDR);
  const to = addrGva2gpa(vm, page);
  vm.backend.memory.writeU64(addrGpa2hva(vm, to), PATTERN);
  for (let i = 0; i < PTRS_PER_PTE; i++) {
    const gva = BigInt(TEST_MEM_BASE_GVA + i * 4096);
    virtPgMap(vm, gva, to);
    const { at, entry } = vmGetPageTableEntry(vm, gva);
    writeGpaU64(vm, at, entry & ~BigInt(PTE.P));
  }
}

/** The tables that map the test addresses, one of each level, at an offset from their physical addresses. */
function mapPageTables(vm: KvmVm): void {
  let table = vmPgd(vm);
  for (let level = vm.arch.pgtableLevels; level >= 1; level--) {
    virtMap(vm, BigInt(table + TEST_PGTABLE_GVA_OFFSET), table, 1);
    const index = Number((BigInt(TEST_MEM_BASE_GVA) >> BigInt(9 * level + 3)) & 0x1ffn);
    table = gpa(Number(readGpaU64(vm, gpa(table + index * 8)) & PHYSICAL_PAGE_MASK));
  }
}

/** A VM whose guest takes page faults in L1 or in L2. */
export function* createPfStressVm(backend: Backend, where: 'L1' | 'L2'): Steps<[KvmVm, KvmVcpu]> {
  const options = { image: linkPfStress(where), extraPages: 16 };
  const created =
    where === 'L1' ? yield* vmCreateWithOneVcpu(backend, options) : yield* vmCreateWithL1(backend, options);
  const [vm] = created;
  vmInstallExceptionHandler(vm, VECTOR.PF, guest_pf_handler.symbol);
  mapPattern(vm);
  mapPageTables(vm);
  return created;
}
