// SPDX-License-Identifier: GPL-2.0-only
/** What a stress run is made of, and the state that its threads share. */
import type { Rng } from '../../vmm/machine/cpu/system/rng.ts';
import type { TlbPolicy } from '../../vmm/machine/mmu/mmu.ts';
import type { Kvm } from '../../vmm/kvm/kvm_host.ts';
import type { EmulatedHost } from '../../vmm/emulated.ts';
import type { BackingSource, Steps, Thread } from '../../lib/kvm_util/backend.ts';
import { symbolAddress } from '../../lib/kvm_util/guest_global.ts';
import { addrGva2hva } from '../../lib/kvm_util/x86/page_table.ts';
import type { Hva } from '../../lib/x86/addr.ts';
import type { KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { shared } from './guest.ts';
import { DirtyLog } from './dirty_log.ts';
import { MOVING_PAGES, STABLE_PAGES } from './layout.ts';
import type { HostOpName } from './host_ops.ts';

export type SharedName = keyof typeof shared;

export interface Scenario {
  readonly seed: number;
  readonly vcpus: number;
  /** Steps that each vCPU takes. */
  readonly steps: number;
  /** The pCPU of each vCPU's thread; none: the scheduler's choice. */
  readonly pins?: readonly number[];
  readonly backing?: BackingSource;
  readonly tlb?: TlbPolicy;
  readonly params?: readonly string[];
  /** One host thread each, with the operations that it chooses from. */
  readonly hostThreads: readonly (readonly HostOpName[])[];
  /** Log dirty pages with explicit clearing. */
  readonly manualProtect?: 'get' | 'clear' | 'clear-initially-set';
  /** `random`: every guarded yield is taken, and chance decides who goes on. Default `clock`: the smallest clock. */
  readonly schedule?: 'clock' | 'random';
  /** Deleting and moving a slot zaps only its own translations. */
  readonly slotZap?: 'all' | 'slot';
  /** `none`: a broken L0, which these tests must find out. */
  readonly flushes?: 'all' | 'none';
  /** Check every use of a translation against the tables. */
  readonly staleCheck?: 'off' | 'hits';
}

/** The state of one run. */
export class StressRun {
  readonly scenario: Scenario;
  readonly host: EmulatedHost;
  readonly vm: KvmVm;
  readonly kvm: Kvm;
  readonly counts = new Map<string, number>();
  readonly vcpuThreads: Thread[] = [];
  /** Pages (by record number) that userspace wrote for the guest: the log need not have them. */
  readonly writtenByHost = new Set<number>();
  readonly logs = {
    stable: new DirtyLog(this, { area: 'stable', firstRecord: 0, records: STABLE_PAGES }),
    moving: new DirtyLog(this, { area: 'moving', firstRecord: STABLE_PAGES, records: MOVING_PAGES }),
  } as const;
  running = 0;
  /** The first error of any thread. */
  failure: Error | undefined;
  onFailure: (error: Error) => void = () => undefined;
  readonly #nextRng: Rng;
  readonly #symbols = new Map<SharedName, Hva>();

  constructor(scenario: Scenario, host: EmulatedHost, vm: KvmVm, kvm: Kvm, rng: Rng) {
    this.scenario = scenario;
    this.host = host;
    this.vm = vm;
    this.kvm = kvm;
    this.#nextRng = rng;
    for (const name of Object.keys(shared) as SharedName[])
      this.#symbols.set(name, addrGva2hva(vm, symbolAddress(vm, name)));
  }

  /** Where a global that guest and host share lies. Its page and those of its neighbours are not migrated. */
  symbolHva(symbol: SharedName): Hva {
    return this.#symbols.get(symbol)!;
  }

  /** Whether no vCPU has work left. */
  get over(): boolean {
    return this.running === 0 || this.failure !== undefined;
  }

  count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  /** A number below `n`. */
  draw(n: number): number {
    return (this.#nextRng.next() >>> 4) % n;
  }

  /** Let others go on; under a random schedule without a timer, which would come only when nothing else can happen. */
  *pause(ns: number): Steps<void> {
    if (this.scenario.schedule === 'random') yield;
    else yield* this.host.threads.sleepNs(ns);
  }

  /** Sleep; under a random schedule the smallest clock goes on meanwhile, else tasks without timers starve all others. */
  *letTimePass(ns: number): Steps<void> {
    const { sched } = this.host.host;
    sched.exploring = false;
    yield* this.host.threads.sleepNs(ns);
    sched.exploring = this.scenario.schedule === 'random' && !this.over;
  }

  /** The body of a thread: its error ends the run. */
  *guarded(body: Steps<void>): Steps<void> {
    try {
      yield* body;
    } catch (error) {
      this.failure ??= error instanceof Error ? error : new Error(String(error));
      this.onFailure(this.failure);
    }
  }
}
