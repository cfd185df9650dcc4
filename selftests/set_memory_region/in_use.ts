// SPDX-License-Identifier: GPL-2.0-only
/** MOVE and DELETE of a region that a running vCPU reads. After set_memory_region_test.c of the KVM selftests. */
import { gpa } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import type { Backend, Steps } from '../../lib/kvm_util/backend.ts';
import { addrGpa2hva, kvmVmFree, vmMemRegionDelete, vmMemRegionMove } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { FINAL_SPIN, MEM_REGION_GPA, MEM_REGION_SLOT } from './guest.ts';
import { addRegion, SpinVm, type SlotZapQuirk } from './vm.ts';

/** test_move_memory_region(). */
export function* testMoveMemoryRegion(backend: Backend, quirk: SlotZapQuirk): Steps<void> {
  const spin = yield* SpinVm.spawn(backend, 'move', quirk);
  const { vm } = spin;
  const hva = addrGpa2hva(vm, gpa(MEM_REGION_GPA));
  // Misaligned against the HVA: the guest reads another host page now, and must not see the 2.
  yield* vmMemRegionMove(vm, MEM_REGION_SLOT, gpa(MEM_REGION_GPA - 4096));
  backend.memory.writeU64(hva, 2n);
  // Whether the guest saw the invalid slot is chance: it syncs only once the slot is back.
  yield* spin.pause();
  // Before the slot is back, else the guest could still read the 2.
  backend.memory.writeU64(hva, 1n);
  yield* vmMemRegionMove(vm, MEM_REGION_SLOT, gpa(MEM_REGION_GPA));
  yield* spin.waitForVcpu();
  // The sync that was put off while the region was elsewhere.
  yield* spin.waitForVcpu();
  yield* spin.join();
  yield* kvmVmFree(vm);
}

/** test_delete_memory_region(). */
export function* testDeleteMemoryRegion(backend: Backend, quirk: SlotZapQuirk): Steps<void> {
  const spin = yield* SpinVm.spawn(backend, 'delete', quirk);
  const { vm, vcpu } = spin;
  yield* vmMemRegionDelete(vm, MEM_REGION_SLOT);
  yield* spin.waitForVcpu();
  yield* addRegion(vm);
  yield* spin.waitForVcpu();
  // With this one gone, only the primary slot is left.
  yield* vmMemRegionDelete(vm, MEM_REGION_SLOT);
  yield* spin.waitForVcpu();
  // Code, stack and page tables go: the vCPU can only shut down or fail to emulate.
  yield* vmMemRegionDelete(vm, 0);
  yield* spin.join();
  const { run } = vcpu.fd;
  TEST_ASSERT(
    run.exit_reason === KVM_EXIT.SHUTDOWN || run.exit_reason === KVM_EXIT.INTERNAL_ERROR,
    `Unexpected exit reason = ${run.exit_reason}`,
  );
  if (run.exit_reason === KVM_EXIT.INTERNAL_ERROR) {
    const { rip } = vcpu.fd.getRegs();
    const where = vm.locate(rip) ?? 'nowhere in the image';
    TEST_ASSERT(
      where.endsWith(` ${FINAL_SPIN}()`),
      () => `Bad rip, expected ${FINAL_SPIN}(), got ${hex(rip)} (${where})`,
    );
  }
  yield* kvmVmFree(vm);
}
