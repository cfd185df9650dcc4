// SPDX-License-Identifier: GPL-2.0-only
/**
 * A VM as most tests want it, with its memslots and its vCPU there, and a guest that reads and writes; and races between
 * vCPUs and the host.
 */
import type { Steps } from '../../host/steps.ts';
import type { Vcpu } from '../kvm_host.ts';
import {
  createVcpu,
  drive,
  guestAccess,
  mmap,
  setSlot,
  testVm,
  type AccessResult,
  type SlotSpec,
  type TestKvmOptions,
  type TestVm,
} from './test_kvm.ts';

export interface TestGuestOptions extends TestKvmOptions {
  /** Memslots, set in turn. Default one of 1 MiB at GPA 0. */
  readonly slots?: readonly SlotSpec[];
  /** Of the vCPU that the guest begins with. Default 0. */
  readonly vcpuId?: number;
}

/** A VM with memslots and a vCPU, which makes the accesses. */
export interface TestGuest extends TestVm {
  /** Where the first memslot begins; 0 without memslots. */
  readonly hva: number;
  readonly vcpu: Vcpu;
  readonly read: (gpa: number) => Steps<AccessResult>;
  readonly write: (gpa: number, value: number) => Steps<AccessResult>;
  readonly mmap: (bytes: number, advice?: number) => Steps<number>;
  readonly setSlot: (spec?: SlotSpec) => Steps<number>;
  readonly createVcpu: (id: number) => Steps<Vcpu>;
}

export function testGuest(options: TestGuestOptions = {}): TestGuest {
  const { slots = [{}], vcpuId = 0 } = options;
  const vm = testVm(options);
  const hvas = slots.map((spec) => drive(vm, setSlot(vm, spec)));
  const vcpu = drive(vm, createVcpu(vm, vcpuId));
  return {
    ...vm,
    hva: hvas[0] ?? 0,
    vcpu,
    read: (gpa) => guestAccess(vcpu, gpa),
    write: (gpa, value) => guestAccess(vcpu, gpa, value),
    mmap: (bytes, advice) => mmap(vm, bytes, advice),
    setSlot: (spec) => setSlot(vm, spec),
    createVcpu: (id) => createVcpu(vm, id),
  };
}

/** Make a guest, and run `body` as the only task. */
export function runGuest(options: TestGuestOptions, body: (guest: TestGuest) => Steps<void>): void {
  const guest = testGuest(options);
  drive(guest, body(guest));
}

/** What an access becomes that reaches memory, and the value that is there afterwards. */
export const done = (value: number): AccessResult => ({ kind: 'done', value });

/** What an access becomes that KVM has to emulate. */
export const EMULATE: AccessResult = { kind: 'emulate' };

/** What an access becomes that ends in an error for userspace. */
export const failed = (errno: number): AccessResult => ({ kind: 'error', errno });

/** Options of a VM for races: three pCPUs, one of them for the host's side, and an end for what never ends. */
export const RACE = { nrCpus: 3, sched: { maxTurns: 100_000 } } as const;

/** Run tasks, by name, each on a pCPU of its own; at each yield a generator with this seed picks who goes on. */
export function race(vm: TestVm, seed: number, tasks: Readonly<Record<string, Steps<void>>>): void {
  const { sched } = vm.kvm.host;
  let state = seed;
  sched.exploring = true;
  sched.choose = (candidates) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * candidates.length);
  };
  Object.entries(tasks).forEach(([name, steps], cpu) => sched.spawn(name, steps, { cpu }));
  sched.run();
  sched.exploring = false;
}
