// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest half of sync_regs_test: an I/O exit and RBX plus one, for ever. Raw assembly: nothing but what is written here
 * may touch a register. After x86/sync_regs_test.c of the KVM selftests.
 */
import { lab, R } from '../../lib/asm/operands.ts';
import { guestAsm, linkGuest, UCALL_PIO_PORT } from '../../lib/guest/index.ts';

const guest_code = guestAsm('guest_code', (a) => {
  a.emit('mov', R.edx, UCALL_PIO_PORT);
  // No struct ucall: the exit is all that is wanted.
  a.emit('xor', R.edi, R.edi);
  a.label('guest_code_again');
  a.emit('in', R.al, R.dx);
  a.emit('add', R.rbx, 1);
  a.emit('jmp', lab('guest_code_again'));
});

export const linkSyncRegs = () => linkGuest(guest_code);
