// SPDX-License-Identifier: GPL-2.0-only
/** MSRs whose place only VMX knows: vmx_get_msr() and vmx_set_msr() of arch/x86/kvm/vmx/vmx.c, 6.12. */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import type { KvmMsrEntry } from '../../../lib/uapi/cpuid_msr.ts';
import { MSR } from '../../../lib/x86/msr.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { vmread32, vmread64, vmwrite32, vmwrite64 } from '../../machine/vmx/vmcs_access.ts';
import { vmxCapabilityMsr } from '../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../kvm_host.ts';
import { high, low, pair } from '../x86/cache_regs.ts';
import { kvmGetMsrCommon, kvmSetMsrCommon, type MsrBy } from '../x86/msr.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

/** MSRs in the guest-state area. */
const VMCS_MSRS: ReadonlyMap<number, number> = new Map<number, number>([
  [MSR.FS_BASE, VMCS_GUEST.FS_BASE],
  [MSR.GS_BASE, VMCS_GUEST.GS_BASE],
  [MSR.IA32_SYSENTER_ESP, VMCS_GUEST.SYSENTER_ESP],
  [MSR.IA32_SYSENTER_EIP, VMCS_GUEST.SYSENTER_EIP],
]);
/** MSRs that stay in the processor while L0 runs ("user return MSRs"), in the order of VcpuVmx.uretMsrs. */
const URET_MSRS: readonly number[] = [MSR.SYSCALL_MASK, MSR.LSTAR, MSR.CSTAR, MSR.STAR, MSR.TSC_AUX];

const isCanonical = (value: bigint): boolean => BigInt.asUintN(64, BigInt.asIntN(48, value)) === value;
const NEEDS_CANONICAL: readonly number[] = [
  MSR.FS_BASE,
  MSR.GS_BASE,
  MSR.KERNEL_GS_BASE,
  MSR.IA32_SYSENTER_ESP,
  MSR.IA32_SYSENTER_EIP,
  MSR.LSTAR,
  MSR.CSTAR,
];

/** vmx_get_msr(). */
export function vmxGetMsr(vcpu: Vcpu, msr: KvmMsrEntry): number {
  const vmx = toVmx(vcpu);
  const field = VMCS_MSRS.get(msr.index);
  if (field !== undefined) {
    msr.data = vmread64(vmxCpu(vcpu), field);
    return 0;
  }
  const uret = URET_MSRS.indexOf(msr.index);
  if (uret >= 0) {
    msr.data = pair(vmx.uretMsrs[2 * uret]!, vmx.uretMsrs[2 * uret + 1]!);
    return 0;
  }
  if (msr.index === MSR.KERNEL_GS_BASE) {
    msr.data = pair(vmx.kernelGsBaseLo, vmx.kernelGsBaseHi);
    return 0;
  }
  if (msr.index === MSR.IA32_SYSENTER_CS) {
    msr.data = BigInt(vmread32(vmxCpu(vcpu), VMCS_GUEST.SYSENTER_CS));
    return 0;
  }
  return kvmGetMsrCommon(vcpu, msr);
}

/** vmx_set_msr(). */
export function vmxSetMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const vmx = toVmx(vcpu);
  if (NEEDS_CANONICAL.includes(msr.index) && !isCanonical(msr.data)) return 1;
  const field = VMCS_MSRS.get(msr.index);
  if (field !== undefined) {
    vmwrite64(vmxCpu(vcpu), field, msr.data);
    return 0;
  }
  const uret = URET_MSRS.indexOf(msr.index);
  if (uret >= 0) {
    if ((msr.index === MSR.TSC_AUX || msr.index === MSR.SYSCALL_MASK) && msr.data >> 32n !== 0n) return 1;
    vmx.uretDirty = true;
    vmx.uretMsrs[2 * uret] = low(msr.data);
    vmx.uretMsrs[2 * uret + 1] = high(msr.data);
    return 0;
  }
  if (msr.index === MSR.KERNEL_GS_BASE) {
    vmx.kernelGsBaseLo = low(msr.data);
    vmx.kernelGsBaseHi = high(msr.data);
    return 0;
  }
  if (msr.index === MSR.IA32_SYSENTER_CS) {
    vmwrite32(vmxCpu(vcpu), VMCS_GUEST.SYSENTER_CS, low(msr.data));
    return 0;
  }
  const r = kvmSetMsrCommon(vcpu, msr, by);
  if (r === 0 && msr.index === MSR.IA32_CR_PAT) vmwrite64(vmxCpu(vcpu), VMCS_GUEST.IA32_PAT, msr.data);
  return r;
}

/** kvm_set_user_return_msr(): the guest's values go into the processor, unless they are there from its last run. */
export function vmxLoadUretMsrs(cpu: Cpu, vcpu: Vcpu, owner: Vcpu[]): void {
  const vmx = toVmx(vcpu);
  if (owner[cpu.id] === vcpu && !vmx.uretDirty) return;
  const { uretMsrs } = vmx;
  owner[cpu.id] = vcpu;
  vmx.uretDirty = false;
  for (const [i, msr] of URET_MSRS.entries())
    cpu.sys.msrs.write(cpu, msr, uretMsrs[2 * i]!, uretMsrs[2 * i + 1]!);
}

/** vmx_get_msr_feature(): the capability MSRs for userspace. */
export function vmxGetMsrFeature(cpu: Cpu, msr: KvmMsrEntry): number {
  const value = vmxCapabilityMsr(cpu.vmx, msr.index);
  if (value === undefined) return -ERRNO.EINVAL;
  msr.data = pair(value[0], value[1]);
  return 0;
}
