// SPDX-License-Identifier: GPL-2.0-only
/**
 * The MSR-load and MSR-store areas of vmcs12: nested_vmx_load_msr(), nested_vmx_store_msr() and their checks of
 * arch/x86/kvm/vmx/nested.c, 6.12. SDM, "Loading MSRs" and "Saving MSRs".
 */
import { gpa } from '../../../../lib/x86/addr.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmVcpuReadGuest, kvmVcpuWriteGuest } from '../../x86/guest_access.ts';
import { kvmGetMsr, kvmSetMsr } from '../../x86/msr.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedVmxLoadMsrRefused, nestedVmxStoreMsrRefused } from './check_msr_entry.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedVmxMaxAtomicSwitchMsrs } from './vmcs12_controls.ts';

/** struct vmx_msr_entry: 32 bits of index, 32 reserved, 64 of value. */
const ENTRY_BYTES = 16;

interface MsrEntry {
  readonly index: number;
  readonly reserved: number;
  readonly value: bigint;
}

function readEntry(vcpu: Vcpu, area: number, i: number): MsrEntry | undefined {
  const bytes = new Uint8Array(ENTRY_BYTES);
  if (kvmVcpuReadGuest(vcpu, gpa(area + i * ENTRY_BYTES), bytes) < 0) return undefined;
  const view = new DataView(bytes.buffer);
  return {
    index: view.getUint32(0, true),
    reserved: view.getUint32(4, true),
    value: view.getBigUint64(8, true),
  };
}

/** nested_vmx_load_msr(): 0, or the number of the entry that failed, from 1 on; those before it are loaded. */
export function nestedVmxLoadMsr(vcpu: Vcpu, area: number, count: number): number {
  const limit = nestedVmxMaxAtomicSwitchMsrs(toVmx(vcpu).nested.msrs);
  for (let i = 0; i < count; i++) {
    const e = i < limit ? readEntry(vcpu, area, i) : undefined;
    if (e === undefined || nestedVmxLoadMsrRefused(vcpu, e.index, e.reserved)) return i + 1;
    if (kvmSetMsr(vcpu, { index: e.index, data: e.value }, 'guest') !== 0) return i + 1;
  }
  return 0;
}

/** nested_vmx_store_msr(): whether all of them could be stored. */
export function nestedVmxStoreMsr(vcpu: Vcpu, area: number, count: number): boolean {
  const limit = nestedVmxMaxAtomicSwitchMsrs(toVmx(vcpu).nested.msrs);
  for (let i = 0; i < count; i++) {
    const e = i < limit ? readEntry(vcpu, area, i) : undefined;
    if (e === undefined || nestedVmxStoreMsrRefused(vcpu, e.index, e.reserved)) return false;
    const msr = { index: e.index, data: 0n };
    if (kvmGetMsr(vcpu, msr, 'guest') !== 0) return false;
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, msr.data, true);
    if (kvmVcpuWriteGuest(vcpu, gpa(area + i * ENTRY_BYTES + 8), bytes) < 0) return false;
  }
  return true;
}

/** An area of vmcs12 by the encodings of its address and count. */
export interface MsrArea {
  readonly address: number;
  readonly count: number;
}

/**
 * What nested_vmx_restore_host_state() does about MSRs: an entry that failed late had loaded L2's; those that the exit
 * area also has go back to L1's values. False: VMX abort.
 */
export function restoreHostMsrs(vcpu: Vcpu, vmcs12: Vmcs12, entry: MsrArea, exit: MsrArea): boolean {
  const limit = nestedVmxMaxAtomicSwitchMsrs(toVmx(vcpu).nested.msrs);
  const exits = Math.min(vmcs12.u32(exit.count), limit);
  for (let i = 0; i < vmcs12.u32(entry.count); i++) {
    const g = readEntry(vcpu, vmcs12.num(entry.address), i);
    if (g === undefined) return false;
    for (let j = 0; j < exits; j++) {
      const h = readEntry(vcpu, vmcs12.num(exit.address), j);
      if (h === undefined) return false;
      if (h.index !== g.index) continue;
      if (h.value === g.value) break;
      if (nestedVmxLoadMsrRefused(vcpu, h.index, h.reserved)) return false;
      if (kvmSetMsr(vcpu, { index: h.index, data: h.value }, 'guest') !== 0) return false;
    }
  }
  return true;
}
