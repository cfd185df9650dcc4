// SPDX-License-Identifier: GPL-2.0-only
/**
 * The trace buffer: a ring of structured events that are put into words only when somebody reads them. After ftrace's
 * ring buffer; a full ring forgets its oldest events. A tracepoint that is off costs one load and one test:
 * `if (trace.on[TP.KVM_ENTRY]) trace.record(TP.KVM_ENTRY, vcpu.vcpuId, rip);`.
 */
import type { SchedCore } from '../host/sched/core.ts';
import { NR_TRACEPOINTS, TP, TRACEPOINTS, type TraceArg } from './trace_events.ts';

/** One recorded event. */
export interface TraceRecord {
  readonly tracepoint: number;
  /** Cycles of the pCPU that recorded it. */
  readonly clock: number;
  readonly pcpu: number;
  readonly task: string;
  readonly args: readonly TraceArg[];
}

const DEFAULT_CAPACITY = 65_536;

export class KvmTrace {
  /** By tracepoint number: 1 if it records. */
  readonly on = new Uint8Array(NR_TRACEPOINTS);
  readonly #sched: SchedCore;
  readonly #ring: TraceRecord[] = [];
  readonly #capacity: number;
  #next = 0;
  /** Events that the full ring forgot. */
  lost = 0;
  /** Told of every event as it is recorded. */
  listener: ((record: TraceRecord) => void) | null = null;

  constructor(sched: SchedCore, capacity = DEFAULT_CAPACITY) {
    this.#sched = sched;
    this.#capacity = capacity;
  }

  /** Switch on the tracepoints whose name matches; how many. */
  enable(names: RegExp = /^/): number {
    return this.#set(names, 1);
  }

  disable(names: RegExp = /^/): number {
    return this.#set(names, 0);
  }

  record(tracepoint: number, ...args: TraceArg[]): void {
    const sched = this.#sched;
    const cpu = sched.cpu;
    const record = { tracepoint, clock: cpu.clock[0]!, pcpu: cpu.id, task: sched.context.name, args };
    if (this.#ring.length < this.#capacity) {
      this.#ring.push(record);
    } else {
      this.#ring[this.#next] = record;
      this.#next = (this.#next + 1) % this.#capacity;
      this.lost++;
    }
    this.listener?.(record);
  }

  /** What the ring holds, oldest first. */
  records(): TraceRecord[] {
    return [...this.#ring.slice(this.#next), ...this.#ring.slice(0, this.#next)];
  }

  clear(): void {
    this.#ring.length = 0;
    this.#next = 0;
    this.lost = 0;
  }

  /** The ring as ftrace prints it: `task [cpu] cycles: event: text`, one line each. */
  text(): string[] {
    return this.records().map(traceLine);
  }

  #set(names: RegExp, value: number): number {
    let matched = 0;
    for (const number of Object.values(TP)) {
      if (!names.test(TRACEPOINTS[number]!.name)) continue;
      this.on[number] = value;
      matched++;
    }
    return matched;
  }
}

/** One event as ftrace prints it. */
export function traceLine(record: TraceRecord): string {
  const { name, print } = TRACEPOINTS[record.tracepoint]!;
  const where = `[${String(record.pcpu).padStart(3, '0')}]`;
  return `${record.task.padStart(16)} ${where} ${record.clock}: ${name}: ${print(...record.args)}`;
}
