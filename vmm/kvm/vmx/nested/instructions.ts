// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMXON, VMXOFF, VMCLEAR, VMPTRLD and VMPTRST as L1 executes them: handle_vmxon() and so on of arch/x86/kvm/vmx/nested.c,
 * 6.12. SDM, "VMX Instruction Reference". Leaves out eVMCS.
 */
import { gpa } from '../../../../lib/x86/addr.ts';
import { VECTOR } from '../../../../lib/x86/exceptions.ts';
import { CR4 } from '../../../../lib/x86/registers.ts';
import { FEAT_CTL } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../../../lib/x86/vmx/controls.ts';
import { VMXERR } from '../../../../lib/x86/vmx/insn_errors.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { KVM_REQ } from '../../request_numbers.ts';
import { kvmMakeRequest } from '../../requests.ts';
import { kvmReadCr0, kvmReadCr4 } from '../../x86/cache_regs.ts';
import { kvmInjectGp, kvmQueueException } from '../../x86/events.ts';
import { kvmVcpuReadGuest, kvmVcpuWriteGuest } from '../../x86/guest_access.ts';
import { kvmApicHasPendingInitOrSipi } from '../../x86/mp_state.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { vmxGetCpl } from '../vmx_regs.ts';
import { nestedCr4Valid, nestedHostCr0Valid } from './check_registers.ts';
import { INVALID_VMPTR } from './nested_vmx.ts';
import { VMCS12_LAUNCH_STATE_OFFSET, VMCS12_REVISION } from './vmcs12_layout.ts';
import { enterVmxOperation, freeNested, nestedReleaseVmcs12, setCurrentVmptr } from './vmx_operation.ts';
import { pageAddressValid, readVmxQuadwords, vmxInstructionInfo, writeVmxOperand } from './vmx_operand.ts';
import {
  nestedVmxCheckPermission,
  nestedVmxFail,
  nestedVmxFailInvalid,
  nestedVmxSucceed,
} from './vmx_results.ts';

/** Shadow-VMCS indicator, bit 31 of the revision identifier. */
const SHADOW_VMCS = 0x8000_0000 | 0;

const VMXON_NEEDED_FEATURES = FEAT_CTL.LOCKED | FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX;

/** nested_vmx_get_vmptr(): the operand, or undefined: an exception is queued. */
function getVmptr(vcpu: Vcpu): bigint | undefined {
  return readVmxQuadwords(vcpu, vmxInstructionInfo(vcpu), 1)?.[0];
}

/** The first 32 bits at a guest-physical address; undefined: nothing is there. */
function readRevision(vcpu: Vcpu, address: number): number | undefined {
  const bytes = new Uint8Array(4);
  if (kvmVcpuReadGuest(vcpu, gpa(address), bytes) < 0) return undefined;
  return new DataView(bytes.buffer).getInt32(0, true);
}

function gp(vcpu: Vcpu): number {
  kvmInjectGp(vcpu, 0);
  return 1;
}

/** handle_vmxon(). CR4.VMXE is always set in hardware, so the check that comes before a VM exit is made here. */
export function handleVmxon(vcpu: Vcpu): number {
  const vmx = toVmx(vcpu);
  if ((kvmReadCr4(vcpu) & CR4.VMXE) === 0) {
    kvmQueueException(vcpu, VECTOR.UD);
    return 1;
  }
  if (vmxGetCpl(vcpu) !== 0) return gp(vcpu);
  if (vmx.nested.vmxon) return nestedVmxFail(vcpu, VMXERR.VMXON_IN_VMX_ROOT_OPERATION);
  const crOk = nestedHostCr0Valid(vcpu, kvmReadCr0(vcpu), 0) && nestedCr4Valid(vcpu, kvmReadCr4(vcpu), 0);
  if (!crOk || (vmx.featureControl & VMXON_NEEDED_FEATURES) !== VMXON_NEEDED_FEATURES) return gp(vcpu);
  const vmptr = getVmptr(vcpu);
  if (vmptr === undefined) return 1;
  if (!pageAddressValid(vcpu, vmptr) || readRevision(vcpu, Number(vmptr)) !== VMCS12_REVISION)
    return nestedVmxFailInvalid(vcpu);
  vmx.nested.vmxonPtr = Number(vmptr);
  const err = enterVmxOperation(vcpu);
  return err < 0 ? err : nestedVmxSucceed(vcpu);
}

/** handle_vmxoff(): INIT is no longer blocked. */
export function handleVmxoff(vcpu: Vcpu): number {
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  freeNested(vcpu);
  if (kvmApicHasPendingInitOrSipi(vcpu)) kvmMakeRequest(KVM_REQ.EVENT, vcpu);
  return nestedVmxSucceed(vcpu);
}

/** handle_vmclear(). */
export function handleVmclear(vcpu: Vcpu): number {
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const vmptr = getVmptr(vcpu);
  if (vmptr === undefined) return 1;
  const { nested } = toVmx(vcpu);
  if (!pageAddressValid(vcpu, vmptr)) return nestedVmxFail(vcpu, VMXERR.VMCLEAR_INVALID_ADDRESS);
  const address = Number(vmptr);
  if (address === nested.vmxonPtr) return nestedVmxFail(vcpu, VMXERR.VMCLEAR_VMXON_POINTER);
  if (address === nested.currentVmptr) nestedReleaseVmcs12(vcpu);
  // Where there is no memory, nothing is written: the pseudocode only asks that the data be in memory.
  kvmVcpuWriteGuest(vcpu, gpa(address + VMCS12_LAUNCH_STATE_OFFSET), new Uint8Array(4));
  return nestedVmxSucceed(vcpu);
}

/** handle_vmptrld(). */
export function handleVmptrld(vcpu: Vcpu): number {
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const vmptr = getVmptr(vcpu);
  if (vmptr === undefined) return 1;
  const { nested } = toVmx(vcpu);
  if (!pageAddressValid(vcpu, vmptr)) return nestedVmxFail(vcpu, VMXERR.VMPTRLD_INVALID_ADDRESS);
  const address = Number(vmptr);
  if (address === nested.vmxonPtr) return nestedVmxFail(vcpu, VMXERR.VMPTRLD_VMXON_POINTER);
  if (nested.currentVmptr !== address && !loadVmcs12(vcpu, address))
    return nestedVmxFail(vcpu, VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
  return nestedVmxSucceed(vcpu);
}

/** Cache the VMCS at `address`; false: it is none of ours. Memory that is not there reads as ones, no revision of ours. */
function loadVmcs12(vcpu: Vcpu, address: number): boolean {
  const { nested } = toVmx(vcpu);
  const revision = readRevision(vcpu, address);
  if (revision === undefined || (revision & ~SHADOW_VMCS) !== VMCS12_REVISION) return false;
  const hasShadowing = (nested.msrs.secondary.high & SECONDARY_EXEC.SHADOW_VMCS) !== 0;
  if ((revision & SHADOW_VMCS) !== 0 && !hasShadowing) return false;
  nestedReleaseVmcs12(vcpu);
  if (kvmVcpuReadGuest(vcpu, gpa(address), nested.cachedVmcs12.bytes) < 0) return false;
  setCurrentVmptr(vcpu, address);
  return true;
}

/** handle_vmptrst(). */
export function handleVmptrst(vcpu: Vcpu): number {
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const { currentVmptr } = toVmx(vcpu).nested;
  const bytes = new Uint8Array(8);
  const value = currentVmptr === INVALID_VMPTR ? 0xffff_ffff_ffff_ffffn : BigInt(currentVmptr);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return writeVmxOperand(vcpu, vmxInstructionInfo(vcpu), bytes) ? nestedVmxSucceed(vcpu) : 1;
}
