// SPDX-License-Identifier: GPL-2.0-only
/**
 * One log mode: a vCPU dirties pages while the log is collected, and is stopped for the comparison of log and memory. After
 * run_test() and vm_dirty_log_verify() of dirty_log_test.c of the KVM selftests.
 */
import { gpa, hva, PAGE_SIZE, type Hva } from '../../lib/x86/addr.ts';
import { hex } from '../../lib/x86/bits.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { KVM_DIRTY_LOG, KVM_MEM, kvmDirtyBitmapBytes } from '../../lib/uapi/memory.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { SelftestContext } from '../../harness/api.ts';
import type { Backend, Steps } from '../../lib/kvm_util/backend.ts';
import { vmMaxGfn } from '../../lib/kvm_util/guest_modes.ts';
import { readGuestGlobal, writeGuestGlobal } from '../../lib/kvm_util/guest_global.ts';
import {
  addrGpa2hva,
  kvmVmFree,
  vmUserspaceMemRegionAdd,
  type KvmVcpu,
  type KvmVm,
} from '../../lib/kvm_util/kvm_util.ts';
import { Semaphore } from '../../lib/kvm_util/semaphore.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { getUcall, unexpectedExit, vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreate } from '../../lib/kvm_util/vm_create.ts';
import { virtMap } from '../../lib/kvm_util/x86/page_table.ts';
import { vmVcpuAdd } from '../../lib/kvm_util/x86/processor.ts';
import { linkDirtyLog } from './guest.ts';
import type { LogMode, TestParams } from './options.ts';
import { checkFirstClearLog, checkRefusals } from './refusals.ts';

export const TEST_MEM_SLOT_INDEX = 1;
const DEFAULT_GUEST_TEST_MEM = 0xc000_0000n;
/** A floor on coverage: the guest makes progress in every iteration. */
const TEST_MIN_WRITES_PER_ITERATION = 0x100;
/** Upstream waits for that floor for ever. */
const MAX_WAIT_MS = 1000;
const RANDOM_SEED = 0x5eedn;
const MS_NS = 1e6;

/** What the threads of one run share. */
export class DirtyLogRun {
  readonly vm: KvmVm;
  readonly vcpu: KvmVcpu;
  readonly numPages: number;
  readonly hostTestMem: Hva;
  readonly logMode: LogMode;
  readonly stop: Semaphore;
  readonly cont: Semaphore;
  iteration = 0n;
  vcpuStop = false;
  hostQuit = false;
  workerEnded = false;
  dirtyCount = 0;
  clearCount = 0;

  constructor(vm: KvmVm, vcpu: KvmVcpu, region: { numPages: number; hostMem: Hva }, logMode: LogMode) {
    this.vm = vm;
    this.vcpu = vcpu;
    this.numPages = region.numPages;
    this.hostTestMem = region.hostMem;
    this.logMode = logMode;
    this.stop = new Semaphore(vm.backend.threads);
    this.cont = new Semaphore(vm.backend.threads);
  }

  /** dirty_log_collect_dirty_pages() and clear_log_collect_dirty_pages(). */
  *collect(bitmap: Uint8Array): Steps<void> {
    yield* this.vm.fd.getDirtyLog({ slot: TEST_MEM_SLOT_INDEX, dirty_bitmap: bitmap });
    if (this.logMode === 'dirty-log') return;
    yield* this.vm.fd.clearDirtyLog({
      slot: TEST_MEM_SLOT_INDEX,
      first_page: 0,
      num_pages: this.numPages,
      dirty_bitmap: bitmap,
    });
  }
}

/** vcpu_worker(): runs until it is told to quit; stops after a ucall if it is asked to. */
function* vcpuWorker(t: DirtyLogRun): Steps<void> {
  try {
    yield* t.cont.wait();
    while (!t.hostQuit) {
      yield* vcpuRun(t.vcpu);
      if (getUcall(t.vcpu).cmd !== UCALL.SYNC) unexpectedExit(t.vcpu, 'Invalid guest sync status');
      if (!t.vcpuStop) continue;
      t.stop.post();
      yield* t.cont.wait();
    }
  } finally {
    t.workerEnded = true;
  }
}

const testBit = (bitmap: Uint8Array, page: number): boolean =>
  (bitmap[page >>> 3]! & (1 << (page & 7))) !== 0;

/** vm_dirty_log_verify(): a page is in the log if and only if it was written in this iteration. */
function verify(t: DirtyLogRun, bitmaps: readonly Uint8Array[], print: (line: string) => void): void {
  const { memory } = t.vm.backend;
  let dirty = 0;
  for (let page = 0; page < t.numPages; page++) {
    const value = memory.readU64(hva(t.hostTestMem + page * PAGE_SIZE));
    const first = testBit(bitmaps[0]!, page);
    if (!first && !testBit(bitmaps[1]!, page)) {
      TEST_ASSERT(
        value < t.iteration,
        () => `Clear page ${page} value (${value}) >= iteration (${t.iteration})`,
      );
      continue;
    }
    dirty++;
    // A log that begins with every bit set shows pages that nobody has written, once.
    if (value === t.iteration || (value === 0n && t.iteration === 1n && first)) continue;
    TEST_ASSERT(false, `Dirty page ${page} value (${value}) != iteration (${t.iteration})`);
  }
  // Added: bits beyond the last page.
  for (let bit = t.numPages; bit < 8 * bitmaps[0]!.length; bit++)
    TEST_ASSERT(
      !bitmaps.some((bitmap) => testBit(bitmap, bit)),
      `bit ${bit} is set, there are ${t.numPages} pages`,
    );
  const writes = readGuestGlobal(t.vm, 'nr_writes');
  const pad = (n: number | bigint): string => String(n).padEnd(6);
  print(
    `Iteration ${String(t.iteration).padStart(2)}: dirty: ${pad(dirty)} clean: ${pad(t.numPages - dirty)} writes: ${pad(writes)}`,
  );
  t.dirtyCount += dirty;
  t.clearCount += t.numPages - dirty;
}

/** Let the vCPU write for the interval, and on until it has made its minimum; collect the log once meanwhile. */
function* letRun(t: DirtyLogRun, p: TestParams, bitmap: Uint8Array): Steps<void> {
  const { threads } = t.vm.backend;
  let writes = 0n;
  for (let ms = 0; ms < p.interval || writes < TEST_MIN_WRITES_PER_ITERATION; ms++) {
    yield* threads.sleepNs(MS_NS);
    writes = readGuestGlobal(t.vm, 'nr_writes');
    TEST_ASSERT(
      t.workerEnded || ms < p.interval + MAX_WAIT_MS,
      `the guest made ${writes} writes in ${ms} ms, ${TEST_MIN_WRITES_PER_ITERATION} are needed`,
    );
    // A bitmap is overwritten by the next: only the first pass may collect.
    if (ms === 0) yield* t.collect(bitmap);
    if (t.workerEnded) return;
  }
}

/** One turn of the main loop; false if the vCPU's thread has ended early, with an error for whoever joins it. */
function* iterate(t: DirtyLogRun, p: TestParams, print: (line: string) => void): Steps<boolean> {
  const bytes = kvmDirtyBitmapBytes(t.numPages);
  const bitmaps = [new Uint8Array(bytes), new Uint8Array(bytes)];
  writeGuestGlobal(t.vm, 'iteration', t.iteration);
  writeGuestGlobal(t.vm, 'nr_writes', 0n);
  t.cont.post();
  yield* letRun(t, p, bitmaps[0]!);
  if (t.iteration === 1n && t.logMode === 'clear-log') checkFirstClearLog(bitmaps[0]!, t.numPages);
  // Stopped: else a write may come after the collection, or in the middle of the verification.
  t.vcpuStop = true;
  writeGuestGlobal(t.vm, 'vcpu_stop', 1n);
  yield* t.vm.backend.threads.spinUntil(() => t.stop.value > 0 || t.workerEnded);
  if (t.workerEnded) return false;
  yield* t.stop.wait();
  t.vcpuStop = false;
  writeGuestGlobal(t.vm, 'vcpu_stop', 0n);
  yield* t.collect(bitmaps[1]!);
  verify(t, bitmaps, print);
  return true;
}

/** create_vm(), and the extra slot that is tracked. */
function* createRun(backend: Backend, p: TestParams, logMode: LogMode): Steps<DirtyLogRun> {
  // A little more than whole 64-bit words of the bitmap.
  const numPages = p.memSize / PAGE_SIZE + 3;
  const image = linkDirtyLog();
  const vm = yield* vmCreate(backend, { image, extraPages: Math.ceil(numPages / 512) + 16 }, 1);
  if (logMode === 'clear-log') {
    const caps = backend.kvm.checkExtension(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2);
    const wanted = caps & (KVM_DIRTY_LOG.MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG.INITIALLY_SET);
    yield* vm.fd.enableCap({ cap: KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2, flags: 0, args: [wanted] });
  }
  const vcpu = yield* vmVcpuAdd(vm, 0, image.entry);
  const physMem = p.physOffset === 0 ? (vmMaxGfn(backend) - numPages) * PAGE_SIZE : p.physOffset;
  const guestPhysAddr = gpa(physMem);
  const flags = KVM_MEM.LOG_DIRTY_PAGES;
  yield* vmUserspaceMemRegionAdd(vm, { slot: TEST_MEM_SLOT_INDEX, guestPhysAddr, npages: numPages, flags });
  virtMap(vm, DEFAULT_GUEST_TEST_MEM, guestPhysAddr, numPages);
  writeGuestGlobal(vm, 'host_page_size', BigInt(PAGE_SIZE));
  writeGuestGlobal(vm, 'guest_page_size', BigInt(PAGE_SIZE));
  writeGuestGlobal(vm, 'guest_test_virt_mem', DEFAULT_GUEST_TEST_MEM);
  writeGuestGlobal(vm, 'guest_num_pages', BigInt(numPages));
  writeGuestGlobal(vm, 'guest_rng', RANDOM_SEED, 4);
  return new DirtyLogRun(vm, vcpu, { numPages, hostMem: addrGpa2hva(vm, guestPhysAddr) }, logMode);
}

/** run_test(). */
export function* runTest({ backend, print }: SelftestContext, p: TestParams, logMode: LogMode): Steps<void> {
  const t = yield* createRun(backend, p, logMode);
  print(`guest physical test memory offset: ${hex(t.vm.regions.get(TEST_MEM_SLOT_INDEX).guestPhysAddr)}`);
  const thread = backend.threads.spawn('vcpu', () => vcpuWorker(t), { cpu: 1 });
  for (t.iteration = 1n; t.iteration <= p.iterations; t.iteration++) {
    if (!(yield* iterate(t, p, print))) break;
  }
  t.hostQuit = true;
  t.cont.post();
  yield* backend.threads.join(thread);
  TEST_ASSERT_EQ(t.stop.value, 0, 'sem_vcpu_stop at the end');
  print(`Total bits checked: dirty (${t.dirtyCount}), clear (${t.clearCount})`);
  yield* checkRefusals(t.vm, t.numPages, logMode);
  yield* kvmVmFree(t.vm);
}
