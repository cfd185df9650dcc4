// SPDX-License-Identifier: GPL-2.0-only
/** The VM of one run: its slots, where they lie, the vCPU's thread and the handshake. struct vm_data of memslot_perf_test.c. */
import { gpa, hva, type Hva } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { Backend, Steps, Thread } from '../../lib/kvm_util/backend.ts';
import {
  addrGpa2hva,
  type KvmVcpu,
  type KvmVm,
  vmPhyPagesAlloc,
  vmUserspaceMemRegionAdd,
} from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { getUcall, reportGuestAssert, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { virtMap } from '../../lib/kvm_util/x86/page_table.ts';
import {
  GUEST_CODE,
  linkMemslotPerf,
  MEM_GPA,
  MEM_SYNC_GPA,
  MEM_TEST_MOVE_SIZE,
  PAGE,
  SyncArea,
  type GuestCodeName,
} from './guest.ts';

const SECOND_NS = 1e9;
const READY_TIMEOUT_NS = 2 * SECOND_NS;
/** alarm() around each handshake. */
const SYNC_TIMEOUT_NS = 10 * SECOND_NS;

/** Where one page or area begins, and how many pages of its slot follow. */
export interface SlotPlace {
  readonly hva: Hva;
  readonly remainingPages: number;
}

export class VmData {
  readonly backend: Backend;
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly nslots: number;
  readonly npages: number;
  readonly pagesPerSlot: number;
  readonly #hvaSlots: readonly Hva[];
  readonly sync: Hva;
  mmioOk = false;
  mmioGpaMin = 0;
  mmioGpaMax = 0;
  #ready = false;
  #thread: Thread | undefined;

  constructor(vm: KvmVm, vcpu: KvmVcpu, layout: SlotLayout, hvaSlots: readonly Hva[]) {
    this.backend = vm.backend;
    this.vm = vm;
    this.vcpu = vcpu;
    this.nslots = layout.nslots;
    this.npages = layout.npages;
    this.pagesPerSlot = layout.pagesPerSlot;
    this.#hvaSlots = hvaSlots;
    this.sync = this.place(MEM_SYNC_GPA).hva;
  }

  /** vm_gpa2hva(). */
  place(address: number): SlotPlace {
    TEST_ASSERT(address >= MEM_GPA, 'Too low gpa to translate');
    TEST_ASSERT(address < MEM_GPA + this.npages * PAGE, 'Too high gpa to translate');
    const offset = address - MEM_GPA;
    const page = Math.floor(offset / PAGE);
    const slot = Math.min(Math.floor(page / this.pagesPerSlot), this.nslots - 1);
    const first = slot * this.pagesPerSlot;
    const slotPages = slot === this.nslots - 1 ? this.npages - first : this.pagesPerSlot;
    return {
      hva: hva(this.#hvaSlots[slot]! + offset - first * PAGE),
      remainingPages: slotPages - (page - first),
    };
  }

  /** vm_slot2gpa(). */
  slotGpa(slot: number): number {
    TEST_ASSERT(slot < this.nslots, 'Too high slot number');
    return MEM_GPA + slot * this.pagesPerSlot * PAGE;
  }

  /** The number that the kernel has for our last slot: slot 0 is the library's. */
  get lastSlot(): number {
    return this.nslots;
  }

  setFlag(name: 'start_flag' | 'exit_flag' | 'sync_flag', value: 0 | 1): void {
    this.backend.memory.write(this.#flag(name), Uint8Array.of(value));
  }

  setMoveArea(address: number): void {
    this.backend.memory.writeU64(hva(this.sync + SyncArea.offsetof('move_area_ptr')), BigInt(address));
  }

  #flag(name: string): Hva {
    return hva(this.sync + SyncArea.offsetof(name));
  }

  /** launch_vm(): start the vCPU's thread and wait until its guest has said so. */
  *launch(): Steps<void> {
    this.#thread = this.backend.threads.spawn('vcpu', () => this.#vcpuWorker());
    const ready = yield* this.backend.threads.spinUntil(() => this.#ready, READY_TIMEOUT_NS);
    if (!ready) yield* this.wait();
    TEST_ASSERT(this.#ready, 'sem_timedwait() failed: the vCPU did not start within 2 seconds');
  }

  /** wait_guest_exit(). */
  *wait(): Steps<void> {
    yield* this.backend.threads.join(this.#thread!);
  }

  /** host_perform_sync(): the guest has finished its half when this returns. */
  *performSync(): Steps<void> {
    this.setFlag('sync_flag', 1);
    const flag = this.#flag('sync_flag');
    const { memory, threads } = this.backend;
    const aligned = hva(flag - (flag % 4));
    const shift = (flag % 4) * 8;
    const lowered = yield* threads.spinUntil(
      () => ((memory.readU32(aligned) >>> shift) & 0xff) === 0,
      SYNC_TIMEOUT_NS,
    );
    TEST_ASSERT(lowered, 'the guest did not answer within 10 seconds (SIGALRM)');
  }

  *#vcpuWorker(): Steps<void> {
    for (;;) {
      yield* vcpuRun(this.vcpu);
      const uc = getUcall(this.vcpu);
      if (uc.cmd === UCALL.SYNC) {
        TEST_ASSERT(uc.args[1] === 0n, `Unexpected sync ucall, got ${hex(uc.args[1]!)}`);
        this.#ready = true;
      } else if (uc.cmd === UCALL.ABORT) reportGuestAssert(this.vcpu, uc);
      else if (uc.cmd !== UCALL.NONE || this.vcpu.fd.run.exit_reason !== KVM_EXIT.MMIO) return;
      else this.#checkMmio();
    }
  }

  #checkMmio(): void {
    const { mmio } = this.vcpu.fd.run;
    TEST_ASSERT(this.mmioOk, `Unexpected mmio exit at ${hex(mmio.phys_addr)}`);
    TEST_ASSERT(mmio.is_write !== 0, 'Unexpected mmio read');
    TEST_ASSERT(mmio.len === 8, `Unexpected exit mmio size = ${mmio.len}`);
    const inside = mmio.phys_addr >= this.mmioGpaMin && mmio.phys_addr <= this.mmioGpaMax;
    TEST_ASSERT(inside, `Unexpected exit mmio address = ${hex(mmio.phys_addr)}`);
  }
}

/** How the pages of a run are spread over its slots. */
export interface SlotLayout {
  readonly nslots: number;
  readonly npages: number;
  readonly pagesPerSlot: number;
}

/** A run that cannot be: the largest slot cap that would do, if it is known. */
export interface TooManySlots {
  readonly maxSlots: number;
}

/** The layout for a cap on memslots, or why there is none. */
export function slotLayout(backend: Backend, nslots: number, npages: number): SlotLayout | TooManySlots {
  const limit = backend.kvm.checkExtension(KVM_CAP.NR_MEMSLOTS);
  TEST_ASSERT(limit > 1, 'KVM_CAP_NR_MEMSLOTS should be greater than 1');
  const cap = nslots === -1 ? limit : Math.min(limit, nslots);
  const slots = cap - 1;
  const pagesPerSlot = Math.floor(npages / slots);
  return pagesPerSlot === 0 ? { maxSlots: npages + 1 } : { nslots: slots, npages, pagesPerSlot };
}

/** Guest page-table pages that map `npages`: 512 entries each, plus the upper levels. */
const tablePages = (npages: number): number => Math.ceil(npages / 512) + 16;

/** prepare_vm(): the VM with all slots added, filled and mapped, and the time that adding them took. */
export function* prepareVm(
  backend: Backend,
  layout: SlotLayout,
  code: GuestCodeName,
): Steps<{ data: VmData; slotRuntimeNs: number }> {
  const image = linkMemslotPerf();
  const entry = image.addressOf(GUEST_CODE[code]);
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, {
    image,
    entry,
    extraPages: tablePages(layout.npages),
  });
  const slotPages = (i: number): number =>
    i === layout.nslots - 1 ? layout.npages - i * layout.pagesPerSlot : layout.pagesPerSlot;
  const began = backend.threads.nowNs();
  let address = MEM_GPA;
  for (let i = 0; i < layout.nslots; i++) {
    yield* vmUserspaceMemRegionAdd(vm, { slot: i + 1, guestPhysAddr: gpa(address), npages: slotPages(i) });
    address += slotPages(i) * PAGE;
  }
  const slotRuntimeNs = backend.threads.nowNs() - began;
  const hvaSlots = fillSlots(vm, layout, slotPages);
  virtMap(vm, BigInt(MEM_GPA), gpa(MEM_GPA), layout.npages);
  const data = new VmData(vm, vcpu, layout, hvaSlots);
  backend.memory.fill(data.sync, SyncArea.size, 0);
  backend.memory.writeU32(hva(data.sync + SyncArea.offsetof('guest_page_size')), PAGE);
  return { data, slotRuntimeNs };
}

/** Reserve and zero every slot's memory, which faults it in. */
function fillSlots(vm: KvmVm, layout: SlotLayout, slotPages: (i: number) => number): Hva[] {
  let address = MEM_GPA;
  return Array.from({ length: layout.nslots }, (_, i) => {
    const npages = slotPages(i);
    TEST_ASSERT(vmPhyPagesAlloc(vm, npages, gpa(address), i + 1) === address, 'vm_phy_pages_alloc() failed');
    const at = addrGpa2hva(vm, gpa(address));
    vm.backend.memory.fill(at, npages * PAGE, 0);
    address += npages * PAGE;
    return at;
  });
}

/** The last slot must hold half of the area; the slots before it, or nothing is mapped there, the other half. */
export const movableArea = (data: VmData): boolean =>
  data.nslots > 1 &&
  data.place(data.slotGpa(data.nslots - 1)).remainingPages >= MEM_TEST_MOVE_SIZE / PAGE / 2;
