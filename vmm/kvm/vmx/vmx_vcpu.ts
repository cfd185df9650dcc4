// SPDX-License-Identifier: GPL-2.0-only
/**
 * Life of a VMX vCPU and of VMX itself: vmx_hardware_enable(), vmx_vcpu_create(), vmx_vcpu_reset(), vmx_vcpu_load() and
 * their reverses. Mirrors arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import { hpa } from '../../../lib/x86/addr.ts';
import { ERRNO } from '../../../lib/uapi/errno.ts';
import { kvmSegment, type KvmSegment } from '../../../lib/uapi/regs.ts';
import { APIC_REG, APIC_SPIV } from '../../../lib/x86/apic.ts';
import { CR0, CR4, EFER, GPR } from '../../../lib/x86/registers.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import type { Host } from '../../host/host.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { S, SEGN } from '../../machine/cpu/state.ts';
import { enterLongMode } from '../../machine/cpu/system/reset.ts';
import { BugError } from '../../machine/errors.ts';
import { vmwrite32 } from '../../machine/vmx/vmcs_access.ts';
import { vmxoff, vmxon } from '../../machine/vmx/vmcs_insns.ts';
import { VMX_RESULT } from '../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../kvm_host.ts';
import { kvmRegisterWrite, kvmRipWrite } from '../x86/cache_regs.ts';
import { toVmx, VcpuVmx } from './vcpu_vmx.ts';
import { NestedVmx } from './nested/nested_vmx.ts';
import { nestedVmxFreeVcpu, nestedVmxInitMmu } from './nested/nested_ops.ts';
import { allocLoadedVmcs, allocVmcs, freeKernelPage, freeLoadedVmcs, vmxVcpuLoad } from './vmcs_load.ts';
import { CR0_GUEST_BITS, CR4_GUEST_BITS, initMsrBitmap, initVmcs } from './vmcs01.ts';
import type { VmxModule } from './vmx_module.ts';
import { vmxUpdateExceptionBitmap } from './vmx_events.ts';
import { vmxSetCr0, vmxSetCr4, vmxSetDt, vmxSetEfer, vmxSetRflags, vmxSetSegment } from './vmx_regs.ts';
import { vmxWriteTscOffset } from './vmx_tsc.ts';

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
  const loaded = allocLoadedVmcs(vcpu, 'vmcs01');
  if (loaded === null) return -ERRNO.ENOMEM;
  initMsrBitmap(host.machine.mem.u8, loaded.msrBitmap);
  const vpid = (module.config.secondary & SECONDARY_EXEC.ENABLE_VPID) !== 0 ? module.vpids.allocate() : 0;
  vcpu.arch.vendor = new VcpuVmx(loaded, vpid, new NestedVmx(module.nestedMsrs), module);
  vmxVcpuLoad(vcpu, cpu);
  // Out of VPIDs: the vCPU goes without, and each of its entries flushes.
  const config =
    vpid === 0
      ? { ...module.config, secondary: module.config.secondary & ~SECONDARY_EXEC.ENABLE_VPID }
      : module.config;
  const { hostCr3, shadowBitmaps } = module;
  initVmcs(cpu, config, { msrBitmap: loaded.msrBitmap, vpid, hostCr3, shadowBitmaps });
  nestedVmxInitMmu(vcpu);
  vcpu.arch.cr0GuestOwnedBits = CR0_GUEST_BITS;
  vcpu.arch.cr4GuestOwnedBits = CR4_GUEST_BITS;
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
  const vmx = toVmx(vcpu);
  nestedVmxFreeVcpu(vcpu);
  module.vpids.free(vmx.vpid);
  freeLoadedVmcs(vcpu, vmx.vmcs01);
  vcpu.arch.vendor = null;
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
