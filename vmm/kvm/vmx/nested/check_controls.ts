// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on vmcs12's VM-exit and VM-entry control fields, event injection and MSR areas among them, and all checks on
 * controls together: nested_vmx_check_controls() of arch/x86/kvm/vmx/nested.c, 6.12. A failure is VM-instruction error 7.
 */
import { CR0 } from '../../../../lib/x86/registers.ts';
import { INTR_INFO, INTR_TYPE } from '../../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { nestedCheckVmExecutionControls } from './check_execution.ts';
import { cc, CHECK_FAILED, legalAlignedGpa, vmxControlVerify } from './check_util.ts';
import {
  nestedCpuHasUnrestrictedGuest,
  nestedCpuHasZeroLengthInjection,
  nestedCpuSupportsMonitorTrapFlag,
} from './vmcs12_controls.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** Bytes of struct vmx_msr_entry. */
const MSR_ENTRY_BYTES = 16;
const NMI_VECTOR = 2;
/** x86_exception_has_error_code(): DF, TS, NP, SS, GP, PF and AC, by vector. */
const HAS_ERROR_CODE = (1 << 8) | (0x1f << 10) | (1 << 17);

/** nested_vmx_check_msr_switch(): an MSR area is aligned and ends within the physical-address width. */
function msrSwitchValid(vcpu: Vcpu, vmcs12: Vmcs12, countField: number, addrField: number): boolean {
  const count = vmcs12.u32(countField);
  if (count === 0) return true;
  if (!legalAlignedGpa(vcpu, vmcs12, addrField, MSR_ENTRY_BYTES)) return false;
  return vmcs12.num(addrField) + count * MSR_ENTRY_BYTES <= 2 ** vcpu.arch.maxphyaddr;
}

/** nested_check_vm_exit_controls(). */
export function nestedCheckVmExitControls(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const { msrs } = toVmx(vcpu).nested;
  const load = msrSwitchValid(vcpu, vmcs12, C.VM_EXIT_MSR_LOAD_COUNT, C.VM_EXIT_MSR_LOAD_ADDR);
  const store = msrSwitchValid(vcpu, vmcs12, C.VM_EXIT_MSR_STORE_COUNT, C.VM_EXIT_MSR_STORE_ADDR);
  const failed =
    cc(vcpu, !vmxControlVerify(vmcs12.lo(C.VM_EXIT_CONTROLS), msrs.exit), 'VM-exit controls') ||
    cc(vcpu, !load, 'VM-exit MSR-load area: address') ||
    cc(vcpu, !store, 'VM-exit MSR-store area: address');
  return failed ? CHECK_FAILED : 0;
}

/** Interruption type and vector of the event that the entry injects. */
function checkEventType(vcpu: Vcpu, type: number, vector: number): boolean {
  const { msrs } = toVmx(vcpu).nested;
  return (
    cc(vcpu, type === INTR_TYPE.RESERVED, 'VM-entry interruption information: reserved type') ||
    cc(
      vcpu,
      type === INTR_TYPE.OTHER_EVENT && !nestedCpuSupportsMonitorTrapFlag(msrs),
      'VM-entry interruption information: other event without monitor trap flag',
    ) ||
    cc(
      vcpu,
      type === INTR_TYPE.NMI_INTR && vector !== NMI_VECTOR,
      'VM-entry interruption information: vector of an NMI',
    ) ||
    cc(
      vcpu,
      type === INTR_TYPE.HARD_EXCEPTION && vector > 31,
      'VM-entry interruption information: vector of a hardware exception',
    ) ||
    cc(
      vcpu,
      type === INTR_TYPE.OTHER_EVENT && vector !== 0,
      'VM-entry interruption information: vector of an other event',
    )
  );
}

/** Error code: an exception has one if its vector has and L2 will be in protected mode. */
function checkEventErrorCode(vcpu: Vcpu, vmcs12: Vmcs12, type: number, vector: number): boolean {
  const info = vmcs12.lo(C.VM_ENTRY_INTR_INFO_FIELD);
  const has = (info & INTR_INFO.DELIVER_CODE_MASK) !== 0;
  const protectedMode = !nestedCpuHasUnrestrictedGuest(vmcs12) || (vmcs12.lo(VMCS_GUEST.CR0) & CR0.PE) !== 0;
  const should =
    type === INTR_TYPE.HARD_EXCEPTION && protectedMode && ((HAS_ERROR_CODE >>> vector) & 1) !== 0;
  return (
    cc(vcpu, has !== should, 'VM-entry interruption information: deliver error code') ||
    cc(
      vcpu,
      has && vmcs12.u32(C.VM_ENTRY_EXCEPTION_ERROR_CODE) > 0xffff,
      'VM-entry exception error code: bits 31:16',
    )
  );
}

/** Software events need the length of their instruction. */
function checkEventLength(vcpu: Vcpu, vmcs12: Vmcs12, type: number): boolean {
  if (
    type !== INTR_TYPE.SOFT_EXCEPTION &&
    type !== INTR_TYPE.SOFT_INTR &&
    type !== INTR_TYPE.PRIV_SW_EXCEPTION
  )
    return false;
  const length = vmcs12.u32(C.VM_ENTRY_INSTRUCTION_LEN);
  const zeroOk = nestedCpuHasZeroLengthInjection(toVmx(vcpu).nested.msrs);
  return (
    cc(vcpu, length > 15, 'VM-entry instruction length: above 15') ||
    cc(vcpu, length === 0 && !zeroOk, 'VM-entry instruction length: 0')
  );
}

function checkEventInjection(vcpu: Vcpu, vmcs12: Vmcs12): boolean {
  const info = vmcs12.lo(C.VM_ENTRY_INTR_INFO_FIELD);
  if ((info & INTR_INFO.VALID_MASK) === 0) return false;
  const type = info & INTR_INFO.INTR_TYPE_MASK;
  const vector = info & INTR_INFO.VECTOR_MASK;
  return (
    checkEventType(vcpu, type, vector) ||
    checkEventErrorCode(vcpu, vmcs12, type, vector) ||
    cc(vcpu, (info & INTR_INFO.RESVD_BITS_MASK) !== 0, 'VM-entry interruption information: reserved bits') ||
    checkEventLength(vcpu, vmcs12, type)
  );
}

/** nested_check_vm_entry_controls(). */
export function nestedCheckVmEntryControls(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const { msrs } = toVmx(vcpu).nested;
  const load = msrSwitchValid(vcpu, vmcs12, C.VM_ENTRY_MSR_LOAD_COUNT, C.VM_ENTRY_MSR_LOAD_ADDR);
  const failed =
    cc(vcpu, !vmxControlVerify(vmcs12.lo(C.VM_ENTRY_CONTROLS), msrs.entry), 'VM-entry controls') ||
    checkEventInjection(vcpu, vmcs12) ||
    cc(vcpu, !load, 'VM-entry MSR-load area: address');
  return failed ? CHECK_FAILED : 0;
}

/** nested_vmx_check_controls(): 0 or -EINVAL. */
export function nestedVmxCheckControls(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const failed =
    nestedCheckVmExecutionControls(vcpu, vmcs12) !== 0 ||
    nestedCheckVmExitControls(vcpu, vmcs12) !== 0 ||
    nestedCheckVmEntryControls(vcpu, vmcs12) !== 0;
  return failed ? CHECK_FAILED : 0;
}
