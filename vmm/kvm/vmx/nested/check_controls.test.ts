// SPDX-License-Identifier: GPL-2.0-only
/**
 * The checks on vmcs12's control fields: for each rule a vmcs12 that just keeps it and one that just breaks it. Expected
 * values: SDM, "Checks on VMX Controls", and the kernel function that each row names (arch/x86/kvm/vmx/nested.c, 6.12).
 */
import { describe, expect, it } from 'vitest';
import { ERRNO } from '../../../../lib/uapi/errno.ts';
import { CR0 } from '../../../../lib/x86/registers.ts';
import { VMX_MISC } from '../../../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_EXIT } from '../../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import { TP } from '../../trace_events.ts';
import { nestedVmxCheckControls } from './check_controls.ts';
import { all, clear, nothing, or, row, set, type Change, type CheckRow } from './testing/vmcs12_changes.ts';
import { checkVcpu, vmcs12Fixture } from './testing/vmcs12_fixture.ts';

const pin = (bits: number): Change => or(C.PIN_BASED_VM_EXEC_CONTROL, bits);
const cpu = (bits: number): Change => or(C.CPU_BASED_VM_EXEC_CONTROL, bits);
const second = (bits: number): Change => or(C.SECONDARY_VM_EXEC_CONTROL, bits);
const exit = (bits: number): Change => or(C.VM_EXIT_CONTROLS, bits);
const inject = (info: number, error = 0, length = 0): Change =>
  all(
    set(C.VM_ENTRY_INTR_INFO_FIELD, info >>> 0),
    set(C.VM_ENTRY_EXCEPTION_ERROR_CODE, error >>> 0),
    set(C.VM_ENTRY_INSTRUCTION_LEN, length),
  );
const misc =
  (bits: number): Change =>
  ({ nested }) => {
    nested.msrs.misc[0] |= bits;
  };

const TOP_PAGE = 2 ** 46 - 0x1000;
const EPTP = 0x1e;
const ept = all(second(SECONDARY_EXEC.ENABLE_EPT), set(C.EPT_POINTER, EPTP));
const apicv = all(
  cpu(CPU_BASED.TPR_SHADOW),
  second(SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY),
  pin(PIN_BASED.EXT_INTR_MASK),
);
const posted = all(apicv, pin(PIN_BASED.POSTED_INTR), exit(VM_EXIT.ACK_INTR_ON_EXIT));

/** A page address that a control brings into use: the highest page, and one byte or one page further. */
const page = (rule: string, use: Change, field: number): CheckRow[] => [
  row(rule, all(use, set(field, TOP_PAGE)), all(use, set(field, TOP_PAGE + 0x1000))),
  row(rule, set(field, 1), all(use, set(field, 0xfff))),
];

const ROWS: Readonly<Record<string, readonly CheckRow[]>> = {
  nested_check_vm_execution_controls: [
    row('pin-based controls', pin(PIN_BASED.VMX_PREEMPTION_TIMER), pin(0x100)),
    row('pin-based controls', nothing, clear(C.PIN_BASED_VM_EXEC_CONTROL, 0x2)),
    row(
      'primary processor-based controls',
      cpu(CPU_BASED.HLT_EXITING),
      cpu(CPU_BASED.ACTIVATE_TERTIARY_CONTROLS),
    ),
    row(
      'primary processor-based controls',
      clear(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.CR3_LOAD_EXITING | CPU_BASED.CR3_STORE_EXITING),
      clear(C.CPU_BASED_VM_EXEC_CONTROL, 0x2),
    ),
    row(
      'secondary processor-based controls',
      all(clear(C.CPU_BASED_VM_EXEC_CONTROL, 0x8000_0000), second(-1)),
      second(SECONDARY_EXEC.PAUSE_LOOP_EXITING),
    ),
    row('CR3-target count', set(C.CR3_TARGET_COUNT, 0), set(C.CR3_TARGET_COUNT, 1)),
    row(
      'VPID is 0',
      all(second(SECONDARY_EXEC.ENABLE_VPID), set(C.VIRTUAL_PROCESSOR_ID, 1)),
      second(SECONDARY_EXEC.ENABLE_VPID),
    ),
    row(
      'save VMX-preemption timer without the timer',
      all(exit(VM_EXIT.SAVE_VMX_PREEMPTION_TIMER), pin(PIN_BASED.VMX_PREEMPTION_TIMER)),
      exit(VM_EXIT.SAVE_VMX_PREEMPTION_TIMER),
    ),
    row(
      'VM-function controls',
      all(second(SECONDARY_EXEC.ENABLE_VMFUNC)),
      all(second(SECONDARY_EXEC.ENABLE_VMFUNC), set(C.VM_FUNCTION_CONTROL, 2)),
    ),
    row(
      'VM-function controls',
      set(C.VM_FUNCTION_CONTROL, 1n << 63n),
      all(second(SECONDARY_EXEC.ENABLE_VMFUNC), set(C.VM_FUNCTION_CONTROL, 1n << 63n)),
    ),
    row(
      'EPTP switching without EPT',
      all(ept, second(SECONDARY_EXEC.ENABLE_VMFUNC), set(C.VM_FUNCTION_CONTROL, 1)),
      all(second(SECONDARY_EXEC.ENABLE_VMFUNC), set(C.VM_FUNCTION_CONTROL, 1)),
    ),
    ...page(
      'EPTP list: page address',
      all(ept, second(SECONDARY_EXEC.ENABLE_VMFUNC), set(C.VM_FUNCTION_CONTROL, 1)),
      C.EPTP_LIST_ADDRESS,
    ),
  ],
  nested_vmx_check_io_bitmap_controls: [
    ...page('I/O bitmap A: page address', cpu(CPU_BASED.USE_IO_BITMAPS), C.IO_BITMAP_A),
    ...page('I/O bitmap B: page address', cpu(CPU_BASED.USE_IO_BITMAPS), C.IO_BITMAP_B),
  ],
  nested_vmx_check_msr_bitmap_controls: page(
    'MSR bitmap: page address',
    cpu(CPU_BASED.USE_MSR_BITMAPS),
    C.MSR_BITMAP,
  ),
  nested_vmx_check_tpr_shadow_controls: page(
    'virtual-APIC page: page address',
    cpu(CPU_BASED.TPR_SHADOW),
    C.VIRTUAL_APIC_PAGE_ADDR,
  ),
  nested_vmx_check_apic_access_controls: page(
    'APIC-access page: page address',
    second(SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES),
    C.APIC_ACCESS_ADDR,
  ),
  nested_vmx_check_apicv_controls: [
    row(
      'virtualize x2APIC mode with virtualize APIC accesses',
      all(cpu(CPU_BASED.TPR_SHADOW), second(SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE)),
      all(
        cpu(CPU_BASED.TPR_SHADOW),
        second(SECONDARY_EXEC.VIRTUALIZE_X2APIC_MODE | SECONDARY_EXEC.VIRTUALIZE_APIC_ACCESSES),
      ),
    ),
    row(
      'virtual-interrupt delivery without external-interrupt exiting',
      apicv,
      all(apicv, clear(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.EXT_INTR_MASK)),
    ),
    row(
      'posted interrupts without virtual-interrupt delivery',
      posted,
      all(posted, clear(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.VIRTUAL_INTR_DELIVERY)),
    ),
    row(
      'posted interrupts without acknowledge interrupt on exit',
      posted,
      all(posted, clear(C.VM_EXIT_CONTROLS, VM_EXIT.ACK_INTR_ON_EXIT)),
    ),
    row(
      'posted-interrupt notification vector: bits 15:8',
      all(posted, set(C.POSTED_INTR_NV, 0xff)),
      all(posted, set(C.POSTED_INTR_NV, 0x100)),
    ),
    row(
      'posted-interrupt descriptor: address',
      all(posted, set(C.POSTED_INTR_DESC_ADDR, 2 ** 46 - 64)),
      all(posted, set(C.POSTED_INTR_DESC_ADDR, 2 ** 46 - 32)),
    ),
    row(
      'APIC virtualization without TPR shadow',
      all(cpu(CPU_BASED.TPR_SHADOW), second(SECONDARY_EXEC.APIC_REGISTER_VIRT)),
      second(SECONDARY_EXEC.APIC_REGISTER_VIRT),
    ),
  ],
  nested_vmx_check_nmi_controls: [
    row(
      'virtual NMIs without NMI exiting',
      pin(PIN_BASED.VIRTUAL_NMIS | PIN_BASED.NMI_EXITING),
      pin(PIN_BASED.VIRTUAL_NMIS),
    ),
    row(
      'NMI-window exiting without virtual NMIs',
      all(pin(PIN_BASED.VIRTUAL_NMIS | PIN_BASED.NMI_EXITING), cpu(CPU_BASED.NMI_WINDOW_EXITING)),
      all(pin(PIN_BASED.NMI_EXITING), cpu(CPU_BASED.NMI_WINDOW_EXITING)),
    ),
  ],
  nested_vmx_check_pml_controls: [
    row('PML without EPT', all(ept, second(SECONDARY_EXEC.ENABLE_PML)), second(SECONDARY_EXEC.ENABLE_PML)),
    ...page('PML buffer: page address', all(ept, second(SECONDARY_EXEC.ENABLE_PML)), C.PML_ADDRESS),
  ],
  nested_vmx_check_unrestricted_guest_controls: [
    row(
      'unrestricted guest without EPT',
      all(ept, second(SECONDARY_EXEC.UNRESTRICTED_GUEST)),
      second(SECONDARY_EXEC.UNRESTRICTED_GUEST),
    ),
  ],
  nested_vmx_check_mode_based_ept_exec_controls: [
    row(
      'mode-based execute control without EPT',
      nothing,
      all(({ nested }) => {
        nested.msrs.secondary.high |= SECONDARY_EXEC.MODE_BASED_EPT_EXEC;
      }, second(SECONDARY_EXEC.MODE_BASED_EPT_EXEC)),
    ),
  ],
  nested_vmx_check_shadow_vmcs_controls: [
    ...page('VMREAD bitmap: page address', second(SECONDARY_EXEC.SHADOW_VMCS), C.VMREAD_BITMAP),
    ...page('VMWRITE bitmap: page address', second(SECONDARY_EXEC.SHADOW_VMCS), C.VMWRITE_BITMAP),
  ],
  nested_vmx_check_eptp: [
    row('EPTP: memory type', ept, all(ept, set(C.EPT_POINTER, 0x1d))),
    row('EPTP: memory type', set(C.EPT_POINTER, 0x18), all(ept, set(C.EPT_POINTER, 0x18))),
    row('EPTP: page-walk length', ept, all(ept, set(C.EPT_POINTER, 0x16))),
    row('EPTP: reserved bits', ept, all(ept, set(C.EPT_POINTER, EPTP | 0x80))),
    row('EPTP: reserved bits', ept, all(ept, set(C.EPT_POINTER, EPTP | 0x800))),
    row(
      'EPTP: reserved bits',
      all(ept, set(C.EPT_POINTER, TOP_PAGE + EPTP)),
      all(ept, set(C.EPT_POINTER, 2 ** 46 + EPTP)),
    ),
    row(
      'EPTP: accessed and dirty flags',
      all(ept, set(C.EPT_POINTER, EPTP | 0x40)),
      all(ept, set(C.EPT_POINTER, EPTP | 0x40), ({ nested }) => {
        nested.msrs.eptCaps &= ~0x20_0000;
      }),
    ),
  ],
  nested_check_vm_exit_controls: [
    row('VM-exit controls', exit(VM_EXIT.SAVE_IA32_EFER), exit(VM_EXIT.CLEAR_BNDCFGS)),
    row(
      'VM-exit controls',
      clear(C.VM_EXIT_CONTROLS, VM_EXIT.SAVE_DEBUG_CONTROLS),
      clear(C.VM_EXIT_CONTROLS, 1),
    ),
  ],
  nested_check_vm_entry_controls: [
    row('VM-entry controls', or(C.VM_ENTRY_CONTROLS, 0x8000), or(C.VM_ENTRY_CONTROLS, 0x400)),
    row('VM-entry controls', clear(C.VM_ENTRY_CONTROLS, 0x4), clear(C.VM_ENTRY_CONTROLS, 0x1)),
    row('VM-entry interruption information: reserved type', inject(0x100), inject(0x8000_0100)),
    row(
      'VM-entry interruption information: other event without monitor trap flag',
      inject(0x8000_0700),
      all(inject(0x8000_0700), ({ nested }) => {
        nested.msrs.procbased.high &= ~CPU_BASED.MONITOR_TRAP_FLAG;
      }),
    ),
    row('VM-entry interruption information: vector of an NMI', inject(0x8000_0202), inject(0x8000_0203)),
    row(
      'VM-entry interruption information: vector of a hardware exception',
      inject(0x8000_031f),
      inject(0x8000_0320),
    ),
    row(
      'VM-entry interruption information: vector of an other event',
      inject(0x8000_0700),
      inject(0x8000_0701),
    ),
    row(
      'VM-entry interruption information: deliver error code',
      inject(0x8000_0b0d, 0xffff),
      inject(0x8000_030d),
    ),
    row('VM-entry interruption information: deliver error code', inject(0x8000_0306), inject(0x8000_0b06)),
    row('VM-entry interruption information: deliver error code', inject(0x8000_000d), inject(0x8000_080d)),
    row(
      'VM-entry interruption information: deliver error code',
      all(ept, second(SECONDARY_EXEC.UNRESTRICTED_GUEST), clear(G.CR0, CR0.PE | CR0.PG), inject(0x8000_030d)),
      all(ept, second(SECONDARY_EXEC.UNRESTRICTED_GUEST), clear(G.CR0, CR0.PE | CR0.PG), inject(0x8000_0b0d)),
    ),
    row(
      'VM-entry exception error code: bits 31:16',
      inject(0x8000_0b0e, 0xffff),
      inject(0x8000_0b0e, 0x1_0000),
    ),
    row('VM-entry interruption information: reserved bits', inject(0x8000_0020), inject(0x8000_1020)),
    row('VM-entry interruption information: reserved bits', inject(0x8000_0020), inject(0xc000_0020)),
    row('VM-entry instruction length: above 15', inject(0x8000_0420, 0, 15), inject(0x8000_0420, 0, 16)),
    row(
      'VM-entry instruction length: above 15',
      inject(0x8000_0306, 0, 16),
      inject(0x8000_0603, 0, 0x8000_0000),
    ),
    row('VM-entry instruction length: 0', inject(0x8000_0501, 0, 1), inject(0x8000_0501)),
    row(
      'VM-entry instruction length: 0',
      all(misc(VMX_MISC.ZERO_LEN_INS), inject(0x8000_0603)),
      inject(0x8000_0603),
    ),
  ],
};

const AREAS = [
  ['VM-exit MSR-load area: address', C.VM_EXIT_MSR_LOAD_COUNT, C.VM_EXIT_MSR_LOAD_ADDR],
  ['VM-exit MSR-store area: address', C.VM_EXIT_MSR_STORE_COUNT, C.VM_EXIT_MSR_STORE_ADDR],
  ['VM-entry MSR-load area: address', C.VM_ENTRY_MSR_LOAD_COUNT, C.VM_ENTRY_MSR_LOAD_ADDR],
] as const;
const area = ([rule, count, addr]: (typeof AREAS)[number]): CheckRow[] => {
  const at = (n: number, a: number): Change => all(set(count, n), set(addr, a));
  return [
    row(rule, at(0, 1), at(1, 8)),
    row(rule, at(1, 2 ** 46 - 16), at(2, 2 ** 46 - 16)),
    row(rule, at(1, 0x10), at(1, 2 ** 46)),
    row(rule, at(0xffff_ffff, 0x10), at(0xffff_ffff, 2 ** 46 - 16)),
  ];
};

describe('nested_vmx_check_controls()', () => {
  it('passes the vmcs12 that the other tests begin with', () => {
    const f = vmcs12Fixture();
    expect([nestedVmxCheckControls(f.vcpu, f.vmcs12), f.nested.failedCheck]).toEqual([0, '']);
  });

  const vcpu = checkVcpu();
  const rows = { ...ROWS, nested_vmx_check_msr_switch: AREAS.flatMap(area) };
  for (const [fn, list] of Object.entries(rows)) {
    it.each(list.map((r, i) => [`${fn}() ${i}: ${r.rule}`, r] as const))('%s', (_title, r) => {
      const good = vmcs12Fixture(vcpu);
      r.valid(good);
      expect([nestedVmxCheckControls(good.vcpu, good.vmcs12), good.nested.failedCheck]).toEqual([0, '']);
      const bad = vmcs12Fixture(vcpu);
      r.invalid(bad);
      expect([nestedVmxCheckControls(bad.vcpu, bad.vmcs12), bad.nested.failedCheck]).toEqual([
        -ERRNO.EINVAL,
        r.rule,
      ]);
    });
  }

  it('leaves a trace of the rule that is broken', () => {
    const { vmcs12 } = vmcs12Fixture(vcpu);
    const { trace } = vcpu.kvm.module;
    vmcs12.set32(C.CR3_TARGET_COUNT, 5);
    nestedVmxCheckControls(vcpu, vmcs12);
    expect(trace.records()).toEqual([]);
    trace.enable(/kvm_nested_vmenter_failed/);
    nestedVmxCheckControls(vcpu, vmcs12);
    expect(trace.records().map((r) => [r.tracepoint, ...r.args])).toEqual([
      [TP.KVM_NESTED_VMENTER_FAILED, 'CR3-target count', 0],
    ]);
  });

  it('refuses posted interrupts without kvm_intel.enable_apicv', () => {
    const f = vmcs12Fixture(vcpu, ['kvm_intel.enable_apicv=0']);
    posted(f);
    expect([nestedVmxCheckControls(f.vcpu, f.vmcs12), f.nested.failedCheck]).toEqual([
      -ERRNO.EINVAL,
      'pin-based controls',
    ]);
  });
});
