// SPDX-License-Identifier: GPL-2.0-only
/**
 * vmcs02 from vmcs12 and vmcs01: prepare_vmcs02_early(), its rare part, prepare_vmcs02_rare() and prepare_vmcs02() of
 * arch/x86/kvm/vmx/nested.c, 6.12. Controls are what either L0 or L1 wants; host state is L0's; fields that L1 rarely
 * changes are copied only if it did.
 */
import { EFER } from '../../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_ENTRY } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { vmwrite32, vmwritePair } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { high, kvmRegisterWrite, kvmRipWritePair, low, pair } from '../../x86/cache_regs.ts';
import { kvmSetDr7 } from '../../x86/dr.ts';
import { GPR } from '../../../../lib/x86/registers.ts';
import { toVmx, vmxCpu } from '../vcpu_vmx.ts';
import { initVmcs02 } from '../vmcs01.ts';
import { vmxSetControls } from '../vmx_controls.ts';
import { vmxUpdateExceptionBitmap } from '../vmx_events.ts';
import { setCr4GuestHostMask, vmxSetCr0, vmxSetCr4, vmxSetEfer } from '../vmx_regs.ts';
import { nestedGetVpid02 } from '../vmx_tlb.ts';
import { FieldGroup } from './field_group.ts';
import { nestedEptInitMmuContext, nestedVmxLoadCr3 } from './mmu_context.ts';
import { loadL2Tsc } from './tsc.ts';
import { nestedVmxTransitionTlbFlush } from './transition_flush.ts';
import type { Vmcs12 } from './vmcs12.ts';
import {
  nestedCpuHas,
  nestedCpuHas2,
  nestedCpuHasEpt,
  nestedCpuHasPostedIntr,
  nestedCpuHasVpid,
  nestedEntryHas,
  nestedReadCr0,
  nestedReadCr4,
} from './vmcs12_controls.ts';

/** nested_vmx_calc_efer(). */
function calcEfer(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const { nestedRunPending } = toVmx(vcpu).nested;
  if (nestedRunPending && nestedEntryHas(vmcs12, VM_ENTRY.LOAD_IA32_EFER)) return vmcs12.u32(G.IA32_EFER);
  const long = EFER.LMA | EFER.LME;
  return nestedEntryHas(vmcs12, VM_ENTRY.IA32E_MODE) ? vcpu.arch.efer | long : vcpu.arch.efer & ~long;
}

/** prepare_vmcs02_constant_state() and prepare_vmcs02_early_rare(). */
function prepareEarlyRare(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const vmx = toVmx(vcpu);
  const { nested } = vmx;
  const cpu = vmxCpu(vcpu);
  if (!nested.vmcs02Initialized) {
    nested.vmcs02Initialized = true;
    initVmcs02(cpu, { msrBitmap: vmx.loadedVmcs.msrBitmap, hostCr3: vmx.module.hostCr3 });
  }
  vmwritePair(cpu, G.VMCS_LINK_POINTER, -1, -1);
  if (vmx.vpid !== 0) {
    // VPID 0 of an L2 without VPIDs is that of L1's root mode: both are vpid01.
    const vpid = nestedCpuHasVpid(vmcs12) ? nestedGetVpid02(vcpu) : vmx.vpid;
    vmwrite32(cpu, C.VIRTUAL_PROCESSOR_ID, vpid);
  }
}

function pinControls(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { nested, vmcs01 } = toVmx(vcpu);
  let pin = vmcs01.controls.pin;
  pin |= vmcs12.lo(C.PIN_BASED_VM_EXEC_CONTROL) & ~PIN_BASED.VMX_PREEMPTION_TIMER;
  nested.piPending = false;
  if (nestedCpuHasPostedIntr(vmcs12)) nested.postedIntrNv = vmcs12.lo(C.POSTED_INTR_NV);
  else {
    nested.postedIntrNv = -1;
    pin &= ~PIN_BASED.POSTED_INTR;
  }
  // DEVIATION: the processor does not post to L2; L0 processes each notification that L1's local APIC accepts.
  vmxSetControls(vcpu, 'pin', pin & ~PIN_BASED.POSTED_INTR);
}

function execControls(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { vmcs01, loadedVmcs } = toVmx(vcpu);
  // CR8 exits of L0's own are there because L1 has no TPR shadow; with one of its own, L2's CR8 is in L1's page.
  const cr8 = CPU_BASED.CR8_LOAD_EXITING | CPU_BASED.CR8_STORE_EXITING;
  const notL0s = CPU_BASED.INTR_WINDOW_EXITING | CPU_BASED.NMI_WINDOW_EXITING | CPU_BASED.TPR_SHADOW | cr8;
  let exec = (vmcs01.controls.exec & ~notL0s) | vmcs12.lo(C.CPU_BASED_VM_EXEC_CONTROL);
  if ((exec & CPU_BASED.TPR_SHADOW) !== 0)
    vmwrite32(vmxCpu(vcpu), C.TPR_THRESHOLD, vmcs12.lo(C.TPR_THRESHOLD));
  else exec |= cr8;
  // Ports are always somebody's: L1's or userspace's.
  exec = (exec | CPU_BASED.UNCOND_IO_EXITING) & ~CPU_BASED.USE_IO_BITMAPS;
  // Decided when L1's bitmap has been seen; until then as before.
  exec &= ~CPU_BASED.USE_MSR_BITMAPS;
  exec |= loadedVmcs.controls.exec & CPU_BASED.USE_MSR_BITMAPS;
  vmxSetControls(vcpu, 'exec', exec);
}

/** Secondary controls that come from vmcs12 alone. */
const ONLY_FROM_VMCS12 =
  SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES |
  SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE |
  SECONDARY_EXEC.ENABLE_INVPCID |
  SECONDARY_EXEC.ENABLE_RDTSCP |
  SECONDARY_EXEC.ENABLE_XSAVES |
  SECONDARY_EXEC.ENABLE_USR_WAIT_PAUSE |
  SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY |
  SECONDARY_EXEC.APIC_REGISTER_VIRT |
  SECONDARY_EXEC.ENABLE_VMFUNC |
  SECONDARY_EXEC.DESC;

function secondaryControls(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { vmcs01 } = toVmx(vcpu);
  let exec = vmcs01.controls.secondary & ~ONLY_FROM_VMCS12;
  if (nestedCpuHas(vmcs12, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS))
    exec |= vmcs12.lo(C.SECONDARY_VM_EXEC_CONTROL);
  // PML and VMCS shadowing are emulated for L1.
  exec &= ~(SECONDARY_EXEC.ENABLE_PML | SECONDARY_EXEC.SHADOW_VMCS);
  if ((exec & SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY) !== 0)
    vmwrite32(vmxCpu(vcpu), G.INTR_STATUS, vmcs12.lo(G.INTR_STATUS));
  if (!nestedCpuHas2(vmcs12, SECONDARY_EXEC.UNRESTRICTED_GUEST)) exec &= ~SECONDARY_EXEC.UNRESTRICTED_GUEST;
  vmxSetControls(vcpu, 'secondary', exec);
}

function entryAndExitControls(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { vmcs01 } = toVmx(vcpu);
  let entry = vmcs01.controls.entry | vmcs12.lo(C.VM_ENTRY_CONTROLS);
  entry &= ~VM_ENTRY.LOAD_IA32_PERF_GLOBAL_CTRL;
  if ((calcEfer(vcpu, vmcs12) & EFER.LMA) !== 0) entry |= VM_ENTRY.IA32E_MODE;
  else entry &= ~VM_ENTRY.IA32E_MODE;
  vmxSetControls(vcpu, 'entry', entry);
  // The hardware's exit leads to L0.
  vmxSetControls(vcpu, 'exit', vmcs01.controls.exit);
}

/** The event that L1 injects, and what goes with it. */
const EVENT = new FieldGroup([
  C.VM_ENTRY_INTR_INFO_FIELD,
  C.VM_ENTRY_EXCEPTION_ERROR_CODE,
  C.VM_ENTRY_INSTRUCTION_LEN,
  G.INTERRUPTIBILITY_INFO,
]);

/** prepare_vmcs02_early(): what does not need L2's state to be loaded; vmcs02 is loaded. */
export function prepareVmcs02Early(vcpu: Vcpu): void {
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  const cpu = vmxCpu(vcpu);
  if (nested.dirtyVmcs12) prepareEarlyRare(vcpu, vmcs12);
  pinControls(vcpu, vmcs12);
  execControls(vcpu, vmcs12);
  secondaryControls(vcpu, vmcs12);
  entryAndExitControls(vcpu, vmcs12);
  if (!nested.nestedRunPending) {
    vmwrite32(cpu, C.VM_ENTRY_INTR_INFO_FIELD, 0);
    return;
  }
  EVENT.toVmcs(cpu, vmcs12);
}

/** Fields that prepare_vmcs02_rare() copies as they are. */
// prettier-ignore
const RARE = new FieldGroup([
  G.ES_SELECTOR, G.CS_SELECTOR, G.SS_SELECTOR, G.DS_SELECTOR, G.FS_SELECTOR, G.GS_SELECTOR, G.LDTR_SELECTOR, G.TR_SELECTOR,
  G.ES_LIMIT, G.CS_LIMIT, G.SS_LIMIT, G.DS_LIMIT, G.FS_LIMIT, G.GS_LIMIT, G.LDTR_LIMIT, G.TR_LIMIT, G.GDTR_LIMIT,
  G.IDTR_LIMIT, G.CS_AR_BYTES, G.SS_AR_BYTES, G.ES_AR_BYTES, G.DS_AR_BYTES, G.FS_AR_BYTES, G.GS_AR_BYTES,
  G.LDTR_AR_BYTES, G.TR_AR_BYTES, G.ES_BASE, G.CS_BASE, G.SS_BASE, G.DS_BASE, G.FS_BASE, G.GS_BASE, G.LDTR_BASE,
  G.TR_BASE, G.GDTR_BASE, G.IDTR_BASE, G.SYSENTER_CS, G.PENDING_DBG_EXCEPTIONS, G.SYSENTER_ESP, G.SYSENTER_EIP,
  G.PDPTR0, G.PDPTR1, G.PDPTR2, G.PDPTR3, C.PAGE_FAULT_ERROR_CODE_MASK, C.PAGE_FAULT_ERROR_CODE_MATCH,
  C.EOI_EXIT_BITMAP0, C.EOI_EXIT_BITMAP1, C.EOI_EXIT_BITMAP2, C.EOI_EXIT_BITMAP3,
]);

/** prepare_vmcs02_rare(). */
function prepareRare(vcpu: Vcpu, vmcs12: Vmcs12): void {
  RARE.toVmcs(vmxCpu(vcpu), vmcs12);
  setCr4GuestHostMask(vcpu);
}

function prepareDebugAndPat(vcpu: Vcpu, vmcs12: Vmcs12): void {
  const { nested } = toVmx(vcpu);
  const cpu = vmxCpu(vcpu);
  if (nested.nestedRunPending && nestedEntryHas(vmcs12, VM_ENTRY.LOAD_DEBUG_CONTROLS)) {
    kvmSetDr7(vcpu, vmcs12.lo(G.DR7));
    vmwrite32(cpu, G.IA32_DEBUGCTL, vmcs12.lo(G.IA32_DEBUGCTL));
  } else {
    kvmSetDr7(vcpu, vcpu.arch.dr7);
    vmwrite32(cpu, G.IA32_DEBUGCTL, nested.preVmenterDebugctl);
  }
  if (nested.nestedRunPending && nestedEntryHas(vmcs12, VM_ENTRY.LOAD_IA32_PAT))
    vcpu.arch.pat = pair(vmcs12.lo(G.IA32_PAT), vmcs12.hi(G.IA32_PAT));
  vmwritePair(cpu, G.IA32_PAT, low(vcpu.arch.pat), high(vcpu.arch.pat));
}

/** prepare_vmcs02(): L2's state is loaded; vmcs02 is loaded, L2 is active. False: the entry fails, as if by hardware. */
export function prepareVmcs02(vcpu: Vcpu): boolean {
  const { nested } = toVmx(vcpu);
  const vmcs12 = nested.cachedVmcs12;
  const { arch } = vcpu;
  const cpu = vmxCpu(vcpu);
  if (nested.dirtyVmcs12) {
    prepareRare(vcpu, vmcs12);
    nested.dirtyVmcs12 = false;
  }
  prepareDebugAndPat(vcpu, vmcs12);
  // With all bits that L1 has set: the processor refuses reserved ones.
  vmwritePair(cpu, G.RFLAGS, vmcs12.lo(G.RFLAGS), vmcs12.hi(G.RFLAGS));
  vmxUpdateExceptionBitmap(vcpu);
  arch.cr0GuestOwnedBits &= ~vmcs12.lo(C.CR0_GUEST_HOST_MASK);
  vmwrite32(cpu, C.CR0_GUEST_HOST_MASK, ~arch.cr0GuestOwnedBits);
  loadL2Tsc(vcpu);
  nestedVmxTransitionTlbFlush(vcpu, 'entry');
  if (nestedCpuHasEpt(vmcs12)) nestedEptInitMmuContext(vcpu);
  vmxSetCr0(vcpu, vmcs12.u32(G.CR0));
  vmwrite32(cpu, C.CR0_READ_SHADOW, nestedReadCr0(vmcs12));
  vmxSetCr4(vcpu, vmcs12.lo(G.CR4));
  vmwrite32(cpu, C.CR4_READ_SHADOW, nestedReadCr4(vmcs12));
  vmxSetEfer(vcpu, calcEfer(vcpu, vmcs12));
  const tables = nestedCpuHasEpt(vmcs12) ? 'nested EPT' : 'L0';
  if (!nestedVmxLoadCr3(vcpu, vmcs12.lo(G.CR3), vmcs12.hi(G.CR3), tables)) return false;
  // An exit may come before L2 runs, and then takes CR3 from vmcs02.
  vmwritePair(cpu, G.CR3, vmcs12.lo(G.CR3), vmcs12.hi(G.CR3));
  kvmRegisterWrite(vcpu, GPR.RSP, vmcs12.lo(G.RSP), vmcs12.hi(G.RSP));
  kvmRipWritePair(vcpu, vmcs12.lo(G.RIP), vmcs12.hi(G.RIP));
  return true;
}
