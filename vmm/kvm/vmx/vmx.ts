// SPDX-License-Identifier: GPL-2.0-only
/** kvm_intel.ko: the operation table vt_x86_ops of arch/x86/kvm/vmx/main.c, 6.12, and what loading the module decides. */
import { X86_FEATURE_EXT } from '../../../lib/x86/cpuid.ts';
import { X86_FEATURE } from '../../../lib/x86/cpuid.ts';
import { EPTE, PG_LEVEL } from '../../../lib/x86/paging.ts';
import { hpa, PAGE_SIZE } from '../../../lib/x86/addr.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMX_EPT_CAP } from '../../../lib/x86/vmx/capability_msrs.ts';
import type { Host } from '../../host/host.ts';
import { GFP } from '../../host/mm/page_alloc.ts';
import { BugError, UnimplementedError } from '../../machine/errors.ts';
import type { KvmX86Ops } from '../kvm_host_x86.ts';
import type { KvmCaps } from '../module.ts';
import type { KvmParams } from '../params.ts';
import { nestedVmxAfterSetCpuid } from './nested/cpuid_vmx.ts';
import { vmxIsValidCr0, vmxIsValidCr4 } from './nested/check_registers.ts';
import { nestedVmxSetupCtlsMsrs } from './nested/nested_msrs.ts';
import { vmxNestedOps } from './nested/nested_ops.ts';
import { allocShadowBitmaps } from './nested/shadow_vmcs.ts';
import { setupVmcsConfig } from './vmcs01.ts';
import { vmxVcpuLoad } from './vmcs_load.ts';
import type { VmxModule } from './vmx_module.ts';
import { VpidAllocator } from './vpid_allocator.ts';
import {
  vmxApicInitSignalBlocked,
  vmxCancelInjection,
  vmxEnableIrqWindow,
  vmxEnableNmiWindow,
  vmxGetInterruptShadow,
  vmxGetNmiMask,
  vmxInjectException,
  vmxInjectIrq,
  vmxInjectNmi,
  vmxInterruptAllowed,
  vmxNmiAllowed,
  vmxSetInterruptShadow,
  vmxSetNmiMask,
  vmxUpdateExceptionBitmap,
} from './vmx_events.ts';
import { vmxHandleExit, vmxSkipEmulatedInstruction, vmxUpdateEmulatedInstruction } from './vmx_exits.ts';
import { isVmxMsr, vmxGetMsr, vmxGetMsrFeature, vmxLoadUretMsrs, vmxSetMsr } from './vmx_msrs.ts';
import {
  vmxCacheReg,
  vmxGetCpl,
  vmxGetDt,
  vmxGetRflags,
  vmxGetSegment,
  vmxSetCr0,
  vmxSetCr4,
  vmxSetDr7,
  vmxSetDt,
  vmxSetEfer,
  vmxSetRflags,
  vmxSetSegment,
} from './vmx_regs.ts';
import { vmxVcpuPreRun } from './invalid_guest_state.ts';
import { vmxGetExitInfo, vmxHandleExitIrqoff, vmxVcpuRun } from './vmx_run.ts';
import {
  vmxFlushTlbAll,
  vmxFlushTlbCurrent,
  vmxFlushTlbGuest,
  vmxFlushTlbGva,
  vmxLoadMmuPgd,
} from './vmx_tlb.ts';
import {
  vmxGetL2TscMultiplier,
  vmxGetL2TscOffset,
  vmxWriteTscMultiplier,
  vmxWriteTscOffset,
} from './vmx_tsc.ts';
import {
  vmxHardwareDisable,
  vmxHardwareEnable,
  vmxVcpuCreate,
  vmxVcpuFree,
  vmxVcpuReset,
} from './vmx_vcpu.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';

/** Memory type write-back in a leaf EPT entry, with IPAT as KVM sets it without device assignment. */
const EPT_MT_WB = (6 << 3) | EPTE.IPAT;

/** vmx_hardware_setup(): the capabilities that the processor and the parameters leave. */
export function vmxCaps(
  host: Host,
  params: KvmParams,
  profile: { maxPhysBits: number; tscKhz: number },
): KvmCaps {
  if (params['kvm_intel.ept'] === 0)
    throw new UnimplementedError('kvm_intel.ept=0: shadow paging is not modelled yet');
  const { eptCap, secondary } = host.machine.cpus[0]!.vmx.caps;
  return {
    maxphyaddr: profile.maxPhysBits,
    tdpEnabled: true,
    adEnabled: params['kvm_intel.eptad'] !== 0 && (eptCap & VMX_EPT_CAP.AD_BIT) !== 0,
    maxTdpLevel: PG_LEVEL.L2M,
    tdpRootLevel: 4,
    mmioCaching: params['kvm.mmio_caching'] !== 0,
    gbpages: host.machine.cpus[0]!.sys.cpuid.has(X86_FEATURE_EXT.GBPAGES),
    tscKhz: profile.tscKhz,
    hasTscControl: (secondary.may1 & SECONDARY_EXEC.TSC_SCALING) !== 0,
  };
}

/** enable_shadow_vmcs: L1 gets it only where L0 has it. */
function hasShadowing(host: Host, params: KvmParams): boolean {
  const { secondary } = host.machine.cpus[0]!.vmx.caps;
  return (
    params['kvm_intel.nested'] !== 0 &&
    params['kvm_intel.enable_shadow_vmcs'] !== 0 &&
    (secondary.may1 & SECONDARY_EXEC.SHADOW_VMCS) !== 0
  );
}

function loadModule(host: Host, params: KvmParams): VmxModule {
  const cr3 = host.pages.allocPage(host.pages.owner('host page tables'), GFP.ZERO);
  if (cr3 < 0) throw new BugError('no memory for the host page tables');
  return {
    config: setupVmcsConfig(host.machine.cpus[0]!.vmx.caps, params),
    nestedMsrs: nestedVmxSetupCtlsMsrs(host.machine.cpus[0]!.vmx.caps, params),
    vpids: new VpidAllocator(),
    vmxonRegions: new Map(),
    uretOwner: [],
    shadowBitmaps: hasShadowing(host, params) ? allocShadowBitmaps(host) : null,
    hostCr3: hpa(cr3 * PAGE_SIZE),
  };
}

/** The table for one host; loading it enables VMX on every pCPU. */
export function vmxX86Ops(host: Host, params: KvmParams): KvmX86Ops {
  const module = loadModule(host, params);
  return {
    name: 'kvm_intel',
    hardwareEnable: (cpu) => vmxHardwareEnable(host, module, cpu),
    hardwareDisable: (cpu) => vmxHardwareDisable(host, module, cpu),
    vmInit: () => 0,
    vmDestroy: () => undefined,
    vcpuCreate: (vcpu) => vmxVcpuCreate(vcpu, module),
    vcpuFree: (vcpu) => vmxVcpuFree(vcpu, module),
    vcpuReset: vmxVcpuReset,
    vcpuLoad: vmxVcpuLoad,
    vcpuPut: () => undefined,
    vcpuAfterSetCpuid: (vcpu) => {
      nestedVmxAfterSetCpuid(vcpu);
      vmxUpdateExceptionBitmap(vcpu);
    },
    prepareSwitchToGuest: (vcpu) => vmxLoadUretMsrs(vmxCpu(vcpu), vcpu, module.uretOwner),
    getMsr: vmxGetMsr,
    setMsr: vmxSetMsr,
    getMsrFeature: (msr) => vmxGetMsrFeature(module.nestedMsrs, params, msr),
    hasEmulatedMsr: (index) => !isVmxMsr(index) || params['kvm_intel.nested'] !== 0,
    cpuCaps: params['kvm_intel.nested'] === 0 ? [] : [X86_FEATURE.VMX],
    getSegment: vmxGetSegment,
    setSegment: (vcpu, seg, from) => {
      vmxSetSegment(vcpu, seg, from);
      toVmx(vcpu).guestStateTouched = true;
    },
    getCpl: vmxGetCpl,
    isValidCr0: vmxIsValidCr0,
    setCr0: (vcpu, cr0) => {
      vmxSetCr0(vcpu, cr0);
      toVmx(vcpu).guestStateTouched = true;
    },
    isValidCr4: vmxIsValidCr4,
    setCr4: vmxSetCr4,
    setEfer: vmxSetEfer,
    getIdt: (vcpu) => vmxGetDt(vcpu, 'IDTR'),
    setIdt: (vcpu, dt) => vmxSetDt(vcpu, 'IDTR', dt),
    getGdt: (vcpu) => vmxGetDt(vcpu, 'GDTR'),
    setGdt: (vcpu, dt) => vmxSetDt(vcpu, 'GDTR', dt),
    setDr7: vmxSetDr7,
    cacheReg: vmxCacheReg,
    getRflags: vmxGetRflags,
    setRflags: vmxSetRflags,
    flushTlbAll: vmxFlushTlbAll,
    flushTlbCurrent: vmxFlushTlbCurrent,
    flushTlbGuest: vmxFlushTlbGuest,
    flushTlbGva: vmxFlushTlbGva,
    vcpuRun: vmxVcpuRun,
    handleExit: (vcpu) => vmxHandleExit(vcpu),
    vcpuPreRun: vmxVcpuPreRun,
    handleExitIrqoff: vmxHandleExitIrqoff,
    skipEmulatedInstruction: vmxSkipEmulatedInstruction,
    updateEmulatedInstruction: vmxUpdateEmulatedInstruction,
    getInterruptShadow: vmxGetInterruptShadow,
    setInterruptShadow: vmxSetInterruptShadow,
    injectIrq: vmxInjectIrq,
    injectNmi: vmxInjectNmi,
    injectException: vmxInjectException,
    cancelInjection: vmxCancelInjection,
    apicInitSignalBlocked: vmxApicInitSignalBlocked,
    interruptAllowed: vmxInterruptAllowed,
    nmiAllowed: vmxNmiAllowed,
    getNmiMask: vmxGetNmiMask,
    setNmiMask: vmxSetNmiMask,
    enableNmiWindow: vmxEnableNmiWindow,
    enableIrqWindow: vmxEnableIrqWindow,
    updateExceptionBitmap: vmxUpdateExceptionBitmap,
    requestImmediateExit: (vcpu) => {
      toVmx(vcpu).immediateExit = true;
    },
    updateCr8Intercept: () => undefined,
    loadMmuPgd: vmxLoadMmuPgd,
    getMtMask: () => EPT_MT_WB,
    writeTscOffset: vmxWriteTscOffset,
    writeTscMultiplier: vmxWriteTscMultiplier,
    getL2TscOffset: vmxGetL2TscOffset,
    getL2TscMultiplier: vmxGetL2TscMultiplier,
    cpuDirtyLogSize: 0,
    getExitInfo: vmxGetExitInfo,
    setVirtualApicMode: () => undefined,
    nestedOps: params['kvm_intel.nested'] === 0 ? null : vmxNestedOps,
  };
}
