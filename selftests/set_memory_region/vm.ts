// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VM of the MOVE and DELETE tests: a vCPU spins on a region while the main thread changes it. After spawn_vm() and
 * vcpu_worker() of set_memory_region_test.c. Upstream's pauses of 100 ms are 100 us of virtual time: nothing else loads
 * the host, and a guest that spins costs as much as one that works.
 */
import { gpa } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_X86_QUIRK } from '../../lib/uapi/memory.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { Backend, Steps, Thread } from '../../lib/kvm_util/backend.ts';
import {
  addrGpa2hva,
  vmPhyPagesAlloc,
  vmUserspaceMemRegionAdd,
  type KvmVcpu,
  type KvmVm,
} from '../../lib/kvm_util/kvm_util.ts';
import { u64Bytes } from '../../lib/kvm_util/guest_global.ts';
import { Semaphore } from '../../lib/kvm_util/semaphore.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { getUcall, reportGuestAssert, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { virtMap } from '../../lib/kvm_util/x86/page_table.ts';
import {
  GUEST_CODE,
  linkSetMemoryRegion,
  MEM_REGION_GPA,
  MEM_REGION_SIZE,
  MEM_REGION_SLOT,
  MMIO_VAL,
  type GuestCodeName,
} from './guest.ts';

const PAGE = 4096;
export const REGION_PAGES = MEM_REGION_SIZE / PAGE;
/** sem_timedwait() of wait_for_vcpu(). */
const READY_TIMEOUT_NS = 2e9;
const PAUSE_NS = 100e3;

/** vm_userspace_mem_region_add() of the region under test. */
export const addRegion = (vm: KvmVm, flags = 0): Steps<unknown> =>
  vmUserspaceMemRegionAdd(vm, {
    slot: MEM_REGION_SLOT,
    guestPhysAddr: gpa(MEM_REGION_GPA),
    npages: REGION_PAGES,
    flags,
    backing: 'anonymous_thp',
  });

/** A VM whose vCPU runs `code`; the region is mapped in the guest, but there is no slot behind it yet. */
export function* vmWithoutRegion(backend: Backend, code: GuestCodeName): Steps<[KvmVm, KvmVcpu]> {
  const image = linkSetMemoryRegion();
  const created = yield* vmCreateWithOneVcpu(backend, { image, entry: image.addressOf(GUEST_CODE[code]) });
  virtMap(created[0], BigInt(MEM_REGION_GPA), gpa(MEM_REGION_GPA), 2);
  return created;
}

/** Whether KVM_X86_QUIRK_SLOT_ZAP_ALL is left on, as it is by default, or turned off. */
export type SlotZapQuirk = 'quirk' | 'no quirk';

/** A vCPU thread that runs until its guest is done or cannot go on. */
export class SpinVm {
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly #ready: Semaphore;
  readonly #thread: Thread;

  private constructor(vm: KvmVm, vcpu: KvmVcpu) {
    const { threads } = vm.backend;
    this.vm = vm;
    this.vcpu = vcpu;
    this.#ready = new Semaphore(threads);
    this.#thread = threads.spawn('vcpu', () => this.#worker(), { cpu: 1 });
  }

  /** spawn_vm(). */
  static *spawn(backend: Backend, code: GuestCodeName, quirk: SlotZapQuirk): Steps<SpinVm> {
    const [vm, vcpu] = yield* vmWithoutRegion(backend, code);
    yield* addRegion(vm);
    const first = vmPhyPagesAlloc(vm, 2, gpa(MEM_REGION_GPA), MEM_REGION_SLOT);
    TEST_ASSERT(first === MEM_REGION_GPA, 'Failed vm_phy_pages_alloc');
    backend.memory.fill(addrGpa2hva(vm, gpa(MEM_REGION_GPA)), 2 * PAGE, 0);
    const spin = new SpinVm(vm, vcpu);
    yield* spin.waitForVcpu();
    if (quirk === 'no quirk') {
      yield* vm.fd.enableCap({
        cap: KVM_CAP.DISABLE_QUIRKS2,
        flags: 0,
        args: [KVM_X86_QUIRK.SLOT_ZAP_ALL],
      });
    }
    return spin;
  }

  /** wait_for_vcpu(): the guest has synced, and is back in its loop. */
  *waitForVcpu(): Steps<void> {
    yield* this.#ready.timedWait(READY_TIMEOUT_NS, 'the vCPU did not sync');
    yield* this.pause();
  }

  /** usleep(100000), scaled. */
  pause(): Steps<void> {
    return this.vm.backend.threads.sleepNs(PAUSE_NS);
  }

  join(): Steps<void> {
    return this.vm.backend.threads.join(this.#thread);
  }

  /** vcpu_worker(). */
  *#worker(): Steps<void> {
    const { run } = this.vcpu.fd;
    for (;;) {
      yield* vcpuRun(this.vcpu);
      if (run.exit_reason === KVM_EXIT.IO) {
        const uc = getUcall(this.vcpu);
        if (uc.cmd === UCALL.ABORT) reportGuestAssert(this.vcpu, uc);
        if (uc.cmd !== UCALL.SYNC) return;
        this.#ready.post();
      } else if (run.exit_reason === KVM_EXIT.MMIO) answerMmioRead(this.vcpu);
      else return;
    }
  }
}

/** The exit must be an 8-byte read of the region; it gets MMIO_VAL. */
export function answerMmioRead(vcpu: KvmVcpu): void {
  const { mmio } = vcpu.fd.run;
  TEST_ASSERT(mmio.is_write === 0, 'Unexpected exit mmio write');
  TEST_ASSERT(mmio.len === 8, `Unexpected exit mmio size = ${mmio.len}`);
  TEST_ASSERT(
    mmio.phys_addr === MEM_REGION_GPA,
    () => `Unexpected exit mmio address = ${hex(mmio.phys_addr)}`,
  );
  mmio.data.set(u64Bytes(MMIO_VAL));
}
