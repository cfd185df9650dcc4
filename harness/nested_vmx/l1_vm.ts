// SPDX-License-Identifier: GPL-2.0-only
/** A small VM whose guest is an L1 hypervisor with one L2: what the tests of nested VMX begin and end with. */
import type { Steps } from '../../lib/kvm_util/backend.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import {
  array,
  type FnLinkable,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guestFn,
  guestUnit,
  load_vmcs,
  type Operand,
  type Place,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  type PtrType,
  u64,
  vmlaunch,
  vmreadz,
  vmwrite,
  VmxPages,
} from '../../lib/guest/index.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { expect } from 'vitest';
import { nextSync, withVm, type SmallVm, type SmallVmOptions } from '../kvm_x86/small_vm.ts';

export type Vmx = Place<PtrType<typeof VmxPages>>;

const STACK = 64;

/** L2's code. */
export const l2Code = (build: (g: GuestCode) => void): FnLinkable => guestUnit('L2').fn('l2_code', [], build);

/** L1 in VMX root operation with a VMCS for `l2` that VMLAUNCH takes. */
export function setUpL1(g: GuestCode, vmx: Vmx, l2: FnLinkable): void {
  const stack = g.local(array(u64, STACK));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
  GUEST_ASSERT(g, load_vmcs(g, vmx));
  prepare_vmcs(g, vmx, l2, stack.at(STACK - 1).addr());
}

/** VMLAUNCH, and the exit that it must lead to. */
export function launchTo(g: GuestCode, reason: Operand): void {
  GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), reason);
}

/** L2 goes on behind the instruction that exited. */
export function skipL2(g: GuestCode): void {
  const length = vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
  vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(length));
}

export interface L1Options extends SmallVmOptions {
  /** L2; L1 sets it up before its own code begins. */
  readonly l2?: FnLinkable;
  /** The host half in place of KVM_RUN to GUEST_DONE. */
  readonly drive?: (small: SmallVm) => Steps<void>;
}

/** Runs an L1 up to its GUEST_DONE; a failed guest assertion throws. */
export function runL1(body: (g: GuestCode, vmx: Vmx) => void, options: L1Options = {}): void {
  const code = guestFn('l1_code', [ptr(VmxPages)], (g, vmx) => {
    if (options.l2 !== undefined) setUpL1(g, vmx, options.l2);
    body(g, vmx);
    GUEST_DONE(g);
  });
  withVm(
    code,
    function* (small) {
      vcpuArgsSet(small.vcpu, vcpuAllocVmx(small.vm));
      if (options.drive !== undefined) yield* options.drive(small);
      else expect(yield* nextSync(small.vcpu)).toEqual([]);
    },
    options,
  );
}
