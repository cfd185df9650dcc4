// SPDX-License-Identifier: GPL-2.0-only
/**
 * The VMCS that L0 runs a vCPU on: controls as setup_vmcs_config() chooses them from the capability MSRs, host state as
 * vmx_set_constant_host_state(), MSR bitmap as vmx_disable_intercept_for_msr(). Mirrors arch/x86/kvm/vmx/vmx.c, 6.12.
 */
import type { Hpa } from '../../../lib/x86/addr.ts';
import { MSR } from '../../../lib/x86/msr.ts';
import { CR0, CR4, EFER } from '../../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import type { Cpu } from '../../machine/cpu/cpu.ts';
import { BugError } from '../../machine/errors.ts';
import type { ControlCaps, VmxCaps } from '../../machine/vmx/caps.ts';
import type { KvmParams } from '../params.ts';
import { vmwrite32, vmwrite64, vmwriteNum, vmwritePair } from '../../machine/vmx/vmcs_access.ts';

/** Pages of vmx_vmread_bitmap and vmx_vmwrite_bitmap: which of its accesses L1 makes without an exit. */
export interface ShadowBitmaps {
  readonly vmread: Hpa;
  readonly vmwrite: Hpa;
}

/** struct vmcs_config: the control words that every vCPU starts from. */
export interface VmcsConfig {
  readonly pin: number;
  readonly cpuBased: number;
  readonly secondary: number;
  readonly exit: number;
  readonly entry: number;
}

/** adjust_vmx_controls(): the wanted bits that the processor offers, plus those it insists on. */
function adjustControls(caps: ControlCaps, required: number, optional: number, what: string): number {
  const wanted = (required | optional) & caps.may1;
  if ((wanted & required) !== required) throw new BugError(`the processor lacks a required ${what} control`);
  return wanted | caps.must1;
}

/** setup_vmcs_config(). */
export function setupVmcsConfig(caps: VmxCaps, params: KvmParams): VmcsConfig {
  const cpuRequired =
    CPU_BASED.HLT_EXITING |
    CPU_BASED.UNCOND_IO_EXITING |
    CPU_BASED.MOV_DR_EXITING |
    CPU_BASED.USE_TSC_OFFSETTING |
    CPU_BASED.MWAIT_EXITING |
    CPU_BASED.MONITOR_EXITING |
    CPU_BASED.RDPMC_EXITING |
    CPU_BASED.CR8_LOAD_EXITING |
    CPU_BASED.CR8_STORE_EXITING |
    CPU_BASED.USE_MSR_BITMAPS |
    CPU_BASED.ACTIVATE_SECONDARY_CONTROLS;
  const secondaryOptional =
    SECONDARY_EXEC.ENABLE_RDTSCP |
    SECONDARY_EXEC.WBINVD_EXITING |
    SECONDARY_EXEC.ENABLE_INVPCID |
    SECONDARY_EXEC.TSC_SCALING |
    (params['kvm_intel.unrestricted_guest'] !== 0 ? SECONDARY_EXEC.UNRESTRICTED_GUEST : 0) |
    (params['kvm_intel.vpid'] !== 0 ? SECONDARY_EXEC.ENABLE_VPID : 0);
  const exitRequired =
    VM_EXIT.SAVE_DEBUG_CONTROLS |
    VM_EXIT.HOST_ADDR_SPACE_SIZE |
    VM_EXIT.ACK_INTR_ON_EXIT |
    VM_EXIT.LOAD_IA32_EFER |
    VM_EXIT.SAVE_IA32_EFER |
    VM_EXIT.LOAD_IA32_PAT |
    VM_EXIT.SAVE_IA32_PAT;
  const entryRequired = VM_ENTRY.LOAD_DEBUG_CONTROLS | VM_ENTRY.LOAD_IA32_EFER | VM_ENTRY.LOAD_IA32_PAT;
  return {
    pin: adjustControls(
      caps.pin,
      PIN_BASED.EXT_INTR_MASK | PIN_BASED.NMI_EXITING,
      PIN_BASED.VIRTUAL_NMIS,
      'pin-based',
    ),
    cpuBased: adjustControls(caps.cpuBased, cpuRequired, 0, 'processor-based'),
    secondary: adjustControls(caps.secondary, SECONDARY_EXEC.ENABLE_EPT, secondaryOptional, 'secondary'),
    exit: adjustControls(caps.exit, exitRequired, 0, 'VM-exit'),
    entry: adjustControls(caps.entry, entryRequired, 0, 'VM-entry'),
  };
}

/** CR4 bits that the guest may write without an exit (KVM_POSSIBLE_CR4_GUEST_BITS). */
export const CR4_GUEST_BITS =
  CR4.PVI | CR4.DE | CR4.PCE | CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.PGE | CR4.TSD | CR4.FSGSBASE;
/** CR0 bits that the guest may write without an exit under EPT (KVM_POSSIBLE_CR0_GUEST_BITS). */
export const CR0_GUEST_BITS = CR0.TS | CR0.WP;

/** Nominal host state: L0 is not guest code, so selectors and addresses only have to be valid. */
const HOST = {
  CS: 0x10,
  SS: 0x18,
  TR: 0x40,
  RIP: 0xffff_ffff_8100_0000n,
  RSP: 0xffff_c900_0000_3f00n,
} as const;

/** vmx_set_constant_host_state() and vmx_set_host_fs_gs(). */
function setHostState(cpu: Cpu, hostCr3: number): void {
  vmwrite32(cpu, VMCS_HOST.CR0, (CR0.PG | CR0.WP | CR0.NE | CR0.ET | CR0.PE) >>> 0);
  vmwriteNum(cpu, VMCS_HOST.CR3, hostCr3);
  vmwrite32(cpu, VMCS_HOST.CR4, CR4.PAE | CR4.PGE | CR4.VMXE | CR4.OSFXSR);
  vmwrite32(cpu, VMCS_HOST.CS_SELECTOR, HOST.CS);
  vmwrite32(cpu, VMCS_HOST.SS_SELECTOR, HOST.SS);
  for (const f of ['DS', 'ES', 'FS', 'GS'] as const) vmwrite32(cpu, VMCS_HOST[`${f}_SELECTOR`], 0);
  vmwrite32(cpu, VMCS_HOST.TR_SELECTOR, HOST.TR);
  for (const f of ['FS', 'GS', 'TR', 'GDTR', 'IDTR'] as const) vmwrite32(cpu, VMCS_HOST[`${f}_BASE`], 0);
  vmwrite64(cpu, VMCS_HOST.RIP, HOST.RIP);
  vmwrite64(cpu, VMCS_HOST.RSP, HOST.RSP);
  vmwrite32(cpu, VMCS_HOST.IA32_SYSENTER_CS, 0);
  vmwrite32(cpu, VMCS_HOST.IA32_SYSENTER_ESP, 0);
  vmwrite32(cpu, VMCS_HOST.IA32_SYSENTER_EIP, 0);
  vmwrite32(cpu, VMCS_HOST.IA32_EFER, EFER.LME | EFER.LMA | EFER.SCE | EFER.NXE);
  vmwritePair(cpu, VMCS_HOST.IA32_PAT, 0x0007_0406, 0x0007_0406);
}

/** init_vmcs(): everything that stays, and the guest fields that no ioctl writes. The VMCS is current. */
export function initVmcs(
  cpu: Cpu,
  config: VmcsConfig,
  vmcs: { msrBitmap: Hpa; vpid: number; hostCr3: number; shadowBitmaps: ShadowBitmaps | null },
): void {
  vmwrite32(cpu, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, config.pin);
  vmwrite32(cpu, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, config.cpuBased);
  vmwrite32(cpu, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, config.secondary);
  vmwrite32(cpu, VMCS_CTRL.VM_EXIT_CONTROLS, config.exit);
  vmwrite32(cpu, VMCS_CTRL.VM_ENTRY_CONTROLS, config.entry);
  vmwriteNum(cpu, VMCS_CTRL.MSR_BITMAP, vmcs.msrBitmap);
  if ((config.secondary & SECONDARY_EXEC.ENABLE_VPID) !== 0)
    vmwrite32(cpu, VMCS_CTRL.VIRTUAL_PROCESSOR_ID, vmcs.vpid);
  if (vmcs.shadowBitmaps !== null) {
    vmwriteNum(cpu, VMCS_CTRL.VMREAD_BITMAP, vmcs.shadowBitmaps.vmread);
    vmwriteNum(cpu, VMCS_CTRL.VMWRITE_BITMAP, vmcs.shadowBitmaps.vmwrite);
  }
  const zero = [
    VMCS_CTRL.EXCEPTION_BITMAP,
    VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MASK,
    VMCS_CTRL.PAGE_FAULT_ERROR_CODE_MATCH,
    VMCS_CTRL.CR3_TARGET_COUNT,
    VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT,
    VMCS_CTRL.VM_EXIT_MSR_LOAD_COUNT,
    VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT,
    VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD,
    VMCS_GUEST.INTERRUPTIBILITY_INFO,
    VMCS_GUEST.ACTIVITY_STATE,
    VMCS_GUEST.PENDING_DBG_EXCEPTIONS,
    VMCS_GUEST.IA32_DEBUGCTL,
  ];
  for (const field of zero) vmwrite32(cpu, field, 0);
  vmwritePair(cpu, VMCS_GUEST.VMCS_LINK_POINTER, -1, -1);
  vmwritePair(cpu, VMCS_GUEST.IA32_PAT, 0x0007_0406, 0x0007_0406);
  vmwrite32(cpu, VMCS_CTRL.CR0_GUEST_HOST_MASK, ~CR0_GUEST_BITS);
  vmwrite32(cpu, VMCS_CTRL.CR4_GUEST_HOST_MASK, ~CR4_GUEST_BITS);
  setHostState(cpu, vmcs.hostCr3);
}

/** prepare_vmcs02_constant_state(): what vmcs02 has from L0 alone. The VMCS is current. */
export function initVmcs02(cpu: Cpu, vmcs: { msrBitmap: Hpa; hostCr3: number }): void {
  vmwriteNum(cpu, VMCS_CTRL.MSR_BITMAP, vmcs.msrBitmap);
  const zero = [
    VMCS_CTRL.CR3_TARGET_COUNT,
    VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT,
    VMCS_CTRL.VM_EXIT_MSR_LOAD_COUNT,
    VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT,
    VMCS_GUEST.ACTIVITY_STATE,
  ];
  for (const field of zero) vmwrite32(cpu, field, 0);
  // VM functions are emulated: each exits.
  if (cpu.vmx.caps.vmfunc !== 0) vmwrite32(cpu, VMCS_CTRL.VM_FUNCTION_CONTROL, 0);
  setHostState(cpu, vmcs.hostCr3);
}

/** MSRs that the guest may read and write without an exit: the VMCS or the entry code switches them. */
const PASSTHROUGH_MSRS: readonly number[] = [
  MSR.FS_BASE,
  MSR.GS_BASE,
  MSR.KERNEL_GS_BASE,
  MSR.IA32_SYSENTER_CS,
  MSR.IA32_SYSENTER_ESP,
  MSR.IA32_SYSENTER_EIP,
];

/** The MSR bitmap of a new vCPU: everything exits but the MSRs above, and reads of the TSC. */
export function initMsrBitmap(u8: Uint8Array, bitmap: Hpa): void {
  u8.fill(0xff, bitmap, bitmap + 4096);
  const clear = (msr: number, write: 'read' | 'write'): void => {
    const at =
      bitmap + (msr >= 0xc000_0000 ? 0x400 : 0) + (write === 'write' ? 0x800 : 0) + ((msr & 0x1fff) >> 3);
    u8[at] = u8[at]! & ~(1 << (msr & 7));
  };
  for (const msr of PASSTHROUGH_MSRS) {
    clear(msr, 'read');
    clear(msr, 'write');
  }
  clear(MSR.IA32_TSC, 'read');
}
