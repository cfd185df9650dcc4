// SPDX-License-Identifier: GPL-2.0-only
/**
 * A vCPU and a vmcs12 for unit tests of the consistency checks: L1 in 64-bit mode with 46 physical-address bits and 1 MiB
 * of memory at 0, an L2 in 64-bit mode; every check passes until a test changes something. No hardware VMX is involved.
 */
import { gpa, hpa } from '../../../../../lib/x86/addr.ts';
import { CR0, CR4, EFER } from '../../../../../lib/x86/registers.ts';
import { VM_ENTRY, VM_EXIT } from '../../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL as C } from '../../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../../../lib/x86/vmx/vmcs_host.ts';
import { vmxCapsOf, type VmxCaps } from '../../../../machine/vmx/caps.ts';
import type { Vcpu } from '../../../kvm_host.ts';
import { parseParams } from '../../../params.ts';
import { createVcpu, drive, setSlot, testVm } from '../../../testing/test_kvm.ts';
import { kvmVcpuWriteGuest } from '../../../x86/guest_access.ts';
import { LoadedVmcs } from '../../loaded_vmcs.ts';
import { VcpuVmx } from '../../vcpu_vmx.ts';
import { setupVmcsConfig } from '../../vmcs01.ts';
import type { VmxModule } from '../../vmx_module.ts';
import { VpidAllocator } from '../../vpid_allocator.ts';
import { nestedVmxSetupCtlsMsrs, type NestedVmxMsrs } from '../nested_msrs.ts';
import { NestedVmx } from '../nested_vmx.ts';
import type { Vmcs12 } from '../vmcs12.ts';

export interface Vmcs12Fixture {
  readonly vcpu: Vcpu;
  readonly nested: NestedVmx;
  readonly vmcs12: Vmcs12;
}

const CR4_OFFERED =
  CR4.VME |
  CR4.PVI |
  CR4.TSD |
  CR4.DE |
  CR4.PSE |
  CR4.PAE |
  CR4.MCE |
  CR4.PGE |
  CR4.PCE |
  CR4.OSFXSR |
  CR4.OSXMMEXCPT |
  CR4.VMXE |
  CR4.FSGSBASE |
  CR4.PCIDE |
  CR4.OSXSAVE |
  CR4.SMEP |
  CR4.SMAP |
  CR4.PKE;
const EFER_OFFERED = EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE;
const CR0_LONG = (CR0.PE | CR0.PG | CR0.NE | CR0.ET | CR0.WP) >>> 0;

/** A vCPU with 1 MiB of memory. */
export function checkVcpu(): Vcpu {
  const vm = testVm();
  return drive(
    vm,
    (function* () {
      yield* setSlot(vm);
      return yield* createVcpu(vm);
    })(),
  );
}

/** kvm_intel.ko without a host: what the checks look at. */
const moduleWith = (caps: VmxCaps, nestedMsrs: NestedVmxMsrs): VmxModule => ({
  config: setupVmcsConfig(caps, parseParams([])),
  vpids: new VpidAllocator(),
  vmxonRegions: new Map(),
  uretOwner: [],
  nestedMsrs,
  shadowBitmaps: null,
  hostCr3: hpa(0),
});

/** The vCPU as one that has just executed VMLAUNCH; `params` as on the command line. */
export function vmcs12Fixture(vcpu: Vcpu = checkVcpu(), params: readonly string[] = []): Vmcs12Fixture {
  const caps = vmxCapsOf({ name: 'skylake', maxPhysBits: 46 });
  const nestedMsrs = nestedVmxSetupCtlsMsrs(caps, parseParams(params));
  const nested = new NestedVmx(nestedMsrs);
  vcpu.arch.vendor = new VcpuVmx(new LoadedVmcs(hpa(0), hpa(0)), 1, nested, moduleWith(caps, nestedMsrs));
  vcpu.arch.maxphyaddr = 46;
  vcpu.arch.efer = EFER_OFFERED;
  vcpu.arch.cr4 = 0;
  vcpu.arch.cr4GuestRsvdBits = ~CR4_OFFERED;
  vcpu.arch.eferValidBits = EFER_OFFERED;
  nested.vmxon = true;
  nested.nestedRunPending = true;
  fillVmcs12(nested);
  return { vcpu, nested, vmcs12: nested.cachedVmcs12 };
}

function fillVmcs12(nested: NestedVmx): void {
  const { cachedVmcs12: v, msrs } = nested;
  v.set32(C.PIN_BASED_VM_EXEC_CONTROL, msrs.pinbased.low | 0);
  v.set32(C.CPU_BASED_VM_EXEC_CONTROL, msrs.procbased.low | 0x8000_0000);
  v.set32(C.VM_EXIT_CONTROLS, msrs.exit.low | VM_EXIT.HOST_ADDR_SPACE_SIZE);
  v.set32(C.VM_ENTRY_CONTROLS, msrs.entry.low | VM_ENTRY.IA32E_MODE);
  v.setPair(G.VMCS_LINK_POINTER, -1, -1);
  for (const [cr0, cr4, efer] of [
    [G.CR0, G.CR4, G.IA32_EFER],
    [H.CR0, H.CR4, H.IA32_EFER],
  ] as const) {
    v.set32(cr0, CR0_LONG);
    v.set32(cr4, CR4.PAE | CR4.VMXE);
    v.set32(efer, EFER.LME | EFER.LMA);
  }
  v.set32(H.CS_SELECTOR, 0x08);
  v.set32(H.TR_SELECTOR, 0x18);
  v.set64(H.RIP, 0xffff_8000_0000_1000n);
}

/** A word of L1's memory. */
export function writeGuestWord(vcpu: Vcpu, address: number, value: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value | 0, true);
  if (kvmVcpuWriteGuest(vcpu, gpa(address), bytes) < 0)
    throw new Error(`no memory at 0x${address.toString(16)}`);
}
