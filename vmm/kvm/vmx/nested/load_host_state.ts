// SPDX-License-Identifier: GPL-2.0-only
/**
 * L1 goes on with vmcs12's host state, after an exit or a failed entry: load_vmcs12_host_state() of
 * arch/x86/kvm/vmx/nested.c, 6.12. SDM, "Loading Host State".
 */
import { EFER, GPR, RFLAGS } from '../../../../lib/x86/registers.ts';
import { AR } from '../../../../lib/x86/segments.ts';
import { VM_EXIT } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../../lib/x86/vmx/vmcs_host.ts';
import type { Cpu } from '../../../machine/cpu/cpu.ts';
import { vmread32, vmwrite32 } from '../../../machine/vmx/vmcs_access.ts';
import { VmcsFieldList } from '../../../machine/vmx/vmcs_field_list.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmRegisterWrite, kvmRipWritePair, pair } from '../../x86/cache_regs.ts';
import { kvmSetDr7 } from '../../x86/dr.ts';
import { CR0_GUEST_BITS } from '../vmcs01.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { vmxSetInterruptShadow } from '../vmx_events.ts';
import { vmxSetCr0, vmxSetCr4, vmxSetEfer, vmxSetRflags } from '../vmx_regs.ts';
import { nestedVmxAbort } from './abort.ts';
import { FieldGroup } from './field_group.ts';
import { nestedEptUninitMmuContext, nestedVmxLoadCr3 } from './mmu_context.ts';
import { nestedVmxLoadMsr } from './msr_switch.ts';
import { nestedVmxTransitionTlbFlush } from './transition_flush.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedExitHas } from './vmcs12_controls.ts';

const CODE_AR = 0xb | AR.S | AR.P | AR.G;
const DATA_AR = 0x3 | AR.S | AR.P | AR.DB | AR.G;
const TSS_AR = 0xb | AR.P;
const TABLE_LIMIT = 0xffff;
const TSS_LIMIT = 0x67;

/** load_vmcs12_host_state(); vmcs01 is loaded. */
export function loadVmcs12HostState(vcpu: Vcpu): void {
  const vmcs12 = toVmx(vcpu).nested.cachedVmcs12;
  const cpu = vmxCpu(vcpu);
  vmxSetEfer(vcpu, hostEfer(vcpu, vmcs12));
  kvmRegisterWrite(vcpu, GPR.RSP, vmcs12.lo(H.RSP), vmcs12.hi(H.RSP));
  kvmRipWritePair(vcpu, vmcs12.lo(H.RIP), vmcs12.hi(H.RIP));
  vmxSetRflags(vcpu, RFLAGS.FIXED);
  vmxSetInterruptShadow(vcpu, 0);
  loadHostPaging(vcpu, cpu, vmcs12);
  loadHostTables(vcpu, cpu, vmcs12);
  kvmSetDr7(vcpu, 0x400);
  const loaded = nestedVmxLoadMsr(
    vcpu,
    vmcs12.num(C.VM_EXIT_MSR_LOAD_ADDR),
    vmcs12.u32(C.VM_EXIT_MSR_LOAD_COUNT),
  );
  if (loaded !== 0) nestedVmxAbort(vcpu);
}

function hostEfer(vcpu: Vcpu, vmcs12: Vmcs12): number {
  if (nestedExitHas(vmcs12, VM_EXIT.LOAD_IA32_EFER)) return vmcs12.u32(H.IA32_EFER);
  const long = EFER.LMA | EFER.LME;
  return nestedExitHas(vmcs12, VM_EXIT.HOST_ADDR_SPACE_SIZE) ? vcpu.arch.efer | long : vcpu.arch.efer & ~long;
}

/** CR0, CR4, the MMU of L1, CR3, and the flush that the transition needs. */
function loadHostPaging(vcpu: Vcpu, cpu: Cpu, vmcs12: Vmcs12): void {
  const { arch } = vcpu;
  arch.cr0GuestOwnedBits = CR0_GUEST_BITS;
  vmxSetCr0(vcpu, vmcs12.u32(H.CR0));
  arch.cr4GuestOwnedBits = ~vmread32(cpu, C.CR4_GUEST_HOST_MASK);
  vmxSetCr4(vcpu, vmcs12.lo(H.CR4));
  nestedEptUninitMmuContext(vcpu);
  if (!nestedVmxLoadCr3(vcpu, vmcs12.lo(H.CR3), vmcs12.hi(H.CR3), 'L0')) nestedVmxAbort(vcpu);
  nestedVmxTransitionTlbFlush(vcpu, 'exit');
}

/** Fields of the guest-state area that the host-state area has a value for. */
const FROM_HOST = new FieldGroup(
  [
    ...[
      G.SYSENTER_CS,
      G.SYSENTER_ESP,
      G.SYSENTER_EIP,
      G.IDTR_BASE,
      G.GDTR_BASE,
      G.FS_BASE,
      G.GS_BASE,
      G.TR_BASE,
    ],
    ...[
      G.CS_SELECTOR,
      G.SS_SELECTOR,
      G.DS_SELECTOR,
      G.ES_SELECTOR,
      G.FS_SELECTOR,
      G.GS_SELECTOR,
      G.TR_SELECTOR,
    ],
  ],
  [
    ...[H.IA32_SYSENTER_CS, H.IA32_SYSENTER_ESP, H.IA32_SYSENTER_EIP, H.IDTR_BASE, H.GDTR_BASE],
    ...[H.FS_BASE, H.GS_BASE, H.TR_BASE],
    ...[
      H.CS_SELECTOR,
      H.SS_SELECTOR,
      H.DS_SELECTOR,
      H.ES_SELECTOR,
      H.FS_SELECTOR,
      H.GS_SELECTOR,
      H.TR_SELECTOR,
    ],
  ],
);
const HOST_PAT = new FieldGroup([G.IA32_PAT], [H.IA32_PAT]);

/** Values that the manual fixes. SDM, "Loading Host Segment and Descriptor-Table Registers". */
// prettier-ignore
const FIXED: readonly (readonly [number, number])[] = [
  [G.IDTR_LIMIT, TABLE_LIMIT], [G.GDTR_LIMIT, TABLE_LIMIT],
  [G.CS_BASE, 0], [G.SS_BASE, 0], [G.DS_BASE, 0], [G.ES_BASE, 0],
  [G.CS_LIMIT, -1], [G.SS_LIMIT, -1], [G.DS_LIMIT, -1], [G.ES_LIMIT, -1], [G.FS_LIMIT, -1], [G.GS_LIMIT, -1],
  [G.SS_AR_BYTES, DATA_AR], [G.DS_AR_BYTES, DATA_AR], [G.ES_AR_BYTES, DATA_AR], [G.FS_AR_BYTES, DATA_AR],
  [G.GS_AR_BYTES, DATA_AR], [G.TR_LIMIT, TSS_LIMIT], [G.TR_AR_BYTES, TSS_AR],
  [G.LDTR_SELECTOR, 0], [G.LDTR_LIMIT, 0], [G.LDTR_BASE, 0], [G.LDTR_AR_BYTES, AR.UNUSABLE],
  [G.IA32_DEBUGCTL, 0],
];
const FIXED_LIST = new VmcsFieldList(
  FIXED.map(([field]) => field),
  FIXED.map((_, n) => 8 * n),
);
const FIXED_WORDS = Int32Array.from(FIXED.flatMap(([, value]) => [value, 0]));
const FIXED_IMAGE = { i32: FIXED_WORDS, u16: new Uint16Array(FIXED_WORDS.buffer) };

function loadHostTables(vcpu: Vcpu, cpu: Cpu, vmcs12: Vmcs12): void {
  FROM_HOST.toVmcs(cpu, vmcs12);
  FIXED_LIST.write(cpu, FIXED_IMAGE);
  const long = nestedExitHas(vmcs12, VM_EXIT.HOST_ADDR_SPACE_SIZE);
  vmwrite32(cpu, G.CS_AR_BYTES, CODE_AR | (long ? AR.L : AR.DB));
  if (!nestedExitHas(vmcs12, VM_EXIT.LOAD_IA32_PAT)) return;
  HOST_PAT.toVmcs(cpu, vmcs12);
  vcpu.arch.pat = pair(vmcs12.lo(H.IA32_PAT), vmcs12.hi(H.IA32_PAT));
}
