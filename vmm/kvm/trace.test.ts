// SPDX-License-Identifier: GPL-2.0-only
/** Texts of the tracepoints against the TP_printk() formats of arch/x86/kvm/trace.h, mmutrace.h and events/kvm.h. */
import { describe, expect, it } from 'vitest';
import { testHost } from '../host/testing/test_host.ts';
import { KvmTrace } from './trace.ts';
import { NR_TRACEPOINTS, TP, TRACEPOINTS, type TraceArg } from './trace_events.ts';

const TEXTS: readonly (readonly [tracepoint: number, args: readonly TraceArg[], text: string])[] = [
  [
    TP.KVM_ENTRY,
    [0, 0x401000n, 0x80000020, 0, 0],
    'vcpu 0, rip 0x401000 intr_info 0x80000020 error_code 0x00000000',
  ],
  [
    TP.KVM_ENTRY,
    [1, 0n, 0, 0, 1],
    'vcpu 1, rip 0x0 intr_info 0x00000000 error_code 0x00000000[immediate exit]',
  ],
  [
    TP.KVM_EXIT,
    [0, 'EPT_VIOLATION', 0x401005n, 0x182, 0, 0, 0],
    'vcpu 0 reason EPT_VIOLATION rip 0x401005 info1 0x0000000000000182 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000',
  ],
  [
    TP.KVM_PAGE_FAULT,
    [0, 0x401000n, 0x1000, 0x2],
    'vcpu 0 rip 0x401000 address 0x0000000000001000 error_code 0x2',
  ],
  [TP.KVM_USERSPACE_EXIT, [6, 0], 'reason KVM_EXIT_MMIO (6)'],
  [TP.KVM_USERSPACE_EXIT, [0, -4], 'reason restart (4)'],
  [TP.KVM_USERSPACE_EXIT, [0, -14], 'reason error (14)'],
  [TP.KVM_USERSPACE_EXIT, [99, 0], 'reason 0x63 (99)'],
  [TP.KVM_PIO, [1, 0x80, 1, 1, 0x55], 'pio_write at 0x80 size 1 count 1 val 0x55 '],
  [TP.KVM_PIO, [0, 0x80, 4, 2, 1], 'pio_read at 0x80 size 4 count 2 val 0x1 (...)'],
  [
    TP.KVM_MMIO,
    [2, 8, 0xc0000000, 0x1122334455667788n],
    'mmio write len 8 gpa 0xc0000000 val 0x1122334455667788',
  ],
  [TP.KVM_MMIO, [0, 4, 0, 0], 'mmio unsatisfied-read len 4 gpa 0x0 val 0x0'],
  [TP.KVM_CPUID, [1, 0, 2, 3, 4, 5, 1, 0], 'func 1 idx 0 rax 2 rbx 3 rcx 4 rdx 5, cpuid entry found'],
  [
    TP.KVM_CPUID,
    [9, 0, 0, 0, 0, 0, 0, 1],
    'func 9 idx 0 rax 0 rbx 0 rcx 0 rdx 0, cpuid entry not found, used max basic',
  ],
  [TP.KVM_MSR, [0, 0x3a, 5n, 0], 'msr_read 3a = 0x5'],
  [TP.KVM_MSR, [1, 0x480, 0n, 1], 'msr_write 480 = 0x0 (#GP)'],
  [TP.KVM_CR, [1, 3, 0x2000], 'cr_write 3 = 0x2000'],
  [TP.KVM_INJ_VIRQ, [0x20, 0, 1], 'IRQ 0x20 [reinjected]'],
  [TP.KVM_INJ_VIRQ, [0x80, 1, 0], 'Soft/INTn 0x80'],
  [TP.KVM_INJ_EXCEPTION, [14, 1, 0x2, 0], '#PF (0x2)'],
  [TP.KVM_INJ_EXCEPTION, [6, 0, 0, 1], '#UD [reinjected]'],
  [TP.KVM_INJ_EXCEPTION, [29, 0, 0, 0], '0x1d'],
  [TP.KVM_HYPERCALL, [1, 2, 3, 4, 5], 'nr 0x1 a0 0x2 a1 0x3 a2 0x4 a3 0x5'],
  [TP.KVM_EMULATE_INSN, [0, 0x401000n, '0f 0b', 'prot64', 1], '0:401000:0f 0b (prot64) failed'],
  [TP.KVM_FAST_MMIO, [0x1000], 'fast mmio at gpa 0x1000'],
  [TP.KVM_APIC, [0, 'APIC_ID', 0], 'apic_read APIC_ID = 0x0'],
  [TP.KVM_APIC_IPI, [0x000c4041, 3], 'dst 3 vec 65 (Fixed|physical|assert|edge|all-but-self)'],
  [TP.KVM_APIC_IPI, [0x00008d00, 3], 'dst 3 vec 0 (INIT|logical|de-assert|level|dst)'],
  [TP.KVM_APIC_ACCEPT_IRQ, [1, 0x400, 0, 2], 'apicid 1 vec 2 (NMI|edge)'],
  [TP.KVM_APIC_ACCEPT_IRQ, [1, 0, 1, 2], 'apicid 1 vec 2 (Fixed|level)'],
  [TP.KVM_EOI, [1, 33], 'apicid 1 vector 33'],
  [
    TP.KVM_UNMAP_HVA_RANGE,
    [0x1000, 0x2000],
    'mmu notifier unmap range: 0x00000000001000 -- 0x00000000002000',
  ],
  [TP.KVM_AGE_HVA, [0x1000, 0x2000], 'mmu notifier age hva: 0x00000000001000 -- 0x00000000002000'],
  [TP.KVM_TEST_AGE_HVA, [0x1000], 'mmu notifier test age hva: 0x00000000001000'],
  [TP.KVM_VCPU_WAKEUP, [500, 1, 1], 'wait time 500 ns, polling valid'],
  [TP.KVM_VCPU_WAKEUP, [500, 0, 0], 'poll time 500 ns, polling invalid'],
  [TP.KVM_WRITE_TSC_OFFSET, [0, 1n, 2n], 'vcpu=0 prev=1 next=2'],
  [TP.KVM_DIRTY_RING_EXIT, [2], 'vcpu 2'],
  [TP.MARK_MMIO_SPTE, [0x5000, 0xc0000, 0, 2], 'sptep:5000 gfn c0000 access 0 gen 2'],
  [TP.HANDLE_MMIO_PAGE_FAULT, [0, 0xc0000, 0], 'addr:0 gfn c0000 access 0'],
  [
    TP.FAST_PAGE_FAULT,
    [0, 0x1000, 3, 0x5008, 0x30b75n, 0x30b77n, 0, 1],
    'vcpu 0 gva 1000 error_code P|W sptep 5008 old 0x30b75 new 30b77 spurious 0 fixed 1',
  ],
  [TP.KVM_MMU_ZAP_ALL_FAST, [1, 0x20], 'kvm-mmu-valid-gen 1 used_pages 20'],
  [TP.CHECK_MMIO_SPTE, [0x6n, 2, 2], 'spte 6 kvm_gen 2 spte-gen 2 valid 1'],
  [TP.CHECK_MMIO_SPTE, [0x6n, 4, 2], 'spte 6 kvm_gen 4 spte-gen 2 valid 0'],
  [TP.KVM_MMU_SET_SPTE, [0x10, 0x30b77n, 1, 0x5008], 'gfn 10 spte 30b77 (rwxu) level 1 at 5008'],
  [TP.KVM_MMU_SET_SPTE, [0x10, 0x30b70n, 1, 0x5008], 'gfn 10 spte 30b70 (----) level 1 at 5008'],
  [TP.KVM_MMU_SPTE_REQUESTED, [0x10, 0x30, 1], 'gfn 10 pfn 30 level 1'],
  [
    TP.KVM_TDP_MMU_SPTE_CHANGED,
    [0, 0x10, 1, 0n, 0x30b77n],
    'as id 0 gfn 10 level 1 old_spte 0 new_spte 30b77',
  ],
  [TP.KVM_MMU_SPLIT_HUGE_PAGE, [0x200, 0xbf7n, 2, 0], 'gfn 200 spte bf7 level 2 errno 0'],
  [TP.KVM_MMU_GET_PAGE, [0x200, 1, 1], 'sp gfn 200 l1 direct new'],
  [TP.KVM_MMU_PREPARE_ZAP_PAGE, [0x200, 1], 'sp gfn 200 l1 direct'],
  [
    TP.KVM_NESTED_VMENTER,
    [1n, 2, 3n, 0, 0, 1],
    'rip: 0x0000000000000001 vmcs: 0x0000000000000002 nested_rip: 0x0000000000000003 int_ctl: 0x00000000 event_inj: 0x00000000 nested_ept: y',
  ],
  [
    TP.KVM_NESTED_VMEXIT,
    [1n, 'CPUID', 0, 0, 0, 0],
    'rip: 0x0000000000000001 reason: CPUID ext_inf1: 0x0000000000000000 ext_inf2: 0x0000000000000000 ext_int: 0x00000000 ext_int_err: 0x00000000',
  ],
  [
    TP.KVM_NESTED_VMEXIT_INJECT,
    ['CPUID', 1, 2, 3, 4],
    'reason: CPUID ext_inf1: 0x0000000000000001 ext_inf2: 0x0000000000000002 ext_int: 0x00000003 ext_int_err: 0x00000004',
  ],
  [TP.KVM_NESTED_VMENTER_FAILED, ['host CR0: fixed bits', 0], 'host CR0: fixed bits'],
  [
    TP.KVM_NESTED_VMENTER_FAILED,
    ['hardware VM-instruction error: ', 7],
    'hardware VM-instruction error: ENTRY_INVALID_CONTROL_FIELD',
  ],
];

describe('tracepoints', () => {
  for (const [tracepoint, args, text] of TEXTS) {
    it(`print ${TRACEPOINTS[tracepoint]!.name} as the kernel does: ${text}`, () => {
      expect(TRACEPOINTS[tracepoint]!.print(...args)).toBe(text);
    });
  }

  it('have numbers without gaps, a name each, and a text in this test', () => {
    expect(Object.values(TP)).toEqual(Object.keys(TP).map((_, i) => i));
    const names = Object.values(TP).map((tp) => TRACEPOINTS[tp]!.name);
    expect(new Set(names).size).toBe(NR_TRACEPOINTS);
    expect(new Set(TEXTS.map(([tp]) => tp)).size).toBe(NR_TRACEPOINTS);
  });
});

describe('the trace buffer', () => {
  it('records nothing until a tracepoint is switched on', () => {
    const trace = new KvmTrace(testHost().sched);
    expect(trace.on.some((flag) => flag !== 0)).toBe(false);
    expect(trace.enable(/^kvm_(entry|exit)$/)).toBe(2);
    expect([trace.on[TP.KVM_ENTRY], trace.on[TP.KVM_EXIT], trace.on[TP.KVM_MSR]]).toEqual([1, 1, 0]);
    expect(trace.enable()).toBe(NR_TRACEPOINTS);
    expect(trace.disable(/^mark_/)).toBe(1);
    expect(trace.on[TP.MARK_MMIO_SPTE]).toBe(0);
    expect(trace.disable()).toBe(NR_TRACEPOINTS);
  });

  it('forgets its oldest events when it is full, and says how many', () => {
    const trace = new KvmTrace(testHost().sched, 3);
    for (let vector = 1; vector <= 5; vector++) trace.record(TP.KVM_EOI, 0, vector);
    expect(trace.records().map((record) => record.args[1])).toEqual([3, 4, 5]);
    expect(trace.lost).toBe(2);
    trace.clear();
    expect([trace.records().length, trace.lost]).toEqual([0, 0]);
  });

  it('tells a listener at once, and prints as ftrace does', () => {
    const trace = new KvmTrace(testHost().sched);
    const heard: number[] = [];
    trace.listener = (record) => heard.push(record.tracepoint);
    trace.record(TP.KVM_EOI, 1, 33);
    expect(heard).toEqual([TP.KVM_EOI]);
    expect(trace.text()).toEqual(['            boot [000] 0: kvm_eoi: apicid 1 vector 33']);
  });
});
