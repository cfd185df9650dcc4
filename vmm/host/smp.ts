// SPDX-License-Identifier: GPL-2.0-only
/**
 * Interprocessor calls after kernel/smp.c. The target takes the interrupt when its clock reaches the time of sending and
 * its interrupts are on; a vCPU in guest mode sees it as sched.irqPending() and exits. Functions are plain code.
 */
import { spend } from '../machine/cost/ledger.ts';
import { COST } from '../machine/cost/points.ts';
import type { SchedCore } from './sched/core.ts';
import { IRQ, type Interrupt } from './sched/hrtimer.ts';
import { WaitQueue } from './sched/wait_queue.ts';
import type { Steps } from './steps.ts';

/** The scheduler's side of interrupts. */
export interface IrqSink extends SchedCore {
  raise(cpu: number, irq: Interrupt): void;
  kick(cpu: number): void;
  now(): number;
}

export class Smp {
  readonly #sched: IrqSink;

  constructor(sched: IrqSink) {
    this.#sched = sched;
  }

  /** smp_send_reschedule(). */
  smpSendReschedule(cpu: number): void {
    this.#sched.kick(cpu);
  }

  /** smp_call_function_many() without waiting: `fn` runs on each of `cpus` except the current one. How many those are. */
  smpCallFunctionManyNowait(cpus: Iterable<number>, fn: (cpu: number) => void, name = 'call'): number {
    let sent = 0;
    for (const cpu of cpus) {
      if (cpu === this.#sched.cpu.id) continue;
      this.#send(cpu, () => fn(cpu), name);
      sent++;
    }
    return sent;
  }

  /** smp_call_function_many(): `fn` runs on each of `cpus` except the current one, and has run everywhere on return. */
  *smpCallFunctionMany(cpus: Iterable<number>, fn: (cpu: number) => void, name = 'call'): Steps<void> {
    const pending = new Set<number>();
    const queue = new WaitQueue(this.#sched, name);
    queue.describe = () => `pCPU ${[...pending].join(', ')} to answer the interprocessor interrupt "${name}"`;
    this.#sched.preemptDisable();
    for (const cpu of cpus) {
      if (cpu === this.#sched.cpu.id) continue;
      pending.add(cpu);
      this.#send(
        cpu,
        () => {
          fn(cpu);
          pending.delete(cpu);
          if (pending.size === 0) queue.wakeAll();
        },
        name,
      );
    }
    while (pending.size !== 0) yield* queue.spin();
    this.#sched.preemptEnable();
  }

  /** The ids of all pCPUs: cpu_online_mask. */
  get onlineMask(): readonly number[] {
    return this.#sched.cpus.map((cpu) => cpu.id);
  }

  /**
   * flush_tlb_kernel_range() or flush_tlb_mm(): one round of shootdown. The receivers take an interrupt (and leave guest
   * mode for it); the sender's wait is a price, not a wait. Without receivers the local flush is free.
   */
  tlbShootdown(cpus: Iterable<number>): void {
    const sched = this.#sched;
    let targets = 0;
    for (const cpu of cpus) {
      if (cpu === sched.cpu.id) continue;
      this.#raise(cpu, () => undefined, 'TLB shootdown');
      targets++;
    }
    if (targets === 0) return;
    sched.counters.shootdowns++;
    spend(sched.cpu, COST.SHOOTDOWN);
    spend(sched.cpu, COST.SHOOTDOWN_PER_CPU, targets);
  }

  #send(cpu: number, handler: () => void, name: string): void {
    spend(this.#sched.cpu, COST.IPI_SEND);
    this.#raise(cpu, handler, name);
  }

  #raise(cpu: number, handler: () => void, name: string): void {
    const sched = this.#sched;
    sched.counters.ipis++;
    sched.raise(cpu, { name, kind: IRQ.IPI, at: sched.now(), handler });
  }
}
