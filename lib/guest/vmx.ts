// SPDX-License-Identifier: GPL-2.0-only
/**
 * The way into VMX root operation and to a current VMCS, after lib/x86/vmx.c of tools/testing/selftests/kvm, and what L1
 * can learn from the capability MSRs. Works from guest code alone, given a struct vmx_pages.
 */
import { MSR } from '../x86/msr.ts';
import { CR4 } from '../x86/registers.ts';
import { FEAT_CTL, VMX_EPT_CAP, VMX_MSR } from '../x86/vmx/capability_msrs.ts';
import { CPU_BASED } from '../x86/vmx/controls.ts';
import type { GuestCode } from './dsl/builder.ts';
import { at, type Expr } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import type { Operand } from './dsl/rvalue.ts';
import { bool, type IntType, ptr, u32, u64 } from './dsl/types.ts';
import { get_cr0, get_cr4, rdmsr, set_cr0, set_cr4, wrmsr } from './processor.ts';
import { vmclear, vmcs_revision, vmptrld, vmxon } from './vmx_insns.ts';
import { VmxPages } from './vmx_pages.ts';

/** Bit 31 of the first word of a VMCS: it is a shadow VMCS. */
export const VMCS_SHADOW_BIT = 0x8000_0000;

/** Makes CR0, CR4 and IA32_FEATURE_CONTROL such that VMXON does not fault. */
export const enable_vmx = guestFn('enable_vmx', [], (g) => {
  // A bit that is 1 in FIXED0 must be 1, one that is 0 in FIXED1 must be 0.
  const cr0 = g.let(get_cr0(g).and(rdmsr(g, VMX_MSR.IA32_VMX_CR0_FIXED1)));
  set_cr0(g, cr0.or(rdmsr(g, VMX_MSR.IA32_VMX_CR0_FIXED0)));
  const cr4 = g.let(get_cr4(g).and(rdmsr(g, VMX_MSR.IA32_VMX_CR4_FIXED1)));
  set_cr4(g, cr4.or(rdmsr(g, VMX_MSR.IA32_VMX_CR4_FIXED0)).or(CR4.VMXE));
  const required = FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX | FEAT_CTL.LOCKED;
  const control = rdmsr(g, MSR.IA32_FEAT_CTL);
  g.if(control.and(required).ne(required), () => wrmsr(g, MSR.IA32_FEAT_CTL, control.or(required)));
});

/** Enters VMX root operation; false if VMXON fails. */
export const prepare_for_vmx_operation = guestFn(
  'prepare_for_vmx_operation',
  [ptr(VmxPages)],
  bool,
  (g, vmx) => {
    enable_vmx(g);
    g.set(at(u32, vmx.f.vmxon), vmcs_revision(g));
    g.return(vmxon(g, vmx.f.vmxon_gpa).eq(0));
  },
);

/** Makes the VMCS clear and current, and the shadow VMCS clear; false if an instruction fails. */
export const load_vmcs = guestFn('load_vmcs', [ptr(VmxPages)], bool, (g, vmx) => {
  g.set(at(u32, vmx.f.vmcs), vmcs_revision(g));
  g.if(vmclear(g, vmx.f.vmcs_gpa), () => g.return(0));
  g.if(vmptrld(g, vmx.f.vmcs_gpa), () => g.return(0));
  g.set(at(u32, vmx.f.shadow_vmcs), vmcs_revision(g).or(VMCS_SHADOW_BIT));
  g.return(vmclear(g, vmx.f.shadow_vmcs_gpa).eq(0));
});

/** Whether a bit of the low word of IA32_VMX_EPT_VPID_CAP is set; the MSR exists only with EPT or VPID. */
export const ept_cap_supported = (g: GuestCode, mask: number): Expr<IntType> =>
  rdmsr(g, VMX_MSR.IA32_VMX_EPT_VPID_CAP).and(mask).ne(0);

/** Whether EPT has 1-GByte pages. */
export const ept_1g_pages_supported = (g: GuestCode): Expr<IntType> =>
  ept_cap_supported(g, VMX_EPT_CAP.PAGE_1GB_BIT);
/** Whether EPT has accessed and dirty flags. */
export const ept_ad_supported = (g: GuestCode): Expr<IntType> => ept_cap_supported(g, VMX_EPT_CAP.AD_BIT);

/** Whether a primary processor-based control may be 1. */
export const vmx_cpu_based_supported = (g: GuestCode, control: Operand): Expr<IntType> =>
  rdmsr(g, VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS).shr(32).and(control).ne(0);

/** Whether a secondary processor-based control may be 1. */
export const vmx_secondary_supported = guestFn('vmx_secondary_supported', [u64], bool, (g, control) => {
  const has = vmx_cpu_based_supported(g, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS);
  g.if(has.lnot(), () => g.return(0));
  g.return(rdmsr(g, VMX_MSR.IA32_VMX_PROCBASED_CTLS2).shr(32).and(control).ne(0));
});
