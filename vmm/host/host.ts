// SPDX-License-Identifier: GPL-2.0-only
/**
 * The host kernel: its services on one machine. The top `unmanagedBytes` of memory are hidden from it, as `mem=` does;
 * the rest has struct pages and a direct map.
 */
import { PAGE_SHIFT, PAGE_SIZE } from '../../lib/x86/addr.ts';
import type { Cpu } from '../machine/cpu/cpu.ts';
import { BugError } from '../machine/errors.ts';
import { HostCounters } from './counters.ts';
import { BackingFile } from './mm/backing_file.ts';
import type { HostMemory } from './mm/host_memory.ts';
import { KernelMap } from './mm/kernel_map.ts';
import { MmStruct } from './mm/mm_struct.ts';
import { PageAllocator } from './mm/page_alloc.ts';
import type { MmServices } from './mm/services.ts';
import { UnmanagedMemory } from './mm/unmanaged.ts';
import type { SchedOptions } from './sched/dispatcher.ts';
import { Scheduler } from './sched/sched.ts';
import { Smp } from './smp.ts';

/** The machine that a host kernel boots on. */
export interface HostMachine extends HostMemory {
  readonly cpus: readonly Cpu[];
}

export interface HostOptions {
  readonly machine: HostMachine;
  /** Memory without struct pages, at the top of RAM. Default 0. */
  readonly unmanagedBytes?: number;
  readonly sched?: SchedOptions;
}

export class Host implements MmServices {
  readonly machine: HostMachine;
  readonly counters = new HostCounters();
  readonly sched: Scheduler;
  readonly smp: Smp;
  readonly pages: PageAllocator;
  readonly unmanaged: UnmanagedMemory;
  readonly kernelMap: KernelMap;

  constructor(options: HostOptions) {
    const { machine, unmanagedBytes = 0 } = options;
    const end = machine.frames.nrFrames;
    const border = end - Math.ceil(unmanagedBytes / PAGE_SIZE);
    if (border << PAGE_SHIFT <= 0)
      throw new BugError(`${unmanagedBytes} bytes of unmanaged memory leave none to the kernel`);
    this.machine = machine;
    this.sched = new Scheduler(machine.cpus, this.counters, options.sched);
    this.smp = new Smp(this.sched);
    this.pages = new PageAllocator(machine, this.sched, 0, border);
    this.unmanaged = new UnmanagedMemory(machine, this.sched, border, end);
    this.kernelMap = new KernelMap(this);
  }

  /** The current pCPU. */
  get cpu(): Cpu {
    return this.sched.cpu;
  }

  /** The address space of a new process. */
  createMm(name: string): MmStruct {
    return new MmStruct(this, name);
  }

  /** memfd_create() and ftruncate(). */
  memfdCreate(name: string, bytes: number): BackingFile {
    return new BackingFile(this, name, Math.ceil(bytes / PAGE_SIZE), 'memfd');
  }

  /** A file of unmanaged frames: what userspace maps to give a guest unmanaged memory. */
  unmanagedFile(name: string, bytes: number): BackingFile {
    return new BackingFile(this, name, Math.ceil(bytes / PAGE_SIZE), 'unmanaged');
  }
}

/** Boot a host kernel. */
export const createHost = (options: HostOptions): Host => new Host(options);
