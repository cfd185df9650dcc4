// SPDX-License-Identifier: GPL-2.0-only
/**
 * Faults of EPT12 that L0 found, for L1: nested_ept_inject_page_fault() and nested_vmx_write_pml_buffer() of
 * arch/x86/kvm/vmx/nested.c, 6.18. PML is emulated: an EPT12 entry that becomes dirty is logged where L1 asked for it.
 */
import { gpa } from '../../../../lib/x86/addr.ts';
import { PFERR } from '../../../../lib/x86/exceptions.ts';
import { EPT_VIOLATION } from '../../../../lib/x86/vmx/exit_quals.ts';
import { EXIT_REASON } from '../../../../lib/x86/vmx/exit_reasons.ts';
import { INTR_INFO } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { BugError } from '../../../machine/errors.ts';
import { vmread32 } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { isGuestMode } from '../../x86/cache_regs.ts';
import { kvmVcpuWriteGuest } from '../../x86/guest_access.ts';
import type { X86Exception } from '../../x86/x86_exception.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { nestedVmxVmexitSimple } from './exit.ts';
import { nestedCpuHasPml } from './vmcs12_controls.ts';

/** Entries of the log page; its index counts down. */
const PML_ENTRIES = 512;
const GVA_BITS = EPT_VIOLATION.GVA_IS_VALID | EPT_VIOLATION.GVA_TRANSLATED;

/** What L0's own walk does not know: whether a linear address was involved, and what IRET had undone. */
function hardwareBits(vcpu: Vcpu, mask: number): number {
  if (toVmx(vcpu).exit.reason !== EXIT_REASON.EPT_VIOLATION) return 0;
  return vmread32(vmxCpu(vcpu), VMCS_INFO.EXIT_QUALIFICATION) & mask;
}

/** nested_ept_inject_page_fault(): EPT violation, EPT misconfiguration, or a full page-modification log. */
export function nestedEptInjectPageFault(vcpu: Vcpu, fault: X86Exception): void {
  const { nested } = toVmx(vcpu);
  const unblocked = hardwareBits(vcpu, INTR_INFO.UNBLOCK_NMI);
  let reason: number = EXIT_REASON.EPT_VIOLATION;
  let qualification = fault.exitQualification | unblocked;
  if (fault.fromHardware) qualification = (qualification & ~GVA_BITS) | hardwareBits(vcpu, GVA_BITS);
  if (nested.pmlFull) {
    nested.pmlFull = false;
    reason = EXIT_REASON.PML_FULL;
    qualification = unblocked;
  } else if ((fault.errorCode & PFERR.RSVD) !== 0) {
    reason = EXIT_REASON.EPT_MISCONFIG;
    qualification = 0;
  }
  nestedVmxVmexitSimple(vcpu, reason, 0, qualification);
  nested.cachedVmcs12.setNum(VMCS_INFO.GUEST_PHYSICAL_ADDRESS, fault.address);
}

/** nested_vmx_write_pml_buffer(). */
export function nestedVmxWritePmlBuffer(vcpu: Vcpu, l2Gpa: number): 'logged' | 'full' {
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  if (!isGuestMode(vcpu)) throw new BugError(`${vcpu.name}: an EPT12 entry becomes dirty while L1 runs`);
  if (!nestedCpuHasPml(vmcs12)) return 'logged';
  const index = vmcs12.lo(VMCS_GUEST.PML_INDEX);
  if (index >= PML_ENTRIES) {
    nested.pmlFull = true;
    return 'full';
  }
  const entry = new Uint8Array(8);
  new DataView(entry.buffer).setBigUint64(0, BigInt(l2Gpa) & ~0xfffn, true);
  if (kvmVcpuWriteGuest(vcpu, gpa(vmcs12.num(VMCS_CTRL.PML_ADDRESS) + 8 * index), entry) === 0)
    vmcs12.set32(VMCS_GUEST.PML_INDEX, (index - 1) & 0xffff);
  return 'logged';
}
