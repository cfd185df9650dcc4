// SPDX-License-Identifier: GPL-2.0-only
/**
 * What L1 finds in its VMCS and in memory after exits and VMX instructions. Expected: SDM, "VMCLEAR", "VMPTRLD", "Saving MSRs",
 * "TSC offsetting"; KVM's nested_release_vmcs12(), free_nested() and nested_vmx_get_vmexit_msr_value().
 */
import { describe, it } from 'vitest';
import {
  at,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  rdtsc,
  u32,
  vmcall,
  vmclear,
  vmcs_revision,
  vmcs_set_bits,
  vmptrld,
  vmptrstz,
  vmreadz,
  vmwrite,
  VmxMsrEntry,
  vmxoff,
  vmxon,
} from '../../lib/guest/index.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { CPU_BASED } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { l2Code, launchTo, runL1 } from './l1_vm.ts';

const caller = l2Code((g) => g.loop(() => vmcall(g)));

describe('a VMCS of L1', () => {
  it('is in memory after VMCLEAR, and comes back by VMPTRLD with every field', () => {
    runL1(
      (g, vmx) => {
        vmwrite(g, VMCS_GUEST.ES_LIMIT, 0xfff);
        vmwrite(g, VMCS_GUEST.RIP, 0x1234_5678_9abcn);
        GUEST_ASSERT_EQ(g, vmclear(g, vmx.f.vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmptrstz(g), 2n ** 64n - 1n);
        GUEST_ASSERT_EQ(g, at(u32, vmx.f.vmcs), vmcs_revision(g));
        GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ES_LIMIT), 0xfff);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0x1234_5678_9abcn);
      },
      { l2: caller },
    );
  });

  it('keeps its fields through a VMXOFF that came after another had run', () => {
    runL1(
      (g, vmx) => {
        // Prepared in the page of the shadow VMCS, which is an ordinary one then.
        g.set(at(u32, vmx.f.shadow_vmcs), vmcs_revision(g));
        GUEST_ASSERT_EQ(g, vmclear(g, vmx.f.shadow_vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.shadow_vmcs_gpa), 0);
        vmwrite(g, VMCS_GUEST.ES_LIMIT, 0xabc);
        GUEST_ASSERT_EQ(g, vmclear(g, vmx.f.shadow_vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.vmcs_gpa), 0);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, vmxoff(g), 0);
        GUEST_ASSERT_EQ(g, vmxon(g, vmx.f.vmxon_gpa), 0);
        GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.shadow_vmcs_gpa), 0);
        vmwrite(g, VMCS_CTRL.TSC_OFFSET, 1);
        GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.ES_LIMIT), 0xabc);
      },
      { l2: caller },
    );
  });
});

describe('the MSR-store area', () => {
  it("gets L1's TSC, whatever offset L2 runs with", () => {
    runL1(
      (g, vmx) => {
        const entry = at(VmxMsrEntry, vmx.f.msr);
        g.set(entry.f.index, MSR.IA32_TSC);
        vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.USE_TSC_OFFSETTING);
        vmwrite(g, VMCS_CTRL.TSC_OFFSET, 1n << 48n);
        vmwrite(g, VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR, vmx.f.msr_gpa);
        vmwrite(g, VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT, 1);
        const before = rdtsc(g);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT(g, entry.f.value.gt(before));
        GUEST_ASSERT(g, entry.f.value.lt(rdtsc(g)));
      },
      { l2: caller },
    );
  });
});
