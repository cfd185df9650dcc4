// SPDX-License-Identifier: GPL-2.0-only
/**
 * ucall: how guest code talks to the test's host half. After tools/testing/selftests/kvm: include/ucall_common.h,
 * lib/ucall_common.c and lib/x86_64/ucall.c: a struct from a pool, its host address in rdi, `in` from a port.
 */
import { R } from '../asm/operands.ts';
import { fixed } from './dsl/asm_spec.ts';
import type { GuestCode } from './dsl/builder.ts';
import { str } from './dsl/expr.ts';
import { guestFn } from './dsl/function.ts';
import { guestGlobal } from './dsl/global.ts';
import type { Operand } from './dsl/rvalue.ts';
import { struct } from './dsl/struct.ts';
import { array, ptr, s32, u64, u8 } from './dsl/types.ts';
import { clear_bit, test_and_set_bit } from './bitops.ts';
import { GuestCodeError } from './dsl/error.ts';

/** The port of a ucall on x86. */
export const UCALL_PIO_PORT = 0x1000;
/** Values that a ucall carries besides its command. */
export const UCALL_MAX_ARGS = 7;
/** Bytes of formatted text that a ucall carries. */
export const UCALL_BUFFER_LEN = 1024;
/** How many vCPUs may be in a ucall at the same time. */
export const KVM_MAX_VCPUS = 512;
/** What rdi holds when the guest found no free struct. */
export const GUEST_UCALL_FAILED = -1n;

/** The commands of a ucall. */
// prettier-ignore
export const UCALL = {
  NONE: 0, SYNC: 1, ABORT: 2, PRINTF: 3, DONE: 4, UNHANDLED: 5,
} as const;

/** The arguments of UCALL_ABORT; the level is an addition of this project. */
// prettier-ignore
export const GUEST_ASSERT_ARG = {
  ERROR_STRING: 0, FILE: 1, LINE: 2, LEVEL: 3,
} as const;

/** A message to the host. */
export const Ucall = struct('struct ucall', {
  cmd: u64,
  args: array(u64, UCALL_MAX_ARGS),
  buffer: array(u8, UCALL_BUFFER_LEN),
  /** Host virtual address of this struct. */
  hva: u64,
});

/** The pool that the host allocates in guest memory. */
export const UcallHeader = struct('struct ucall_header', {
  in_use: array(u64, KVM_MAX_VCPUS / 64),
  ucalls: array(Ucall, KVM_MAX_VCPUS),
});

/** The pool's guest virtual address; the host writes it (write_guest_global). */
export const ucall_pool = guestGlobal('ucall_pool', ptr(UcallHeader));

/**
 * Exits to the host with the struct's host address in rdi. Saves what L1 might clobber if L2 makes the ucall and L1
 * intercepts the port; upstream does the same.
 */
export const ucall_arch_do_ucall = guestFn('ucall_arch_do_ucall', [u64], (g, uc) => {
  const preserved = [R.rbp, R.r15, R.r14, R.r13, R.r12, R.rbx, R.rdx, R.rdi];
  g.asm({
    in: { port: fixed('rdx', UCALL_PIO_PORT), uc: fixed('rdi', uc) },
    clobbers: ['rax', 'rcx', 'rsi', 'r8', 'r9', 'r10', 'r11'],
    emit: (a) => {
      preserved.forEach((reg) => a.emit('push', reg));
      a.emit('in', R.al, R.dx);
      preserved.toReversed().forEach((reg) => a.emit('pop', reg));
    },
  });
});

/** Takes a free struct from the pool; null, after a bare ucall, if there is none. */
export const ucall_alloc = guestFn('ucall_alloc', [], ptr(Ucall), (g) => {
  const i = g.local(s32);
  g.if(ucall_pool.ne(0), () =>
    g.forRange(i, 0, KVM_MAX_VCPUS, 1, () =>
      g.if(
        () => test_and_set_bit(g, i, ucall_pool.f.in_use).lnot(),
        () => g.return(ucall_pool.f.ucalls.at(i).addr()),
      ),
    ),
  );
  // GUEST_ASSERT() needs a ucall itself and cannot be used here.
  ucall_arch_do_ucall(g, GUEST_UCALL_FAILED);
  g.return(0);
});

/** Gives a struct back to the pool. */
export const ucall_free = guestFn('ucall_free', [ptr(Ucall)], (g, uc) => {
  clear_bit(g, uc.diff(ucall_pool.f.ucalls), ucall_pool.f.in_use);
});

const ARGS = [u64, u64, u64, u64, u64, u64, u64] as const;

/** A ucall with all its arguments. */
const __ucall = guestFn('ucall', [u64, ...ARGS], (g, cmd, ...args) => {
  const uc = g.let(ucall_alloc(g));
  g.set(uc.f.cmd, cmd);
  args.forEach((arg, i) => g.set(uc.f.args.at(i), arg));
  ucall_arch_do_ucall(g, uc.f.hva);
  ucall_free(g, uc);
});

/** Makes a ucall with up to seven arguments; what is left out is zero. */
export function ucall(g: GuestCode, cmd: number, ...args: Operand[]): void {
  if (args.length > UCALL_MAX_ARGS) throw new GuestCodeError(`ucall with ${args.length} arguments`);
  g.call(__ucall, cmd, ...args, ...ARGS.slice(args.length).map(() => 0));
}

/** A bare ucall without data; the host sees UCALL_NONE. */
export const GUEST_UCALL_NONE = (g: GuestCode): void => ucall_arch_do_ucall(g, 0);

/** Reports a stage to the host. */
export const GUEST_SYNC = (g: GuestCode, stage: Operand): void => ucall(g, UCALL.SYNC, str('hello'), stage);

/** Reports a stage with four values. */
export const GUEST_SYNC_ARGS = (
  g: GuestCode,
  stage: Operand,
  a1: Operand,
  a2: Operand,
  a3: Operand,
  a4: Operand,
): void => ucall(g, UCALL.SYNC, str('hello'), stage, a1, a2, a3, a4);

/** Reports the end of the test. */
export const GUEST_DONE = (g: GuestCode): void => ucall(g, UCALL.DONE);
