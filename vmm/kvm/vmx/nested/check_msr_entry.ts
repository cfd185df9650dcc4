// SPDX-License-Identifier: GPL-2.0-only
/**
 * Which MSRs an entry of vmcs12's MSR areas may name: nested_vmx_load_msr_check() and nested_vmx_store_msr_check() of
 * arch/x86/kvm/vmx/nested.c, 6.12. SDM, "Loading MSRs", "Saving MSRs". Both are true if the entry is refused.
 */
import { APICBASE } from '../../../../lib/x86/apic.ts';
import { MSR } from '../../../../lib/x86/msr.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { cc } from './check_util.ts';

/** nested_vmx_msr_check_common(): `index` and `reserved` are the entry's first two words, unsigned. */
function msrCheckCommon(vcpu: Vcpu, index: number, reserved: number): boolean {
  const x2apic = (vcpu.arch.apicBase & APICBASE.EXTD) !== 0;
  return (
    cc(vcpu, x2apic && index >>> 8 === 0x8, 'MSR area: x2APIC MSR') ||
    cc(vcpu, index === MSR.IA32_UCODE_WRITE, 'MSR area: IA32_BIOS_UPDT_TRIG') ||
    cc(vcpu, index === MSR.IA32_UCODE_REV, 'MSR area: IA32_BIOS_SIGN_ID') ||
    cc(vcpu, reserved !== 0, 'MSR area: bits 63:32 of an entry')
  );
}

/** nested_vmx_load_msr_check(). */
export const nestedVmxLoadMsrRefused = (vcpu: Vcpu, index: number, reserved: number): boolean =>
  cc(vcpu, index === MSR.FS_BASE, 'MSR-load area: IA32_FS_BASE') ||
  cc(vcpu, index === MSR.GS_BASE, 'MSR-load area: IA32_GS_BASE') ||
  cc(vcpu, index === MSR.IA32_SMM_MONITOR_CTL, 'MSR-load area: IA32_SMM_MONITOR_CTL') ||
  msrCheckCommon(vcpu, index, reserved);

/** nested_vmx_store_msr_check(). */
export const nestedVmxStoreMsrRefused = (vcpu: Vcpu, index: number, reserved: number): boolean =>
  cc(vcpu, index === MSR.IA32_SMBASE, 'MSR-store area: IA32_SMBASE') || msrCheckCommon(vcpu, index, reserved);
