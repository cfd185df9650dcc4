// SPDX-License-Identifier: GPL-2.0-only
/**
 * L2 switches between the EPTs that L1 lists for it, and functions that it may not use. Expected: SDM, "EPTP Switching" and
 * "General Operation of the VMFUNC Instruction".
 */
import { describe, it } from 'vitest';
import {
  array,
  at,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guestFn,
  guestUnit,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  READ_ONCE,
  u64,
  vmcall,
  vmcs_set_bits,
  vmfunc,
  vmlaunch,
  vmreadz,
  VmxPages,
  vmwrite,
} from '../../lib/guest/index.ts';
import type { KvmVm } from '../../lib/kvm_util/kvm_util.ts';
import { writeGpaU64 } from '../../lib/kvm_util/kvm_util.ts';
import { addrGva2gpa, virtMap, vmVaddrAlloc, writeGuest } from '../../lib/kvm_util/x86/page_table.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { tdpIdentityMapDefaultMemslots, tdpMap, vmEnableTdp } from '../../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { gpa } from '../../lib/x86/addr.ts';
import { SECONDARY_EXEC, VMX_VMFUNC } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO as I } from '../../lib/x86/vmx/vmcs_info.ts';
import { nextSync, withVm } from '../kvm_x86/small_vm.ts';

const STACK = 64;
/** L2's physical address that the two EPTs map to different pages, and L2's linear address of it. */
const WINDOW_GPA = 0x4000_0000;
const WINDOW = 0x6666_0000n;
const [FIRST, SECOND] = [0x1111n, 0x2222n];
const EPTP_FLAGS = 0x1en;

const L2 = guestUnit('L2').fn;
const windowIs = (g: GuestCode, value: bigint): void => GUEST_ASSERT_EQ(g, READ_ONCE(at(u64, WINDOW)), value);

/** An EPT with `page` in the window; the other tables are identity. Returns the EPTP without the A/D flag. */
function makeEpt(vm: KvmVm, page: number): bigint {
  vm.arch.tdpPgd = undefined;
  vmEnableTdp(vm);
  tdpMap(vm, WINDOW_GPA, page, 4096);
  tdpIdentityMapDefaultMemslots(vm);
  return BigInt(vm.arch.tdpPgd!) | EPTP_FLAGS;
}

/** L2 runs on the first EPT of the list; the third entry is no EPT pointer. */
function runWithTwoEpts(l2: (g: GuestCode) => void, check: (g: GuestCode) => void): void {
  const l2_code = L2('l2_code', [], l2);
  const code = guestFn('guest_code', [ptr(VmxPages), u64, u64], (g, vmx, list, eptp) => {
    const stack = g.local(array(u64, STACK));
    GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx));
    GUEST_ASSERT(g, load_vmcs(g, vmx));
    prepare_vmcs(g, vmx, l2_code, stack.at(STACK - 1).addr());
    vmcs_set_bits(g, C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VMFUNC);
    GUEST_ASSERT_EQ(g, vmwrite(g, C.VM_FUNCTION_CONTROL, VMX_VMFUNC.EPTP_SWITCHING), 0);
    GUEST_ASSERT_EQ(g, vmwrite(g, C.EPTP_LIST_ADDRESS, list), 0);
    GUEST_ASSERT_EQ(g, vmwrite(g, C.EPT_POINTER, eptp), 0);
    GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
    check(g);
    GUEST_DONE(g);
  });
  withVm(code, function* ({ vm, vcpu }) {
    const pages = [FIRST, SECOND].map((value) => {
      const page = vmVaddrAlloc(vm, 4096, 0x80_0000n);
      writeGuest(vm, page, new Uint8Array(new BigUint64Array([value]).buffer));
      return addrGva2gpa(vm, page);
    });
    virtMap(vm, WINDOW, gpa(WINDOW_GPA), 1);
    const list = addrGva2gpa(vm, vmVaddrAlloc(vm, 4096, 0x80_0000n));
    vmEnableTdp(vm);
    const vmx = vcpuAllocVmx(vm);
    const eptps = pages.map((page) => makeEpt(vm, page));
    [...eptps, 0x123n].forEach((eptp, i) => writeGpaU64(vm, gpa(list + 8 * i), eptp));
    vcpuArgsSet(vcpu, vmx, list, eptps[0]!);
    if ((yield* nextSync(vcpu)).length > 0) throw new Error('L1 did not come to its end');
  });
}

const exitIs = (reason: number) => (g: GuestCode) => GUEST_ASSERT_EQ(g, vmreadz(g, I.VM_EXIT_REASON), reason);

describe('EPTP switching by L2', () => {
  it('changes what a physical address stands for', () => {
    runWithTwoEpts((g) => {
      windowIs(g, FIRST);
      vmfunc(g, 0, 1);
      windowIs(g, SECOND);
      vmfunc(g, 0, 1);
      windowIs(g, SECOND);
      vmfunc(g, 0, 0);
      windowIs(g, FIRST);
      vmcall(g);
    }, exitIs(EXIT_REASON.VMCALL));
  });

  it.each([
    ['an entry that is no EPT pointer', 0, 2],
    ['an entry beyond the list', 0, 512],
    ['a function that is not enabled', 1, 0],
  ])('exits to L1 for %s', (_what, fn, index) => {
    runWithTwoEpts((g) => vmfunc(g, fn, index), exitIs(EXIT_REASON.VMFUNC));
  });
});
