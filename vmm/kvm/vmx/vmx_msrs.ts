// SPDX-License-Identifier: GPL-2.0-only
/** MSRs whose place only VMX knows: vmx_get_msr() and vmx_set_msr() of arch/x86/kvm/vmx/vmx.c, 6.12. */
import { ERRNO } from '../../../lib/uapi/errno.ts';
import type { KvmMsrEntry } from '../../../lib/uapi/cpuid_msr.ts';
import { DEBUGCTL, MSR } from '../../../lib/x86/msr.ts';
import { FEAT_CTL, VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { vmread32, vmread64, vmwrite32, vmwrite64 } from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmParams } from '../params.ts';
import { high, isGuestMode, low, pair } from '../x86/cache_regs.ts';
import { kvmGetMsrCommon, kvmSetMsrCommon, type MsrBy } from '../x86/msr.ts';
import { vmxSetVmxMsr } from './nested/msr_restore.ts';
import { vmxGetVmxMsr, type NestedVmxMsrs } from './nested/nested_msrs.ts';
import { nestedExitHas } from './nested/vmcs12_controls.ts';
import type { Vmcs12 } from './nested/vmcs12.ts';
import { toVmx, vmxCpu, type VcpuVmx } from './vcpu_vmx.ts';

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

/** KVM_FIRST_EMULATED_VMX_MSR to KVM_LAST_EMULATED_VMX_MSR. */
export const isVmxMsr = (index: number): boolean =>
  index >= VMX_MSR.IA32_VMX_BASIC && index <= VMX_MSR.IA32_VMX_VMFUNC;

/** KVM_SUPPORTED_FEATURE_CONTROL: what userspace may set, even where the guest may not. */
const SUPPORTED_FEATURE_CONTROL = BigInt(Object.values(FEAT_CTL).reduce((all: number, bit) => all | bit, 0));

function getNestedMsr(vmx: VcpuVmx, msr: KvmMsrEntry): number {
  const value = vmx.guestCanUseVmx ? vmxGetVmxMsr(vmx.nested.msrs, msr.index) : undefined;
  if (value === undefined) return 1;
  msr.data = pair(value[0], value[1]);
  return 0;
}

/** vmx_get_msr(). */
export function vmxGetMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const vmx = toVmx(vcpu);
  if (isVmxMsr(msr.index)) return getNestedMsr(vmx, msr);
  if (msr.index === MSR.IA32_FEAT_CTL) {
    msr.data = BigInt(vmx.featureControl);
    return 0;
  }
  if (msr.index === MSR.IA32_DEBUGCTL) {
    msr.data = vmread64(vmxCpu(vcpu), VMCS_GUEST.IA32_DEBUGCTL);
    return 0;
  }
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
  return kvmGetMsrCommon(vcpu, msr, by);
}

/** is_vmx_feature_control_msr_valid(): a guest may not write it once it is locked. */
function featureControlValid(vmx: VcpuVmx, value: bigint, by: MsrBy): boolean {
  if (by === 'host') return (value & ~SUPPORTED_FEATURE_CONTROL) === 0n;
  const locked = (vmx.featureControl & FEAT_CTL.LOCKED) !== 0;
  return !locked && (value & ~BigInt(vmx.featureControlValidBits)) === 0n;
}

function setFeatureControl(vcpu: Vcpu, value: bigint, by: MsrBy): number {
  const vmx = toVmx(vcpu);
  if (!featureControlValid(vmx, value, by)) return 1;
  vmx.featureControl = Number(value);
  // Userspace resets the vCPU.
  if (by === 'host' && value === 0n) vcpu.kvm.module.ops.nestedOps?.leaveNested(vcpu);
  return 0;
}

/** L1's vmcs12, if a register that L0 sets now is to be seen in it: the exit to L1 saves it from there. */
function vmcs12InGuestMode(vcpu: Vcpu): Vmcs12 | null {
  return isGuestMode(vcpu) ? toVmx(vcpu).nested.cachedVmcs12 : null;
}

/** MSR_IA32_DEBUGCTLMSR: branch records and single-stepping of branches are accepted and not done. */
function setDebugctl(vcpu: Vcpu, value: bigint): number {
  if ((value & ~BigInt(DEBUGCTL.LBR | DEBUGCTL.BTF)) !== 0n) return 1;
  const vmcs12 = vmcs12InGuestMode(vcpu);
  if (vmcs12 !== null && nestedExitHas(vmcs12, VM_EXIT.SAVE_DEBUG_CONTROLS))
    vmcs12.set64(VMCS_GUEST.IA32_DEBUGCTL, 0n);
  vmwrite64(vmxCpu(vcpu), VMCS_GUEST.IA32_DEBUGCTL, 0n);
  return 0;
}

/** An MSR in the guest-state area; the exit to L1 takes SYSENTER_ESP and _EIP from vmcs12. */
function setVmcsMsr(vcpu: Vcpu, field: number, value: bigint): number {
  if (field === VMCS_GUEST.SYSENTER_ESP || field === VMCS_GUEST.SYSENTER_EIP)
    vmcs12InGuestMode(vcpu)?.set64(field, value);
  vmwrite64(vmxCpu(vcpu), field, value);
  return 0;
}

/** IA32_PAT in the VMCS. */
function setPat(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const r = kvmSetMsrCommon(vcpu, msr, by);
  if (r !== 0) return r;
  const vmcs12 = vmcs12InGuestMode(vcpu);
  if (vmcs12 !== null && nestedExitHas(vmcs12, VM_EXIT.SAVE_IA32_PAT))
    vmcs12.set64(VMCS_GUEST.IA32_PAT, msr.data);
  vmwrite64(vmxCpu(vcpu), VMCS_GUEST.IA32_PAT, msr.data);
  return 0;
}

/** The capability MSRs: read-only to the guest, and there only if it has VMX. */
function setNestedMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  if (by === 'guest' || !toVmx(vcpu).guestCanUseVmx) return 1;
  return vmxSetVmxMsr(vcpu, msr.index, low(msr.data), high(msr.data));
}

/** vmx_set_msr(). */
export function vmxSetMsr(vcpu: Vcpu, msr: KvmMsrEntry, by: MsrBy): number {
  const vmx = toVmx(vcpu);
  if (isVmxMsr(msr.index)) return setNestedMsr(vcpu, msr, by);
  if (NEEDS_CANONICAL.includes(msr.index) && !isCanonical(msr.data)) return 1;
  const field = VMCS_MSRS.get(msr.index);
  if (field !== undefined) return setVmcsMsr(vcpu, field, msr.data);
  const uret = URET_MSRS.indexOf(msr.index);
  if (uret >= 0) {
    if ((msr.index === MSR.TSC_AUX || msr.index === MSR.SYSCALL_MASK) && msr.data >> 32n !== 0n) return 1;
    vmx.uretDirty = true;
    vmx.uretMsrs[2 * uret] = low(msr.data);
    vmx.uretMsrs[2 * uret + 1] = high(msr.data);
    return 0;
  }
  switch (msr.index) {
    case MSR.KERNEL_GS_BASE:
      vmx.kernelGsBaseLo = low(msr.data);
      vmx.kernelGsBaseHi = high(msr.data);
      return 0;
    case MSR.IA32_SYSENTER_CS:
      vmcs12InGuestMode(vcpu)?.set32(VMCS_GUEST.SYSENTER_CS, low(msr.data));
      vmwrite32(vmxCpu(vcpu), VMCS_GUEST.SYSENTER_CS, low(msr.data));
      return 0;
    case MSR.IA32_FEAT_CTL:
      return setFeatureControl(vcpu, msr.data, by);
    case MSR.IA32_DEBUGCTL:
      return setDebugctl(vcpu, msr.data);
    case MSR.IA32_CR_PAT:
      return setPat(vcpu, msr, by);
    default:
      return kvmSetMsrCommon(vcpu, msr, by);
  }
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

/** vmx_get_msr_feature(): the capability MSRs that L1 would see, not the processor's. */
export function vmxGetMsrFeature(nestedMsrs: NestedVmxMsrs, params: KvmParams, msr: KvmMsrEntry): number {
  const value = params['kvm_intel.nested'] === 0 ? undefined : vmxGetVmxMsr(nestedMsrs, msr.index);
  if (value === undefined) return -ERRNO.EINVAL;
  msr.data = pair(value[0], value[1]);
  return 0;
}
