// SPDX-License-Identifier: GPL-2.0-only
/**
 * What a processor with the capabilities that L1 sees would say of a VMCS: the machine's own checks, which know nothing of
 * KVM, on a bare machine with the fields of a vmcs12. The memory that fields point to is not looked at.
 */
import { CPU_BASED, VM_ENTRY, VM_EXIT } from '../../lib/x86/vmx/controls.ts';
import { INTR_INFO } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../lib/x86/vmx/vmcs_host.ts';
import type { NestedControlCaps, NestedVmxMsrs } from '../../vmm/kvm/vmx/nested/nested_msrs.ts';
import type { Vmcs12 } from '../../vmm/kvm/vmx/nested/vmcs12.ts';
import { nestedCpuHas } from '../../vmm/kvm/vmx/nested/vmcs12_controls.ts';
import { VMCS12_FIELDS } from '../../vmm/kvm/vmx/nested/vmcs12_layout.ts';
import type { ControlCaps, VmxCaps } from '../../vmm/machine/vmx/caps.ts';
import { checkControls, checkInjection } from '../../vmm/machine/vmx/check_controls.ts';
import { checkGuestRegisters, checkSupportedMode } from '../../vmm/machine/vmx/check_guest.ts';
import { checkGuestActivity } from '../../vmm/machine/vmx/check_guest_activity.ts';
import { checkGuestSegments } from '../../vmm/machine/vmx/check_guest_segments.ts';
import { checkHostState } from '../../vmm/machine/vmx/check_host.ts';
import { VmxBox } from '../../vmm/machine/vmx/testing/fixture.ts';
import { vmwrite64 } from '../../vmm/machine/vmx/vmcs_access.ts';

/** The rule that each group of checks finds broken, or null. */
export interface Verdict {
  readonly controls: string | null;
  readonly host: string | null;
  readonly guest: string | null;
}

const controlCaps = ({ low, high }: NestedControlCaps): ControlCaps => ({
  must1: low | 0,
  may1: high | 0,
  default1: low | 0,
});

function capsOf(msrs: NestedVmxMsrs, hardware: VmxCaps): VmxCaps {
  return {
    ...hardware,
    pin: controlCaps(msrs.pinbased),
    cpuBased: controlCaps(msrs.procbased),
    secondary: controlCaps(msrs.secondary),
    exit: controlCaps(msrs.exit),
    entry: controlCaps(msrs.entry),
    misc: msrs.misc[0],
    eptCap: msrs.eptCaps | 0,
    vpidCapHi: msrs.vpidCaps,
    vmfunc: msrs.vmfuncControls,
    cr0Fixed0: msrs.cr0Fixed0[0] | 0,
    cr0Fixed1: msrs.cr0Fixed1[0] | 0,
    cr4Fixed0: msrs.cr4Fixed0[0] | 0,
    cr4Fixed1: msrs.cr4Fixed1[0] | 0,
  };
}

export class EntryOracle {
  readonly #box = new VmxBox().begin();

  constructor(msrs: NestedVmxMsrs) {
    const { vmx } = this.#box.cpu;
    Object.assign(vmx, { caps: capsOf(msrs, vmx.caps) });
  }

  verdict(vmcs12: Vmcs12): Verdict {
    const { cpu } = this.#box;
    for (const field of VMCS12_FIELDS)
      if (cpu.vmx.caps.fieldWord[field] !== -1) vmwrite64(cpu, field, vmcs12.u64(field));
    // KVM looks at the multiplier only together with an offset; L2 then runs with L0's.
    if (!nestedCpuHas(vmcs12, CPU_BASED.USE_TSC_OFFSETTING)) vmwrite64(cpu, C.TSC_MULTIPLIER, 1n << 48n);
    const injects = (vmcs12.lo(C.VM_ENTRY_INTR_INFO_FIELD) & INTR_INFO.VALID_MASK) !== 0;
    return {
      controls: checkControls(cpu) ?? (injects ? checkInjection(cpu) : null),
      host: checkHostState(cpu) ?? perfGlobalCtrl(vmcs12, C.VM_EXIT_CONTROLS),
      guest:
        checkGuestRegisters(cpu) ??
        perfGlobalCtrl(vmcs12, C.VM_ENTRY_CONTROLS) ??
        checkGuestSegments(cpu) ??
        checkGuestActivity(cpu) ??
        checkSupportedMode(cpu),
    };
  }
}

/** IA32_PERF_GLOBAL_CTRL without any counter: every bit is reserved. The machine has no such control. */
function perfGlobalCtrl(v: Vmcs12, controls: number): string | null {
  const onEntry = controls === C.VM_ENTRY_CONTROLS;
  const bit = onEntry ? VM_ENTRY.LOAD_IA32_PERF_GLOBAL_CTRL : VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL;
  const field = onEntry ? G.IA32_PERF_GLOBAL_CTRL : H.IA32_PERF_GLOBAL_CTRL;
  return (v.lo(controls) & bit) !== 0 && (v.lo(field) | v.hi(field)) !== 0 ? 'IA32_PERF_GLOBAL_CTRL' : null;
}
