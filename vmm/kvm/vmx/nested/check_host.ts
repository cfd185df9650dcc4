// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on vmcs12's host-state area: nested_vmx_check_address_space_size() and nested_vmx_check_host_state() of
 * arch/x86/kvm/vmx/nested.c, 6.12. A failure is VM-instruction error 8. Leaves out CET; no vCPU has it.
 */
import { CR4, EFER } from '../../../../lib/x86/registers.ts';
import { VM_EXIT } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_HOST as H } from '../../../../lib/x86/vmx/vmcs_host.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmValidEfer, nestedCr4Valid, nestedHostCr0Valid } from './check_registers.ts';
import {
  canonicalShift,
  cc,
  CHECK_FAILED,
  isNoncanonicalHigh,
  legalCr3,
  patFieldValid,
} from './check_util.ts';
import { nestedExitHas, nestedGuestIa32e, nestedHostIa32e } from './vmcs12_controls.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** RPL and table indicator of a selector. */
const RPL_TI = 7;

/** nested_vmx_check_address_space_size(): L1 comes back to the mode that it left. */
export function nestedVmxCheckAddressSpaceSize(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const bad = nestedHostIa32e(vmcs12) !== ((vcpu.arch.efer & EFER.LMA) !== 0);
  return cc(vcpu, bad, 'host address-space size against EFER.LMA') ? CHECK_FAILED : 0;
}

/** Control registers and MSRs but EFER. */
function checkRegisters(vcpu: Vcpu, v: Vmcs12, shift: number): boolean {
  const perf = nestedExitHas(v, VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL);
  return (
    cc(vcpu, !nestedHostCr0Valid(vcpu, v.lo(H.CR0), v.hi(H.CR0)), 'host CR0: fixed bits') ||
    cc(vcpu, !nestedCr4Valid(vcpu, v.lo(H.CR4), v.hi(H.CR4)), 'host CR4: fixed or reserved bits') ||
    cc(vcpu, !legalCr3(vcpu, v, H.CR3), 'host CR3: physical-address width') ||
    cc(vcpu, isNoncanonicalHigh(v.hi(H.IA32_SYSENTER_ESP), shift), 'host IA32_SYSENTER_ESP: canonical') ||
    cc(vcpu, isNoncanonicalHigh(v.hi(H.IA32_SYSENTER_EIP), shift), 'host IA32_SYSENTER_EIP: canonical') ||
    cc(vcpu, nestedExitHas(v, VM_EXIT.LOAD_IA32_PAT) && !patFieldValid(v, H.IA32_PAT), 'host IA32_PAT') ||
    // kvm_valid_perf_global_ctrl() of a vCPU without performance counters.
    cc(
      vcpu,
      perf && (v.lo(H.IA32_PERF_GLOBAL_CTRL) | v.hi(H.IA32_PERF_GLOBAL_CTRL)) !== 0,
      'host IA32_PERF_GLOBAL_CTRL',
    )
  );
}

function checkMode(vcpu: Vcpu, v: Vmcs12): boolean {
  const cr4 = v.lo(H.CR4);
  if (nestedHostIa32e(v)) return cc(vcpu, (cr4 & CR4.PAE) === 0, 'host CR4.PAE of an IA-32e mode host');
  return (
    cc(vcpu, nestedGuestIa32e(v), 'IA-32e mode guest of a 32-bit host') ||
    cc(vcpu, (cr4 & CR4.PCIDE) !== 0, 'host CR4.PCIDE of a 32-bit host') ||
    cc(vcpu, v.hi(H.RIP) !== 0, 'host RIP of a 32-bit host: bits 63:32')
  );
}

const SELECTORS = ['CS', 'SS', 'DS', 'ES', 'FS', 'GS', 'TR'] as const;
const SELECTOR_FIELDS: readonly number[] = SELECTORS.map((name) => H[`${name}_SELECTOR`]);

function checkSelectors(vcpu: Vcpu, v: Vmcs12): boolean {
  for (let i = 0; i < SELECTOR_FIELDS.length; i++) {
    if ((v.lo(SELECTOR_FIELDS[i]!) & RPL_TI) !== 0)
      return cc(vcpu, true, `host ${SELECTORS[i]!} selector: RPL and TI`);
  }
  return (
    cc(vcpu, v.lo(H.CS_SELECTOR) === 0, 'host CS selector is null') ||
    cc(vcpu, v.lo(H.TR_SELECTOR) === 0, 'host TR selector is null') ||
    cc(vcpu, v.lo(H.SS_SELECTOR) === 0 && !nestedHostIa32e(v), 'host SS selector of a 32-bit host is null')
  );
}

const BASES = ['FS', 'GS', 'GDTR', 'IDTR', 'TR'] as const;
const BASE_FIELDS: readonly number[] = BASES.map((name) => H[`${name}_BASE`]);

function checkBases(vcpu: Vcpu, v: Vmcs12, shift: number): boolean {
  for (let i = 0; i < BASE_FIELDS.length; i++) {
    if (isNoncanonicalHigh(v.hi(BASE_FIELDS[i]!), shift))
      return cc(vcpu, true, `host ${BASES[i]!} base: canonical`);
  }
  return cc(vcpu, isNoncanonicalHigh(v.hi(H.RIP), shift), 'host RIP: canonical');
}

function checkEfer(vcpu: Vcpu, v: Vmcs12): boolean {
  if (!nestedExitHas(v, VM_EXIT.LOAD_IA32_EFER)) return false;
  const ia32e = nestedHostIa32e(v);
  const efer = v.lo(H.IA32_EFER);
  return (
    cc(vcpu, !kvmValidEfer(vcpu, efer, v.hi(H.IA32_EFER)), 'host IA32_EFER: reserved bits') ||
    cc(vcpu, ia32e !== ((efer & EFER.LMA) !== 0), 'host IA32_EFER.LMA against host address-space size') ||
    cc(vcpu, ia32e !== ((efer & EFER.LME) !== 0), 'host IA32_EFER.LME against host address-space size')
  );
}

/** nested_vmx_check_host_state(): 0 or -EINVAL. */
export function nestedVmxCheckHostState(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const shift = canonicalShift(vcpu);
  const failed =
    checkRegisters(vcpu, vmcs12, shift) ||
    checkMode(vcpu, vmcs12) ||
    checkSelectors(vcpu, vmcs12) ||
    checkBases(vcpu, vmcs12, shift) ||
    checkEfer(vcpu, vmcs12);
  return failed ? CHECK_FAILED : 0;
}
