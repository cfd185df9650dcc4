// SPDX-License-Identifier: GPL-2.0-only
/**
 * What the selftests with a nested guest begin and end with: a VM whose guest code is an L1 hypervisor with a struct vmx_pages as
 * its first argument, and the loop over its ucalls.
 */
import { UCALL } from '../../guest/ucall.ts';
import { X86_FEATURE } from '../../x86/cpuid.ts';
import type { Backend, Steps } from '../backend.ts';
import type { KvmVcpu, KvmVm } from '../kvm_util.ts';
import { TEST_FAIL, TEST_REQUIRE } from '../test_util.ts';
import { runUntilUcall, type UcallView, unexpectedExit } from '../ucall_common.ts';
import { vmCreateWithOneVcpu, type VmOptions } from '../vm_create.ts';
import { kvmCpuHas } from './cpuid.ts';
import { vcpuArgsSet } from './processor.ts';
import { vcpuAllocVmx } from './vmx.ts';

/** TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_VMX)). */
export const requireVmx = (backend: Backend): void =>
  TEST_REQUIRE(kvmCpuHas(backend, X86_FEATURE.VMX), 'kvm_cpu_has(X86_FEATURE_VMX)');

/** A VM with one vCPU whose guest code takes a struct vmx_pages and `args`. */
export function* vmCreateWithL1(
  backend: Backend,
  options: VmOptions,
  ...args: bigint[]
): Steps<[KvmVm, KvmVcpu]> {
  requireVmx(backend);
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, options);
  vcpuArgsSet(vcpu, vcpuAllocVmx(vm), ...args);
  return [vm, vcpu];
}

/** Runs until UCALL_DONE; each UCALL_SYNC goes to `onSync`, anything else fails the test. */
export function* runUntilDone(
  vcpu: KvmVcpu,
  print: (line: string) => void,
  onSync: (uc: UcallView) => void = (uc) => TEST_FAIL(`Unexpected sync, stage ${uc.args[1]!}`),
): Steps<void> {
  for (;;) {
    const uc = yield* runUntilUcall(vcpu, print);
    if (uc.cmd === UCALL.DONE) return;
    if (uc.cmd === UCALL.NONE) unexpectedExit(vcpu);
    if (uc.cmd !== UCALL.SYNC) TEST_FAIL(`Unknown ucall ${uc.cmd}`);
    onSync(uc);
  }
}
