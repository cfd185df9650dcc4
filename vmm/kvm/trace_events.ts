// SPDX-License-Identifier: GPL-2.0-only
/**
 * Tracepoints: numbers, upstream names and print formats. Mirrors arch/x86/kvm/trace.h, arch/x86/kvm/mmu/mmutrace.h and
 * include/trace/events/kvm.h, 6.12; nested, Hyper-V, SVM and interrupt-controller events come with their features.
 */
import { KVM_EXIT } from '../../lib/uapi/run.ts';
import { ERRNO } from '../../lib/uapi/errno.ts';
import { VMXERR } from '../../lib/x86/vmx/insn_errors.ts';

/** 64-bit values may be bigint. */
export type TraceArg = number | bigint | string;

/** Numbers of the tracepoints. */
// prettier-ignore
export const TP = {
  KVM_ENTRY: 0, KVM_EXIT: 1, KVM_PAGE_FAULT: 2, KVM_USERSPACE_EXIT: 3, KVM_PIO: 4, KVM_MMIO: 5, KVM_CPUID: 6,
  KVM_MSR: 7, KVM_CR: 8, KVM_INJ_VIRQ: 9, KVM_INJ_EXCEPTION: 10, KVM_HYPERCALL: 11, KVM_EMULATE_INSN: 12,
  KVM_FAST_MMIO: 13, KVM_APIC: 14, KVM_APIC_IPI: 15, KVM_APIC_ACCEPT_IRQ: 16, KVM_EOI: 17,
  KVM_UNMAP_HVA_RANGE: 18, KVM_AGE_HVA: 19, KVM_TEST_AGE_HVA: 20, KVM_VCPU_WAKEUP: 21,
  KVM_WRITE_TSC_OFFSET: 22, KVM_DIRTY_RING_EXIT: 23,
  MARK_MMIO_SPTE: 24, HANDLE_MMIO_PAGE_FAULT: 25, FAST_PAGE_FAULT: 26, KVM_MMU_ZAP_ALL_FAST: 27, CHECK_MMIO_SPTE: 28,
  KVM_MMU_SET_SPTE: 29, KVM_MMU_SPTE_REQUESTED: 30, KVM_TDP_MMU_SPTE_CHANGED: 31, KVM_MMU_SPLIT_HUGE_PAGE: 32,
  KVM_MMU_GET_PAGE: 33, KVM_MMU_PREPARE_ZAP_PAGE: 34,
  KVM_NESTED_VMENTER: 35, KVM_NESTED_VMEXIT: 36, KVM_NESTED_VMEXIT_INJECT: 37,
  KVM_NESTED_VMENTER_FAILED: 38,
} as const;

interface Tracepoint {
  readonly system: 'kvm' | 'kvmmmu';
  readonly name: string;
  /** TP_printk(). */
  readonly print: (...args: TraceArg[]) => string;
}

const x = (value: TraceArg): string =>
  (typeof value === 'number' && value < 0 ? value >>> 0 : value).toString(16);
const x8 = (value: TraceArg): string => x(value).padStart(8, '0');
const x16 = (value: TraceArg): string => x(value).padStart(16, '0');
const rw = (write: TraceArg): string => (write === 0 ? 'read' : 'write');

/** PFERR_* as mmutrace.h prints them. */
export function pferrFlags(errorCode: number): string {
  const names = ['P', 'W', 'U', 'RSVD', 'F'];
  return names.filter((_, bit) => (errorCode >>> bit) & 1).join('|');
}

function userspaceExit(reason: TraceArg, errno: TraceArg): string {
  const error = Number(errno);
  if (error < 0) return `reason ${error === -ERRNO.EINTR ? 'restart' : 'error'} (${-error})`;
  const name = Object.entries(KVM_EXIT).find(([, value]) => value === reason)?.[0];
  return `reason ${name === undefined ? `0x${x(reason)}` : `KVM_EXIT_${name}`} (${reason})`;
}

const EXCEPTIONS: Readonly<Record<number, string>> = {
  0: '#DE',
  1: '#DB',
  3: '#BP',
  4: '#OF',
  5: '#BR',
  6: '#UD',
  7: '#NM',
  8: '#DF',
  10: '#TS',
  11: '#NP',
  12: '#SS',
  13: '#GP',
  14: '#PF',
  16: '#MF',
  17: '#AC',
  18: '#MC',
};
const exception = (vector: TraceArg): string => EXCEPTIONS[Number(vector)] ?? `0x${x(vector)}`;

const DELIVER_MODE = ['Fixed', 'LowPrio', 'SMI', 'Res3', 'NMI', 'INIT', 'SIPI', 'ExtINT'];
const SHORTHAND = ['dst', 'self', 'all', 'all-but-self'];

function apicIpi(icr: TraceArg, dest: TraceArg): string {
  const low = Number(icr);
  const bit = (n: number): boolean => ((low >>> n) & 1) === 1;
  const flags = [
    DELIVER_MODE[(low >>> 8) & 7]!,
    bit(11) ? 'logical' : 'physical',
    bit(14) ? 'assert' : 'de-assert',
    bit(15) ? 'level' : 'edge',
    SHORTHAND[(low >>> 18) & 3]!,
  ];
  return `dst ${x(dest)} vec ${low & 0xff} (${flags.join('|')})`;
}

/** Type of a kvm_mmio event. */
export const KVM_TRACE_MMIO = { READ_UNSATISFIED: 0, READ: 1, WRITE: 2 } as const;
const MMIO_TYPE = ['unsatisfied-read', 'read', 'write'];

const range = (start: TraceArg, end: TraceArg): string =>
  `0x${x(start).padStart(14, '0')} -- 0x${x(end).padStart(14, '0')}`;

function fastPageFault(...a: TraceArg[]): string {
  const [vcpu, gpa, errorCode, sptep, oldSpte, newSpte, spurious, fixed] = a as [
    number,
    number,
    number,
    number,
    bigint,
    bigint,
    number,
    number,
  ];
  return `vcpu ${vcpu} gva ${x(gpa)} error_code ${pferrFlags(errorCode)} sptep ${x(sptep)} old 0x${x(oldSpte)} new ${x(newSpte)} spurious ${spurious} fixed ${fixed}`;
}

function setSpte(gfn: TraceArg, spte: TraceArg, level: TraceArg, sptep: TraceArg): string {
  const bits = Number(BigInt.asUintN(12, BigInt(spte)));
  const perms = `${bits & 1 ? 'r' : '-'}${bits & 2 ? 'w' : '-'}${bits & 4 ? 'x' : '-'}${bits & 1 ? 'u' : '-'}`;
  return `gfn ${x(gfn)} spte ${x(spte)} (${perms}) level ${level} at ${x(sptep)}`;
}

const exitPrint = (...a: TraceArg[]): string => {
  const [vcpu, reason, rip, info1, info2, intrInfo, errorCode] = a as [
    number,
    string,
    bigint,
    number,
    number,
    number,
    number,
  ];
  return `vcpu ${vcpu} reason ${reason} rip 0x${x(rip)} info1 0x${x16(info1)} info2 0x${x16(info2)} intr_info 0x${x8(intrInfo)} error_code 0x${x8(errorCode)}`;
};

const cpuidPrint = (...a: TraceArg[]): string => {
  const [fn, index, rax, rbx, rcx, rdx, found, maxBasic] = a as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  return `func ${x(fn)} idx ${x(index)} rax ${x(rax)} rbx ${x(rbx)} rcx ${x(rcx)} rdx ${x(rdx)}, cpuid entry ${found ? 'found' : 'not found'}${maxBasic ? ', used max basic' : ''}`;
};

const piPrint = (...a: TraceArg[]): string => {
  const [write, port, size, count, val] = a as [number, number, number, number, number];
  return `pio_${rw(write)} at 0x${x(port)} size ${size} count ${count} val 0x${x(val)} ${count > 1 ? '(...)' : ''}`;
};

const nestedExit = (...a: TraceArg[]): string => {
  const [rip, reason, info1, info2, intInfo, intErr] = a as [bigint, string, number, number, number, number];
  return `rip: 0x${x16(rip)} reason: ${reason} ext_inf1: 0x${x16(info1)} ext_inf2: 0x${x16(info2)} ext_int: 0x${x8(intInfo)} ext_int_err: 0x${x8(intErr)}`;
};

/** VMX_VMENTER_INSTRUCTION_ERRORS; nothing for a check that L0 made. */
const vmenterError = (error: number): string =>
  error === 0 ? '' : (Object.entries(VMXERR).find(([, number]) => number === error)?.[0] ?? `0x${x(error)}`);

type A = TraceArg;
const kvm = (name: string, print: (...args: never[]) => string): Tracepoint => ({
  system: 'kvm',
  name,
  print: print as Tracepoint['print'],
});
const kvmmmu = (name: string, print: (...args: never[]) => string): Tracepoint => ({
  system: 'kvmmmu',
  name,
  print: print as Tracepoint['print'],
});

/** Tracepoints by number. The arguments of record() are those of `print`, in order. */
// prettier-ignore
export const TRACEPOINTS: Readonly<Record<number, Tracepoint>> = {
  [TP.KVM_ENTRY]: kvm('kvm_entry', (vcpu: A, rip: A, intr: A, error: A, immediate: A) =>
    `vcpu ${vcpu}, rip 0x${x(rip)} intr_info 0x${x8(intr)} error_code 0x${x8(error)}${immediate ? '[immediate exit]' : ''}`),
  [TP.KVM_EXIT]: kvm('kvm_exit', exitPrint),
  [TP.KVM_PAGE_FAULT]: kvm('kvm_page_fault', (vcpu: A, rip: A, address: A, error: A) =>
    `vcpu ${vcpu} rip 0x${x(rip)} address 0x${x16(address)} error_code 0x${x(error)}`),
  [TP.KVM_USERSPACE_EXIT]: kvm('kvm_userspace_exit', userspaceExit),
  [TP.KVM_PIO]: kvm('kvm_pio', piPrint),
  [TP.KVM_MMIO]: kvm('kvm_mmio', (type: A, len: A, gpa: A, val: A) =>
    `mmio ${MMIO_TYPE[Number(type)]!} len ${len} gpa 0x${x(gpa)} val 0x${x(val)}`),
  [TP.KVM_CPUID]: kvm('kvm_cpuid', cpuidPrint),
  [TP.KVM_MSR]: kvm('kvm_msr', (write: A, msr: A, data: A, exc: A) =>
    `msr_${rw(write)} ${x(msr)} = 0x${x(data)}${exc ? ' (#GP)' : ''}`),
  [TP.KVM_CR]: kvm('kvm_cr', (write: A, cr: A, val: A) => `cr_${rw(write)} ${x(cr)} = 0x${x(val)}`),
  [TP.KVM_INJ_VIRQ]: kvm('kvm_inj_virq', (vector: A, soft: A, reinjected: A) =>
    `${soft ? 'Soft/INTn' : 'IRQ'} 0x${x(vector)}${reinjected ? ' [reinjected]' : ''}`),
  [TP.KVM_INJ_EXCEPTION]: kvm('kvm_inj_exception', (vector: A, hasError: A, error: A, reinjected: A) =>
    `${exception(vector)}${hasError ? ` (0x${x(error)})` : ''}${reinjected ? ' [reinjected]' : ''}`),
  [TP.KVM_HYPERCALL]: kvm('kvm_hypercall', (nr: A, a0: A, a1: A, a2: A, a3: A) =>
    `nr 0x${x(nr)} a0 0x${x(a0)} a1 0x${x(a1)} a2 0x${x(a2)} a3 0x${x(a3)}`),
  [TP.KVM_EMULATE_INSN]: kvm('kvm_emulate_insn', (csBase: A, rip: A, bytes: A, mode: A, failed: A) =>
    `${x(csBase)}:${x(rip)}:${bytes} (${mode})${failed ? ' failed' : ''}`),
  [TP.KVM_FAST_MMIO]: kvm('kvm_fast_mmio', (gpa: A) => `fast mmio at gpa 0x${x(gpa)}`),
  [TP.KVM_APIC]: kvm('kvm_apic', (write: A, reg: A, val: A) => `apic_${rw(write)} ${reg} = 0x${x(val)}`),
  [TP.KVM_APIC_IPI]: kvm('kvm_apic_ipi', apicIpi),
  [TP.KVM_APIC_ACCEPT_IRQ]: kvm('kvm_apic_accept_irq', (apicid: A, dm: A, tm: A, vec: A) =>
    `apicid ${x(apicid)} vec ${vec} (${DELIVER_MODE[(Number(dm) >>> 8) & 7]!}|${tm ? 'level' : 'edge'})`),
  [TP.KVM_EOI]: kvm('kvm_eoi', (apicid: A, vector: A) => `apicid ${x(apicid)} vector ${vector}`),
  [TP.KVM_UNMAP_HVA_RANGE]: kvm('kvm_unmap_hva_range', (start: A, end: A) => `mmu notifier unmap range: ${range(start, end)}`),
  [TP.KVM_AGE_HVA]: kvm('kvm_age_hva', (start: A, end: A) => `mmu notifier age hva: ${range(start, end)}`),
  [TP.KVM_TEST_AGE_HVA]: kvm('kvm_test_age_hva', (addr: A) => `mmu notifier test age hva: 0x${x(addr).padStart(14, '0')}`),
  [TP.KVM_VCPU_WAKEUP]: kvm('kvm_vcpu_wakeup', (ns: A, waited: A, valid: A) =>
    `${waited ? 'wait' : 'poll'} time ${ns} ns, polling ${valid ? 'valid' : 'invalid'}`),
  [TP.KVM_WRITE_TSC_OFFSET]: kvm('kvm_write_tsc_offset', (vcpu: A, before: A, after: A) => `vcpu=${vcpu} prev=${before} next=${after}`),
  [TP.KVM_DIRTY_RING_EXIT]: kvm('kvm_dirty_ring_exit', (vcpu: A) => `vcpu ${vcpu}`),
  [TP.MARK_MMIO_SPTE]: kvmmmu('mark_mmio_spte', (sptep: A, gfn: A, access: A, gen: A) => `sptep:${x(sptep)} gfn ${x(gfn)} access ${x(access)} gen ${x(gen)}`),
  [TP.HANDLE_MMIO_PAGE_FAULT]: kvmmmu('handle_mmio_page_fault', (addr: A, gfn: A, access: A) => `addr:${x(addr)} gfn ${x(gfn)} access ${x(access)}`),
  [TP.FAST_PAGE_FAULT]: kvmmmu('fast_page_fault', fastPageFault),
  [TP.KVM_MMU_ZAP_ALL_FAST]: kvmmmu('kvm_mmu_zap_all_fast', (gen: A, pages: A) => `kvm-mmu-valid-gen ${gen} used_pages ${x(pages)}`),
  [TP.CHECK_MMIO_SPTE]: kvmmmu('check_mmio_spte', (spte: A, kvmGen: A, spteGen: A) =>
    `spte ${x(spte)} kvm_gen ${x(kvmGen)} spte-gen ${x(spteGen)} valid ${kvmGen === spteGen ? 1 : 0}`),
  [TP.KVM_MMU_SET_SPTE]: kvmmmu('kvm_mmu_set_spte', setSpte),
  [TP.KVM_MMU_SPTE_REQUESTED]: kvmmmu('kvm_mmu_spte_requested', (gfn: A, pfn: A, level: A) => `gfn ${x(gfn)} pfn ${x(pfn)} level ${level}`),
  [TP.KVM_TDP_MMU_SPTE_CHANGED]: kvmmmu('kvm_tdp_mmu_spte_changed', (as: A, gfn: A, level: A, before: A, after: A) =>
    `as id ${as} gfn ${x(gfn)} level ${level} old_spte ${x(before)} new_spte ${x(after)}`),
  [TP.KVM_MMU_SPLIT_HUGE_PAGE]: kvmmmu('kvm_mmu_split_huge_page', (gfn: A, spte: A, level: A, errno: A) =>
    `gfn ${x(gfn)} spte ${x(spte)} level ${level} errno ${errno}`),
  [TP.KVM_MMU_GET_PAGE]: kvmmmu('kvm_mmu_get_page', (gfn: A, level: A, created: A) => `sp gfn ${x(gfn)} l${level} direct ${created ? 'new' : 'existing'}`),
  [TP.KVM_MMU_PREPARE_ZAP_PAGE]: kvmmmu('kvm_mmu_prepare_zap_page', (gfn: A, level: A) => `sp gfn ${x(gfn)} l${level} direct`),
  [TP.KVM_NESTED_VMENTER]: kvm('kvm_nested_vmenter', (rip: A, vmcs: A, nestedRip: A, intCtl: A, eventInj: A, npt: A) =>
    `rip: 0x${x16(rip)} vmcs: 0x${x16(vmcs)} nested_rip: 0x${x16(nestedRip)} int_ctl: 0x${x8(intCtl)} event_inj: 0x${x8(eventInj)} nested_ept: ${npt ? 'y' : 'n'}`),
  [TP.KVM_NESTED_VMEXIT]: kvm('kvm_nested_vmexit', nestedExit),
  [TP.KVM_NESTED_VMEXIT_INJECT]: kvm('kvm_nested_vmexit_inject', (reason: A, info1: A, info2: A, intInfo: A, intErr: A) =>
    `reason: ${reason} ext_inf1: 0x${x16(info1)} ext_inf2: 0x${x16(info2)} ext_int: 0x${x8(intInfo)} ext_int_err: 0x${x8(intErr)}`),
  [TP.KVM_NESTED_VMENTER_FAILED]: kvm('kvm_nested_vmenter_failed', (msg: A, err: A) => `${msg}${vmenterError(Number(err))}`),
};

export const NR_TRACEPOINTS = Object.keys(TP).length;
