// SPDX-License-Identifier: GPL-2.0-only
/**
 * KVM_RUN: kvm_arch_vcpu_ioctl_run(), vcpu_run() and vcpu_enter_guest() of arch/x86/kvm/x86.c, 6.12. The loop is one
 * generator; it yields where the kernel could be preempted. Leaves out SMM, APICv and steal time.
 */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { KVM_EXIT, KVM_RUN_X86, KVM_SYNC_X86 } from '../../../lib/uapi/run.ts';
import { KVM_MP_STATE } from '../../../lib/uapi/vcpu_state.ts';
import type { Steps } from '../../host/steps.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { BugError } from '../../machine/errors.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { MaybeSteps } from '../kvm_host_x86.ts';
import { kvmVcpuBlock, kvmVcpuHalt } from '../vcpu_block.ts';
import { kvmInitMmu } from '../mmu/init.ts';
import { kvmMmuFreeObsoleteRoots, kvmMmuLoadPgd, kvmMmuReload } from '../mmu/mmu.ts';
import { kvmMmuSyncRoots } from '../mmu/shadow_sync.ts';
import { KVM_REQ, VCPU_MODE } from '../request_numbers.ts';
import { kvmCheckRequest, kvmMakeRequest, kvmRequestPending, kvmTestRequest } from '../requests.ts';
import {
  kvmCheckAndInjectEvents,
  kvmEventNeedsReinjection,
  kvmIsExceptionPending,
  processNmi,
} from './events.ts';
import { kvmServiceLocalTlbFlushRequests } from './tlb_requests.ts';
import { kvmCpuHasInjectableIntr, kvmLapicGetCr8, lapicInKernel } from './lapic.ts';
import { isGuestMode } from './cache_regs.ts';
import { kvmApicAcceptEvents, kvmApicHasPendingInitOrSipi, kvmCheckNestedEvents } from './mp_state.ts';
import { kvmGetRegs, kvmGetSregs, kvmSetRegs, kvmSetSregs } from './regs.ts';
import { kvmGetVcpuEvents, kvmSetVcpuEvents } from './vcpu_events.ts';

/** Values that sync_regs refuses. */
const KVM_SYNC_VALID = KVM_SYNC_X86.REGS | KVM_SYNC_X86.SREGS | KVM_SYNC_X86.EVENTS;

function srcuLock(vcpu: Vcpu): void {
  vcpu.srcuIdx = vcpu.kvm.srcu.readLock();
}

function srcuUnlock(vcpu: Vcpu): void {
  vcpu.kvm.srcu.readUnlock(vcpu.srcuIdx);
  vcpu.srcuIdx = -1;
}

/** kvm_vcpu_running() and kvm_arch_vcpu_runnable(). */
const isRunning = (vcpu: Vcpu): boolean => vcpu.arch.mpState === KVM_MP_STATE.RUNNABLE;

/** kvm_vcpu_has_events(), for a vCPU that halts. */
export function kvmVcpuHasEvents(vcpu: Vcpu): boolean {
  const { arch } = vcpu;
  const { ops } = vcpu.kvm.module;
  if (kvmIsExceptionPending(vcpu) || kvmTestRequest(KVM_REQ.NMI, vcpu)) return true;
  if (arch.nmiPending !== 0 && ops.nmiAllowed(vcpu, 'query') > 0) return true;
  // In VMX root operation they wait, and end no halt.
  if (kvmApicHasPendingInitOrSipi(vcpu) && !ops.apicInitSignalBlocked(vcpu)) return true;
  if (kvmCpuHasInjectableIntr(vcpu) && ops.interruptAllowed(vcpu, 'query') > 0) return true;
  return isGuestMode(vcpu) && ops.nestedOps?.hasEvents(vcpu, 'query') === true;
}

export function kvmArchVcpuRunnable(vcpu: Vcpu): boolean {
  return isRunning(vcpu) || kvmVcpuHasEvents(vcpu);
}

/** kvm_vcpu_exit_request(). */
const exitRequest = (vcpu: Vcpu): boolean =>
  vcpu.mode === VCPU_MODE.EXITING_GUEST_MODE ||
  kvmRequestPending(vcpu) ||
  vcpu.kvm.host.sched.needResched() ||
  vcpu.task?.signalPending === true;

/** KVM_REQ_GET_NESTED_STATE_PAGES comes before all other requests; the result is vcpu_enter_guest()'s. */
function* enterWithNestedPages(vcpu: Vcpu): Steps<number> {
  const { nestedOps } = vcpu.kvm.module.ops;
  const pages = nestedOps?.getNestedStatePages(vcpu) ?? true;
  if (!(typeof pages === 'boolean' ? pages : yield* pages)) return 0;
  const r = vcpuEnterGuest(vcpu);
  return typeof r === 'number' ? r : yield* r;
}

/** KVM_REQ_TRIPLE_FAULT: L2's is L1's exit. */
function tripleFault(vcpu: Vcpu): number {
  if (isGuestMode(vcpu)) vcpu.kvm.module.ops.nestedOps?.tripleFault(vcpu);
  if (!kvmCheckRequest(KVM_REQ.TRIPLE_FAULT, vcpu)) return 1;
  vcpu.run.exit_reason = KVM_EXIT.SHUTDOWN;
  vcpu.mmioNeeded = 0;
  return 0;
}

/** Requests in the order of vcpu_enter_guest() but the first two; 1: go on, otherwise the loop's result. */
function processRequests(vcpu: Vcpu): number {
  const { ops } = vcpu.kvm.module;
  if (kvmCheckRequest(KVM_REQ.MMU_FREE_OBSOLETE_ROOTS, vcpu)) kvmMmuFreeObsoleteRoots(vcpu);
  if (kvmCheckRequest(KVM_REQ.MMU_SYNC, vcpu)) kvmMmuSyncRoots(vcpu);
  if (kvmCheckRequest(KVM_REQ.LOAD_MMU_PGD, vcpu)) kvmMmuLoadPgd(vcpu);
  if (kvmCheckRequest(KVM_REQ.TLB_FLUSH, vcpu)) {
    vcpu.stat.tlb_flush++;
    ops.flushTlbAll(vcpu);
    kvmCheckRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu);
  }
  kvmServiceLocalTlbFlushRequests(vcpu);
  if (kvmTestRequest(KVM_REQ.TRIPLE_FAULT, vcpu)) {
    const r = tripleFault(vcpu);
    if (r <= 0) return r;
  }
  if (kvmCheckRequest(KVM_REQ.NMI, vcpu)) processNmi(vcpu);
  return 1;
}

/** vcpu_enter_guest(): 1 to go on, 0 to userspace, below zero an errno. */
function vcpuEnterGuest(vcpu: Vcpu): MaybeSteps<number> {
  const { ops } = vcpu.kvm.module;
  if (kvmRequestPending(vcpu)) {
    if (kvmCheckRequest(KVM_REQ.VM_DEAD, vcpu)) return -ERRNO.EIO;
    if (kvmCheckRequest(KVM_REQ.GET_NESTED_STATE_PAGES, vcpu)) return enterWithNestedPages(vcpu);
    const r = processRequests(vcpu);
    if (r <= 0) return r;
  }
  const windowWanted = requestsWindow(vcpu);
  if (kvmCheckRequest(KVM_REQ.EVENT, vcpu) || windowWanted) {
    vcpu.stat.req_event++;
    if (kvmApicAcceptEvents(vcpu) < 0) return 0;
    if (vcpu.arch.mpState === KVM_MP_STATE.INIT_RECEIVED) return 1;
    if (kvmCheckAndInjectEvents(vcpu) < 0) return 0;
    if (windowWanted) ops.enableIrqWindow(vcpu);
  }
  const loaded = kvmMmuReload(vcpu);
  return typeof loaded === 'number' ? enterLoaded(vcpu, loaded) : enterLater(vcpu, loaded);
}

/** vcpu_enter_guest() where the root has to be made. */
function* enterLater(vcpu: Vcpu, loading: Steps<number>): Steps<number> {
  const r = enterLoaded(vcpu, yield* loading);
  return typeof r === 'number' ? r : yield* r;
}

/** vcpu_enter_guest() from kvm_mmu_reload() on, whose result is `loaded`. */
function enterLoaded(vcpu: Vcpu, loaded: number): MaybeSteps<number> {
  const { sched } = vcpu.kvm.host;
  const { ops } = vcpu.kvm.module;
  if (loaded !== 0) {
    ops.cancelInjection(vcpu);
    return loaded;
  }
  sched.preemptDisable();
  ops.prepareSwitchToGuest(vcpu);
  sched.localIrqDisable();
  vcpu.mode = VCPU_MODE.IN_GUEST_MODE;
  srcuUnlock(vcpu);
  if (exitRequest(vcpu)) {
    vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
    sched.localIrqEnable();
    sched.preemptEnable();
    srcuLock(vcpu);
    ops.cancelInjection(vcpu);
    kvmMakeRequest(KVM_REQ.EVENT, vcpu);
    return 1;
  }
  const fastpath = ops.vcpuRun(vcpu);
  return typeof fastpath === 'number' ? afterExit(vcpu, fastpath) : runToExit(vcpu, fastpath);
}

/** vcpu_enter_guest() where the guest outlasts its first slice. */
function* runToExit(vcpu: Vcpu, slices: Steps<number>): Steps<number> {
  const r = afterExit(vcpu, yield* slices);
  return typeof r === 'number' ? r : yield* r;
}

/** The rest of vcpu_enter_guest(). */
function afterExit(vcpu: Vcpu, fastpath: number): MaybeSteps<number> {
  const { sched } = vcpu.kvm.host;
  const { ops } = vcpu.kvm.module;
  vcpu.arch.lastVmentryCpu = vcpu.cpu;
  vcpu.mode = VCPU_MODE.OUTSIDE_GUEST_MODE;
  ops.handleExitIrqoff(vcpu);
  vcpu.stat.exits++;
  sched.localIrqEnable();
  sched.preemptEnable();
  srcuLock(vcpu);
  return ops.handleExit(vcpu, fastpath);
}

/** vcpu_block(): a halted vCPU waits for an event; 1 if it may run again, -EINTR if a signal came. */
function* vcpuBlock(vcpu: Vcpu): Steps<number> {
  if (!kvmArchVcpuRunnable(vcpu)) {
    srcuUnlock(vcpu);
    if (vcpu.arch.mpState === KVM_MP_STATE.HALTED) yield* kvmVcpuHalt(vcpu);
    else yield* kvmVcpuBlock(vcpu);
    srcuLock(vcpu);
    if (!kvmArchVcpuRunnable(vcpu)) return 1;
  }
  // Before the halt ends: an exit to L1 records it in vmcs12.
  if (isGuestMode(vcpu)) {
    const r = kvmCheckNestedEvents(vcpu);
    if (r < 0 && r !== -ERRNO.EBUSY) return 0;
  }
  if (kvmApicAcceptEvents(vcpu) < 0) return 0;
  if (vcpu.arch.mpState === KVM_MP_STATE.HALTED) vcpu.arch.mpState = KVM_MP_STATE.RUNNABLE;
  return 1;
}

/** Give way to whoever waits for this pCPU, or to pCPUs that are behind. */
function* reschedule(vcpu: Vcpu): Steps<void> {
  srcuUnlock(vcpu);
  yield;
  srcuLock(vcpu);
}

/** dm_request_for_irq_injection(): without an in-kernel PIC, userspace injects interrupts and asks for a window. */
const requestsWindow = (vcpu: Vcpu): boolean =>
  vcpu.run.request_interrupt_window !== 0 && !vcpu.kvm.arch.irqchipInKernel;

/** vcpu_run(). */
function* vcpuRun(vcpu: Vcpu): Steps<number> {
  const { sched } = vcpu.kvm.host;
  for (;;) {
    // Events may end in an exit to L1.
    const settle = isGuestMode(vcpu) ? (vcpu.kvm.module.ops.nestedOps?.settleExitPages(vcpu) ?? null) : null;
    if (settle !== null) yield* settle;
    const steps = isRunning(vcpu) ? vcpuEnterGuest(vcpu) : vcpuBlock(vcpu);
    const r = typeof steps === 'number' ? steps : yield* steps;
    if (r <= 0) return r;
    kvmCheckRequest(KVM_REQ.UNBLOCK, vcpu);
    if (requestsWindow(vcpu) && readyForInjection(vcpu)) {
      vcpu.run.exit_reason = KVM_EXIT.IRQ_WINDOW_OPEN;
      vcpu.stat.request_irq_exits++;
      return 0;
    }
    if (signalPending(vcpu)) return interrupted(vcpu);
    if (!sched.needResched() && !sched.shouldYield()) continue;
    yield* reschedule(vcpu);
    // xfer_to_guest_mode_work(): a signal may have come meanwhile.
    if (signalPending(vcpu)) return interrupted(vcpu);
  }
}

/** signal_pending(current). */
const signalPending = (vcpu: Vcpu): boolean => vcpu.task?.signalPending === true;

function interrupted(vcpu: Vcpu): number {
  vcpu.run.exit_reason = KVM_EXIT.INTR;
  vcpu.stat.signal_exits++;
  return -ERRNO.EINTR;
}

/** sync_regs(): registers that userspace changed in kvm_run. */
function syncRegs(vcpu: Vcpu): number {
  const { run } = vcpu;
  const dirty = run.kvm_dirty_regs;
  if ((dirty & KVM_SYNC_X86.REGS) !== 0) {
    kvmSetRegs(vcpu, run.s.regs.regs);
    run.kvm_dirty_regs &= ~KVM_SYNC_X86.REGS;
  }
  if ((dirty & KVM_SYNC_X86.SREGS) !== 0) {
    if (kvmSetSregs(vcpu, run.s.regs.sregs) !== 0) return -ERRNO.EINVAL;
    run.kvm_dirty_regs &= ~KVM_SYNC_X86.SREGS;
  }
  if ((dirty & KVM_SYNC_X86.EVENTS) !== 0 && kvmSetVcpuEvents(vcpu, run.s.regs.events) !== 0)
    return -ERRNO.EINVAL;
  run.kvm_dirty_regs = 0;
  return 0;
}

/** store_regs() and post_kvm_run_save(). */
function storeRegs(vcpu: Vcpu): void {
  const { run, kvm } = vcpu;
  run.if_flag = (kvm.module.ops.getRflags(vcpu) >> 9) & 1;
  run.flags = isGuestMode(vcpu) ? KVM_RUN_X86.GUEST_MODE : 0;
  run.cr8 = BigInt(kvmLapicGetCr8(vcpu));
  run.apic_base = BigInt(vcpu.arch.apicBase);
  run.ready_for_interrupt_injection = kvm.arch.irqchipInKernel || readyForInjection(vcpu) ? 1 : 0;
  if ((run.kvm_valid_regs & KVM_SYNC_X86.REGS) !== 0) run.s.regs.regs = kvmGetRegs(vcpu);
  if ((run.kvm_valid_regs & KVM_SYNC_X86.SREGS) !== 0) run.s.regs.sregs = kvmGetSregs(vcpu);
  if ((run.kvm_valid_regs & KVM_SYNC_X86.EVENTS) !== 0) run.s.regs.events = kvmGetVcpuEvents(vcpu);
}

/** kvm_vcpu_ready_for_interrupt_injection(): at an instruction boundary, with no event half injected. */
const readyForInjection = (vcpu: Vcpu): boolean =>
  !kvmEventNeedsReinjection(vcpu) &&
  !kvmIsExceptionPending(vcpu) &&
  vcpu.kvm.module.ops.interruptAllowed(vcpu, 'query') > 0;

/** What must be settled before the loop: pending signal, refused sync_regs, the rest of the last instruction. 1: go on. */
function* beforeRun(vcpu: Vcpu): Steps<number> {
  const { run, arch } = vcpu;
  if (arch.mpState === KVM_MP_STATE.UNINITIALIZED) {
    if (run.immediate_exit !== 0) return -ERRNO.EINTR;
    srcuUnlock(vcpu);
    yield* kvmVcpuBlock(vcpu);
    srcuLock(vcpu);
    kvmApicAcceptEvents(vcpu);
    return vcpu.task?.signalPending === true ? interrupted(vcpu) : -ERRNO.EAGAIN;
  }
  if (((run.kvm_valid_regs | run.kvm_dirty_regs) & ~KVM_SYNC_VALID) !== 0) return -ERRNO.EINVAL;
  if (run.kvm_dirty_regs !== 0) {
    const r = syncRegs(vcpu);
    if (r !== 0) return r;
  }
  if (!lapicInKernel(vcpu) && kvmSetCr8FromRun(vcpu) !== 0) return -ERRNO.EINVAL;
  exceptionFromUserspace(vcpu);
  const complete = arch.completeUserspaceIo;
  if (complete === null) return 1;
  arch.completeUserspaceIo = null;
  const r = complete(vcpu);
  return typeof r === 'number' ? r : yield* r;
}

/** An exception that userspace made pending while L2 is active may be L1's. */
function exceptionFromUserspace(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const ex = arch.exception;
  const given = arch.exceptionFromUserspace;
  arch.exceptionFromUserspace = false;
  if (!given || !isGuestMode(vcpu)) return;
  if (vcpu.kvm.module.ops.nestedOps?.isExceptionVmexit(vcpu, ex.vector, ex.errorCode) !== true) return;
  Object.assign(arch.exceptionVmexit, ex, { pending: true, injected: false });
  ex.pending = false;
  ex.injected = false;
}

function kvmSetCr8FromRun(vcpu: Vcpu): number {
  if (vcpu.run.cr8 > 0xfn) return 1;
  vcpu.arch.cr8 = Number(vcpu.run.cr8);
  return 0;
}

/** kvm_arch_vcpu_ioctl_run(): 0 or a negated errno. The vCPU's mutex is held and the vCPU is loaded. */
export function* kvmArchVcpuIoctlRun(vcpu: Vcpu): Steps<number> {
  spend(vcpu.kvm.host.sched.cpu, COST.VCPU_RUN);
  vcpu.run.flags = 0;
  kvmInitMmu(vcpu);
  srcuLock(vcpu);
  let r = yield* beforeRun(vcpu);
  if (r > 0) {
    if (vcpu.arch.completeUserspaceIo !== null)
      throw new BugError(`${vcpu.name}: an exit to userspace is not finished`);
    if (vcpu.run.immediate_exit !== 0) r = -ERRNO.EINTR;
    else r = vcpu.kvm.module.ops.vcpuPreRun(vcpu);
    if (r > 0) r = yield* vcpuRun(vcpu);
  }
  if (r >= 0 || r === -ERRNO.EINTR) storeRegs(vcpu);
  srcuUnlock(vcpu);
  return r;
}
