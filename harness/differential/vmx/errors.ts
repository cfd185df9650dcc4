// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMX instructions in root operation: succeed, VMfailInvalid, VMfailValid with its number, or a fault. SDM, "VMX Instruction
 * Reference", the operation sections, and "VM Instruction Error Numbers". Each line is one instruction on the state that the
 * lines before it left.
 */
import { mem, R } from '../../../lib/asm/operands.ts';
import {
  at,
  type Expr,
  get_cr0,
  get_cr4,
  type GuestCode,
  guestFn,
  lit,
  load_vmcs,
  type Operand,
  prepare_vmcs,
  ptr,
  set_cr4,
  str,
  u32,
  u64,
  u8,
  vm_instruction_error,
  VMCS_SHADOW_BIT,
  vmcs_revision,
  VMX_INSN_SAFE,
  VMX_STATUS,
  vmclear,
  vmptrld,
  vmptrst,
  vmwrite,
  VmxPages,
} from '../../../lib/guest/index.ts';
import type { AsmSpec } from '../../../lib/guest/dsl/asm_spec.ts';
import { CR4 } from '../../../lib/x86/registers.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { e9_printf, e9_puts } from '../e9.ts';
import { pageGpa, pageVa } from './areas.ts';
import { L2_STACK_TOP } from './l2_idt.ts';

const report = guestFn('vx_report_insn', [ptr(u8), u8, u64, u8], (g, name, vector, error, status) => {
  e9_printf(g, '%s:', name);
  g.if(vector.ne(0), () => {
    e9_printf(g, ' fault %lx:%lx\n', vector, error);
    g.return();
  });
  g.switch(status, [
    [VMX_STATUS.SUCCEED, () => e9_puts(g, str(' succeeds\n'))],
    [VMX_STATUS.FAIL_INVALID, () => e9_puts(g, str(' VMfailInvalid\n'))],
    [VMX_STATUS.FAIL_VALID, () => e9_printf(g, ' VMfailValid %ld\n', vm_instruction_error(g))],
  ]);
});

/** Executes an instruction and prints how it ended. */
function line<I extends string>(g: GuestCode, name: string, spec: AsmSpec<I, never>): void {
  const { vector, error_code, status } = VMX_INSN_SAFE(g, spec);
  report(g, str(name), vector, error_code, status);
}

type PointerInsn = 'vmxon' | 'vmclear' | 'vmptrld';

/** An instruction with the address of a physical address. */
function pointer(g: GuestCode, name: string, insn: PointerInsn, phys: Operand): void {
  const place = g.local(u64, lit(phys).cast(u64));
  line(g, name, {
    in: { address: place.addr() },
    emit: (a, r) => a.emit(insn, mem(64, { base: r.reg64('address') })),
  });
}

const plain = (g: GuestCode, name: string, insn: 'vmlaunch' | 'vmresume' | 'vmxoff' | 'vmcall'): void =>
  line(g, name, { emit: (a) => a.emit(insn) });

const readField = (g: GuestCode, name: string, field: Operand): void =>
  line(g, name, {
    in: { field: lit(field).cast(u64), scratch: lit(0).cast(u64) },
    emit: (a, r) => a.emit('vmread', r.reg64('scratch'), r.reg64('field')),
  });

const writeField = (g: GuestCode, name: string, field: Operand, value: Operand = 0): void =>
  line(g, name, {
    in: { field: lit(field).cast(u64), value: lit(value).cast(u64) },
    emit: (a, r) => a.emit('vmwrite', r.reg64('field'), r.reg64('value')),
  });

/** INVEPT or INVVPID with a descriptor. */
function invalidate(
  g: GuestCode,
  name: string,
  insn: 'invept' | 'invvpid',
  type: Operand,
  low: Operand,
  high: Operand = 0,
): void {
  const descriptor = g.local(u64, lit(low).cast(u64));
  const second = g.local(u64, lit(high).cast(u64));
  const page = at(u64, pageVa('data'));
  g.set(page, descriptor);
  g.set(at(u64, pageVa('data').add(8)), second);
  line(g, name, {
    in: { type: lit(type).cast(u64), address: pageVa('data') },
    emit: (a, r) => a.emit(insn, r.reg64('type'), mem(128, { base: r.reg64('address') })),
  });
}

const BEYOND = 1n << 52n;

function vmxonAndPointers(g: GuestCode, vmx: VmxPlace): void {
  const { vmxon_gpa, vmcs_gpa } = vmx.f;
  plain(g, 'vmlaunch_no_vmcs', 'vmlaunch');
  plain(g, 'vmresume_no_vmcs', 'vmresume');
  plain(g, 'vmcall_no_vmcs', 'vmcall');
  readField(g, 'vmread_no_vmcs', VMCS_GUEST.RIP);
  writeField(g, 'vmwrite_no_vmcs', VMCS_GUEST.RIP);
  pointer(g, 'vmxon_in_root_no_vmcs', 'vmxon', vmxon_gpa);
  pointer(g, 'vmclear_unaligned_no_vmcs', 'vmclear', vmcs_gpa.or(8));
  pointer(g, 'vmptrld_unaligned_no_vmcs', 'vmptrld', vmcs_gpa.or(8));
  invalidate(g, 'invept_type_0_no_vmcs', 'invept', 0, 0);
  vmclear(g, vmcs_gpa);
  g.set(at(u32, vmx.f.vmcs), vmcs_revision(g));
  pointer(g, 'vmptrld', 'vmptrld', vmcs_gpa);
  pointer(g, 'vmxon_in_root', 'vmxon', vmxon_gpa);
  pointer(g, 'vmxon_in_root_bad_address', 'vmxon', vmxon_gpa.or(1));
  pointer(g, 'vmclear_unaligned', 'vmclear', vmcs_gpa.or(0x800));
  pointer(g, 'vmclear_beyond', 'vmclear', vmcs_gpa.or(BEYOND));
  pointer(g, 'vmclear_vmxon', 'vmclear', vmxon_gpa);
  pointer(g, 'vmptrld_unaligned', 'vmptrld', vmcs_gpa.or(1));
  pointer(g, 'vmptrld_beyond', 'vmptrld', vmcs_gpa.or(BEYOND));
  pointer(g, 'vmptrld_vmxon', 'vmptrld', vmxon_gpa);
  g.set(at(u32, pageVa('vmcs2')), vmcs_revision(g).xor(1));
  pointer(g, 'vmptrld_revision', 'vmptrld', pageGpa('vmcs2'));
  g.set(at(u32, pageVa('vmcs2')), vmcs_revision(g).or(VMCS_SHADOW_BIT));
  const stored = g.local(u64, 0);
  vmptrst(g, stored);
  e9_printf(g, 'vmptrst_keeps: %ld\n', stored.eq(vmcs_gpa));
  pointer(g, 'vmclear_other', 'vmclear', pageGpa('vmcs2'));
  pointer(g, 'vmclear_again', 'vmclear', pageGpa('vmcs2'));
}

/** Encodings that no processor has, read-only ones, and halves. */
function fieldAccesses(g: GuestCode): void {
  readField(g, 'vmread_rip', VMCS_GUEST.RIP);
  readField(g, 'vmread_nowhere', 0x6fff);
  readField(g, 'vmread_nowhere_16', 0x00fe);
  readField(g, 'vmread_reserved_bit_12', 0x1000 | VMCS_GUEST.ES_SELECTOR);
  readField(g, 'vmread_high_bits', 1n << 32n);
  readField(g, 'vmread_negative', 0xffff_ffff_ffff_ffffn);
  readField(g, 'vmread_high_half', VMCS_CTRL.TSC_OFFSET | 1);
  readField(g, 'vmread_high_half_of_32', VMCS_CTRL.EXCEPTION_BITMAP | 1);
  readField(g, 'vmread_high_half_of_natural', VMCS_GUEST.CR0 | 1);
  readField(g, 'vmread_high_half_of_16', VMCS_GUEST.ES_SELECTOR | 1);
  writeField(g, 'vmwrite_rip', VMCS_GUEST.RIP, 0x1234);
  writeField(g, 'vmwrite_nowhere', 0x6fff);
  writeField(g, 'vmwrite_high_bits', (1n << 32n) | BigInt(VMCS_GUEST.RIP));
  writeField(g, 'vmwrite_high_half', VMCS_CTRL.TSC_OFFSET | 1, 5);
  writeField(g, 'vmwrite_high_half_of_32', VMCS_CTRL.EXCEPTION_BITMAP | 1);
  for (const [name, width] of [
    ['exception_bitmap', VMCS_CTRL.EXCEPTION_BITMAP],
    ['es_selector', VMCS_GUEST.ES_SELECTOR],
    ['tsc_offset', VMCS_CTRL.TSC_OFFSET],
    ['tsc_offset_high', VMCS_CTRL.TSC_OFFSET | 1],
    ['host_cr3', VMCS_HOST.CR3],
  ] as const) {
    const value = g.local(u64, 0);
    vmwrite(g, width, 0x1122_3344_8899_aabbn);
    g.set(value, readBack(g, width));
    e9_printf(g, `write_read_${name}: %lx\n`, value);
  }
}

function readBack(g: GuestCode, field: number): Expr {
  return g.asm({
    in: { field: lit(field).cast(u64) },
    out: { value: u64 },
    emit: (a, r) => a.emit('vmread', r.reg64('value'), r.reg64('field')),
  }).value;
}

/** Read-only fields: whether VMWRITE takes them is announced in IA32_VMX_MISC, so they are absent where it does. */
function readOnly(g: GuestCode): void {
  for (const [name, field] of [
    ['exit_reason', VMCS_INFO.VM_EXIT_REASON],
    ['qualification', VMCS_INFO.EXIT_QUALIFICATION],
    ['guest_physical', VMCS_INFO.GUEST_PHYSICAL_ADDRESS],
  ] as const) {
    readField(g, `vmread_${name}`, field);
  }
}

function launchState(g: GuestCode, vmx: VmxPlace): void {
  const fresh = (): void => {
    load_vmcs(g, vmx);
    prepare_vmcs(g, vmx, lit(0x1000).cast(ptr()), pageVa('stack').add(L2_STACK_TOP).cast(ptr()));
    vmwrite(g, VMCS_HOST.RIP, 0);
  };
  fresh();
  plain(g, 'vmresume_clear', 'vmresume');
  vmwrite(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, 0);
  plain(g, 'vmlaunch_bad_control', 'vmlaunch');
  plain(g, 'vmresume_still_clear', 'vmresume');
  fresh();
  vmwrite(g, VMCS_HOST.CR0, 0);
  plain(g, 'vmlaunch_bad_host', 'vmlaunch');
  fresh();
  vmwrite(g, VMCS_HOST.CS_SELECTOR, 0);
  vmwrite(g, VMCS_CTRL.CR3_TARGET_COUNT, 5);
  plain(g, 'vmlaunch_bad_both', 'vmlaunch');
  fresh();
  const ss = g.local(u64, 0x10);
  // The entry directly behind MOV SS.
  line(g, 'vmlaunch_mov_ss', {
    in: { ss },
    emit: (a, r) => {
      a.emit('mov', R.ss, r.reg64('ss'));
      a.emit('vmlaunch');
    },
  });
  line(g, 'vmresume_mov_ss', {
    in: { ss },
    emit: (a, r) => {
      a.emit('mov', R.ss, r.reg64('ss'));
      a.emit('vmresume');
    },
  });
}

function invalidations(g: GuestCode): void {
  invalidate(g, 'invept_type_0', 'invept', 0, 0);
  invalidate(g, 'invept_type_3', 'invept', 3, 0);
  invalidate(g, 'invept_type_high', 'invept', 1n << 32n, 0);
  invalidate(g, 'invept_global', 'invept', 2, 0);
  invalidate(g, 'invept_single', 'invept', 1, 0x1e);
  invalidate(g, 'invept_single_bad_eptp', 'invept', 1, 0xfff);
  invalidate(g, 'invept_single_memory_type', 'invept', 1, 0x1f);
  invalidate(g, 'invvpid_type_4', 'invvpid', 4, 1);
  invalidate(g, 'invvpid_type_high', 'invvpid', 1n << 32n, 1);
  invalidate(g, 'invvpid_address', 'invvpid', 0, 1, 0x1000);
  invalidate(g, 'invvpid_address_vpid_0', 'invvpid', 0, 0, 0x1000);
  invalidate(g, 'invvpid_address_not_canonical', 'invvpid', 0, 1, 1n << 60n);
  invalidate(g, 'invvpid_single', 'invvpid', 1, 1);
  invalidate(g, 'invvpid_single_vpid_0', 'invvpid', 1, 0);
  invalidate(g, 'invvpid_all', 'invvpid', 2, 0);
  invalidate(g, 'invvpid_non_global', 'invvpid', 3, 1);
  invalidate(g, 'invvpid_non_global_vpid_0', 'invvpid', 3, 0);
  invalidate(g, 'invvpid_reserved', 'invvpid', 1, 0x1_0001);
  invalidate(g, 'invvpid_reserved_all', 'invvpid', 2, 0x1_0000);
}

/** Faults of the operand come before the outcome. */
function operandFaults(g: GuestCode): void {
  for (const insn of ['vmptrld', 'vmclear', 'vmptrst'] as const) {
    line(g, `${insn}_not_canonical`, {
      in: { address: lit(1n << 62n).cast(u64) },
      emit: (a, r) => a.emit(insn, mem(64, { base: r.reg64('address') })),
    });
    line(g, `${insn}_not_mapped`, {
      in: { address: lit(0x1234_5000).cast(u64) },
      emit: (a, r) => a.emit(insn, mem(64, { base: r.reg64('address') })),
    });
  }
  line(g, 'vmread_not_mapped', {
    in: { address: lit(0x1234_5000).cast(u64), field: lit(VMCS_GUEST.RIP).cast(u64) },
    emit: (a, r) => a.emit('vmread', mem(64, { base: r.reg64('address') }), r.reg64('field')),
  });
  line(g, 'vmread_nowhere_not_mapped', {
    in: { address: lit(0x1234_5000).cast(u64), field: lit(0x6fff).cast(u64) },
    emit: (a, r) => a.emit('vmread', mem(64, { base: r.reg64('address') }), r.reg64('field')),
  });
  line(g, 'vmwrite_not_mapped', {
    in: { address: lit(0x1234_5000).cast(u64), field: lit(VMCS_GUEST.RIP).cast(u64) },
    emit: (a, r) => a.emit('vmwrite', r.reg64('field'), mem(64, { base: r.reg64('address') })),
  });
  line(g, 'invept_not_mapped', {
    in: { address: lit(0x1234_5000).cast(u64), type: lit(2).cast(u64) },
    emit: (a, r) => a.emit('invept', r.reg64('type'), mem(128, { base: r.reg64('address') })),
  });
}

/** Leaving VMX operation, and what is invalid outside of it. */
function outside(g: GuestCode, vmx: VmxPlace): void {
  vmptrld(g, vmx.f.vmcs_gpa);
  const cr4 = g.let(get_cr4(g));
  line(g, 'clear_vmxe_in_root', {
    in: { value: cr4.and(~BigInt(CR4.VMXE)) },
    emit: (a, r) => a.emit('mov', R.cr4, r.reg64('value')),
  });
  line(g, 'clear_pg_in_root', {
    in: { value: get_cr0(g).and(0x7fff_ffff) },
    emit: (a, r) => a.emit('mov', R.cr0, r.reg64('value')),
  });
  plain(g, 'vmxoff', 'vmxoff');
  plain(g, 'vmxoff_outside', 'vmxoff');
  plain(g, 'vmlaunch_outside', 'vmlaunch');
  readField(g, 'vmread_outside', VMCS_GUEST.RIP);
  pointer(g, 'vmptrld_outside', 'vmptrld', vmx.f.vmcs_gpa);
  invalidate(g, 'invept_outside', 'invept', 2, 0);
  pointer(g, 'vmxon_unaligned', 'vmxon', vmx.f.vmxon_gpa.or(8));
  pointer(g, 'vmxon_beyond', 'vmxon', vmx.f.vmxon_gpa.or(BEYOND));
  g.set(at(u32, vmx.f.vmxon), vmcs_revision(g).xor(1));
  pointer(g, 'vmxon_revision', 'vmxon', vmx.f.vmxon_gpa);
  g.set(at(u32, vmx.f.vmxon), vmcs_revision(g).or(VMCS_SHADOW_BIT));
  pointer(g, 'vmxon_bit_31', 'vmxon', vmx.f.vmxon_gpa);
  g.set(at(u32, vmx.f.vmxon), vmcs_revision(g));
  pointer(g, 'vmxon', 'vmxon', vmx.f.vmxon_gpa);
  readField(g, 'vmread_after_vmxon', VMCS_GUEST.RIP);
  plain(g, 'vmxoff_again', 'vmxoff');
  set_cr4(g, cr4.and(~BigInt(CR4.VMXE)));
  pointer(g, 'vmxon_without_vmxe', 'vmxon', vmx.f.vmxon_gpa);
}

type VmxPlace = Parameters<
  Parameters<typeof guestFn<readonly [ReturnType<typeof ptr<typeof VmxPages>>]>>[2]
>[1];

/** All instructions, in an order in which none spoils the next. */
export const vmxErrors = guestFn('vx_errors', [ptr(VmxPages)], (g, vmx) => {
  vmxonAndPointers(g, vmx);
  fieldAccesses(g);
  readOnly(g);
  launchState(g, vmx);
  invalidations(g);
  operandFaults(g);
  outside(g, vmx);
});
