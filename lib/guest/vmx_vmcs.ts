// SPDX-License-Identifier: GPL-2.0-only
/**
 * A VMCS with which VMLAUNCH succeeds: L2 is a clone of L1 with its own RIP and RSP, after prepare_vmcs() of lib/x86/vmx.c in
 * tools/testing/selftests/kvm. Writes go to every field that upstream writes; where the processor lacks one, VMWRITE fails and
 * that is ignored. Left out: enlightened VMCSs.
 */
import { MSR } from '../x86/msr.ts';
import { VMX_EPT_CAP, VMX_MSR } from '../x86/vmx/capability_msrs.ts';
import { CPU_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT, VMX_EPTP } from '../x86/vmx/controls.ts';
import { VMX_AR } from '../x86/vmx/guest_state.ts';
import { VMCS_CTRL } from '../x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../x86/vmx/vmcs_host.ts';
import type { GuestCode } from './dsl/builder.ts';
import { at, type Expr, type Place, select } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import type { Operand } from './dsl/rvalue.ts';
import { packedStruct } from './dsl/struct.ts';
import { type IntType, ptr, type PtrType, u16, u32, u64, u8 } from './dsl/types.ts';
import { GUEST_ASSERT } from './guest_assert.ts';
import {
  get_cr0,
  get_cr3,
  get_cr4,
  get_cs,
  get_ds,
  get_es,
  get_fs,
  get_gdt,
  get_gs,
  get_idt,
  get_ss,
  get_tr,
  rdmsr,
} from './processor.ts';
import { ept_cap_supported } from './vmx.ts';
import { vmreadz, vmwrite } from './vmx_insns.ts';
import { VmxPages } from './vmx_pages.ts';

const ALL_ONES = 2n ** 64n - 1n;

/** Writes several fields; failures are ignored. */
function vmwriteAll(g: GuestCode, rows: readonly (readonly [field: number, value: Operand])[]): void {
  for (const [field, value] of rows) vmwrite(g, field, value);
}

/** Writes the same value to several fields. */
const vmwriteEach = (g: GuestCode, fields: readonly number[], value: Operand): void =>
  vmwriteAll(
    g,
    fields.map((field) => [field, value]),
  );

/** The EPT pointer for a root: write-back, four levels, and accessed and dirty flags if there are any. */
export const ept_pointer = guestFn('ept_pointer', [u64], u64, (g, root) => {
  const eptp = g.local(u64, root.or(VMX_EPTP.MT_WB | VMX_EPTP.PWL_4));
  g.if(ept_cap_supported(g, VMX_EPT_CAP.AD_BIT), () => g.set(eptp, '|=', VMX_EPTP.AD_ENABLE_BIT));
  g.return(eptp);
});

/** EPT if the test has a root for it; secondary controls are activated wherever the processor has them. */
function executionControls(g: GuestCode, vmx: Place<PtrType<typeof VmxPages>>): void {
  const secondary = g.local(u32, 0);
  g.if(vmx.f.eptp_gpa.ne(0), () => {
    GUEST_ASSERT(g, vmx.f.eptp_gpa.and(0xfff).eq(0));
    vmwrite(g, VMCS_CTRL.EPT_POINTER, ept_pointer(g, vmx.f.eptp_gpa));
    g.set(secondary, '|=', SECONDARY_EXEC.ENABLE_EPT);
  });
  const primary = g.local(u64, rdmsr(g, VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS));
  g.if(
    vmwrite(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL, secondary).eq(0),
    () => g.set(primary, '|=', CPU_BASED.ACTIVATE_SECONDARY_CONTROLS),
    () => GUEST_ASSERT(g, secondary.eq(0)),
  );
  vmwrite(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, primary);
}

/** The fewest controls with which a 64-bit L1 runs a 64-bit L2. The upper halves of the MSRs fall away in VMWRITE. */
export const init_vmcs_control_fields = guestFn('init_vmcs_control_fields', [ptr(VmxPages)], (g, vmx) => {
  const c = VMCS_CTRL;
  vmwriteEach(g, [c.VIRTUAL_PROCESSOR_ID, c.POSTED_INTR_NV], 0);
  vmwrite(g, c.PIN_BASED_VM_EXEC_CONTROL, rdmsr(g, VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS));
  executionControls(g, vmx);
  const exit = rdmsr(g, VMX_MSR.IA32_VMX_EXIT_CTLS);
  vmwrite(g, c.VM_EXIT_CONTROLS, exit.or(VM_EXIT.HOST_ADDR_SPACE_SIZE));
  const entry = rdmsr(g, VMX_MSR.IA32_VMX_ENTRY_CTLS);
  vmwrite(g, c.VM_ENTRY_CONTROLS, entry.or(VM_ENTRY.IA32E_MODE));
  // Every page fault matches, and the clear bit of the exception bitmap then means no exit; a mismatch would mean one.
  vmwrite(g, c.PAGE_FAULT_ERROR_CODE_MATCH, 0);
  vmwriteEach(g, [c.EXCEPTION_BITMAP, c.PAGE_FAULT_ERROR_CODE_MASK, c.CR3_TARGET_COUNT], 0);
  vmwriteEach(g, [c.VM_EXIT_MSR_STORE_COUNT, c.VM_EXIT_MSR_LOAD_COUNT, c.VM_ENTRY_MSR_LOAD_COUNT], 0);
  vmwriteEach(g, [c.VM_ENTRY_INTR_INFO_FIELD, c.TPR_THRESHOLD], 0);
  vmwriteEach(g, [c.CR0_GUEST_HOST_MASK, c.CR4_GUEST_HOST_MASK], 0);
  vmwrite(g, c.CR0_READ_SHADOW, get_cr0(g));
  vmwrite(g, c.CR4_READ_SHADOW, get_cr4(g));
  vmwrite(g, c.MSR_BITMAP, vmx.f.msr_gpa);
  vmwrite(g, c.VMREAD_BITMAP, vmx.f.vmread_gpa);
  vmwrite(g, c.VMWRITE_BITMAP, vmx.f.vmwrite_gpa);
});

/** A system descriptor of 64-bit mode. */
// prettier-ignore
const Desc64 = packedStruct('struct desc64', {
  limit0: u16, base0: u16, base1: u8, type: u8, limit1: u8, base2: u8, base3: u32, zero1: u32,
});

/** get_desc64_base(): the base in a system descriptor at an address. */
export const get_desc64_base = guestFn('get_desc64_base', [u64], u64, (g, address) => {
  const { base0, base1, base2, base3 } = at(Desc64, address).f;
  const low = base0.cast(u64).or(base1.cast(u64).shl(16)).or(base2.cast(u64).shl(24));
  g.return(low.or(base3.cast(u64).shl(32)));
});

/** Fields that exist if a VM-exit control loads them, and the MSRs that they take. */
const LOADED_ON_EXIT = [
  [VM_EXIT.LOAD_IA32_PAT, VMCS_HOST.IA32_PAT, MSR.IA32_CR_PAT],
  [VM_EXIT.LOAD_IA32_EFER, VMCS_HOST.IA32_EFER, MSR.EFER],
  [VM_EXIT.LOAD_IA32_PERF_GLOBAL_CTRL, VMCS_HOST.IA32_PERF_GLOBAL_CTRL, MSR.CORE_PERF_GLOBAL_CTRL],
] as const;

const HOST_MSRS = [
  [VMCS_HOST.IA32_SYSENTER_CS, MSR.IA32_SYSENTER_CS],
  [VMCS_HOST.IA32_SYSENTER_ESP, MSR.IA32_SYSENTER_ESP],
  [VMCS_HOST.IA32_SYSENTER_EIP, MSR.IA32_SYSENTER_EIP],
  [VMCS_HOST.FS_BASE, MSR.FS_BASE],
  [VMCS_HOST.GS_BASE, MSR.GS_BASE],
] as const;

/** Host state as L1 is now; vmlaunch() and vmresume() write RSP and RIP. */
export const init_vmcs_host_state = guestFn('init_vmcs_host_state', [], (g) => {
  const h = VMCS_HOST;
  const exitControls = vmreadz(g, VMCS_CTRL.VM_EXIT_CONTROLS);
  vmwriteAll(g, [
    [h.ES_SELECTOR, get_es(g)],
    [h.CS_SELECTOR, get_cs(g)],
    [h.SS_SELECTOR, get_ss(g)],
    [h.DS_SELECTOR, get_ds(g)],
    [h.FS_SELECTOR, get_fs(g)],
    [h.GS_SELECTOR, get_gs(g)],
    [h.TR_SELECTOR, get_tr(g)],
    [h.CR0, get_cr0(g)],
    [h.CR3, get_cr3(g)],
    [h.CR4, get_cr4(g)],
  ]);
  for (const [control, field, msr] of LOADED_ON_EXIT) {
    g.if(exitControls.and(control), () => vmwrite(g, field, rdmsr(g, msr)));
  }
  for (const [field, msr] of HOST_MSRS) vmwrite(g, field, rdmsr(g, msr));
  const gdt = get_gdt(g).f.address;
  vmwrite(g, h.TR_BASE, get_desc64_base(g, gdt.add(get_tr(g))));
  vmwrite(g, h.GDTR_BASE, gdt);
  vmwrite(g, h.IDTR_BASE, get_idt(g).f.address);
});

/** Guest fields that begin with the value of a host field. */
const CLONED = [
  ...(['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'TR'] as const).map((name) => `${name}_SELECTOR` as const),
  ...(['FS', 'GS', 'TR', 'GDTR', 'IDTR'] as const).map((name) => `${name}_BASE` as const),
  ...(['IA32_PAT', 'IA32_EFER', 'IA32_PERF_GLOBAL_CTRL', 'CR0', 'CR3', 'CR4'] as const),
] as const;

const SYSENTER = [
  [VMCS_GUEST.SYSENTER_CS, VMCS_HOST.IA32_SYSENTER_CS],
  [VMCS_GUEST.SYSENTER_ESP, VMCS_HOST.IA32_SYSENTER_ESP],
  [VMCS_GUEST.SYSENTER_EIP, VMCS_HOST.IA32_SYSENTER_EIP],
] as const;

const FLAT_LIMIT = 0xffff_ffff;
const { G_MASK, DB_MASK, L_MASK, P_MASK, S_MASK } = VMX_AR;
const FLAT = G_MASK | P_MASK | S_MASK;
const DATA_AR = FLAT | DB_MASK | VMX_AR.TYPE_WRITEABLE_MASK | VMX_AR.TYPE_ACCESSES_MASK;
const CODE_AR = FLAT | L_MASK | VMX_AR.TYPE_CODE_MASK | VMX_AR.TYPE_READABLE_MASK | VMX_AR.TYPE_ACCESSES_MASK;

/** Limits and access rights of the segments, as 64-bit mode wants them; a null selector makes a data segment unusable. */
function guestSegments(g: GuestCode): void {
  const s = VMCS_GUEST;
  vmwriteEach(g, [s.ES_LIMIT, s.CS_LIMIT, s.SS_LIMIT, s.DS_LIMIT, s.FS_LIMIT, s.GS_LIMIT], FLAT_LIMIT);
  vmwrite(g, s.CS_AR_BYTES, CODE_AR);
  vmwrite(g, s.SS_AR_BYTES, DATA_AR);
  for (const name of ['ES', 'DS', 'FS', 'GS'] as const) {
    const selector = vmreadz(g, s[`${name}_SELECTOR`]);
    vmwrite(g, s[`${name}_AR_BYTES`], select(selector.eq(0), VMX_AR.UNUSABLE_MASK, DATA_AR));
  }
  vmwriteEach(g, [s.ES_BASE, s.CS_BASE, s.SS_BASE, s.DS_BASE], 0);
  vmwriteAll(g, [
    [s.LDTR_SELECTOR, 0],
    [s.LDTR_BASE, 0],
    [s.LDTR_LIMIT, FLAT_LIMIT],
    [s.LDTR_AR_BYTES, VMX_AR.UNUSABLE_MASK],
    [s.TR_LIMIT, 0x67],
    [s.TR_AR_BYTES, P_MASK | VMX_AR.TYPE_BUSY_64_TSS],
    [s.GDTR_LIMIT, 0xffff],
    [s.IDTR_LIMIT, 0xffff],
  ]);
}

/** Guest state: a clone of the host state, flat segments, and L2's RIP and RSP. */
export const init_vmcs_guest_state = guestFn('init_vmcs_guest_state', [ptr(), ptr()], (g, rip, rsp) => {
  const s = VMCS_GUEST;
  for (const name of CLONED) vmwrite(g, s[name], vmreadz(g, VMCS_HOST[name]));
  for (const [field, from] of SYSENTER) vmwrite(g, field, vmreadz(g, from));
  guestSegments(g);
  vmwriteEach(g, [s.INTR_STATUS, s.PML_INDEX, s.IA32_DEBUGCTL, s.VMX_PREEMPTION_TIMER_VALUE], 0);
  vmwriteEach(g, [s.INTERRUPTIBILITY_INFO, s.ACTIVITY_STATE, s.PENDING_DBG_EXCEPTIONS], 0);
  vmwriteAll(g, [
    [s.VMCS_LINK_POINTER, ALL_ONES],
    [s.DR7, 0x400],
    [s.RSP, rsp],
    [s.RIP, rip],
    [s.RFLAGS, 2],
  ]);
});

/** Prepares the current VMCS for VMLAUNCH of L2 at `guest_rip` with `guest_rsp`. */
export const prepare_vmcs = guestFn(
  'prepare_vmcs',
  [ptr(VmxPages), ptr(), ptr()],
  (g, vmx, guest_rip, guest_rsp) => {
    init_vmcs_control_fields(g, vmx);
    init_vmcs_host_state(g);
    init_vmcs_guest_state(g, guest_rip, guest_rsp);
  },
);

/** A field of the current VMCS with some bits set: `vmwrite(field, vmreadz(field) | bits)`. */
export const vmcs_set_bits = (g: GuestCode, field: number, bits: Operand): Expr<IntType> =>
  vmwrite(g, field, vmreadz(g, field).or(bits));

/** A field of the current VMCS with some bits clear. */
export const vmcs_clear_bits = (g: GuestCode, field: number, bits: number): Expr<IntType> =>
  vmwrite(g, field, vmreadz(g, field).and(~BigInt(bits)));
