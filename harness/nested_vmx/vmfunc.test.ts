// SPDX-License-Identifier: GPL-2.0-only
/**
 * EPTP switching by L2, and what of it is an exit to L1; and nested state that is taken and put back. Expected: SDM, "VM
 * Functions", "EPTP Switching"; KVM's nested_vmx_eptp_switching() and vmx_set_nested_state().
 */
import { describe, expect, it } from 'vitest';
import {
  at,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_SYNC,
  type GuestCode,
  u64,
  vmcall,
  vmcs_set_bits,
  vmfunc,
  vmreadz,
  vmresume,
  vmwrite,
} from '../../lib/guest/index.ts';
import { vcpuRunCompleteIo } from '../../lib/kvm_util/ucall_common.ts';
import { vcpuArgsSet } from '../../lib/kvm_util/x86/processor.ts';
import { tdpIdentityMapDefaultMemslots, vmEnableTdp } from '../../lib/kvm_util/x86/tdp.ts';
import { vcpuAllocVmx } from '../../lib/kvm_util/x86/vmx.ts';
import { KVM_STATE_NESTED } from '../../lib/uapi/nested_state.ts';
import { SECONDARY_EXEC, VMX_EPTP } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { vmcs12Offset } from '../../vmm/kvm/vmx/nested/vmcs12_layout.ts';
import { nextSync } from '../kvm_x86/small_vm.ts';
import { l2Code, launchTo, runL1, type Vmx } from './l1_vm.ts';

/** L1's EPTP list in a page of its own: the EPTP in use, the same tables without accessed and dirty flags, and none. */
function setUpList(g: GuestCode, vmx: Vmx): void {
  const eptp = vmreadz(g, VMCS_CTRL.EPT_POINTER);
  const list = vmx.f.msr.cast(u64);
  g.set(at(u64, list), eptp);
  g.set(at(u64, list.add(8)), eptp.xor(VMX_EPTP.AD_ENABLE_BIT));
  vmcs_set_bits(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.ENABLE_VMFUNC);
  vmwrite(g, VMCS_CTRL.VM_FUNCTION_CONTROL, 1);
  vmwrite(g, VMCS_CTRL.EPTP_LIST_ADDRESS, vmx.f.msr_gpa);
}

function withEpt(body: (g: GuestCode, vmx: Vmx) => void, l2: (g: GuestCode) => void): void {
  runL1(body, {
    l2: l2Code(l2),
    *drive({ vm, vcpu }) {
      vmEnableTdp(vm);
      vcpuArgsSet(vcpu, vcpuAllocVmx(vm));
      tdpIdentityMapDefaultMemslots(vm);
      expect(yield* nextSync(vcpu)).toEqual([]);
    },
  });
}

describe('VMFUNC of L2', () => {
  it('switches to an EPTP of the list, which L1 then finds in its VMCS', () => {
    withEpt(
      (g, vmx) => {
        setUpList(g, vmx);
        const before = vmreadz(g, VMCS_CTRL.EPT_POINTER);
        launchTo(g, EXIT_REASON.VMCALL);
        const after = vmreadz(g, VMCS_CTRL.EPT_POINTER);
        GUEST_ASSERT_EQ(g, after, before.xor(VMX_EPTP.AD_ENABLE_BIT));
      },
      (g) => {
        vmfunc(g, 0, 0);
        vmfunc(g, 0, 1);
        vmfunc(g, 0, 1);
        g.loop(() => vmcall(g));
      },
    );
  });

  it.each<[string, number, number]>([
    ['an entry that is no EPTP', 0, 2],
    ['an index behind the list', 0, 512],
    ['a function that L1 has not enabled', 1, 0],
  ])('is an exit to L1 for %s, and changes nothing', (_what, fn, index) => {
    withEpt(
      (g, vmx) => {
        setUpList(g, vmx);
        const before = vmreadz(g, VMCS_CTRL.EPT_POINTER);
        launchTo(g, EXIT_REASON.VMFUNC);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN), 3);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_CTRL.EPT_POINTER), before);
      },
      (g) => vmfunc(g, fn, index),
    );
  });
});

/** The processor's own exit information, taken from vmcs02 with L2's state: a new vmcs02 has none. */
const OFFSET = vmcs12Offset(VMCS_INFO.GUEST_LINEAR_ADDRESS);
const GUEST_LINEAR_ADDRESS = [OFFSET, OFFSET + 8] as const;

describe('nested state', () => {
  const twice = l2Code((g) => {
    GUEST_SYNC(g, 2);
    g.loop(() => vmcall(g));
  });

  it('that is put back where it was taken is the same, with L1 active and with L2', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_GUEST.ES_LIMIT, 0xffff_ffff);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_SYNC(g, 1);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ES_LIMIT), 0xffff_ffff);
        GUEST_ASSERT(g, vmreadz(g, VMCS_GUEST.GDTR_BASE).ne(0));
        vmwrite(g, VMCS_CTRL.TSC_OFFSET, 0);
        GUEST_ASSERT_EQ(g, vmresume(g), 0);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ES_LIMIT), 0xffff_ffff);
      },
      {
        l2: twice,
        *drive({ vcpu }) {
          const size = 0x4000;
          for (const [sync, flags] of [
            [2n, KVM_STATE_NESTED.GUEST_MODE],
            [1n, 0],
          ] as const) {
            expect(yield* nextSync(vcpu)).toEqual([sync, 0n, 0n, 0n, 0n]);
            const { fd } = vcpu;
            yield* vcpuRunCompleteIo(vcpu);
            const events = fd.getVcpuEvents();
            const taken = fd.getNestedState(size);
            expect(taken.flags).toBe(flags);
            const sregs = fd.getSregs();
            const regs = fd.getRegs();
            fd.setNestedState(taken);
            fd.setSregs(sregs);
            fd.setRegs(regs);
            fd.setVcpuEvents(events);
            const again = fd.getNestedState(size);
            expect(again.flags).toBe(flags);
            for (const { data } of [taken, again]) data.vmx.vmcs12.fill(0, ...GUEST_LINEAR_ADDRESS);
            expect(Buffer.compare(again.data.vmx.vmcs12, taken.data.vmx.vmcs12)).toBe(0);
          }
          expect(yield* nextSync(vcpu)).toEqual([]);
        },
      },
    );
  });
});
