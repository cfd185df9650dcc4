// SPDX-License-Identifier: GPL-2.0-only
/**
 * A KVM for unit tests of its architecture-neutral half and of the TDP MMU: a real host, real tables in machine memory,
 * and vCPUs whose "guest" is a test that reads and writes guest-physical addresses through the tables and a TLB of its
 * own. VMX is not involved.
 */
import type { Gfn, Gpa, Pfn } from '../../../lib/x86/addr.ts';
import { EPTE } from '../../../lib/x86/paging.ts';
import { PFERR } from '../../../lib/x86/exceptions.ts';
import { KvmError } from '../../../lib/uapi/errno.ts';
import { KVM_MEM } from '../../../lib/uapi/memory.ts';
import { doMadvise, MADV } from '../../host/mm/madvise.ts';
import { doMmap } from '../../host/mm/mmap.ts';
import type { MmStruct } from '../../host/mm/mm_struct.ts';
import { PROT } from '../../host/mm/vma.ts';
import type { Steps } from '../../host/steps.ts';
import { testHost, type TestHostOptions } from '../../host/testing/test_host.ts';
import { COST } from '../../machine/cost/points.ts';
import { SanitizerError } from '../../machine/errors.ts';
import type { Kvm, Vcpu } from '../kvm_host.ts';
import type { KvmArchOps, KvmX86Ops } from '../kvm_host_x86.ts';
import { kvmCreateVm, kvmVmIoctlCreateVcpu, vcpuLoad, vcpuPut } from '../kvm_main.ts';
import { kvmVmIoctlSetUserMemoryRegion } from '../memory_region.ts';
import { kvmMmuPageFault } from '../mmu/fault.ts';
import { kvmInitMmu } from '../mmu/init.ts';
import { kvmMmuFreeObsoleteRoots, kvmMmuLoadPgd, kvmMmuReload } from '../mmu/mmu.ts';
import { RET_PF } from '../mmu/page_fault.ts';
import { eptMasks, spteIndex } from '../mmu/spte.ts';
import { KvmModule } from '../module.ts';
import { parseParams } from '../params.ts';
import { KVM_REQ, VCPU_MODE } from '../request_numbers.ts';
import { kvmCheckRequest, kvmRequestPending } from '../requests.ts';
import { markAvail } from '../x86/cache_regs.ts';

/** The test guest's TLB; kept per vCPU in `arch.vendor`. */
export class TestTlb {
  readonly entries = new Map<number, { hpa: number; writable: boolean; epoch: number }>();
  flushes = 0;

  flush(): void {
    this.entries.clear();
    this.flushes++;
  }
}

export const tlbOf = (vcpu: Vcpu): TestTlb => vcpu.arch.vendor as TestTlb;

const nothing = (): void => undefined;
const zero = (): number => 0;

/** Vendor operations of the test CPU: only what the MMU calls does anything. */
const testOps = {
  name: 'test',
  cpuDirtyLogSize: 0,
  nestedOps: null,
  flushTlbAll: (vcpu: Vcpu) => tlbOf(vcpu).flush(),
  flushTlbCurrent: (vcpu: Vcpu) => tlbOf(vcpu).flush(),
  flushTlbGuest: (vcpu: Vcpu) => tlbOf(vcpu).flush(),
  loadMmuPgd: nothing,
  cacheReg: (vcpu: Vcpu, reg: number) => markAvail(vcpu, reg),
  getCpl: zero,
  getRflags: () => 2,
  getMtMask: () => 0x30,
} as unknown as KvmX86Ops;

const testArch: KvmArchOps = {
  vmInit: zero,
  vmDestroy: nothing,
  vcpuPrecreate: zero,
  vcpuCreate: (vcpu) => {
    vcpu.arch.vendor = new TestTlb();
    kvmInitMmu(vcpu);
    return 0;
  },
  vcpuPostcreate: nothing,
  vcpuDestroy: nothing,
  vcpuLoad: nothing,
  vcpuPut: nothing,
  *vcpuIoctlRun() {
    return 0;
  },
  vcpuRunnable: (vcpu) => vcpu.arch.interrupt.injected,
  cpuHasPendingTimer: () => false,
  vmIoctlCheckExtension: (_kvm, cap) => (cap === 9999 ? 7 : 0),
};

export interface TestKvmOptions extends TestHostOptions {
  readonly params?: readonly string[];
  readonly ad?: 'ad' | 'no-ad';
}

export interface TestVm {
  readonly kvm: Kvm;
  readonly mm: MmStruct;
}

/** A module on a fresh host, a process and a VM of it. */
export function testVm(options: TestKvmOptions = {}): TestVm {
  const host = testHost({ ramBytes: 24 << 20, nrCpus: 2, ...options });
  const params = parseParams(options.params ?? []);
  const ad = options.ad ?? 'ad';
  const module = new KvmModule(host, {
    params,
    arch: testArch,
    ops: testOps,
    masks: eptMasks(ad),
    caps: {
      maxphyaddr: 46,
      tdpEnabled: true,
      adEnabled: ad === 'ad',
      maxTdpLevel: 2,
      tdpRootLevel: 4,
      mmioCaching: params['kvm.mmio_caching'] === 1,
      gbpages: true,
      tscKhz: 1_000_000,
      hasTscControl: false,
    },
  });
  const mm = host.createMm('test');
  return { kvm: kvmCreateVm(module, mm), mm };
}

/** Run steps as the only task. */
export const drive = <T>(vm: TestVm, steps: Steps<T>): T => vm.kvm.host.sched.drive('test', steps);

/** The errno with which KVM refuses a call; 0 if it does not. */
export function errnoOf(call: () => unknown): number {
  try {
    call();
  } catch (error) {
    if (error instanceof KvmError) return error.errno;
    throw error;
  }
  return 0;
}

/** Anonymous memory of the process, with advice on it such as MADV.HUGEPAGE. */
export function* mmap(vm: TestVm, bytes: number, advice: number = MADV.NORMAL): Steps<number> {
  const request = { length: bytes, prot: PROT.READ | PROT.WRITE };
  const hva = yield* doMmap(vm.mm, request);
  if (hva < 0) throw new Error(`mmap: ${hva}`);
  const error = yield* doMadvise(vm.mm, hva, bytes, advice);
  if (error < 0) throw new Error(`madvise: ${error}`);
  return hva;
}

export interface SlotSpec {
  readonly slot?: number;
  readonly gpa?: number;
  readonly bytes?: number;
  readonly hva?: number;
  readonly flags?: number;
}

/** Set a memory region; anonymous memory is mapped for it unless `hva` is given. The HVA. */
export function* setSlot(vm: TestVm, spec: SlotSpec = {}): Steps<number> {
  const bytes = spec.bytes ?? 0x10_0000;
  const hva = spec.hva ?? (bytes === 0 ? 0 : yield* mmap(vm, bytes));
  yield* kvmVmIoctlSetUserMemoryRegion(vm.kvm, {
    slot: spec.slot ?? 0,
    flags: spec.flags ?? 0,
    guest_phys_addr: spec.gpa ?? 0,
    memory_size: bytes,
    userspace_addr: hva,
  });
  return hva;
}

export const LOG_DIRTY = KVM_MEM.LOG_DIRTY_PAGES;

export function* createVcpu(vm: TestVm, id = 0): Steps<Vcpu> {
  return yield* kvmVmIoctlCreateVcpu(vm.kvm, id);
}

/** What became of a guest access. */
export type AccessResult =
  { kind: 'done'; value: number } | { kind: 'emulate' } | { kind: 'error'; errno: number };

/** One access of the guest, as the run loop would do it: requests, root, guest mode, tables, faults, again. */
export function* guestAccess(vcpu: Vcpu, gpa: number, write?: number): Steps<AccessResult> {
  vcpuLoad(vcpu);
  const idx = vcpu.kvm.srcu.readLock();
  let result: AccessResult | null = null;
  let srcu = idx;
  while (result === null) {
    if (kvmCheckRequest(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS, vcpu)) kvmMmuFreeObsoleteRoots(vcpu);
    if (kvmCheckRequest(KVM_REQ.LOAD_MMU_PGD, vcpu)) kvmMmuLoadPgd(vcpu);
    if (kvmCheckRequest(KVM_REQ.TLB_FLUSH, vcpu)) tlbOf(vcpu).flush();
    const reload = kvmMmuReload(vcpu);
    const error = typeof reload === 'number' ? reload : yield* reload;
    if (error < 0) throw new Error(`kvm_mmu_reload: ${error}`);
    vcpu.mode = VCPU_MODE.IN_GUEST_MODE;
    vcpu.kvm.srcu.readUnlock(srcu);
    const value = kvmRequestPending(vcpu) ? -1 : yield* inGuest(vcpu, gpa, write);
    vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
    srcu = vcpu.kvm.srcu.readLock();
    if (value >= 0) result = { kind: 'done', value };
    else if (!kvmRequestPending(vcpu)) result = yield* fault(vcpu, gpa, write);
    if (vcpu.kvm.host.sched.shouldYield()) {
      vcpu.kvm.srcu.readUnlock(srcu);
      yield;
      srcu = vcpu.kvm.srcu.readLock();
    }
  }
  vcpu.kvm.srcu.readUnlock(srcu);
  vcpuPut(vcpu);
  return result;
}

/** In guest mode nobody looks at requests: only an interrupt makes the CPU leave. */
function* inGuest(vcpu: Vcpu, gpa: number, write?: number): Steps<number> {
  const { sched } = vcpu.kvm.host;
  const interrupts = sched.cpu.counts[COST.IPI_RECEIVE];
  if (sched.shouldYield()) yield;
  return sched.cpu.counts[COST.IPI_RECEIVE] === interrupts ? touchMemory(vcpu, gpa, write) : -1;
}

function* fault(vcpu: Vcpu, gpa: number, write?: number): Steps<AccessResult | null> {
  const lo = tdpEntry(vcpu, gpa);
  const access = write === undefined ? 0 : PFERR.WRITE;
  const present = lo & (EPTE.R | EPTE.W | EPTE.X) ? PFERR.PRESENT : 0;
  const misconfig = (lo & 7) === 6 ? PFERR.RSVD : 0;
  const steps = kvmMmuPageFault(vcpu, gpa as Gpa, misconfig === 0 ? access | present : misconfig);
  const r = typeof steps === 'number' ? steps : yield* steps;
  if (r < 0) return { kind: 'error', errno: -r };
  return r === RET_PF.EMULATE ? { kind: 'emulate' } : null;
}

/** Through the TLB, or through the tables filling it; -1 for a fault. Four bytes. */
function touchMemory(vcpu: Vcpu, gpa: number, write?: number): number {
  const { frames, mem } = vcpu.kvm.host.machine;
  const { i32 } = mem;
  const tlb = tlbOf(vcpu);
  const gfn = Math.floor(gpa / 4096);
  let entry = tlb.entries.get(gfn);
  if (entry === undefined || (write !== undefined && !entry.writable)) {
    const lo = tdpEntry(vcpu, gpa, write === undefined ? EPTE.A : EPTE.A | EPTE.D);
    if ((lo & EPTE.R) === 0 || (lo & 7) === 6 || (write !== undefined && (lo & EPTE.W) === 0)) return -1;
    const inPage = lo & EPTE.PS ? (gfn & 511) * 4096 : 0;
    const hpa = (lo & 0x7fff_f000) + inPage;
    const writable = (lo & EPTE.W) !== 0 && write !== undefined;
    entry = { hpa, writable, epoch: frames.epoch[hpa >>> 12]! };
    tlb.entries.set(gfn, entry);
  }
  const frame = (entry.hpa >>> 12) as Pfn;
  if (!frames.isCurrent(frame, entry.epoch))
    throw new SanitizerError(`stale translation of gfn ${gfn}: ${frames.story(frame)}`);
  const word = (entry.hpa + (gpa % 4096)) >>> 2;
  if (write !== undefined) i32[word] = write;
  return i32[word]! >>> 0;
}

/** Low word of the entry that maps the address; accessed and dirty bits are set as a CPU would. */
export function tdpEntry(vcpu: Vcpu, gpa: number, setBits = 0): number {
  const { mem } = vcpu.kvm.host.machine;
  const gfn = Math.floor(gpa / 4096) as Gfn;
  let table: number = vcpu.arch.mmu.root.hpa;
  for (let level = 4; ; level--) {
    const at = (table >>> 2) + 2 * spteIndex(gfn, level);
    const lo = mem.i32[at]!;
    if ((lo & 7) === 0 || (lo & 7) === 6) return lo;
    if (level === 1 || lo & EPTE.PS) {
      const canWrite = (lo & EPTE.W) !== 0;
      if (vcpu.kvm.module.masks.accessed !== 0 && setBits !== 0) {
        mem.i32[at] = lo | (canWrite ? setBits : setBits & ~EPTE.D);
      }
      return mem.i32[at]!;
    }
    table = lo & 0x7fff_f000;
  }
}
