// SPDX-License-Identifier: GPL-2.0-only
/**
 * A VMX case: a VMCS that would run L2, changed by a row of a table, L2's few instructions, and what is printed of the VM exit.
 * Every case begins with a VMCS of its own making, so that cases can be read, and fail, alone.
 */
import {
  type Expr,
  type FnLinkable,
  type GuestCode,
  guestAsm,
  guestFn,
  guestGlobal,
  lit,
  load_vmcs,
  memset,
  type Operand,
  prepare_for_vmx_operation,
  prepare_vmcs,
  ptr,
  rdmsr,
  str,
  bool,
  u64,
  vmcs_clear_bits,
  vmcs_set_bits,
  vmlaunch_regs,
  vmresume_regs,
  vmwrite,
  vmx_l2_regs,
  VmxGuestRegs,
  VmxPages,
  voidType,
} from '../../../lib/guest/index.ts';
import { lab, type Lab, mem, R } from '../../../lib/asm/operands.ts';
import type { RawAsm } from '../../../lib/guest/dsl/function.ts';
import { VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC, VMX_EPTP } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { e9_puts, e9_shutdown } from '../e9.ts';
import { entryGpa, flushEpt, pageVa, resetEpt } from './areas.ts';
import { l1_interrupt, L2_STACK_TOP, l2_vectors } from './l2_idt.ts';
import { vx_line, vx_report, vx_show } from './report.ts';

/** Bits of the five control fields. */
export interface Controls {
  readonly pin?: number;
  readonly cpu?: number;
  readonly cpu2?: number;
  readonly exit?: number;
  readonly entry?: number;
}

export type RegName = keyof typeof VmxGuestRegs.fields;

export interface VmxCase {
  readonly name: string;
  /** Controls set or clear; where the processor does not allow it, the case is absent. */
  readonly set?: Controls;
  readonly clear?: Controls;
  /** Whether L2 runs with EPT. */
  readonly ept?: 'identity' | 'identity_ad';
  /** Bits of IA32_VMX_EPT_VPID_CAP that the case needs, low and high word. */
  readonly eptCaps?: number;
  readonly vpidCaps?: number;
  /** Bits of IA32_VMX_MISC that it needs. */
  readonly misc?: number;
  readonly fields?: readonly (readonly [field: number, value: Operand])[];
  /** L2's registers; the others are 0. */
  readonly regs?: Partial<Record<RegName, Operand>>;
  /** Further preparation by L1. */
  readonly before?: (g: GuestCode) => void;
  /** L2's code; a VMCALL follows it. */
  readonly code: (a: L2Asm) => void;
  /** L2's registers that are printed. */
  readonly show?: readonly RegName[];
  /** What follows the first VM exit. */
  readonly after?: (g: GuestCode, run: Again) => void;
}

/** For L2's code; labels are the case's own. */
export interface L2Asm {
  readonly emit: RawAsm['emit'];
  readonly label: (name: string) => void;
  /** A branch target. */
  readonly to: (name: string) => Lab;
}

/** Goes on after a VM exit. */
export interface Again {
  /** Where L2's code begins. */
  readonly start: Expr;
  /** VMRESUME, and a line of the given name. */
  readonly resume: (name: string) => void;
  /** VMLAUNCH, and a line of the given name. */
  readonly launch: (name: string) => void;
}

/** struct vmx_pages; the host passes it. */
const vx_vmx = guestGlobal('vx_vmx', ptr(VmxPages));

/** Whether a capability MSR allows the bits of `set` to be 1 and those of `clear` to be 0. */
const offers = guestFn('vx_offers', [u64, u64, u64], bool, (g, msr, set, clear) => {
  const caps = rdmsr(g, msr);
  g.return(caps.shr(32).and(set).eq(set).land(caps.and(clear).eq(0)));
});

const CONTROL_FIELDS = [
  ['pin', VMX_MSR.IA32_VMX_TRUE_PINBASED_CTLS, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL],
  ['cpu', VMX_MSR.IA32_VMX_TRUE_PROCBASED_CTLS, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL],
  ['cpu2', VMX_MSR.IA32_VMX_PROCBASED_CTLS2, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL],
  ['exit', VMX_MSR.IA32_VMX_TRUE_EXIT_CTLS, VMCS_CTRL.VM_EXIT_CONTROLS],
  ['entry', VMX_MSR.IA32_VMX_TRUE_ENTRY_CTLS, VMCS_CTRL.VM_ENTRY_CONTROLS],
] as const;

/** IRET ends the blocking of NMIs that a case may have left: Bochs does not take it from the next VMCS. */
const unblock_nmi = guestFn('vx_unblock_nmi', [], (g) => {
  g.asm({
    clobbers: ['rax', 'rcx'],
    emit: (a, r) => {
      a.emit('mov', R.rcx, R.rsp);
      a.emit('mov', R.eax, R.ss);
      a.emit('push', R.rax);
      a.emit('push', R.rcx);
      a.emit('pushfq');
      a.emit('mov', R.eax, R.cs);
      a.emit('push', R.rax);
      a.emit('lea', R.rax, mem(0, { label: r.local('behind') }));
      a.emit('push', R.rax);
      a.emit('iretq');
      a.label(r.local('behind'));
    },
  });
});

/** A cleared VMCS with which L2 would run at `rip`. */
const fresh_vmcs = guestFn('vx_fresh_vmcs', [u64], (g, rip) => {
  unblock_nmi(g);
  load_vmcs(g, vx_vmx);
  prepare_vmcs(g, vx_vmx, rip.cast(ptr()), pageVa('stack').add(L2_STACK_TOP).cast(ptr()));
  vmwrite(g, VMCS_GUEST.IDTR_BASE, pageVa('idt'));
  vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0xfff);
  memset(g, vmx_l2_regs.addr().cast(ptr(voidType)), 0, VmxGuestRegs.size);
});

/** Fills a page with a byte. */
export const fillPage = (g: GuestCode, page: Parameters<typeof pageVa>[0], byte: number): void => {
  memset(g, pageVa(page).cast(ptr(voidType)), byte, 4096);
};

function controls({ set = {}, clear = {}, ept }: VmxCase): [typeof set, typeof clear] {
  return [ept === undefined ? set : { ...set, cpu2: (set.cpu2 ?? 0) | SECONDARY_EXEC.ENABLE_EPT }, clear];
}

/** The case is absent if the processor does not allow its controls. */
function checkControls(g: GuestCode, row: VmxCase): void {
  const [set, clear] = controls(row);
  for (const [key, msr] of CONTROL_FIELDS) {
    const [ones, zeroes] = [set[key] ?? 0, clear[key] ?? 0];
    if (ones === 0 && zeroes === 0) continue;
    g.if(offers(g, msr, ones >>> 0, zeroes >>> 0).lnot(), () => {
      e9_puts(g, str(`${row.name}: absent\n`));
      g.return();
    });
  }
}

/** The case is absent if the processor does not offer what its capability MSRs say it needs. */
function checkCapabilities(g: GuestCode, { name, eptCaps = 0, vpidCaps = 0, misc = 0 }: VmxCase): void {
  const wanted = [
    [VMX_MSR.IA32_VMX_EPT_VPID_CAP, (BigInt(vpidCaps >>> 0) << 32n) | BigInt(eptCaps >>> 0)],
    [VMX_MSR.IA32_VMX_MISC, BigInt(misc)],
  ] as const;
  for (const [msr, bits] of wanted) {
    if (bits === 0n) continue;
    g.if(rdmsr(g, msr).and(bits).ne(bits), () => {
      e9_puts(g, str(`${name}: absent\n`));
      g.return();
    });
  }
}

function writeControls(g: GuestCode, row: VmxCase): void {
  const [set, clear] = controls(row);
  for (const [key, , field] of CONTROL_FIELDS) {
    if (clear[key] !== undefined) vmcs_clear_bits(g, field, clear[key] >>> 0);
    if (set[key] !== undefined) vmcs_set_bits(g, field, set[key] >>> 0);
  }
  if (row.ept !== undefined) {
    resetEpt(g);
    vmwrite(g, VMCS_CTRL.EPT_POINTER, entryGpa('ept_root').or(row.ept === 'identity' ? EPTP : EPTP_AD));
    flushEpt(g);
  }
}

/** Write-back, four levels, without and with accessed and dirty flags. */
const EPTP = VMX_EPTP.MT_WB | VMX_EPTP.PWL_4;
const EPTP_AD = EPTP | VMX_EPTP.AD_ENABLE_BIT;

/** The guest function of a case. */
function caseFn(row: VmxCase, n: number): FnLinkable {
  const l2 = guestAsm(`l2_case_${n}`, (a) => {
    const full = (name: string): string => `l2_case_${n}.${name}`;
    row.code({
      emit: (insn, ...ops) => a.emit(insn, ...ops),
      label: (name) => a.label(full(name)),
      to: (name) => lab(full(name)),
    });
    a.emit('vmcall');
    a.emit('hlt');
  });
  return guestFn(`vx_case_${n}`, [], (g) => {
    checkCapabilities(g, row);
    checkControls(g, row);
    const start = g.local(u64, lit(l2).cast(u64));
    fresh_vmcs(g, start);
    writeControls(g, row);
    row.before?.(g);
    for (const [field, value] of row.fields ?? []) vmwrite(g, field, value);
    for (const [name, value] of Object.entries(row.regs ?? {}))
      g.set(vmx_l2_regs.f[name as RegName], lit(value).cast(u64));
    const run = (name: string, enter: typeof vmlaunch_regs): void => {
      const status = g.let(enter(g));
      vx_report(g, str(name), status, start);
      for (const reg of row.show ?? []) vx_show(g, reg, vmx_l2_regs.f[reg]);
      vx_line(g);
    };
    const again: Again = {
      start,
      resume: (name) => run(name, vmresume_regs),
      launch: (name) => run(name, vmlaunch_regs),
    };
    again.launch(row.name);
    row.after?.(g, again);
  });
}

/** A program of cases, and of what `more` does in VMX root operation. */
export function vmxMain(rows: readonly VmxCase[], more?: (g: GuestCode, vmx: Expr) => void): FnLinkable {
  const cases = rows.map(caseFn);
  return guestFn('guest_code', [ptr(VmxPages)], (g, vmx) => {
    g.set(vx_vmx, vmx);
    g.if(prepare_for_vmx_operation(g, vmx).lnot(), () => e9_puts(g, str('VMXON failed\n')));
    for (const fn of cases) g.call(fn);
    more?.(g, vmx);
    e9_shutdown(g);
  });
}

/** What the host half wants by symbol. */
export const VMX_ROOTS = [l2_vectors, l1_interrupt] as const;
