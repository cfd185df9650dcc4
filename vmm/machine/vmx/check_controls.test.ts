// SPDX-License-Identifier: GPL-2.0-only
/** Checks on VMX controls, one just-valid and one just-invalid VMCS per rule of SDM "Checks on VMX Controls". */
import { describe, expect, it } from 'vitest';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_ENTRY, VM_EXIT } from '../../../lib/x86/vmx/controls.ts';
import { INTR_TYPE } from '../../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { AT, EPTP, VmxBox } from './testing/fixture.ts';
import { type CheckRow, tryEntry } from './testing/rows.ts';

const C = VMCS_CTRL;
const VALID = 0x8000_0000;
const EXEC = 'VM-Execution Control Fields';
const EXIT = 'VM-Exit Control Fields';
const ENTRY = 'VM-Entry Control Fields';
/** First address beyond the physical-address width of 46 bits. */
const TOO_WIDE = 2 ** 46;

const inject =
  (info: number, errorCode = 0, length = 0) =>
  (box: VmxBox) =>
    box
      .write(VMCS_GUEST.RFLAGS, 0x202)
      .write(C.VM_ENTRY_INTR_INFO_FIELD, (info | VALID) >>> 0)
      .write(C.VM_ENTRY_EXCEPTION_ERROR_CODE, errorCode)
      .write(C.VM_ENTRY_INSTRUCTION_LEN, length);
const cpuBased =
  (set: number, clear = 0) =>
  (box: VmxBox) =>
    box.change(C.CPU_BASED_VM_EXEC_CONTROL, set, clear);
const secondary =
  (set: number, clear = 0) =>
  (box: VmxBox) =>
    box.change(C.SECONDARY_VM_EXEC_CONTROL, set, clear);
const pin =
  (set: number, clear = 0) =>
  (box: VmxBox) =>
    box.change(C.PIN_BASED_VM_EXEC_CONTROL, set, clear);
const both =
  (...steps: ((box: VmxBox) => unknown)[]) =>
  (box: VmxBox) =>
    steps.forEach((step) => step(box));
const field = (name: number, value: number) => (box: VmxBox) => box.write(name, value);
const delivery = both(cpuBased(CPU_BASED.TPR_SHADOW), secondary(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY));
const posted = both(delivery, pin(PIN_BASED.POSTED_INTR), field(C.POSTED_INTR_DESC_ADDR, AT.DATA));
const eptpSwitching = both(secondary(SECONDARY_EXEC.ENABLE_VMFUNC), field(C.VM_FUNCTION_CONTROL, 1));
const handled = (box: VmxBox): void => {
  for (let vector = 0; vector < 256; vector++) box.gate(vector, AT.HANDLER);
};

// prettier-ignore
const ROWS: readonly CheckRow[] = [
  { section: EXEC, rule: 'a default1 pin-based control is 1', expected: 'pin-based controls: reserved bits',
    valid: pin(0), invalid: pin(0, 0x2) },
  { section: EXEC, rule: 'a pin-based control that is not supported is 0', expected: 'pin-based controls: reserved bits',
    valid: pin(0), invalid: pin(0x100) },
  { section: EXEC, rule: 'a default1 primary control is 1', expected: 'primary processor-based controls: reserved bits',
    valid: cpuBased(0), invalid: cpuBased(0, 0x2) },
  { section: EXEC, rule: 'tertiary controls are not supported', expected: 'primary processor-based controls: reserved bits',
    valid: cpuBased(0), invalid: cpuBased(CPU_BASED.ACTIVATE_TERTIARY_CONTROLS) },
  { section: EXEC, rule: 'CR3-load exiting may be 0 by the TRUE MSR', expected: 'primary processor-based controls: reserved bits',
    valid: cpuBased(0, CPU_BASED.CR3_LOAD_EXITING | CPU_BASED.CR3_STORE_EXITING), invalid: cpuBased(0, 0x4000) },
  { section: EXEC, rule: 'secondary controls count only when activated',
    expected: 'secondary processor-based controls: reserved bits',
    valid: both(secondary(SECONDARY_EXEC.EPT_VIOLATION_VE), cpuBased(0, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS)),
    invalid: secondary(SECONDARY_EXEC.EPT_VIOLATION_VE) },
  { section: EXEC, rule: 'the CR3-target count is at most 4', expected: 'CR3-target count',
    valid: field(C.CR3_TARGET_COUNT, 4), invalid: field(C.CR3_TARGET_COUNT, 5) },
  { section: EXEC, rule: 'I/O-bitmap A is 4-KByte aligned', expected: 'I/O-bitmap addresses',
    valid: cpuBased(CPU_BASED.USE_IO_BITMAPS),
    invalid: both(cpuBased(CPU_BASED.USE_IO_BITMAPS), field(C.IO_BITMAP_A, AT.IO_BITMAP_A + 0x800)) },
  { section: EXEC, rule: 'I/O-bitmap B is within the physical-address width', expected: 'I/O-bitmap addresses',
    valid: field(C.IO_BITMAP_B, TOO_WIDE),
    invalid: both(cpuBased(CPU_BASED.USE_IO_BITMAPS), field(C.IO_BITMAP_B, TOO_WIDE)) },
  { section: EXEC, rule: 'the MSR bitmap is 4-KByte aligned', expected: 'MSR-bitmap address',
    valid: both(cpuBased(0, CPU_BASED.USE_MSR_BITMAPS), field(C.MSR_BITMAP, 1)), invalid: field(C.MSR_BITMAP, AT.MSR_BITMAP + 1) },
  { section: EXEC, rule: 'the virtual-APIC address is 4-KByte aligned', expected: 'virtual-APIC address',
    valid: cpuBased(CPU_BASED.TPR_SHADOW),
    invalid: both(cpuBased(CPU_BASED.TPR_SHADOW), field(C.VIRTUAL_APIC_PAGE_ADDR, AT.VAPIC + 0x80)) },
  { section: EXEC, rule: 'bits 31:4 of the TPR threshold are 0', expected: 'TPR threshold: bits 31:4',
    valid: field(C.TPR_THRESHOLD, 0x10), invalid: both(cpuBased(CPU_BASED.TPR_SHADOW), field(C.TPR_THRESHOLD, 0x10)) },
  { section: EXEC, rule: 'the TPR threshold is not above VTPR', expected: 'TPR threshold above VTPR',
    valid: both((box) => { box.word(AT.VAPIC + 0x80, 0x3f); }, cpuBased(CPU_BASED.TPR_SHADOW), field(C.TPR_THRESHOLD, 3)),
    invalid: both((box) => { box.word(AT.VAPIC + 0x80, 0x3f); }, cpuBased(CPU_BASED.TPR_SHADOW), field(C.TPR_THRESHOLD, 4)) },
  { section: EXEC, rule: 'neither is checked with virtual-interrupt delivery', expected: 'TPR threshold: bits 31:4',
    valid: both(delivery, field(C.TPR_THRESHOLD, 0xff)),
    invalid: both(cpuBased(CPU_BASED.TPR_SHADOW), field(C.TPR_THRESHOLD, 0xff)) },
  ...[SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE, SECONDARY_EXEC.APIC_REGISTER_VIRT, SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY].map(
    (control): CheckRow => ({ section: EXEC, rule: `control ${control} needs the TPR shadow`,
      expected: 'x2APIC mode, APIC-register virtualization and virtual-interrupt delivery need the TPR shadow',
      valid: both(secondary(control), cpuBased(CPU_BASED.TPR_SHADOW)), invalid: secondary(control) })),
  { section: EXEC, rule: 'the APIC-access address is 4-KByte aligned', expected: 'APIC-access address',
    valid: field(C.APIC_ACCESS_ADDR, AT.SPARE + 0x800),
    invalid: both(secondary(SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES), field(C.APIC_ACCESS_ADDR, AT.SPARE + 0x800)) },
  { section: EXEC, rule: 'the APIC-access address is within the physical-address width', expected: 'APIC-access address',
    valid: both(secondary(SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES), field(C.APIC_ACCESS_ADDR, AT.SPARE)),
    invalid: both(secondary(SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES), field(C.APIC_ACCESS_ADDR, TOO_WIDE)) },
  { section: EXEC, rule: 'x2APIC mode and APIC accesses are not virtualized together',
    expected: 'either x2APIC mode or APIC accesses are virtualized',
    valid: both(cpuBased(CPU_BASED.TPR_SHADOW), secondary(SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE)),
    invalid: both(cpuBased(CPU_BASED.TPR_SHADOW),
      secondary(SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE | SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES)) },
  { section: EXEC, rule: 'virtual-interrupt delivery needs external-interrupt exiting',
    expected: 'virtual-interrupt delivery needs external-interrupt exiting',
    valid: delivery, invalid: both(delivery, pin(0, PIN_BASED.EXT_INTR_MASK)) },
  { section: EXEC, rule: 'posted interrupts need virtual-interrupt delivery',
    expected: 'posted interrupts need virtual-interrupt delivery',
    valid: posted, invalid: both(posted, secondary(0, SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)) },
  { section: EXEC, rule: 'posted interrupts need acknowledging interrupts on exit',
    expected: 'posted interrupts need acknowledging interrupts on exit',
    valid: posted, invalid: both(posted, (box) => box.change(C.VM_EXIT_CONTROLS, 0, VM_EXIT.ACK_INTR_ON_EXIT)) },
  { section: EXEC, rule: 'bits 15:8 of the notification vector are 0', expected: 'posted-interrupt notification vector: bits 15:8',
    valid: both(posted, field(C.POSTED_INTR_NV, 0xff)), invalid: both(posted, field(C.POSTED_INTR_NV, 0x100)) },
  { section: EXEC, rule: 'the posted-interrupt descriptor is 64-byte aligned', expected: 'posted-interrupt descriptor address',
    valid: both(posted, field(C.POSTED_INTR_DESC_ADDR, AT.DATA + 0x40)),
    invalid: both(posted, field(C.POSTED_INTR_DESC_ADDR, AT.DATA + 0x20)) },
  { section: EXEC, rule: 'the posted-interrupt descriptor is within the physical-address width',
    expected: 'posted-interrupt descriptor address',
    valid: field(C.POSTED_INTR_DESC_ADDR, TOO_WIDE), invalid: both(posted, field(C.POSTED_INTR_DESC_ADDR, TOO_WIDE)) },
  { section: EXEC, rule: 'virtual NMIs need NMI exiting', expected: 'virtual NMIs need NMI exiting',
    valid: pin(PIN_BASED.VIRTUAL_NMIS), invalid: pin(PIN_BASED.VIRTUAL_NMIS, PIN_BASED.NMI_EXITING) },
  { section: EXEC, rule: 'NMI-window exiting needs virtual NMIs', expected: 'NMI-window exiting needs virtual NMIs',
    valid: both(pin(PIN_BASED.VIRTUAL_NMIS), cpuBased(CPU_BASED.NMI_WINDOW_EXITING)),
    invalid: cpuBased(CPU_BASED.NMI_WINDOW_EXITING) },
  { section: EXEC, rule: 'the VPID is not 0000H', expected: 'VPID is zero',
    valid: both(field(C.VIRTUAL_PROCESSOR_ID, 0), secondary(0, SECONDARY_EXEC.ENABLE_VPID)),
    invalid: field(C.VIRTUAL_PROCESSOR_ID, 0) },
  { section: EXEC, rule: 'the EPTP memory type is UC or WB', expected: 'EPTP: memory type',
    valid: field(C.EPT_POINTER, EPTP & ~7), invalid: field(C.EPT_POINTER, (EPTP & ~7) | 1) },
  { section: EXEC, rule: 'the EPT page-walk length is supported', expected: 'EPTP: page-walk length',
    valid: field(C.EPT_POINTER, EPTP), invalid: field(C.EPT_POINTER, (EPTP & ~0x38) | 0x20) },
  { section: EXEC, rule: 'reserved EPTP bits are 0', expected: 'EPTP: reserved bits',
    valid: field(C.EPT_POINTER, EPTP | 0x40), invalid: field(C.EPT_POINTER, EPTP | 0x80) },
  { section: EXEC, rule: 'EPTP bits beyond the physical-address width are 0', expected: 'EPTP: reserved bits',
    valid: field(C.EPT_POINTER, EPTP), invalid: field(C.EPT_POINTER, EPTP + TOO_WIDE) },
  { section: EXEC, rule: 'unrestricted guest needs EPT', expected: 'unrestricted guest needs EPT',
    valid: secondary(SECONDARY_EXEC.UNRESTRICTED_GUEST),
    invalid: secondary(SECONDARY_EXEC.UNRESTRICTED_GUEST, SECONDARY_EXEC.ENABLE_EPT) },
  { section: EXEC, rule: 'mode-based execute control needs EPT', expected: 'mode-based execute control needs EPT',
    valid: secondary(SECONDARY_EXEC.MODE_BASED_EPT_EXEC),
    invalid: secondary(SECONDARY_EXEC.MODE_BASED_EPT_EXEC, SECONDARY_EXEC.ENABLE_EPT) },
  { section: EXEC, rule: 'reserved VM-function controls', expected: 'VM-function controls: reserved bits',
    valid: field(C.VM_FUNCTION_CONTROL, 2),
    invalid: both(secondary(SECONDARY_EXEC.ENABLE_VMFUNC), field(C.VM_FUNCTION_CONTROL, 2)) },
  { section: EXEC, rule: 'VM-function controls 63:32 are reserved', expected: 'VM-function controls: reserved bits',
    valid: both(secondary(SECONDARY_EXEC.ENABLE_VMFUNC), field(C.VM_FUNCTION_CONTROL, 1)),
    invalid: both(secondary(SECONDARY_EXEC.ENABLE_VMFUNC), field(C.VM_FUNCTION_CONTROL, 2 ** 32)) },
  { section: EXEC, rule: 'EPTP switching needs EPT', expected: 'EPTP switching needs EPT',
    valid: secondary(SECONDARY_EXEC.ENABLE_VMFUNC, SECONDARY_EXEC.ENABLE_EPT),
    invalid: both(secondary(SECONDARY_EXEC.ENABLE_VMFUNC, SECONDARY_EXEC.ENABLE_EPT), field(C.VM_FUNCTION_CONTROL, 1)) },
  { section: EXEC, rule: 'the EPTP list is 4-KByte aligned', expected: 'EPTP-list address',
    valid: both(secondary(SECONDARY_EXEC.ENABLE_VMFUNC), field(C.EPTP_LIST_ADDRESS, AT.EPTP_LIST + 8)),
    invalid: both(eptpSwitching, field(C.EPTP_LIST_ADDRESS, AT.EPTP_LIST + 8)) },
  { section: EXEC, rule: 'the EPTP list is within the physical-address width', expected: 'EPTP-list address',
    valid: both(eptpSwitching, field(C.EPTP_LIST_ADDRESS, TOO_WIDE - 0x1000)),
    invalid: both(eptpSwitching, field(C.EPTP_LIST_ADDRESS, TOO_WIDE)) },
  { section: EXEC, rule: 'the VMREAD bitmap is 4-KByte aligned', expected: 'VMREAD-bitmap address',
    valid: field(C.VMREAD_BITMAP, AT.VMREAD_BITMAP + 8),
    invalid: both(secondary(SECONDARY_EXEC.SHADOW_VMCS), field(C.VMREAD_BITMAP, AT.VMREAD_BITMAP + 8)) },
  { section: EXEC, rule: 'the VMREAD bitmap is within the physical-address width', expected: 'VMREAD-bitmap address',
    valid: both(secondary(SECONDARY_EXEC.SHADOW_VMCS), field(C.VMREAD_BITMAP, TOO_WIDE - 0x1000)),
    invalid: both(secondary(SECONDARY_EXEC.SHADOW_VMCS), field(C.VMREAD_BITMAP, TOO_WIDE)) },
  { section: EXEC, rule: 'the VMWRITE bitmap is 4-KByte aligned', expected: 'VMWRITE-bitmap address',
    valid: secondary(SECONDARY_EXEC.SHADOW_VMCS),
    invalid: both(secondary(SECONDARY_EXEC.SHADOW_VMCS), field(C.VMWRITE_BITMAP, AT.VMWRITE_BITMAP + 0x800)) },
  { section: EXEC, rule: 'the VMWRITE bitmap is within the physical-address width', expected: 'VMWRITE-bitmap address',
    valid: field(C.VMWRITE_BITMAP, TOO_WIDE),
    invalid: both(secondary(SECONDARY_EXEC.SHADOW_VMCS), field(C.VMWRITE_BITMAP, TOO_WIDE)) },
  { section: EXEC, rule: 'PML needs EPT', expected: 'PML needs EPT',
    valid: both(secondary(SECONDARY_EXEC.ENABLE_PML), field(C.PML_ADDRESS, AT.SPARE)),
    invalid: secondary(SECONDARY_EXEC.ENABLE_PML, SECONDARY_EXEC.ENABLE_EPT) },
  { section: EXEC, rule: 'the PML address is 4-KByte aligned', expected: 'PML address',
    valid: field(C.PML_ADDRESS, AT.SPARE + 8),
    invalid: both(secondary(SECONDARY_EXEC.ENABLE_PML), field(C.PML_ADDRESS, AT.SPARE + 8)) },
  { section: EXEC, rule: 'the PML address is within the physical-address width', expected: 'PML address',
    valid: both(secondary(SECONDARY_EXEC.ENABLE_PML), field(C.PML_ADDRESS, TOO_WIDE - 0x1000)),
    invalid: both(secondary(SECONDARY_EXEC.ENABLE_PML), field(C.PML_ADDRESS, TOO_WIDE)) },
  { section: EXEC, rule: 'the PML index may have any value', expected: 'PML address',
    valid: both(secondary(SECONDARY_EXEC.ENABLE_PML), field(C.PML_ADDRESS, AT.SPARE), field(VMCS_GUEST.PML_INDEX, 0xffff)),
    invalid: both(secondary(SECONDARY_EXEC.ENABLE_PML), field(C.PML_ADDRESS, 1)) },
  { section: EXEC, rule: 'the TSC multiplier is not 0 if it is used', expected: 'TSC multiplier is zero',
    valid: field(C.TSC_MULTIPLIER, 0), invalid: secondary(SECONDARY_EXEC.TSC_SCALING) },
  { section: EXEC, rule: 'the TSC multiplier may be 0 in one half', expected: 'TSC multiplier is zero',
    valid: both(secondary(SECONDARY_EXEC.TSC_SCALING), field(C.TSC_MULTIPLIER, 2 ** 48)),
    invalid: both(secondary(SECONDARY_EXEC.TSC_SCALING), field(C.TSC_MULTIPLIER, 1), field(C.TSC_MULTIPLIER, 0)) },
  { section: EXIT, rule: 'reserved VM-exit controls', expected: 'VM-exit controls: reserved bits',
    valid: (box) => box.change(C.VM_EXIT_CONTROLS, VM_EXIT.SAVE_IA32_PAT),
    invalid: (box) => box.change(C.VM_EXIT_CONTROLS, VM_EXIT.CLEAR_BNDCFGS) },
  { section: EXIT, rule: 'the timer is saved only if it is activated', expected: 'saving the preemption timer needs its activation',
    valid: both(pin(PIN_BASED.VMX_PREEMPTION_TIMER), (box) => box.change(C.VM_EXIT_CONTROLS, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER)),
    invalid: (box) => box.change(C.VM_EXIT_CONTROLS, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER) },
  { section: EXIT, rule: 'the MSR-store area is 16-byte aligned', expected: 'VM-exit MSR-store address',
    valid: field(C.VM_EXIT_MSR_STORE_ADDR, AT.MSR_LIST + 8),
    invalid: both(field(C.VM_EXIT_MSR_STORE_ADDR, AT.MSR_LIST + 8), field(C.VM_EXIT_MSR_STORE_COUNT, 1)) },
  { section: EXIT, rule: 'the last byte of the MSR-load area is within the width', expected: 'VM-exit MSR-load address',
    valid: both(field(C.VM_EXIT_MSR_LOAD_ADDR, TOO_WIDE - 16), field(C.VM_EXIT_MSR_LOAD_COUNT, 1)),
    invalid: both(field(C.VM_EXIT_MSR_LOAD_ADDR, TOO_WIDE - 16), field(C.VM_EXIT_MSR_LOAD_COUNT, 2)) },
  { section: ENTRY, rule: 'reserved VM-entry controls', expected: 'VM-entry controls: reserved bits',
    valid: (box) => box.change(C.VM_ENTRY_CONTROLS, 0), invalid: (box) => box.change(C.VM_ENTRY_CONTROLS, VM_ENTRY.SMM) },
  { section: ENTRY, rule: 'the VM-entry MSR-load area is 16-byte aligned', expected: 'VM-entry MSR-load address',
    valid: field(C.VM_ENTRY_MSR_LOAD_ADDR, AT.MSR_LIST + 4),
    invalid: both(field(C.VM_ENTRY_MSR_LOAD_ADDR, AT.MSR_LIST + 4), field(C.VM_ENTRY_MSR_LOAD_COUNT, 1)) },
  { section: ENTRY, rule: 'event type 1 is reserved', expected: 'VM-entry interruption information: type and vector',
    valid: both(handled, inject(INTR_TYPE.EXT_INTR | 0x30)), invalid: inject(INTR_TYPE.RESERVED | 0x30) },
  { section: ENTRY, rule: 'an NMI has vector 2', expected: 'VM-entry interruption information: type and vector',
    valid: both(handled, inject(INTR_TYPE.NMI_INTR | 2)), invalid: inject(INTR_TYPE.NMI_INTR | 3) },
  { section: ENTRY, rule: 'a hardware exception has a vector below 32', expected: 'VM-entry interruption information: type and vector',
    valid: both(handled, inject(INTR_TYPE.HARD_EXCEPTION | 31)), invalid: inject(INTR_TYPE.HARD_EXCEPTION | 32) },
  { section: ENTRY, rule: 'other events have vector 0', expected: 'VM-entry interruption information: type and vector',
    valid: inject(INTR_TYPE.OTHER_EVENT), invalid: inject(INTR_TYPE.OTHER_EVENT | 1) },
  { section: ENTRY, rule: 'reserved bits of the interruption information', expected: 'VM-entry interruption information: reserved bits',
    valid: both(handled, inject(INTR_TYPE.EXT_INTR | 0x30)), invalid: inject(INTR_TYPE.EXT_INTR | 0x1030) },
  { section: ENTRY, rule: 'GP delivers an error code', expected: 'VM-entry interruption information: deliver error code',
    valid: both(handled, inject(INTR_TYPE.HARD_EXCEPTION | 0x800 | 13)), invalid: inject(INTR_TYPE.HARD_EXCEPTION | 13) },
  { section: ENTRY, rule: 'UD delivers no error code', expected: 'VM-entry interruption information: deliver error code',
    valid: both(handled, inject(INTR_TYPE.HARD_EXCEPTION | 6)), invalid: inject(INTR_TYPE.HARD_EXCEPTION | 0x800 | 6) },
  { section: ENTRY, rule: 'a software interrupt with vector 13 delivers no error code',
    expected: 'VM-entry interruption information: deliver error code',
    valid: both(handled, inject(INTR_TYPE.SOFT_INTR | 13, 0, 2)), invalid: inject(INTR_TYPE.SOFT_INTR | 0x800 | 13, 0, 2) },
  { section: ENTRY, rule: 'bits 31:16 of the error code are 0', expected: 'VM-entry exception error code: bits 31:16',
    valid: both(handled, inject(INTR_TYPE.HARD_EXCEPTION | 0x800 | 13, 0xffff)),
    invalid: inject(INTR_TYPE.HARD_EXCEPTION | 0x800 | 13, 0x1_0000) },
  { section: ENTRY, rule: 'a software interrupt has an instruction length of at most 15', expected: 'VM-entry instruction length',
    valid: both(handled, inject(INTR_TYPE.SOFT_INTR | 0x30, 0, 15)), invalid: inject(INTR_TYPE.SOFT_INTR | 0x30, 0, 16) },
  { section: ENTRY, rule: 'an instruction length of 0 is allowed by IA32_VMX_MISC bit 30', expected: 'VM-entry instruction length',
    valid: both(handled, inject(INTR_TYPE.SOFT_EXCEPTION | 3, 0, 0)), invalid: inject(INTR_TYPE.SOFT_EXCEPTION | 3, 0, 16) },
];

describe('checks on VMX controls', () => {
  const box = new VmxBox().begin();

  it.each(ROWS)('$section: $rule', ({ valid, invalid, expected }) => {
    expect(tryEntry(box, valid)).toEqual({ outcome: 'entered', rule: '' });
    expect(tryEntry(box, invalid)).toEqual({ outcome: 'error 7', rule: expected });
  });

  it('a check that passed is made again after a control is written', () => {
    expect(tryEntry(box, () => undefined).outcome).toBe('entered');
    expect(tryEntry(box, () => undefined).outcome).toBe('entered');
    const second = new VmxBox().begin().code([0x0f, 0x01, 0xc1]);
    second.launch();
    second.write(C.CR3_TARGET_COUNT, 5);
    expect(() => second.resume()).toThrow('CR3-target count');
  });
});
