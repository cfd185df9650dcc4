// SPDX-License-Identifier: GPL-2.0-only
/**
 * The userspace thread of a stress vCPU: it runs the vCPU to the end of its guest code, and copes with what the host
 * threads do meanwhile: signals, memory that is not accessible for a while, a slot that is not there.
 */
import { KvmError, ERRNO } from '../../lib/uapi/errno.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import { hva } from '../../lib/x86/addr.ts';
import { FOLL } from '../../vmm/host/mm/fault.ts';
import { userHpaWait } from '../../vmm/host/mm/user_access.ts';
import { BugError } from '../../vmm/machine/errors.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { getUcall, reportGuestAssert, unexpectedExit } from '../../lib/kvm_util/ucall_common.ts';
import { AREA, AREA_PAGES, STABLE_PAGES } from './layout.ts';
import type { StressRun } from './scenario.ts';

const PAGE = 4096;
const MAX_FAILURES = 20_000;

/** Run `vcpu` until its guest says DONE. */
export function* vcpuThread(t: StressRun, vcpu: KvmVcpu): Steps<void> {
  try {
    for (let failures = 0; t.failure === undefined;) {
      if (t.draw(64) === 0) vcpu.fd.run.immediate_exit = 1;
      const errno = yield* tryRun(vcpu);
      if (errno !== 0) {
        if (++failures > MAX_FAILURES) throw new BugError(`vCPU ${vcpu.id} gets no further: errno ${errno}`);
        yield* cope(t, vcpu, errno);
      } else if (vcpu.fd.run.exit_reason === KVM_EXIT.MMIO) yield* serveMmio(t, vcpu);
      else if (yield* atUcall(t, vcpu)) return;
    }
  } finally {
    t.running--;
  }
}

function* tryRun(vcpu: KvmVcpu): Steps<number> {
  try {
    yield* vcpu.fd.ioctlRun();
    return 0;
  } catch (error) {
    if (error instanceof KvmError) return error.errno;
    throw error;
  }
}

function* cope(t: StressRun, vcpu: KvmVcpu, errno: number): Steps<void> {
  if (errno === ERRNO.EINTR) {
    t.count(vcpu.fd.run.immediate_exit === 0 ? 'EINTR' : 'immediate_exit');
    vcpu.fd.run.immediate_exit = 0;
    writeStateBack(t, vcpu);
  } else if (errno === ERRNO.EFAULT) {
    t.count('EFAULT');
    // Somebody protected or unmapped the page, and will undo it.
    yield* t.letTimePass(1000);
  } else throw new BugError(`vCPU ${vcpu.id}: KVM_RUN failed with errno ${errno}`);
}

/** What was read is written back: nothing may change. */
function writeStateBack(t: StressRun, { fd }: KvmVcpu): void {
  const what = t.draw(5);
  if (what === 0) fd.setRegs(fd.getRegs());
  else if (what === 1) fd.setSregs(fd.getSregs());
  else if (what === 2) fd.setVcpuEvents(fd.getVcpuEvents());
  else if (what === 3) fd.setMpState(fd.getMpState());
}

/** True at the end of the guest code. */
function* atUcall(t: StressRun, vcpu: KvmVcpu): Steps<boolean> {
  const uc = getUcall(vcpu);
  if (uc.cmd === UCALL.ABORT) reportGuestAssert(vcpu, uc);
  if (uc.cmd === UCALL.DONE) return true;
  if (uc.cmd !== UCALL.SYNC) unexpectedExit(vcpu);
  t.count('waiting');
  yield* t.letTimePass(2000);
  return false;
}

/** The slot of the moving area is away: do to its memory what the guest would have done. */
function* serveMmio(t: StressRun, vcpu: KvmVcpu): Steps<void> {
  const { mmio } = vcpu.fd.run;
  const offset = mmio.phys_addr - AREA.moving.gpa;
  if (offset < 0 || offset >= AREA_PAGES * PAGE) unexpectedExit(vcpu);
  t.count('MMIO');
  const at = hva(t.vm.regions.get(AREA.moving.slot).hostMem + offset);
  const { memory } = t.host;
  yield* userHpaWait(t.kvm.mm, at, FOLL.WRITE);
  if (mmio.is_write === 0) mmio.data.set(memory.read(at, mmio.len));
  else {
    memory.write(at, mmio.data.subarray(0, mmio.len));
    t.writtenByHost.add(STABLE_PAGES + Math.floor(offset / PAGE));
  }
}
