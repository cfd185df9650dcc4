// SPDX-License-Identifier: GPL-2.0-only
/**
 * Life of a VMX vCPU and of VMX itself: vmx_hardware_enable(), vmx_vcpu_create(), vmx_vcpu_reset(), vmx_vcpu_load() and
 * their reverses. Mirrors arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import { PAGE_SHIFT, PAGE_SIZE, hpa, pfn, type Hpa } from '../../../lib/x86/addr.ts';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { kvmSegment, type KvmSegment } from '../../../lib/uapi/regs.ts';
import { APIC_REG, APIC_SPIV } from '../../../lib/x86/apic.ts';
import { CR0, CR4, EFER, GPR } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import type { Host } from '../../host/host.ts';
import { GFP } from '../../host/mm/page_alloc.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { S, SEGN } from '../../machine/cpu/state.ts';
import { enterLongMode } from '../../machine/cpu/system/reset.ts';
import { BugError } from '../../machine/errors.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { vmwrite32 } from '../../machine/vmx/vmcs_access.ts';
import { vmclear, vmptrld, vmxoff, vmxon } from '../../machine/vmx/vmcs_insns.ts';
import { VMX_RESULT } from '../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { kvmRegisterWrite, kvmRipWrite } from '../x86/cache_regs.ts';
import { toVmx, VcpuVmx } from './vcpu_vmx.ts';
import { LoadedVmcs } from './loaded_vmcs.ts';
import type { NestedVmxMsrs } from './nested/nested_msrs.ts';
import { NestedVmx } from './nested/nested_vmx.ts';
import { initMsrBitmap, initVmcs, type VmcsConfig } from './vmcs01.ts';
import { vmxUpdateExceptionBitmap } from './vmx_events.ts';
import { vmxSetCr0, vmxSetCr4, vmxSetDt, vmxSetEfer, vmxSetRflags, vmxSetSegment } from './vmx_regs.ts';
import { vmxWriteTscOffset } from './vmx_tsc.ts';
import type { VpidAllocator } from './vmx_tlb.ts';

/** kvm_intel.ko as it is loaded on one host. */
export interface VmxModule {
  readonly config: VmcsConfig;
  readonly vpids: VpidAllocator;
  /** VMXON regions by pCPU. */
  readonly vmxonRegions: Map<number, Hpa>;
  /** Whose user-return MSRs each pCPU holds. */
  readonly uretOwner: Vcpu[];
  /** What L1 gets of VMX. */
  readonly nestedMsrs: NestedVmxMsrs;
  /** The page that HOST_CR3 names. */
  readonly hostCr3: Hpa;
}

/** alloc_vmcs_cpu(): a zeroed page with the revision identifier; below zero: -ENOMEM. */
export function allocVmcs(host: Host, cpu: Cpu, owner: string): number {
  const frame = host.pages.allocPage(host.pages.owner(owner), GFP.ZERO);
  if (frame < 0) return frame;
  host.machine.mem.i32[(frame * PAGE_SIZE) >>> 2] = cpu.vmx.caps.revision;
  return frame * PAGE_SIZE;
}

export function freeKernelPage(host: Host, page: Hpa, by: string): void {
  host.pages.putPage(pfn(page >>> PAGE_SHIFT), host.pages.owner(by));
}

/** vmx_hardware_enable(): the pCPU is in 64-bit mode as the host kernel left it, and enters VMX operation. */
export function vmxHardwareEnable(host: Host, vmx: VmxModule, cpu: Cpu): number {
  if (cpu.vmx.vmxon) return -ERRNO.EBUSY;
  enterLongMode(cpu, { cr3: vmx.hostCr3, rip: 0xffff_ffff_8100_0000n, rsp: 0xffff_c900_0000_4000n });
  cpu.s[S.CR4] = cpu.s[S.CR4]! | CR4.VMXE;
  cpu.apic.write(APIC_REG.SPIV, APIC_SPIV.APIC_ENABLED | 0xff);
  const region = allocVmcs(host, cpu, `VMXON region of pCPU ${cpu.id}`);
  if (region < 0) return region;
  vmx.vmxonRegions.set(cpu.id, hpa(region));
  return vmxon(cpu, region) === VMX_RESULT.SUCCEED ? 0 : -ERRNO.EIO;
}

export function vmxHardwareDisable(host: Host, vmx: VmxModule, cpu: Cpu): void {
  const region = vmx.vmxonRegions.get(cpu.id);
  if (region === undefined) return;
  if (vmxoff(cpu) !== VMX_RESULT.SUCCEED) throw new BugError(`VMXOFF failed on pCPU ${cpu.id}`);
  cpu.s[S.CR4] = cpu.s[S.CR4]! & ~CR4.VMXE;
  vmx.vmxonRegions.delete(cpu.id);
  freeKernelPage(host, region, 'hardware_disable');
}

/** vmx_vcpu_create(): allocate VMCS, MSR bitmap and VPID. */
export function vmxVcpuCreate(vcpu: Vcpu, module: VmxModule): number {
  const { host } = vcpu.kvm;
  const cpu = host.sched.cpu;
  const vmcs = allocVmcs(host, cpu, `vmcs01 of ${vcpu.name}`);
  if (vmcs < 0) return vmcs;
  const bitmap = host.pages.allocPage(host.pages.owner(`MSR bitmap of ${vcpu.name}`), GFP.ZERO);
  if (bitmap < 0) {
    freeKernelPage(host, hpa(vmcs), 'vmx_vcpu_create');
    return bitmap;
  }
  const bitmapHpa = hpa(bitmap * PAGE_SIZE);
  initMsrBitmap(host.machine.mem.u8, bitmapHpa);
  const vpid = (module.config.secondary & SECONDARY_EXEC.ENABLE_VPID) !== 0 ? module.vpids.allocate() : 0;
  const loaded = new LoadedVmcs(hpa(vmcs), bitmapHpa);
  vcpu.arch.vendor = new VcpuVmx(loaded, vpid, new NestedVmx(module.nestedMsrs));
  vmxVcpuLoad(vcpu, cpu);
  // Out of VPIDs: the vCPU goes without, and each of its entries flushes.
  const config =
    vpid === 0
      ? { ...module.config, secondary: module.config.secondary & ~SECONDARY_EXEC.ENABLE_VPID }
      : module.config;
  initVmcs(cpu, config, { msrBitmap: bitmapHpa, vpid, hostCr3: module.hostCr3 });
  Object.assign(loaded.controls, {
    pin: config.pin,
    exec: config.cpuBased,
    secondary: config.secondary,
    entry: config.entry,
    exit: config.exit,
  });
  return 0;
}

/** vmx_vcpu_free(). */
export function vmxVcpuFree(vcpu: Vcpu, module: VmxModule): void {
  const { host } = vcpu.kvm;
  const vmx = toVmx(vcpu);
  loadedVmcsClear(vcpu, vmx);
  module.vpids.free(vmx.vpid);
  freeKernelPage(host, vmx.vmcs01.vmcs, `vmx_vcpu_free of ${vcpu.name}`);
  freeKernelPage(host, vmx.vmcs01.msrBitmap, `vmx_vcpu_free of ${vcpu.name}`);
  vcpu.arch.vendor = null;
}

/**
 * loaded_vmcs_clear(): the VMCS leaves the pCPU on which it is active.
 * DEVIATION: the clearing on another pCPU is done at once, at the price of the interrupt that KVM sends for it.
 */
function loadedVmcsClear(vcpu: Vcpu, vmx: VcpuVmx): void {
  const { host } = vcpu.kvm;
  const { cpu: active, vmcs } = vmx.loadedVmcs;
  if (active < 0) return;
  const cpu = host.machine.cpus[active]!;
  if (active !== host.sched.cpu.id) {
    spend(host.sched.cpu, COST.IPI_SEND);
    spend(cpu, COST.IPI_RECEIVE);
  }
  if (cpu.vmx.nonRoot) vmclearBehindGuest(cpu, vmcs);
  else if (vmclear(cpu, vmcs) !== VMX_RESULT.SUCCEED)
    throw new BugError(`VMCLEAR of ${vcpu.name}'s VMCS failed`);
  vmx.loadedVmcs.cpu = -1;
  vmx.loadedVmcs.launched = false;
}

/** The interrupt finds a guest running: the pCPU is in VMX root operation while it clears, then goes on. */
function vmclearBehindGuest(cpu: Cpu, vmcs: Hpa): void {
  cpu.vmx.nonRoot = false;
  const result = vmclear(cpu, vmcs);
  cpu.vmx.nonRoot = true;
  if (result !== VMX_RESULT.SUCCEED) throw new BugError(`VMCLEAR on pCPU ${cpu.id} failed`);
}

/** vmx_vcpu_load_vmcs(): make the vCPU's VMCS current on `cpu`; after a change of pCPU the TLB there may be stale. */
export function vmxVcpuLoad(vcpu: Vcpu, cpu: Cpu): void {
  const vmx = toVmx(vcpu);
  const loaded = vmx.loadedVmcs;
  const moved = loaded.cpu !== cpu.id;
  if (moved) loadedVmcsClear(vcpu, vmx);
  if (cpu.vmx.currentVmcs !== loaded.vmcs) {
    if (vmptrld(cpu, loaded.vmcs) !== VMX_RESULT.SUCCEED)
      throw new BugError(`VMPTRLD of ${vcpu.name}'s VMCS failed`);
  }
  if (!moved) return;
  loaded.cpu = cpu.id;
  kvmMakeRequest(KVM_REQ.TLB_FLUSH, vcpu);
}

const dataSegment = (selector: number, base: bigint, type: number): KvmSegment => ({
  ...kvmSegment(),
  selector,
  base,
  limit: 0xffff,
  type,
  s: 1,
  present: 1,
});

/** vmx_vcpu_reset(): the state of the processor after RESET or INIT. SDM, "Processor State After Reset". */
export function vmxVcpuReset(vcpu: Vcpu, event: 'reset' | 'init'): void {
  const cpu = vcpu.kvm.host.sched.cpu;
  for (let n = 0; n < 16; n++) kvmRegisterWrite(vcpu, n, 0, 0);
  kvmRegisterWrite(vcpu, GPR.RDX, 0x600, 0);
  for (const n of [SEGN.ES, SEGN.SS, SEGN.DS, SEGN.FS, SEGN.GS])
    vmxSetSegment(vcpu, n, dataSegment(0, 0n, 3));
  vmxSetSegment(vcpu, SEGN.CS, dataSegment(0xf000, 0xffff_0000n, 0xb));
  vmxSetSegment(vcpu, SEGN.LDTR, { ...dataSegment(0, 0n, 2), s: 0 });
  vmxSetSegment(vcpu, SEGN.TR, { ...dataSegment(0, 0n, 0xb), s: 0 });
  vmxSetDt(vcpu, 'GDTR', { base: 0n, limit: 0xffff });
  vmxSetDt(vcpu, 'IDTR', { base: 0n, limit: 0xffff });
  kvmRipWrite(vcpu, 0xfff0n);
  vmxSetRflags(vcpu, 0x2);
  vmwrite32(cpu, VMCS_GUEST.DR7, 0x400);
  vmwrite32(cpu, VMCS_GUEST.INTERRUPTIBILITY_INFO, 0);
  vmwrite32(cpu, VMCS_GUEST.ACTIVITY_STATE, 0);
  vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, 0);
  for (const f of ['SYSENTER_CS', 'SYSENTER_ESP', 'SYSENTER_EIP'] as const) vmwrite32(cpu, VMCS_GUEST[f], 0);
  vcpu.arch.efer &= ~(EFER.LMA | EFER.LME);
  vmxSetEfer(vcpu, 0);
  // SDM, "Processor State After Reset": INIT keeps the cache bits.
  const cache = event === 'init' ? vcpu.arch.cr0 & (CR0.NW | CR0.CD) : CR0.NW | CR0.CD;
  vmxSetCr0(vcpu, (cache | CR0.ET) >>> 0);
  vmxSetCr4(vcpu, 0);
  vmxUpdateExceptionBitmap(vcpu);
  vmxWriteTscOffset(vcpu);
}
