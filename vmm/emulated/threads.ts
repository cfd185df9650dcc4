// SPDX-License-Identifier: GPL-2.0-only
/** Threads of the test process as tasks of the host's scheduler, and its clocks in nanoseconds of virtual time. */
import type { Steps, Thread, Threads } from '../../lib/kvm_util/backend.ts';
import type { Host } from '../host/host.ts';
import type { MmStruct } from '../host/mm/mm_struct.ts';
import { HrTimer } from '../host/sched/hrtimer.ts';
import type { Task } from '../host/sched/task.ts';
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import { BugError } from '../machine/errors.ts';

class EmulatedThread implements Thread {
  readonly name: string;
  task: Task | null = null;
  failed = false;
  error: unknown;

  constructor(name: string) {
    this.name = name;
  }
}

export class EmulatedThreads implements Threads {
  readonly #host: Host;
  readonly #mm: MmStruct;
  readonly #tscKhz: number;
  readonly #threads: EmulatedThread[] = [];

  constructor(host: Host, mm: MmStruct, tscKhz: number) {
    this.#host = host;
    this.#mm = mm;
    this.#tscKhz = tscKhz;
  }

  get nrCpus(): number {
    return this.#host.sched.cpus.length;
  }

  spawn(name: string, body: () => Steps<void>, options: { cpu?: number } = {}): Thread {
    const thread = new EmulatedThread(name);
    thread.task = this.#host.sched.spawn(name, this.#guarded(thread, body), {
      ...options,
      process: this.#mm,
    });
    this.#threads.push(thread);
    return thread;
  }

  /** An error ends the thread only; whoever joins it gets the error. */
  *#guarded(thread: EmulatedThread, body: () => Steps<void>): Steps<void> {
    try {
      yield* body();
    } catch (error) {
      thread.failed = true;
      thread.error = error;
    }
  }

  *join(thread: Thread): Steps<void> {
    const t = own(thread);
    yield* this.#host.sched.join(t.task!);
    if (!t.failed) return;
    t.failed = false;
    throw t.error;
  }

  /** The error of a thread that nobody joined, if there is one. */
  unjoinedError(): { readonly error: unknown } | undefined {
    const t = this.#threads.find((thread) => thread.failed);
    return t === undefined ? undefined : { error: t.error };
  }

  setAffinity(thread: Thread, cpu: number): void {
    this.#host.sched.setAffinity(own(thread).task!, cpu);
  }

  kill(thread: Thread): void {
    this.#host.sched.sendSignal(own(thread).task!);
  }

  *sleepNs(ns: number): Steps<void> {
    spend(this.#host.sched.cpu, COST.SYSCALL);
    yield* this.#host.sched.sleepCycles(this.#cycles(ns));
  }

  *spinUntil(condition: () => boolean, timeoutNs = Infinity): Steps<boolean> {
    const { sched } = this.#host;
    if (timeoutNs === Infinity) {
      yield* sched.spinUntil(condition, 'a condition in memory');
      return true;
    }
    const deadline = sched.now() + this.#cycles(timeoutNs);
    // The end of the time is an event, even if nothing else ever happens.
    const timer = new HrTimer('timeout of a poll', () => undefined);
    sched.hrtimerStart(timer, deadline);
    yield* sched.spinUntil(() => condition() || this.#latestClock() >= deadline, 'a condition in memory');
    sched.hrtimerCancel(timer);
    return condition();
  }

  /** The furthest clock: a spinner's own stands still while it is not looked at. */
  #latestClock(): number {
    return Math.max(...this.#host.sched.cpus.map((cpu) => cpu.clock[0]!));
  }

  nowNs(): number {
    return Math.floor((this.#host.sched.now() * 1e6) / this.#tscKhz);
  }

  #cycles(ns: number): number {
    return Math.ceil((ns * this.#tscKhz) / 1e6);
  }
}

function own(thread: Thread): EmulatedThread {
  if (!(thread instanceof EmulatedThread))
    throw new BugError(`thread "${thread.name}" is of another backend`);
  return thread;
}
