// SPDX-License-Identifier: GPL-2.0-only
/**
 * L0 emulates an instruction while a page that it needs is being migrated. The kernel's __get_user() waits for the
 * migration; what it must not be is a page fault in the guest, or an MMIO exit for memory.
 */
import { expect, it } from 'vitest';
import { at, GUEST_SYNC, u64 } from '../../lib/guest/index.ts';
import { addrGpa2hva } from '../../lib/kvm_util/kvm_util.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { virtMap, vmPgd } from '../../lib/kvm_util/x86/page_table.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { makePte, PTE, pteIndex, ptePfn } from '../../vmm/host/mm/page_table.ts';
import type { Kvm } from '../../vmm/kvm/kvm_host.ts';
import { vcpuLoad, vcpuPut } from '../../vmm/kvm/kvm_main.ts';
import { kvmEmulateInstruction } from '../../vmm/kvm/x86/emulate.ts';
import { guest, withVm } from '../kvm_x86/small_vm.ts';

const DEVICE = 0xd000_0000;

/** Do something while the page at `hva` is under migration. */
function migrating(kvm: Kvm, hva: number, body: () => void): void {
  const table = kvm.mm.pageTable.table(hva)!;
  const pte = table.get(hva);
  const entry = makePte(ptePfn(pte), (pte & 0xff & ~(PTE.PRESENT | PTE.WRITE)) | PTE.MIGRATION);
  table.set(pteIndex(hva), entry);
  body();
  table.set(pteIndex(hva), pte);
}

it('an instruction whose page tables migrate is begun anew, not faulted', () => {
  withVm(
    guest((g) => {
      GUEST_SYNC(g, 0);
      g.set(at(u64, DEVICE), 0x77n);
    }),
    function* ({ host, vm, vcpu }) {
      virtMap(vm, BigInt(DEVICE), gpa(DEVICE), 1);
      yield* vcpuRun(vcpu);
      yield* vcpuRun(vcpu);
      expect(vcpu.fd.run.exit_reason).toBe(KVM_EXIT.MMIO);
      // The store is complete but for userspace; go back to it.
      const kvm = host.module.vmList[0]!;
      const inKernel = kvm.vcpus[0]!;
      const { rip } = vcpu.fd.getRegs();
      const results: number[] = [];
      const emulate = (): void => {
        vcpuLoad(inKernel);
        results.push(kvmEmulateInstruction(inKernel));
        vcpuPut(inKernel);
      };
      migrating(kvm, addrGpa2hva(vm, vmPgd(vm)), emulate);
      expect(results).toEqual([1]);
      expect(vcpu.fd.getVcpuEvents().exception.injected).toBe(0);
      expect(vcpu.fd.getRegs().rip).toBe(rip);
    },
  );
});
