// SPDX-License-Identifier: GPL-2.0-only
/**
 * How the runner gets into a snippet and out of it: IRETQ with all registers from its record; whatever exception ends it
 * finds a stack of its own (IST1), saves all registers there and returns to the runner as if snippet_enter() had.
 */
import { gpr, lab, m64, R, type Reg } from '../../../lib/asm/operands.ts';
import { guestAsm, guestGlobal, NUM_INTERRUPTS, ptr, struct, u64 } from '../../../lib/guest/index.ts';
import { fnType, voidType } from '../../../lib/guest/dsl/types.ts';
import { hasErrorCode } from '../../../lib/x86/exceptions.ts';
import { e9_puts, e9_shutdown } from '../e9.ts';
import { guestFn, str } from '../../../lib/guest/index.ts';
import { SnippetRecord } from './records.ts';

/** The registers at the exception that ended a snippet, as the stubs push them. */
export const SnippetResult = struct('struct snippet_result', {
  gpr: struct('struct gprs', {
    ...{ rax: u64, rcx: u64, rdx: u64, rbx: u64, rbp: u64, rsi: u64, rdi: u64, r8: u64 },
    ...{ r9: u64, r10: u64, r11: u64, r12: u64, r13: u64, r14: u64, r15: u64 },
  }),
  vector: u64,
  error_code: u64,
  rip: u64,
  cs: u64,
  rflags: u64,
  rsp: u64,
  ss: u64,
});

const PRESERVED: readonly Reg[] = [R.rbx, R.rbp, R.r12, R.r13, R.r14, R.r15];
const PUSHED: readonly Reg[] = [
  ...[R.rax, R.rcx, R.rdx, R.rbx, R.rbp, R.rsi, R.rdi, R.r8],
  ...[R.r9, R.r10, R.r11, R.r12, R.r13, R.r14, R.r15],
];

/** The runner's stack pointer while a snippet runs, else 0. */
const runner_rsp = guestGlobal('runner_rsp', u64);
/** Selectors that a snippet runs with; the host writes them. */
export const snippet_cs = guestGlobal('snippet_cs', u64);
export const snippet_ss = guestGlobal('snippet_ss', u64);

const field = (name: 'rip' | 'rflags'): number => SnippetRecord.offsetof(name);

/** Runs the snippet of a record; returns when an exception ends it. */
export const snippet_enter = guestAsm(
  'snippet_enter',
  (a) => {
    const at = (label: string) => m64({ label });
    PRESERVED.forEach((reg) => a.emit('push', reg));
    a.emit('mov', at(a.ref(runner_rsp.data)), R.rsp);
    a.emit('push', at(a.ref(snippet_ss.data)));
    a.emit('push', m64({ base: R.rdi, disp: 4 * 8 }));
    a.emit('push', m64({ base: R.rdi, disp: field('rflags') }));
    a.emit('push', at(a.ref(snippet_cs.data)));
    a.emit('push', m64({ base: R.rdi, disp: field('rip') }));
    for (let n = 0; n < 16; n++)
      if (n !== 4 && n !== 7) a.emit('mov', gpr(n), m64({ base: R.rdi, disp: n * 8 }));
    a.emit('mov', R.rdi, m64({ base: R.rdi, disp: 7 * 8 }));
    a.emit('iretq');
  },
  fnType([ptr(SnippetRecord)], voidType),
);

const lost = guestFn('snippet_lost', [], (g) => {
  e9_puts(g, str('the runner itself has faulted\n'));
  e9_shutdown(g);
});

/** Addresses of the 256 entry stubs, and the stubs: for gates with IST1. */
export const snippet_stubs = guestAsm('snippet_stubs', (a) => {
  const stub = (vector: number): string => `snippet_stub_${vector}`;
  const vectors = Array.from({ length: NUM_INTERRUPTS }, (_, vector) => vector);
  vectors.forEach((vector) => a.u64({ label: stub(vector) }));
  a.align(8);
  a.label('snippet_out');
  PUSHED.toReversed().forEach((reg) => a.emit('push', reg));
  const rsp = m64({ label: a.ref(runner_rsp.data) });
  a.emit('mov', R.rax, rsp);
  a.emit('test', R.rax, R.rax);
  a.emit('jz', lab(a.ref(lost)));
  a.emit('mov', rsp, 0);
  a.emit('mov', R.rsp, R.rax);
  // DF, AC, and what else the snippet had.
  a.emit('push', 2);
  a.emit('popfq');
  a.emit('mov', R.eax, 0x10);
  a.emit('mov', R.ss, R.eax);
  PRESERVED.toReversed().forEach((reg) => a.emit('pop', reg));
  a.emit('ret');
  for (const vector of vectors) {
    a.align(8);
    a.label(stub(vector));
    if (!hasErrorCode(vector)) a.emit('push', 0);
    a.emit('push', vector);
    a.emit('jmp', lab('snippet_out'));
  }
});
