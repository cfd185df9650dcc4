// SPDX-License-Identifier: GPL-2.0-only
/**
 * Save a vCPU's state and load it into another: struct kvm_x86_state, vcpu_save_state() and vcpu_load_state() of
 * lib/x86/processor.c in tools/testing/selftests/kvm. Left out: KVM_GET_XSAVE, since guests use no floating point.
 */
import type { KvmMsrEntry } from '../../uapi/cpuid_msr.ts';
import type { KvmNestedState } from '../../uapi/nested_state.ts';
import type { KvmDebugregs, KvmRegs, KvmSregs, KvmXcrs } from '../../uapi/regs.ts';
import type { KvmMpState, KvmVcpuEvents } from '../../uapi/vcpu_state.ts';
import { hex } from '../../x86/bits.ts';
import type { Steps } from '../backend.ts';
import type { KvmVcpu } from '../kvm_util.ts';
import { TEST_ASSERT } from '../test_util.ts';
import { vcpuRunCompleteIo } from '../ucall_common.ts';
import { nestedStateSize, vcpuNestedStateGet, vcpuNestedStateSet } from './nested_state.ts';

/** struct kvm_x86_state. */
export interface KvmX86State {
  readonly events: KvmVcpuEvents;
  readonly mp_state: KvmMpState;
  readonly regs: KvmRegs;
  readonly xcrs: KvmXcrs;
  readonly sregs: KvmSregs;
  readonly debugregs: KvmDebugregs;
  /** Undefined without KVM_CAP_NESTED_STATE. */
  readonly nested: KvmNestedState | undefined;
  readonly msrs: readonly KvmMsrEntry[];
}

function saveMsrs(vcpu: KvmVcpu): KvmMsrEntry[] {
  const list = vcpu.vm.backend.kvm.getMsrIndexList();
  const msrs = vcpu.fd.getMsrs(list);
  TEST_ASSERT(msrs.length === list.length, () => `KVM_GET_MSRS failed on MSR ${hex(list[msrs.length]!)}`);
  return msrs;
}

function saveNested(vcpu: KvmVcpu): KvmNestedState | undefined {
  const size = nestedStateSize(vcpu);
  if (size === 0) return undefined;
  const nested = vcpuNestedStateGet(vcpu);
  TEST_ASSERT(
    nested.size <= size,
    () => `Nested state size too big, ${nested.size} (KVM_CHECK_CAP gave ${size})`,
  );
  return nested;
}

/** vcpu_save_state(). */
export function* vcpuSaveState(vcpu: KvmVcpu): Steps<KvmX86State> {
  yield* vcpuRunCompleteIo(vcpu);
  const { fd } = vcpu;
  return {
    events: fd.getVcpuEvents(),
    mp_state: fd.getMpState(),
    regs: fd.getRegs(),
    xcrs: fd.getXcrs(),
    sregs: fd.getSregs(),
    nested: saveNested(vcpu),
    msrs: saveMsrs(vcpu),
    debugregs: fd.getDebugregs(),
  };
}

/** vcpu_load_state(). Nested state is the last: it takes effect on what is loaded before. */
export function vcpuLoadState(vcpu: KvmVcpu, state: KvmX86State): void {
  const { fd } = vcpu;
  fd.setSregs(state.sregs);
  const done = fd.setMsrs(state.msrs);
  TEST_ASSERT(
    done === state.msrs.length,
    () => `KVM_SET_MSRS failed on MSR ${hex(state.msrs[done]!.index)}, value ${hex(state.msrs[done]!.data)}`,
  );
  fd.setXcrs(state.xcrs);
  fd.setVcpuEvents(state.events);
  fd.setMpState(state.mp_state);
  fd.setDebugregs(state.debugregs);
  fd.setRegs(state.regs);
  if (state.nested !== undefined) vcpuNestedStateSet(vcpu, state.nested);
}
