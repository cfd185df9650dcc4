// SPDX-License-Identifier: GPL-2.0-only
/**
 * Both sides of an entry in assembly: VMLAUNCH as a function of L1 that can write one more field just before it or put a MOV
 * SS before it, and the guest, which executes VMCALL, also as the handler of every event.
 */
import { lab, mem, R, type Reg } from '../../asm/operands.ts';
import { VMCS_HOST } from '../../x86/vmx/vmcs_host.ts';
import { guestAsm } from '../dsl/function.ts';
import { fnType, s32, u64 } from '../dsl/types.ts';

/** L2: VMCALL for ever. */
export const entry_check_l2 = guestAsm('entry_check_l2', (a) => {
  a.label('entry_check_l2.again');
  a.emit('vmcall');
  a.emit('jmp', lab('entry_check_l2.again'));
});

const PRESERVED: readonly Reg[] = [R.rbx, R.rbp, R.r12, R.r13, R.r14, R.r15];

/** (late_field, late_value, after_mov_ss): 0 after a VM exit, else VMX_STATUS. late_field 0 is none: the VPID is no such field. */
export const entry_check_launch = guestAsm(
  'entry_check_launch',
  (a) => {
    const label = (name: string): string => `entry_check_launch.${name}`;
    PRESERVED.forEach((reg) => a.emit('push', reg));
    a.emit('mov', R.r8, R.rdx);
    a.emit('mov', R.edx, VMCS_HOST.RSP);
    a.emit('vmwrite', R.rdx, R.rsp);
    a.emit('lea', R.rax, mem(0, { label: label('exit') }));
    a.emit('mov', R.edx, VMCS_HOST.RIP);
    a.emit('vmwrite', R.rdx, R.rax);
    a.emit('test', R.rdi, R.rdi);
    a.emit('je', lab(label('no_late')));
    a.emit('vmwrite', R.rdi, R.rsi);
    a.label(label('no_late'));
    a.emit('test', R.r8, R.r8);
    a.emit('je', lab(label('plain')));
    a.emit('mov', R.ecx, R.ss);
    a.emit('mov', R.ss, R.ecx);
    a.emit('vmlaunch');
    a.emit('jmp', lab(label('failed')));
    a.label(label('plain'));
    a.emit('vmlaunch');
    a.label(label('failed'));
    a.emit('setb', R.al);
    a.emit('sete', R.dl);
    a.emit('add', R.dl, R.dl);
    a.emit('or', R.al, R.dl);
    a.emit('movzx', R.eax, R.al);
    a.emit('jmp', lab(label('out')));
    a.label(label('exit'));
    a.emit('xor', R.eax, R.eax);
    a.label(label('out'));
    PRESERVED.toReversed().forEach((reg) => a.emit('pop', reg));
    a.emit('ret');
  },
  fnType([u64, u64, u64], s32),
);
