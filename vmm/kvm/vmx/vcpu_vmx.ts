// SPDX-License-Identifier: GPL-2.0-only
/** struct vcpu_vmx and struct kvm_vmx: what VMX keeps for a vCPU and for a VM. Mirrors arch/x86/kvm/vmx/vmx.h, 6.12. */
import { FEAT_CTL } from '../../../lib/x86/vmx/capability_msrs.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { BugError } from '../../machine/errors.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { LoadedVmcs } from './loaded_vmcs.ts';
import type { NestedVmx } from './nested/nested_vmx.ts';
import type { VmxModule } from './vmx_module.ts';

/** Information of the last VM exit, read from the VMCS once. */
export interface VmxExitInformation {
  reason: number;
  intrInfo: number;
  idtVectoring: number;
}

export class VcpuVmx {
  readonly vmcs01: LoadedVmcs;
  loadedVmcs: LoadedVmcs;
  /** VPID, 0 if kvm_intel.vpid is off. */
  readonly vpid: number;
  readonly exit: VmxExitInformation = { reason: 0, intrInfo: 0, idtVectoring: 0 };
  /** A VMX instruction of the last entry failed: the entry's result (VMX_RESULT). */
  fail = 0;
  /** MSRs that the VMCS does not switch, by number: STAR, LSTAR, CSTAR, SYSCALL_MASK, TSC_AUX; lo, hi. */
  readonly uretMsrs = new Int32Array(10);
  /** A value changed since they were last loaded into a pCPU. */
  uretDirty = true;
  kernelGsBaseLo = 0;
  kernelGsBaseHi = 0;
  /** IA32_FEATURE_CONTROL, and the bits of it that the guest may set. */
  featureControl = 0;
  featureControlValidBits: number = FEAT_CTL.LOCKED;
  /** guest_can_use(X86_FEATURE_VMX): the module parameter and the vCPU's CPUID allow VMX. */
  guestCanUseVmx = false;
  readonly nested: NestedVmx;
  readonly module: VmxModule;
  /** The next entry is left again before the guest executes an instruction. */
  immediateExit = false;

  /** L0 set a segment register or CR0 since the guest's state was last found valid. */
  guestStateTouched = false;
  /** The guest's state is one that no VM entry takes: L0 must emulate. Valid once vmxEmulationRequired() was asked. */
  emulationRequired = false;

  constructor(vmcs01: LoadedVmcs, vpid: number, nested: NestedVmx, module: VmxModule) {
    this.module = module;
    this.vmcs01 = vmcs01;
    this.loadedVmcs = vmcs01;
    this.vpid = vpid;
    this.nested = nested;
  }
}

/** to_vmx(). */
export function toVmx(vcpu: Vcpu): VcpuVmx {
  const { vendor } = vcpu.arch;
  // Hundreds of times per nested exit: cheaper than instanceof.
  if (vendor === null || vendor.constructor !== VcpuVmx) throw new BugError(`${vcpu.name} is no VMX vCPU`);
  return vendor;
}

/** The pCPU that executes L0's code now; the vCPU's VMCS must be current on it. */
export function vmxCpu(vcpu: Vcpu): Cpu {
  const cpu = vcpu.kvm.host.sched.cpu;
  if (cpu.vmx.currentVmcs !== toVmx(vcpu).loadedVmcs.vmcs) {
    throw new BugError(`${vcpu.name}: its VMCS is not current on pCPU ${cpu.id}; vcpu_load() is missing`);
  }
  return cpu;
}
