// SPDX-License-Identifier: GPL-2.0-only
/** The emulated host as a Backend: a machine, a host kernel on it, KVM loaded, and one process that opens /dev/kvm. */
import type { Backend, Steps } from '../lib/kvm_util/backend.ts';
import { createHost, type Host } from './host/host.ts';
import type { MmStruct } from './host/mm/mm_struct.ts';
import { eptMasks } from './kvm/mmu/spte.ts';
import { KvmModule } from './kvm/module.ts';
import { KVM_PARAMS, ParamError, parseParams, unmodelledParam, type ParamName } from './kvm/params.ts';
import { vmxCaps, vmxX86Ops } from './kvm/vmx/vmx.ts';
import { x86ArchOps } from './kvm/x86/x86.ts';
import { PROFILES } from './machine/cost/profiles.ts';
import { BugError } from './machine/errors.ts';
import { createMachine, type Machine } from './machine/machine.ts';
import type { TlbPolicy } from './machine/mmu/mmu.ts';
import { EmulatedMemory } from './emulated/memory.ts';
import { EmulatedThreads } from './emulated/threads.ts';
import { EmulatedKvmDevice } from './emulated/vm_fd.ts';

export interface EmulatedHostOptions {
  /** Module parameters, as `kvm_intel.vpid=0`. */
  readonly params?: readonly string[];
  readonly seed?: number;
  /** Default 4. */
  readonly nrCpus?: number;
  /** Default 1 GiB. */
  readonly ramBytes?: number;
  /** How much of it has no struct page; default 0. */
  readonly unmanagedBytes?: number;
  /** Replacement of the modelled TLB; default `real`. */
  readonly tlb?: TlbPolicy;
  /** Called now and then while the simulation runs. */
  readonly heartbeat?: () => void;
}

const DEFAULT_RAM = 0x4000_0000;
/** A turn is at most a slice: milliseconds of wall time when a guest only computes. */
const HEARTBEAT_TURNS = 16;

/** The Backend with what lies under it, for tests of the emulator itself. */
export interface EmulatedHost extends Backend {
  readonly machine: Machine;
  readonly host: Host;
  readonly module: KvmModule;
}

/** One clear line if a module parameter is unknown or its value refused, else undefined. */
export function validateParams(params: readonly string[]): string | undefined {
  try {
    return unmodelledParam(parseParams(params));
  } catch (error) {
    if (error instanceof ParamError) return error.message;
    throw error;
  }
}

/** Build machine, host and KVM, and load the modules with the given parameters. */
export function createEmulatedHost(options: EmulatedHostOptions = {}): EmulatedHost {
  const profile = PROFILES.skylake;
  const machine = createMachine({
    profile,
    nrCpus: options.nrCpus ?? 4,
    ramBytes: options.ramBytes ?? DEFAULT_RAM,
    tlb: options.tlb ?? 'real',
    seed: options.seed ?? 1,
  });
  const host = createHost({ machine, unmanagedBytes: options.unmanagedBytes ?? 0 });
  const params = parseParams(options.params ?? []);
  const caps = vmxCaps(host, params, profile);
  const arch = x86ArchOps();
  const ops = vmxX86Ops(host, params);
  const module = new KvmModule(host, {
    params,
    masks: eptMasks(caps.adEnabled ? 'ad' : 'no-ad'),
    arch,
    ops,
    caps,
  });
  for (const cpu of machine.cpus) {
    if (ops.hardwareEnable(cpu) !== 0) throw new BugError(`VMXON failed on pCPU ${cpu.id}`);
  }
  const mm = host.createMm('selftest');
  const threads = new EmulatedThreads(host, mm, profile.tscKhz);
  return {
    name: 'emulated',
    machine,
    host,
    module,
    kvm: new EmulatedKvmDevice(module, mm, arch),
    memory: new EmulatedMemory(host, mm),
    threads,
    moduleParam: (name) => paramText(params, name),
    runMain: (main) => runMain(host, mm, threads, main, options.heartbeat),
  };
}

/** A parameter as sysfs shows it. */
function paramText(params: Readonly<Record<ParamName, number>>, name: string): string | undefined {
  if (!Object.hasOwn(KVM_PARAMS, name)) return undefined;
  const value = params[name as ParamName];
  return KVM_PARAMS[name as ParamName].kind === 'int' ? String(value) : value === 0 ? 'N' : 'Y';
}

function runMain(
  host: Host,
  mm: MmStruct,
  threads: EmulatedThreads,
  main: () => Steps<void>,
  heartbeat: (() => void) | undefined,
): void {
  let turns = 0;
  const beat = (): boolean => {
    if (heartbeat !== undefined && ++turns % HEARTBEAT_TURNS === 0) heartbeat();
    return false;
  };
  const outcome: { error?: unknown; failed: boolean } = { failed: false };
  const guarded = function* (): Steps<void> {
    try {
      yield* main();
    } catch (error) {
      outcome.failed = true;
      outcome.error = error;
    }
  };
  const task = host.sched.spawn('main', guarded(), { process: mm });
  // The process ends with its main thread, as after exit().
  try {
    host.sched.run(() => beat() || !task.alive);
  } catch (error) {
    // A task that fails inside the kernel also ends with locks held: the first error is the story.
    if (outcome.failed) throw outcome.error;
    throw threads.unjoinedError()?.error ?? error;
  }
  if (outcome.failed) throw outcome.error;
  const left = threads.unjoinedError();
  if (left !== undefined) throw left.error;
}
