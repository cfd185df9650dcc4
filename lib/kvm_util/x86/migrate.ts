// SPDX-License-Identifier: GPL-2.0-only
/**
 * A vCPU's state saved, its VM closed, and the state loaded into a new VM: what the selftests of nested state do after each
 * stage of the guest. The registers must be the same, and the state saved from the new vCPU the one that was loaded.
 */
import type { Steps } from '../backend.ts';
import type { KvmVcpu } from '../kvm_util.ts';
import { TEST_ASSERT_EQ } from '../test_util.ts';
import { kvmVmRelease, vmRecreateWithOneVcpu } from '../vm_restart.ts';
import { type KvmX86State, vcpuLoadState, vcpuSaveState } from './state.ts';

/** Fields of a state as text, for comparison. */
const text = (value: unknown): string =>
  JSON.stringify(value, (_key, v: unknown) =>
    typeof v === 'bigint' ? `0x${v.toString(16)}` : v instanceof Uint8Array ? [...v].join() : v,
  );

/** A vCPU of a new VM with the old one's state, and that state. */
export interface Migrated {
  readonly vcpu: KvmVcpu;
  readonly state: KvmX86State;
}

/** Saves, closes, recreates with one vCPU, loads and compares. */
export function* vmMigrateWithOneVcpu(old: KvmVcpu): Steps<Migrated> {
  const { vm } = old;
  const state = yield* vcpuSaveState(old);
  const regs = old.fd.getRegs();
  yield* kvmVmRelease(vm);
  const vcpu = yield* vmRecreateWithOneVcpu(vm);
  vcpuLoadState(vcpu, state);
  TEST_ASSERT_EQ(text(vcpu.fd.getRegs()), text(regs), 'Unexpected register values after vcpu_load_state');
  return { vcpu, state };
}

/** Asserts that two saved states agree in registers, events and nested state. */
export function assertSameState(got: KvmX86State, expected: KvmX86State, what: string): void {
  for (const part of ['regs', 'sregs', 'events', 'mp_state', 'debugregs', 'nested'] as const) {
    TEST_ASSERT_EQ(text(got[part]), text(expected[part]), `${what}: ${part}`);
  }
}
