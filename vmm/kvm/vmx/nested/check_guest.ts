// SPDX-License-Identifier: GPL-2.0-only
/**
 * Checks on vmcs12's guest-state area that L0 makes itself: nested_vmx_check_guest_state() and
 * nested_vmx_check_vmcs_link_ptr() of arch/x86/kvm/vmx/nested.c, 6.12. A failure is a VM exit with reason 33 and the
 * failure code as its qualification. Segments, RFLAGS and interruptibility are the processor's to check, in vmcs02.
 */
import { CR0, CR4, EFER } from '../../../../lib/x86/registers.ts';
import { DEBUGCTL } from '../../../../lib/x86/msr.ts';
import { gpa } from '../../../../lib/x86/addr.ts';
import { VM_ENTRY } from '../../../../lib/x86/vmx/controls.ts';
import { GUEST_ACTIVITY } from '../../../../lib/x86/vmx/guest_state.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmVcpuReadGuest } from '../../x86/guest_access.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { kvmValidEfer, nestedCr4Valid, nestedGuestCr0Valid } from './check_registers.ts';
import { cc, CHECK_FAILED, ENTRY_FAIL, pageAddressValid, patFieldValid } from './check_util.ts';
import { nestedCpuHasShadowVmcs, nestedEntryHas, nestedGuestIa32e } from './vmcs12_controls.ts';
import { VMCS12_REVISION } from './vmcs12_layout.ts';
import type { Vmcs12 } from './vmcs12.ts';

/** Where a check puts the exit qualification. */
export interface EntryFailure {
  code: number;
}

/** nested_vmx_check_vmcs_link_ptr(): the shadow VMCS of L1 lies in memory and says that it is one. */
export function nestedVmxCheckVmcsLinkPtr(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const field = G.VMCS_LINK_POINTER;
  if (vmcs12.lo(field) === -1 && vmcs12.hi(field) === -1) return 0;
  if (cc(vcpu, !pageAddressValid(vcpu, vmcs12, field), 'VMCS link pointer: page address'))
    return CHECK_FAILED;
  const header = new Uint8Array(4);
  const fault = kvmVcpuReadGuest(vcpu, gpa(vmcs12.num(field)), header);
  if (cc(vcpu, fault < 0, 'VMCS link pointer: no memory')) return CHECK_FAILED;
  const word = new DataView(header.buffer).getUint32(0, true);
  const shadow = word >>> 31 === 1;
  const failed =
    cc(vcpu, (word & 0x7fff_ffff) !== VMCS12_REVISION, 'VMCS link pointer: revision identifier') ||
    cc(vcpu, shadow !== nestedCpuHasShadowVmcs(vmcs12), 'VMCS link pointer: shadow-VMCS indicator');
  return failed ? CHECK_FAILED : 0;
}

/** vmx_is_valid_debugctl(): LBR and BTF are let in without effect, everything else is refused. */
const debugctlInvalid = (v: Vmcs12): boolean =>
  ((v.lo(G.IA32_DEBUGCTL) & ~(DEBUGCTL.LBR | DEBUGCTL.BTF)) | v.hi(G.IA32_DEBUGCTL)) !== 0;

function checkRegisters(vcpu: Vcpu, v: Vmcs12): boolean {
  const debug = nestedEntryHas(v, VM_ENTRY.LOAD_DEBUG_CONTROLS);
  const pat = nestedEntryHas(v, VM_ENTRY.LOAD_IA32_PAT);
  return (
    cc(vcpu, !nestedGuestCr0Valid(vcpu, v, v.lo(G.CR0), v.hi(G.CR0)), 'guest CR0: fixed bits') ||
    cc(vcpu, !nestedCr4Valid(vcpu, v.lo(G.CR4), v.hi(G.CR4)), 'guest CR4: fixed or reserved bits') ||
    cc(vcpu, debug && v.hi(G.DR7) !== 0, 'guest DR7: bits 63:32') ||
    cc(vcpu, debug && debugctlInvalid(v), 'guest IA32_DEBUGCTL') ||
    cc(vcpu, pat && !patFieldValid(v, G.IA32_PAT), 'guest IA32_PAT')
  );
}

/** Only an entry by VMLAUNCH or VMRESUME loads EFER: a restored L2 has it in its registers. */
function checkEfer(vcpu: Vcpu, v: Vmcs12): boolean {
  if (!toVmx(vcpu).nested.nestedRunPending || !nestedEntryHas(v, VM_ENTRY.LOAD_IA32_EFER)) return false;
  const ia32e = nestedGuestIa32e(v);
  const efer = v.lo(G.IA32_EFER);
  const paging = (v.lo(G.CR0) & CR0.PG) !== 0;
  return (
    cc(vcpu, !kvmValidEfer(vcpu, efer, v.hi(G.IA32_EFER)), 'guest IA32_EFER: reserved bits') ||
    cc(vcpu, ia32e !== ((efer & EFER.LMA) !== 0), 'guest IA32_EFER.LMA against IA-32e mode guest') ||
    cc(vcpu, paging && ia32e !== ((efer & EFER.LME) !== 0), 'guest IA32_EFER.LME against IA-32e mode guest')
  );
}

function checkMode(vcpu: Vcpu, v: Vmcs12): boolean {
  const perf = nestedEntryHas(v, VM_ENTRY.LOAD_IA32_PERF_GLOBAL_CTRL);
  const ia32e = nestedGuestIa32e(v);
  const cr0 = v.lo(G.CR0);
  return (
    cc(
      vcpu,
      perf && (v.lo(G.IA32_PERF_GLOBAL_CTRL) | v.hi(G.IA32_PERF_GLOBAL_CTRL)) !== 0,
      'guest IA32_PERF_GLOBAL_CTRL',
    ) ||
    cc(vcpu, (cr0 & CR0.PG) !== 0 && (cr0 & CR0.PE) === 0, 'guest CR0: PG without PE') ||
    cc(vcpu, ia32e && (v.lo(G.CR4) & CR4.PAE) === 0, 'guest CR4.PAE of an IA-32e mode guest') ||
    cc(vcpu, ia32e && (cr0 & CR0.PG) === 0, 'guest CR0.PG of an IA-32e mode guest')
  );
}

/** nested_check_guest_non_reg_state(): the shutdown state is not offered to L1. */
export function nestedCheckGuestNonRegState(vcpu: Vcpu, vmcs12: Vmcs12): number {
  const state = vmcs12.lo(G.ACTIVITY_STATE);
  const known =
    state === GUEST_ACTIVITY.ACTIVE || state === GUEST_ACTIVITY.HLT || state === GUEST_ACTIVITY.WAIT_SIPI;
  return cc(vcpu, !known, 'guest activity state') ? CHECK_FAILED : 0;
}

/** nested_vmx_check_guest_state(): 0 or -EINVAL; `out.code` is the exit qualification then. */
export function nestedVmxCheckGuestState(vcpu: Vcpu, vmcs12: Vmcs12, out: EntryFailure): number {
  out.code = ENTRY_FAIL.DEFAULT;
  if (checkRegisters(vcpu, vmcs12)) return CHECK_FAILED;
  if (nestedVmxCheckVmcsLinkPtr(vcpu, vmcs12) !== 0) {
    out.code = ENTRY_FAIL.VMCS_LINK_PTR;
    return CHECK_FAILED;
  }
  const failed =
    checkMode(vcpu, vmcs12) || checkEfer(vcpu, vmcs12) || nestedCheckGuestNonRegState(vcpu, vmcs12) !== 0;
  return failed ? CHECK_FAILED : 0;
}
