// SPDX-License-Identifier: GPL-2.0-only
/**
 * struct kvm and struct kvm_vcpu: what a VM and a vCPU are to architecture-neutral code. Mirrors
 * include/linux/kvm_host.h, 6.12; leaves out irqfds, devices, dirty rings, the private memory of confidential VMs and
 * halt polling. Fields bear the kernel's names in camelCase.
 */
import type { Gfn } from '../../lib/x86/addr.ts';
import { kvmRun, type KvmRun } from '../../lib/uapi/run.ts';
import type { Host } from '../host/host.ts';
import type { Cpu } from '../machine/cpu/cpu.ts';
import { Mutex } from '../host/locking/mutex.ts';
import { RwLock } from '../host/locking/rwlock.ts';
import { SpinLock } from '../host/locking/spinlock.ts';
import { Srcu } from '../host/locking/srcu.ts';
import type { MmuNotifier } from '../host/mm/mmu_notifier.ts';
import type { MmStruct } from '../host/mm/mm_struct.ts';
import { TASK, type PreemptNotifier, type Task } from '../host/sched/task.ts';
import { WaitQueue } from '../host/sched/wait_queue.ts';
import { KvmArch, VcpuArch } from './kvm_host_x86.ts';
import { INVALID_GFN } from './kvm_types.ts';
import type { KvmMemorySlot, KvmMemslots } from './memslots.ts';
import type { KvmModule } from './module.ts';
import { VCPU_MODE } from './request_numbers.ts';
import { VcpuStat, VmStat } from './stat_fields.ts';

export {
  INVALID_GFN,
  INVALID_GPA,
  isErrorNoslotPfn,
  isErrorPfn,
  KVM_HVA_ERR,
  KVM_PFN_ERR,
  kvmIsErrorHva,
} from './kvm_types.ts';

/** A VM. */
export class Kvm {
  readonly module: KvmModule;
  readonly host: Host;
  /** The address space of the process that made the VM. */
  readonly mm: MmStruct;
  /** Names the VM in lock names, traces and stats: the nth VM of the module. */
  readonly id: number;

  /** Guards the page tables; taken for read by page faults, for write by whatever removes translations. */
  readonly mmuLock: RwLock;
  /** Guards memslot changes; taken before everything else. */
  readonly slotsLock: Mutex;
  /** Guards arch fields of memslots against changes while both sets are being updated. */
  readonly slotsArchLock: Mutex;
  /** Guards vCPU creation and capabilities. */
  readonly lock: Mutex;
  /** Readers of memslots. */
  readonly srcu: Srcu;

  /** Number of pages in all slots. */
  nrMemslotPages = 0;
  /** The active set of each address space. */
  readonly memslots: KvmMemslots[] = [];
  /** Both sets of each address space. */
  readonly memslotSets: (readonly [KvmMemslots, KvmMemslots])[] = [];

  readonly vcpus: Vcpu[] = [];
  createdVcpus = 0;

  /** Notifier invalidations between start and end; a memslot swap waits until it is zero. */
  mnActiveInvalidateCount = 0;
  readonly mnInvalidateLock: SpinLock;
  readonly mnMemslotsUpdateWait: WaitQueue;
  /** As above, but counted under mmuLock, with the range that they cover. */
  mmuInvalidateInProgress = 0;
  mmuInvalidateSeq = 0;
  mmuInvalidateRangeStart: Gfn = INVALID_GFN;
  mmuInvalidateRangeEnd: Gfn = INVALID_GFN;

  /** KVM_DIRTY_LOG flags set by KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
  manualDirtyLogProtect = 0;
  vmBugged = false;
  vmDead = false;

  /** Tells the VM of changes of its process's memory. */
  notifier: MmuNotifier | null = null;
  readonly stat = new VmStat();
  readonly arch: KvmArch;

  constructor(module: KvmModule, mm: MmStruct, id: number) {
    const host = module.host;
    this.module = module;
    this.host = host;
    this.mm = mm;
    this.id = id;
    this.mmuLock = new RwLock(host.sched, 'mmu_lock');
    this.slotsLock = new Mutex(host.sched, 'slots_lock');
    this.slotsArchLock = new Mutex(host.sched, 'slots_arch_lock');
    this.lock = new Mutex(host.sched, 'kvm->lock');
    this.srcu = new Srcu(host.sched, 'kvm->srcu');
    this.mnInvalidateLock = new SpinLock(host.sched, 'mn_invalidate_lock');
    this.mnMemslotsUpdateWait = new WaitQueue(host.sched, 'mn_memslots_update_rcuwait');
    this.arch = new KvmArch();
  }

  /** `kvm-0`, as in stats and messages. */
  get name(): string {
    return `kvm-${this.id}`;
  }
}

/** MMIO fragments of one access: at most two pages. */
export interface KvmMmioFragment {
  gpa: number;
  data: Uint8Array;
  offset: number;
  len: number;
}

/** A vCPU. */
export class Vcpu {
  readonly kvm: Kvm;
  /** What userspace called it: the APIC ID. */
  readonly vcpuId: number;
  /** Position in kvm.vcpus. */
  readonly vcpuIdx: number;
  /** Index of the pCPU that the vCPU is loaded on, or -1. */
  cpu = -1;
  /** VCPU_MODE.* */
  mode: number = VCPU_MODE.OUTSIDE_GUEST_MODE;
  /** The bitmap of requests: numbers 0..31 and 32..63. */
  requestsLo = 0;
  requestsHi = 0;
  /** The SRCU index while the vCPU reads memslots, or -1. */
  srcuIdx = -1;
  readonly mutex: Mutex;
  /** Who executes KVM_RUN. */
  task: Task | null = null;
  readonly run: KvmRun;
  /** Where kvm_vcpu_block() sleeps. */
  readonly wait: WaitQueue;
  blocking = false;
  /** kvm_vcpu_kick() or a wake-up came while blocking. */
  ready = false;
  /** Loads the vCPU on the pCPU that its task gets, and puts it when the task loses it. */
  readonly preemptNotifier: PreemptNotifier;
  wantsToRun = false;
  preempted = false;
  scheduledOut = false;

  mmioNeeded = 0;
  mmioReadCompleted = 0;
  mmioIsWrite = 0;
  mmioCurFragment = 0;
  mmioNrFragments = 0;
  /** L0 had to wait for a page of the instruction that it emulates: the instruction begins anew. */
  guestPageBusy = false;
  readonly mmioFragments: KvmMmioFragment[] = [];

  /** Hint of gfn_to_memslot, valid for one generation of one set. */
  lastUsedSlot: KvmMemorySlot | null = null;
  lastUsedSlotGen = 0;

  readonly stat = new VcpuStat();
  readonly arch: VcpuArch;

  constructor(kvm: Kvm, vcpuId: number, vcpuIdx: number) {
    this.kvm = kvm;
    this.vcpuId = vcpuId;
    this.vcpuIdx = vcpuIdx;
    this.mutex = new Mutex(kvm.host.sched, 'vcpu->mutex');
    this.wait = new WaitQueue(kvm.host.sched, `${kvm.name}/vcpu-${vcpuId} wait`);
    this.run = kvmRun();
    this.arch = new VcpuArch();
    this.preemptNotifier = { schedIn: (cpu) => this.#schedIn(cpu), schedOut: () => this.#schedOut() };
  }

  /** `kvm-0/vcpu-1`, as in stats and messages. */
  get name(): string {
    return `${this.kvm.name}/vcpu-${this.vcpuId}`;
  }

  /** kvm_sched_in(). */
  #schedIn(cpu: Cpu): void {
    const { module } = this.kvm;
    this.preempted = false;
    this.ready = false;
    this.scheduledOut = false;
    module.runningVcpu[cpu.id] = this;
    this.cpu = cpu.id;
    module.arch.vcpuLoad(this, cpu);
  }

  /** kvm_sched_out(). */
  #schedOut(): void {
    const { module } = this.kvm;
    this.scheduledOut = true;
    if (this.task?.state === TASK.RUNNING && this.wantsToRun) {
      this.preempted = true;
      this.ready = true;
    }
    module.arch.vcpuPut(this);
    if (this.cpu >= 0) module.runningVcpu[this.cpu] = null;
  }
}
