// SPDX-License-Identifier: GPL-2.0-only
/**
 * race_sync_regs() of x86/sync_regs_test.c: another thread writes to kvm_run while KVM takes it over. KVM copies a set in one
 * go here, so what a race can show is any prefix of the racer's writes: each is tried before a KVM_RUN, many times; then a
 * racer runs on another pCPU. Upstream's 2 seconds are 200 us of virtual time. KVM_TRANSLATE is left out.
 */
import { KVM_EXIT, KVM_SYNC_X86, type KvmRun } from '../../lib/uapi/run.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CR4, EFER } from '../../lib/x86/registers.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { Steps } from '../../lib/kvm_util/backend.ts';
import type { KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT } from '../../lib/kvm_util/test_util.ts';
import { errnoText, getUcall, tryVcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { runToIo } from './sets.ts';

type Write = (run: KvmRun) => void;

/** How often the whole sequence is gone through. */
const ROUNDS = 16;
const TIMEOUT_NS = 200e3;
/** How long the racer takes from write to write. */
const PACE_NS = 100;

const dirtyEvents: readonly Write[] = [
  (run) => (run.kvm_dirty_regs = KVM_SYNC_X86.EVENTS),
  (run) => (run.s.regs.events.flags = 0),
];

/** What a vCPU is, saved before the racer begins: vcpu_save_state() as far as a triple fault needs it. */
function saveState(vcpu: KvmVcpu): () => void {
  const { fd } = vcpu;
  const saved = { regs: fd.getRegs(), sregs: fd.getSregs(), events: fd.getVcpuEvents(), mp: fd.getMpState() };
  return () => {
    fd.setSregs(saved.sregs);
    fd.setRegs(saved.regs);
    fd.setVcpuEvents(saved.events);
    fd.setMpState(saved.mp);
  };
}

/** How often each outcome was seen. */
interface Outcomes {
  runs: number;
  refused: number;
  shutdown: number;
  /** An exception came out at the guest's handler, which fails the guest. */
  delivered: number;
}

/** Any outcome but a dead vCPU is right: KVM_RUN goes on, is refused with EINVAL, or the guest shuts down. */
function* race(vcpu: KvmVcpu, writes: (run: KvmRun) => readonly Write[]): Steps<Outcomes> {
  const { run } = vcpu.fd;
  run.kvm_valid_regs = KVM_SYNC_X86.SREGS;
  yield* runToIo(vcpu);
  run.kvm_valid_regs = 0;
  const restore = saveState(vcpu);
  const { cr4, efer } = run.s.regs.sregs;
  TEST_ASSERT(
    (cr4 & BigInt(CR4.PAE)) !== 0n && (efer & BigInt(EFER.LME)) !== 0n,
    `vCPU should be in long mode, CR4.PAE=${(cr4 & BigInt(CR4.PAE)) !== 0n}, EFER.LME=${(efer & BigInt(EFER.LME)) !== 0n}`,
  );
  const seen: Outcomes = { runs: 0, refused: 0, shutdown: 0, delivered: 0 };
  const sequence = writes(run);
  for (let round = 0; round < ROUNDS; round++) {
    for (const write of sequence) {
      write(run);
      yield* runOnce(vcpu, seen, restore);
    }
  }
  yield* raceThreads(vcpu, sequence, () => runOnce(vcpu, seen, restore));
  run.kvm_dirty_regs = 0;
  restore();
  yield* runToIo(vcpu);
  return seen;
}

/** The racer as a thread of its own. */
function* raceThreads(vcpu: KvmVcpu, sequence: readonly Write[], runVcpu: () => Steps<void>): Steps<void> {
  const { threads } = vcpu.vm.backend;
  const end = threads.nowNs() + TIMEOUT_NS;
  let cancelled = false;
  const racer = threads.spawn(
    'racer',
    function* () {
      for (let i = 0; !cancelled; i = (i + 1) % sequence.length) {
        sequence[i]!(vcpu.fd.run);
        yield* threads.sleepNs(PACE_NS);
      }
    },
    { cpu: 1 },
  );
  while (threads.nowNs() < end) yield* runVcpu();
  cancelled = true;
  yield* threads.join(racer);
}

function* runOnce(vcpu: KvmVcpu, seen: Outcomes, restore: () => void): Steps<void> {
  const { run } = vcpu.fd;
  const errno = yield* tryVcpuRun(vcpu);
  seen.runs++;
  if (errno !== 0) {
    TEST_ASSERT(errno === ERRNO.EINVAL, () => `KVM_RUN in a race failed with ${errnoText(errno)}`);
    seen.refused++;
  } else if (run.exit_reason === KVM_EXIT.SHUTDOWN) {
    seen.shutdown++;
    restore();
  } else {
    TEST_ASSERT(
      run.exit_reason === KVM_EXIT.IO,
      `KVM_RUN in a race ended with exit reason ${run.exit_reason}`,
    );
    if (getUcall(vcpu).cmd === UCALL.ABORT) seen.delivered++;
  }
}

/** race_sregs_cr4(): CR4.PAE=0 with EFER.LME=1 is illegal, and the MMU relies on it. */
export function* raceCr4(vcpu: KvmVcpu): Steps<void> {
  const seen = yield* race(vcpu, (run) => {
    const on = run.s.regs.sregs.cr4;
    const off = on & ~BigInt(CR4.PAE);
    return [
      (r) => (r.kvm_dirty_regs = KVM_SYNC_X86.SREGS),
      (r) => (r.s.regs.sregs.cr4 = on),
      (r) => (r.s.regs.sregs.cr4 = off),
    ];
  });
  TEST_ASSERT(seen.refused > 0, 'CR4.PAE=0 with EFER.LME=1 was never refused');
  TEST_ASSERT(seen.refused < seen.runs, 'CR4.PAE=1 was refused too');
}

/** race_events_exc(): vectors from 32 on, and NMI, are no exceptions. */
export function* raceExc(vcpu: KvmVcpu): Steps<void> {
  const seen = yield* race(vcpu, () => [
    ...dirtyEvents,
    (r) => (r.s.regs.events.exception.nr = VECTOR.UD),
    (r) => (r.s.regs.events.exception.pending = 1),
    (r) => (r.s.regs.events.exception.nr = 255),
  ]);
  // Without KVM_VCPUEVENT_VALID_PAYLOAD `pending` is not looked at, and so `nr` is not either.
  TEST_ASSERT(seen.refused === 0, `${seen.refused} of ${seen.runs} KVM_RUNs were refused`);
  TEST_ASSERT(seen.delivered === 0, 'an exception that was not to be injected reached the guest');
}

/** race_events_inj_pen(): KVM drops a pending exception if another is to be injected. */
export function* raceInjPen(vcpu: KvmVcpu): Steps<void> {
  vcpu.fd.run.s.regs.events.exception.nr = VECTOR.UD;
  const seen = yield* race(vcpu, () => [
    ...dirtyEvents,
    (r) => (r.s.regs.events.exception.nr = VECTOR.UD),
    (r) => (r.s.regs.events.exception.injected = 1),
    (r) => (r.kvm_dirty_regs = KVM_SYNC_X86.EVENTS),
    (r) => (r.s.regs.events.exception.pending = 1),
  ]);
  TEST_ASSERT(seen.refused === 0, `${seen.refused} of ${seen.runs} KVM_RUNs were refused`);
  TEST_ASSERT(seen.delivered > 0, 'the injected exception never reached the guest');
}
