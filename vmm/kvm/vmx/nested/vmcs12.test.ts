// SPDX-License-Identifier: GPL-2.0-only
/**
 * The layout of struct vmcs12. Expected offsets: the CHECK_OFFSET() lines of arch/x86/kvm/vmx/vmcs12.h, for the ends of
 * each run of fields and some in between; what lies between two of them is determined by the widths.
 */
import { describe, expect, it } from 'vitest';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO as I } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { Vmcs12 } from './vmcs12.ts';
import { VMCS12_FIELDS, vmcs12HasField, vmcs12Offset } from './vmcs12_layout.ts';

// prettier-ignore
const OFFSETS: readonly (readonly [number, number])[] = [
  [C.IO_BITMAP_A, 40], [C.MSR_BITMAP, 56], [C.TSC_OFFSET, 88], [C.EPT_POINTER, 120], [C.EOI_EXIT_BITMAP3, 152],
  [C.XSS_EXIT_BITMAP, 160], [I.GUEST_PHYSICAL_ADDRESS, 168], [G.VMCS_LINK_POINTER, 176], [G.IA32_PERF_GLOBAL_CTRL, 208],
  [G.PDPTR3, 240], [G.BNDCFGS, 248], [H.IA32_PERF_GLOBAL_CTRL, 272], [C.VMREAD_BITMAP, 280],
  [C.VM_FUNCTION_CONTROL, 296], [C.PML_ADDRESS, 312],
  [C.CR0_GUEST_HOST_MASK, 344], [C.CR3_TARGET_VALUE3, 400], [I.EXIT_QUALIFICATION, 408], [I.GUEST_LINEAR_ADDRESS, 416],
  [G.CR0, 424], [G.CR4, 440], [G.ES_BASE, 448], [G.IDTR_BASE, 520], [G.DR7, 528], [G.RIP, 544], [G.SYSENTER_EIP, 576],
  [H.CR0, 584], [H.IDTR_BASE, 640], [H.RIP, 672],
  [C.PIN_BASED_VM_EXEC_CONTROL, 744], [C.CR3_TARGET_COUNT, 764], [C.VM_ENTRY_INTR_INFO_FIELD, 788],
  [C.TPR_THRESHOLD, 800], [C.SECONDARY_VM_EXEC_CONTROL, 804], [I.VM_INSTRUCTION_ERROR, 808],
  [I.VMX_INSTRUCTION_INFO, 836], [G.ES_LIMIT, 840], [G.IDTR_LIMIT, 876], [G.ES_AR_BYTES, 880], [G.TR_AR_BYTES, 908],
  [G.INTERRUPTIBILITY_INFO, 912], [H.IA32_SYSENTER_CS, 924], [G.VMX_PREEMPTION_TIMER_VALUE, 928],
  [C.VIRTUAL_PROCESSOR_ID, 960], [C.POSTED_INTR_NV, 962], [G.TR_SELECTOR, 978], [G.INTR_STATUS, 980],
  [H.ES_SELECTOR, 982], [H.TR_SELECTOR, 994], [G.PML_INDEX, 996],
];

describe('struct vmcs12', () => {
  it('has its fields where the kernel has them', () => {
    for (const [field, offset] of OFFSETS) expect([field, vmcs12Offset(field)]).toEqual([field, offset]);
  });

  it('has no two fields in one place, and all below 1000 bytes', () => {
    const offsets = VMCS12_FIELDS.map(vmcs12Offset);
    expect(new Set(offsets).size).toBe(offsets.length);
    expect(Math.max(...offsets)).toBe(996);
  });

  it('lacks fields that KVM does not offer to L1', () => {
    for (const field of [
      C.EPTP_INDEX,
      C.PLE_GAP,
      C.VE_INFORMATION_ADDRESS,
      G.SMBASE,
      I.IO_RCX,
      0x7fff,
      0x8000,
      -1,
    ])
      expect(vmcs12HasField(field)).toBe(false);
    expect(vmcs12HasField(C.TSC_OFFSET + 1)).toBe(true);
  });
});

describe('a field of vmcs12', () => {
  it('keeps as many bits as it is wide', () => {
    const v = new Vmcs12();
    v.setPair(G.ES_SELECTOR, 0x12_3456, 7);
    v.setPair(C.EXCEPTION_BITMAP, -1, 7);
    v.setPair(G.RIP, 0x89ab_cdef | 0, 0x7fff_0000);
    expect([v.u32(G.ES_SELECTOR), v.hi(G.ES_SELECTOR)]).toEqual([0x3456, 0]);
    expect([v.u32(C.EXCEPTION_BITMAP), v.hi(C.EXCEPTION_BITMAP)]).toEqual([0xffff_ffff, 0]);
    expect(v.u64(G.RIP)).toBe(0x7fff_0000_89ab_cdefn);
    // Neighbours of the three are untouched.
    expect([v.lo(G.CS_SELECTOR), v.lo(C.PAGE_FAULT_ERROR_CODE_MASK), v.lo(G.RFLAGS)]).toEqual([0, 0, 0]);
  });

  it('reads as it was written, through each accessor', () => {
    const v = new Vmcs12();
    v.setNum(C.EPT_POINTER, 0xf_ffff_f01e);
    expect(v.num(C.EPT_POINTER)).toBe(0xf_ffff_f01e);
    v.set64(C.TSC_OFFSET, -2n);
    expect(v.u64(C.TSC_OFFSET)).toBe(0xffff_ffff_ffff_fffen);
    v.set32(C.TSC_OFFSET, 5);
    expect(v.u64(C.TSC_OFFSET)).toBe(5n);
    v.launchState = 1;
    v.revisionId = 0x11e5_7ed0;
    expect([v.revisionId, v.abort, v.launchState]).toEqual([0x11e5_7ed0, 0, 1]);
    expect(v.bytes[8]).toBe(1);
  });
});
