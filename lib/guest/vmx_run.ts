// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMLAUNCH and VMRESUME as functions that return after the VM exit, after include/x86/vmx.h of tools/testing/selftests/kvm:
 * HOST_RSP and HOST_RIP lead back into the wrapper, which restores what a function must preserve, since a VM exit leaves L2's
 * general-purpose registers in place. L2 starts with whatever they hold, unless its registers are given as vmx_l2_regs.
 */
import type { Instruction } from '../asm/isa.ts';
import { lab, mem, R, type Reg } from '../asm/operands.ts';
import { VMCS_HOST } from '../x86/vmx/vmcs_host.ts';
import type { GuestCode } from './dsl/builder.ts';
import type { Expr } from './dsl/expr.ts';
import { type GuestAsm, guestAsm } from './dsl/function.ts';
import { guestGlobal } from './dsl/global.ts';
import { struct } from './dsl/struct.ts';
import { fnType, type IntType, s32, u64 } from './dsl/types.ts';

/** General-purpose registers without RSP, which the VMCS holds. */
export const VmxGuestRegs = struct('struct vmx_guest_regs', {
  rax: u64,
  rcx: u64,
  rdx: u64,
  rbx: u64,
  rbp: u64,
  rsi: u64,
  rdi: u64,
  r8: u64,
  r9: u64,
  r10: u64,
  r11: u64,
  r12: u64,
  r13: u64,
  r14: u64,
  r15: u64,
});

/** L2's registers: loaded before the entries of vmlaunch_regs and vmresume_regs, saved after the VM exit. */
export const vmx_l2_regs = guestGlobal('vmx_l2_regs', VmxGuestRegs);

const PRESERVED: readonly Reg[] = [R.rbx, R.rbp, R.r12, R.r13, R.r14, R.r15];
const NAMES = Object.keys(VmxGuestRegs.fields) as (keyof typeof VmxGuestRegs.fields)[];

type RegsUse = 'none' | 'vmx_l2_regs';

/** One wrapper: a function without arguments that gives a VMX_STATUS. */
function entryFunction(symbol: string, insn: Instruction, use: RegsUse): GuestAsm {
  const label = (name: string): string => `${symbol}.${name}`;
  return guestAsm(
    symbol,
    (a) => {
      const regs = use === 'none' ? undefined : a.ref(vmx_l2_regs.data);
      const field = (name: string) => mem(64, { label: regs!, disp: VmxGuestRegs.offsetof(name) });
      PRESERVED.forEach((reg) => a.emit('push', reg));
      a.emit('mov', R.edx, VMCS_HOST.RSP);
      a.emit('vmwrite', R.rdx, R.rsp);
      a.emit('lea', R.rax, mem(0, { label: label('exit') }));
      a.emit('mov', R.edx, VMCS_HOST.RIP);
      a.emit('vmwrite', R.rdx, R.rax);
      if (regs !== undefined) NAMES.forEach((name) => a.emit('mov', R[name], field(name)));
      a.emit(insn);
      // Here only if the entry failed before it loaded guest state.
      a.emit('setb', R.al);
      a.emit('sete', R.dl);
      a.emit('add', R.dl, R.dl);
      a.emit('or', R.al, R.dl);
      a.emit('movzx', R.eax, R.al);
      a.emit('jmp', lab(label('out')));
      a.label(label('exit'));
      if (regs !== undefined) NAMES.forEach((name) => a.emit('mov', field(name), R[name]));
      a.emit('xor', R.eax, R.eax);
      a.label(label('out'));
      PRESERVED.toReversed().forEach((reg) => a.emit('pop', reg));
      a.emit('ret');
    },
    fnType([], s32),
  );
}

const vmlaunch_fn = entryFunction('vmx_vmlaunch', 'vmlaunch', 'none');
const vmresume_fn = entryFunction('vmx_vmresume', 'vmresume', 'none');
const vmlaunch_regs_fn = entryFunction('vmx_vmlaunch_regs', 'vmlaunch', 'vmx_l2_regs');
const vmresume_regs_fn = entryFunction('vmx_vmresume_regs', 'vmresume', 'vmx_l2_regs');

const called =
  (fn: GuestAsm) =>
  (g: GuestCode): Expr<IntType> =>
    g.call(fn) as Expr<IntType>;

/** VMLAUNCH: 0 after a VM exit (which may report a failed entry), else the VMX_STATUS of the refusal. */
export const vmlaunch = called(vmlaunch_fn);
/** VMRESUME: as vmlaunch(). */
export const vmresume = called(vmresume_fn);
/** VMLAUNCH with L2's registers in vmx_l2_regs. */
export const vmlaunch_regs = called(vmlaunch_regs_fn);
/** VMRESUME with L2's registers in vmx_l2_regs. */
export const vmresume_regs = called(vmresume_regs_fn);
