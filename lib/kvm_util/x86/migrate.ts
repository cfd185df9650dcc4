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

/** struct vmcs12's guest_linear_address: KVM takes it from vmcs02 whenever it is asked, and the new VM's had no exit yet. */
const GUEST_LINEAR_ADDRESS = { at: 0x1a0, size: 8 } as const;
const isLinearAddress = (i: number): boolean =>
  i >= GUEST_LINEAR_ADDRESS.at && i < GUEST_LINEAR_ADDRESS.at + GUEST_LINEAR_ADDRESS.size;

/** The first byte in which two VMCSs differ, as text; empty if they are equal. */
function vmcsDifference(got: Uint8Array, expected: Uint8Array): string {
  const at = got.findIndex((byte, i) => byte !== expected[i] && !isLinearAddress(i));
  return at < 0
    ? ''
    : `byte 0x${at.toString(16)}: got 0x${got[at]!.toString(16)}, expected 0x${expected[at]!.toString(16)}`;
}

/** Asserts that two saved states agree in registers, events and nested state. */
export function assertSameState(got: KvmX86State, expected: KvmX86State, what: string): void {
  for (const part of ['regs', 'sregs', 'events', 'mp_state', 'debugregs'] as const) {
    TEST_ASSERT_EQ(text(got[part]), text(expected[part]), `${what}: ${part}`);
  }
  const [a, b] = [got.nested, expected.nested];
  TEST_ASSERT_EQ(a === undefined, b === undefined, `${what}: no nested state`);
  if (a === undefined || b === undefined) return;
  for (const which of ['vmcs12', 'shadow_vmcs12'] as const) {
    TEST_ASSERT_EQ(vmcsDifference(a.data.vmx[which], b.data.vmx[which]), '', `${what}: ${which}`);
  }
  TEST_ASSERT_EQ(text({ ...a, data: 0 }), text({ ...b, data: 0 }), `${what}: nested state`);
}
