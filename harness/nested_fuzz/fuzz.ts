// SPDX-License-Identifier: GPL-2.0-only
/**
 * The nested fuzzer's cases: L1 gives L0 a random vmcs12, by VMLAUNCH or by way of KVM_SET_NESTED_STATE, and runs a random
 * L2. Every case must end as the manual or KVM's API says: in VMfail, in a VM exit of L1, or in an exit to userspace. A
 * JavaScript exception of any kind fails the test, and so does memory of L0 that changed or got lost.
 */
import type { Steps, Thread } from '../../lib/kvm_util/backend.ts';
import { tryVcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { KVM_CAP } from '../../lib/uapi/capabilities.ts';
import { ERRNO, KvmError } from '../../lib/uapi/errno.ts';
import {
  KVM_NESTED_STATE_SIZE,
  KVM_STATE_NESTED,
  KVM_STATE_NESTED_VMX_VMCS_SIZE,
} from '../../lib/uapi/nested_state.ts';
import { KVM_VCPUEVENT_VALID } from '../../lib/uapi/vcpu_state.ts';
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { RFLAGS } from '../../lib/x86/registers.ts';
import { codeName } from '../../lib/x86/bits.ts';
import { createEmulatedHost } from '../../vmm/emulated.ts';
import { UnimplementedError } from '../../vmm/machine/errors.ts';
import { FUZZ_RECORD } from './guest_code.ts';
import { l2Code } from './l2_code.ts';
import { mutate, type Mutation } from './mutate.ts';
import { EntryOracle } from './oracle.ts';
import { CLEAN_EXITS, FuzzFailure, judge, objectionTo, type Outcome } from './outcome.ts';
import { Rng } from './rng.ts';
import { closeWorld, createWorld, pokeGpa, reported, resetWorld, vmxonState, type World } from './world.ts';

/** Virtual time that a case may take: a guest may loop for ever. */
const CASE_NS = 60_000;
/** Exits to userspace that are answered before the case ends. */
const MAX_EXITS = 4;

/** What the watchdog knows of the fuzzing thread. */
interface Watched {
  done: boolean;
  /** When the running case began. */
  since: number;
}

/** The fuzzing thread. */
class Fuzzer {
  readonly world: World;
  readonly outcomes = new Map<Outcome, number>();
  readonly #watched: Watched;

  readonly #rerun: string;
  readonly #oracle: EntryOracle;

  constructor(world: World, watched: Watched, params: readonly string[]) {
    this.world = world;
    this.#watched = watched;
    this.#oracle = new EntryOracle(world.nested.msrs);
    this.#rerun = params.map((param) => `--param ${param}`).join(' ');
  }

  /** Errors carry the case's number and changes. */
  *run(seed: number): Steps<void> {
    const rng = new Rng(seed);
    let notes: readonly string[] = [];
    try {
      resetWorld(this.world);
      const l2 = l2Code(rng, this.world);
      const m = mutate(rng, this.world);
      notes = [...m.notes, `L2: ${l2.text}`];
      pokeGpa(this.world, Number(this.world.arena[0]!.physical), l2.bytes);
      this.#watched.since = this.world.host.threads.nowNs();
      const outcome = rng.chance(75) ? yield* this.#launch(rng, m) : yield* this.#restore(rng, m);
      this.outcomes.set(outcome, (this.outcomes.get(outcome) ?? 0) + 1);
    } catch (error) {
      if (error instanceof Error)
        error.message = `case ${seed}: ${error.message}\n  ${notes.join('\n  ')}\nrerun: npm run nightly -- --first ${seed} --cases 1 ${this.#rerun}`;
      throw error;
    }
  }

  /** By L1's VMLAUNCH. */
  *#launch(rng: Rng, m: Mutation): Steps<Outcome> {
    const { world } = this;
    pokeGpa(world, world.vmcsGpa, m.vmcs12.bytes);
    world.vcpu.fd.setNestedState(vmxonState(world));
    if (rng.chance(10)) world.vcpu.fd.nmi();
    const verdict = this.#oracle.verdict(m.vmcs12);
    const outcome = yield* this.#toTheEnd();
    const objection = objectionTo(outcome, verdict, m.vmcs12);
    if (objection !== null) throw new FuzzFailure(`${outcome}, but ${objection}`);
    return outcome;
  }

  /** By userspace, as if the vCPU came from elsewhere. */
  *#restore(rng: Rng, m: Mutation): Steps<Outcome> {
    const { world } = this;
    const state = vmxonState(world);
    state.hdr.vmx.vmcs12_pa = BigInt(world.vmcsGpa);
    state.size = KVM_NESTED_STATE_SIZE + KVM_STATE_NESTED_VMX_VMCS_SIZE * (1 + rng.below(2));
    state.flags = rng.chance(80) ? KVM_STATE_NESTED.GUEST_MODE : 0;
    if (state.flags !== 0 && rng.chance(50)) state.flags |= KVM_STATE_NESTED.RUN_PENDING;
    if (rng.chance(10)) state.flags |= KVM_STATE_NESTED.MTF_PENDING;
    state.data.vmx.vmcs12.set(m.vmcs12.bytes);
    state.data.vmx.shadow_vmcs12.set(world.vmcs12);
    try {
      world.vcpu.fd.setNestedState(state);
    } catch (error) {
      if (error instanceof KvmError && error.errno === ERRNO.EINVAL) return 'KVM_SET_NESTED_STATE: EINVAL';
      throw error;
    }
    if (rng.chance(20)) this.#restoreEvents(rng);
    if (rng.chance(50)) world.vcpu.fd.getNestedState(world.vm.fd.checkExtension(KVM_CAP.NESTED_STATE));
    return yield* this.#toTheEnd();
  }

  /** Events that were on their way when the vCPU was saved, as far as a VM entry takes them. */
  #restoreEvents(rng: Rng): void {
    const { fd } = this.world.vcpu;
    const events = fd.getVcpuEvents();
    const interruptible = (Number(fd.getRegs().rflags) & RFLAGS.IF) !== 0;
    switch (rng.below(4)) {
      case 0: {
        const nr = rng.pick([0, 3, 6, 13, 14]);
        const error =
          nr > 12 ? { has_error_code: 1, error_code: rng.below(8) } : { has_error_code: 0, error_code: 0 };
        events.exception = { injected: 1, pending: 0, nr, ...error };
        break;
      }
      case 1:
        if (interruptible) events.interrupt = { injected: 1, nr: 32 + rng.below(200), soft: 0, shadow: 0 };
        break;
      case 2: {
        const injected = rng.below(2);
        events.nmi = { injected, pending: rng.below(2), masked: injected === 0 ? rng.below(2) : 0 };
        break;
      }
      default:
        events.interrupt.shadow = rng.pick(interruptible ? [0, 1, 2] : [0, 1]);
        events.flags |= KVM_VCPUEVENT_VALID.SHADOW;
    }
    fd.setVcpuEvents(events);
  }

  *#toTheEnd(): Steps<Outcome> {
    const { vcpu, host } = this.world;
    for (let exits = 0; exits < MAX_EXITS;) {
      const errno = yield* tryVcpuRun(vcpu);
      if (errno === ERRNO.EINTR) {
        if (host.threads.nowNs() - this.#watched.since >= CASE_NS) return 'runs on';
        continue;
      }
      if (errno === ERRNO.EFAULT) return 'KVM_RUN: EFAULT';
      if (errno !== 0) throw new FuzzFailure(`KVM_RUN: errno ${errno}`);
      const record = reported(this.world);
      // L2 may hit the port too; then the record is that of the beginning.
      if (record !== undefined && record[0] !== FUZZ_RECORD.READY)
        return judge(record, this.world.nested.cachedVmcs12);
      const reason = vcpu.fd.run.exit_reason;
      if (!CLEAN_EXITS.includes(reason))
        throw new FuzzFailure(`exit ${codeName(KVM_EXIT, reason)} to userspace`);
      if (reason !== KVM_EXIT.IO && reason !== KVM_EXIT.MMIO)
        return `userspace: ${codeName(KVM_EXIT, reason)}`;
      exits++;
    }
    return 'userspace: port and memory-mapped I/O';
  }
}

/** What a range of cases came to. */
export interface FuzzResult {
  readonly outcomes: ReadonlyMap<Outcome, number>;
  /** Frames in use by the host after the VM is gone, less those before. */
  readonly framesLost: number;
}

/** Run cases `first` to `first + count - 1`: on one host, or on as many as L2 stops by what the CPU model lacks. */
export function fuzzNested(first: number, count: number, params: readonly string[] = []): FuzzResult {
  const outcomes = new Map<Outcome, number>();
  let framesLost = 0;
  for (let done = 0; done < count;) {
    const run = fuzzOnHost({ first: first + done, count: count - done, params });
    for (const [outcome, n] of run.outcomes) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + n);
    framesLost += run.framesLost;
    done += run.cases;
  }
  return { outcomes, framesLost };
}

interface FuzzRange {
  readonly first: number;
  readonly count: number;
  readonly params: readonly string[];
}

/** L2 may jump into data: an instruction that the CPU model does not have stops a run by design (DESIGN, decision 1). */
const isGuestInstruction = (error: unknown): boolean =>
  error instanceof UnimplementedError && error.message.includes('instruction is not modelled');

function fuzzOnHost({ first, count, params }: FuzzRange): FuzzResult & { cases: number } {
  const host = createEmulatedHost({ ramBytes: 0x0400_0000, nrCpus: 2, params });
  const { threads } = host;
  const result = { outcomes: new Map<Outcome, number>(), framesLost: 0, cases: 0 };
  const main = function* (): Steps<void> {
    const before = host.host.pages.nrFree;
    const watched = { done: false, since: Infinity };
    const worker: Thread = threads.spawn('vcpu', function* () {
      const world = yield* createWorld(host);
      const fuzzer = new Fuzzer(world, watched, params);
      result.outcomes = fuzzer.outcomes;
      try {
        for (let i = 0; i < count; i++) {
          result.cases++;
          yield* fuzzer.run(first + i);
        }
      } finally {
        watched.done = true;
      }
      yield* closeWorld(world);
    });
    const overdue = (): boolean => !watched.done && threads.nowNs() - watched.since >= CASE_NS;
    while (!watched.done) {
      yield* threads.sleepNs(CASE_NS / 4);
      if (overdue()) threads.kill(worker);
    }
    yield* threads.join(worker);
    result.framesLost = before - host.host.pages.nrFree;
  };
  try {
    host.runMain(main);
  } catch (error) {
    // The host stopped in the middle of KVM_RUN; the next cases get another.
    if (!isGuestInstruction(error)) throw error;
    result.outcomes.set('not modelled: an instruction of L2', 1);
  }
  return result;
}
