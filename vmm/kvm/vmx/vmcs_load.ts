// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMCSs as L0 allocates, loads and clears them: alloc_vmcs_cpu(), vmx_vcpu_load_vmcs(), loaded_vmcs_clear() and
 * vmx_switch_vmcs() of arch/x86/kvm/vmx, 6.12.
 */
import { PAGE_SHIFT, PAGE_SIZE, hpa, pfn, type Hpa } from '../../../lib/x86/addr.ts';
import type { Host } from '../../host/host.ts';
import { GFP } from '../../host/mm/page_alloc.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { BugError } from '../../machine/errors.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import { vmclear, vmptrld } from '../../machine/vmx/vmcs_insns.ts';
import { VMX_RESULT } from '../../machine/vmx/vmx_unit.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { LoadedVmcs } from './loaded_vmcs.ts';
import { toVmx } from './vcpu_vmx.ts';

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

/**
 * loaded_vmcs_clear(): the VMCS leaves the pCPU on which it is active.
 * DEVIATION: the clearing on another pCPU is done at once, at the price of the interrupt that KVM sends for it.
 */
export function loadedVmcsClear(vcpu: Vcpu, loaded: LoadedVmcs): void {
  const { host } = vcpu.kvm;
  const { cpu: active, vmcs } = loaded;
  if (active < 0) return;
  const cpu = host.machine.cpus[active]!;
  if (active !== host.sched.cpu.id) {
    spend(host.sched.cpu, COST.IPI_SEND);
    spend(cpu, COST.IPI_RECEIVE);
  }
  clearOn(cpu, vmcs);
  // An entry with VMCS shadowing has made the shadow VMCS active, too.
  if (loaded.shadowVmcs >= 0 && loaded.launched) clearOn(cpu, loaded.shadowVmcs);
  loaded.cpu = -1;
  loaded.launched = false;
}

/** VMCLEAR on a pCPU; if it runs a guest, the interrupt brings it to VMX root operation, and it goes on afterwards. */
function clearOn(cpu: Cpu, vmcs: Hpa): void {
  const { nonRoot } = cpu.vmx;
  cpu.vmx.nonRoot = false;
  const result = vmclear(cpu, vmcs);
  cpu.vmx.nonRoot = nonRoot;
  if (result !== VMX_RESULT.SUCCEED) throw new BugError(`VMCLEAR on pCPU ${cpu.id} failed`);
}

/** vmx_vcpu_load_vmcs(): make the vCPU's VMCS current on `cpu`; after a change of pCPU the TLB there may be stale. */
export function vmxVcpuLoad(vcpu: Vcpu, cpu: Cpu): void {
  const vmx = toVmx(vcpu);
  const loaded = vmx.loadedVmcs;
  const moved = loaded.cpu !== cpu.id;
  if (moved) loadedVmcsClear(vcpu, loaded);
  if (cpu.vmx.currentVmcs !== loaded.vmcs) {
    if (vmptrld(cpu, loaded.vmcs) !== VMX_RESULT.SUCCEED)
      throw new BugError(`VMPTRLD of ${vcpu.name}'s VMCS failed`);
  }
  if (!moved) return;
  loaded.cpu = cpu.id;
  kvmMakeRequest(KVM_REQ.TLB_FLUSH, vcpu);
}

/** vmx_switch_vmcs(): go on with another VMCS of the vCPU; registers that L0 had cached belong to the old one. */
export function vmxSwitchVmcs(vcpu: Vcpu, vmcs: LoadedVmcs): void {
  const vmx = toVmx(vcpu);
  if (vmx.loadedVmcs === vmcs) return;
  vmx.loadedVmcs = vmcs;
  vmxVcpuLoad(vcpu, vcpu.kvm.host.sched.cpu);
  vcpu.arch.regsAvail = 0;
  vcpu.arch.regsDirty = 0;
}

/** alloc_loaded_vmcs(): with an MSR bitmap that intercepts everything; null: out of memory. */
export function allocLoadedVmcs(vcpu: Vcpu, name: string): LoadedVmcs | null {
  const { host } = vcpu.kvm;
  const vmcs = allocVmcs(host, host.sched.cpu, `${name} of ${vcpu.name}`);
  if (vmcs < 0) return null;
  const frame = host.pages.allocPage(host.pages.owner(`MSR bitmap of ${vcpu.name}'s ${name}`), GFP.ZERO);
  if (frame < 0) {
    freeKernelPage(host, hpa(vmcs), 'alloc_loaded_vmcs');
    return null;
  }
  const bitmap = hpa(frame * PAGE_SIZE);
  host.machine.mem.u8.fill(0xff, bitmap, bitmap + PAGE_SIZE);
  return new LoadedVmcs(hpa(vmcs), bitmap);
}

/** free_loaded_vmcs(). */
export function freeLoadedVmcs(vcpu: Vcpu, loaded: LoadedVmcs): void {
  const { host } = vcpu.kvm;
  loadedVmcsClear(vcpu, loaded);
  freeKernelPage(host, loaded.vmcs, `free_loaded_vmcs of ${vcpu.name}`);
  freeKernelPage(host, loaded.msrBitmap, `free_loaded_vmcs of ${vcpu.name}`);
}
