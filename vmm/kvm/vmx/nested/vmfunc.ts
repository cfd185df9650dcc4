// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMFUNC of L2, emulated: handle_vmfunc() and nested_vmx_eptp_switching() of arch/x86/kvm/vmx/nested.c, 6.12. What it
 * refuses is an exit to L1.
 */
import { gpa } from '../../../../lib/x86/addr.ts';
import { GPR } from '../../../../lib/x86/registers.ts';
import { VMFUNC_EPTP_ENTRIES } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { BugError } from '../../../machine/errors.ts';
import { vmread32, vmreadHigh } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';
import { isGuestMode, kvmRegisterRead32 } from '../../x86/cache_regs.ts';
import { kvmVcpuReadGuest } from '../../x86/guest_access.ts';
import { kvmSkipEmulatedInstruction } from '../../x86/skip.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { nestedVmxCheckEptp } from './check_execution.ts';
import { nestedVmxVmexit } from './exit.ts';
import { nestedEptNewEptp } from './mmu_context.ts';
import { nestedCpuHasVpid } from './vmcs12_controls.ts';

/** nested_vmx_eptp_switching(): false: the list's entry is none that may be used. */
function eptpSwitching(vcpu: Vcpu): boolean {
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  const index = kvmRegisterRead32(vcpu, GPR.RCX);
  if (index >= VMFUNC_EPTP_ENTRIES) return false;
  const entry = new Uint8Array(8);
  if (kvmVcpuReadGuest(vcpu, gpa(vmcs12.num(VMCS_CTRL.EPTP_LIST_ADDRESS) + 8 * index), entry) < 0)
    return false;
  const view = new DataView(entry.buffer);
  const lo = view.getInt32(0, true);
  const hi = view.getInt32(4, true);
  if (vmcs12.lo(VMCS_CTRL.EPT_POINTER) === lo && vmcs12.hi(VMCS_CTRL.EPT_POINTER) === hi) return true;
  if (!nestedVmxCheckEptp(vcpu, lo, hi)) return false;
  vmcs12.setPair(VMCS_CTRL.EPT_POINTER, lo, hi);
  nestedEptNewEptp(vcpu);
  if (!nestedCpuHasVpid(vmcs12)) kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
  return true;
}

/** handle_vmfunc(): the processor has checked that VMFUNC is enabled and that the function is below 64. */
export function handleVmfunc(vcpu: Vcpu): number {
  const vmx = toVmx(vcpu);
  if (!isGuestMode(vcpu)) throw new BugError(`${vcpu.name}: VMFUNC while L1 runs`);
  const fn = kvmRegisterRead32(vcpu, GPR.RAX);
  const enabled = (vmx.nested.cachedVmcs12.u64(VMCS_CTRL.VM_FUNCTION_CONTROL) >> BigInt(fn)) & 1n;
  if (fn === 0 && enabled === 1n && eptpSwitching(vcpu)) return kvmSkipEmulatedInstruction(vcpu);
  const cpu = vmxCpu(vcpu);
  const qualLo = vmread32(cpu, VMCS_INFO.EXIT_QUALIFICATION);
  const qualHi = vmreadHigh(cpu, VMCS_INFO.EXIT_QUALIFICATION);
  const intrInfo = vmread32(cpu, VMCS_INFO.VM_EXIT_INTR_INFO);
  nestedVmxVmexit(vcpu, { reason: vmx.exit.reason, intrInfo, qualLo, qualHi });
  return 1;
}
