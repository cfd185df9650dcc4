// SPDX-License-Identifier: GPL-2.0-only
/**
 * Exceptions in guest code: the 256 entry stubs, the common path to a handler, and instructions that report their fault
 * (KVM_ASM_SAFE). After lib/x86_64/handlers.S and lib/x86_64/processor.c of tools/testing/selftests/kvm; the host
 * half fills the IDT from `idt_handlers` and points `exception_handlers` at a table of handlers.
 */
import { lab, mem, R, type Reg } from '../asm/operands.ts';
import { hasErrorCode, VECTOR } from '../x86/exceptions.ts';
import { type AsmSpec, type Fixed, fixed } from './dsl/asm_spec.ts';
import type { AsmOutputs, GuestCode } from './dsl/builder.ts';
import type { Expr, Place } from './dsl/expr.ts';
import { lit } from './dsl/expr.ts';
import { guestAsm, guestFn } from './dsl/function.ts';
import { guestGlobal } from './dsl/global.ts';
import type { Operand } from './dsl/rvalue.ts';
import { struct } from './dsl/struct.ts';
import { array, bool, fnPtr, type IntType, ptr, u32, u64, u8 } from './dsl/types.ts';
import { GUEST_FAIL } from './guest_assert.ts';

/** What the entry stubs leave on the stack for a handler. */
export const ExRegs = struct('struct ex_regs', {
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
  vector: u64,
  error_code: u64,
  rip: u64,
  cs: u64,
  rflags: u64,
});

/** How many vectors there are. */
export const NUM_INTERRUPTS = 256;

/** The mark in r9 of an instruction whose fault is to be reported; its address is in r10, the way out in r11. */
export const KVM_EXCEPTION_MAGIC = 0xabacadaban;

const HandlerTable = array(fnPtr([ptr(ExRegs)]), NUM_INTERRUPTS);

/** The table of handlers by vector, null where there is none; the host writes the pointer. */
export const exception_handlers = guestGlobal('exception_handlers', ptr(HandlerTable));

/** Sends a marked instruction's fault to its way out; gives false if there is no mark. */
const kvm_fixup_exception = guestFn('kvm_fixup_exception', [ptr(ExRegs)], bool, (g, regs) => {
  const { r9, r10, r11, rip, vector, error_code } = regs.f;
  g.if(r9.ne(KVM_EXCEPTION_MAGIC).lor(rip.ne(r10)), () => g.return(0));
  // Divide errors are never expected: vector 0 would read as no fault.
  g.if(vector.eq(VECTOR.DE), () => g.return(0));
  g.set(rip, r11);
  g.set(r9, vector);
  g.set(r10, error_code);
  g.return(1);
});

/** Where all stubs end: the handler, the way out of a marked instruction, or the end of the test. */
export const route_exception = guestFn('route_exception', [ptr(ExRegs)], (g, regs) => {
  const { vector, rip, error_code } = regs.f;
  const handlers = exception_handlers.deref();
  g.if(exception_handlers.ne(0).land(handlers.at(vector).ne(0)), () => {
    g.call(handlers.at(vector), regs);
    g.return();
  });
  g.if(
    () => kvm_fixup_exception(g, regs),
    () => g.return(),
  );
  const cr2 = g.asm({ out: { v: u64 }, emit: (a, r) => a.emit('mov', r.reg64('v'), R.cr2) }).v;
  const format = "Unhandled exception '0x%lx' at guest RIP '0x%lx', error code 0x%lx, CR2 0x%lx";
  GUEST_FAIL(g, format, vector, rip, error_code, cr2);
});

const GPRS: readonly Reg[] = [
  ...[R.r15, R.r14, R.r13, R.r12, R.r11, R.r10, R.r9, R.r8],
  ...[R.rdi, R.rsi, R.rbp, R.rbx, R.rdx, R.rcx, R.rax],
];

/** The addresses of the 256 entry stubs, and the stubs. */
export const idt_handlers = guestAsm('idt_handlers', (a) => {
  const stub = (vector: number): string => `idt_handler_${vector}`;
  const vectors = Array.from({ length: NUM_INTERRUPTS }, (_, vector) => vector);
  vectors.forEach((vector) => a.u64({ label: stub(vector) }));
  a.align(8);
  a.label('handle_exception');
  GPRS.forEach((reg) => a.emit('push', reg));
  a.emit('mov', R.rdi, R.rsp);
  a.emit('call', lab(a.ref(route_exception)));
  GPRS.toReversed().forEach((reg) => a.emit('pop', reg));
  // Discards vector and error code.
  a.emit('add', R.rsp, 16);
  a.emit('iretq');
  for (const vector of vectors) {
    a.align(8);
    a.label(stub(vector));
    if (!hasErrorCode(vector)) a.emit('push', 0);
    a.emit('push', vector);
    a.emit('jmp', lab('handle_exception'));
  }
});

/** What a marked instruction reports: the vector of its fault, 0 if there was none, and the error code. */
export interface SafeResult {
  readonly vector: Expr<IntType>;
  /** Valid if there was a fault. */
  readonly error_code: Expr<IntType>;
}

/** Inline assembly of one instruction whose fault is reported instead of ending the test. r9 to r11 are taken. */
export function KVM_ASM_SAFE<I extends string = never, O extends string = never>(
  g: GuestCode,
  spec: AsmSpec<I, O>,
): SafeResult & { readonly out: AsmOutputs<O> } {
  const safe = { ...spec.out, kvmVector: fixed('r9', u8), kvmError: fixed('r10', u64) } as Readonly<
    Record<O | 'kvmVector' | 'kvmError', IntType | Fixed<IntType>>
  >;
  const out = g.asm<I, O | 'kvmVector' | 'kvmError'>({
    ...(spec.in ? { in: spec.in } : {}),
    out: safe,
    clobbers: [...(spec.clobbers ?? []), 'r9', 'r10', 'r11'],
    emit: (a, r) => {
      const insn = r.local('insn');
      const end = r.local('end');
      a.emit('mov', R.r9, KVM_EXCEPTION_MAGIC);
      a.emit('lea', R.r10, mem(0, { label: insn }));
      a.emit('lea', R.r11, mem(0, { label: end }));
      a.label(insn);
      spec.emit(a, r);
      a.emit('xor', R.r9d, R.r9d);
      a.label(end);
    },
  });
  const outputs: unknown = out;
  const { kvmVector, kvmError } = outputs as AsmOutputs<'kvmVector' | 'kvmError'>;
  return { vector: kvmVector, error_code: kvmError, out: outputs as AsmOutputs<O> };
}

/** Reads a model-specific register; gives the vector of the fault, or 0. */
export function rdmsr_safe(g: GuestCode, msr: Operand, value: Place<IntType>): Expr<IntType> {
  const { vector, out } = KVM_ASM_SAFE(g, {
    in: { msr: fixed('rcx', msr) },
    out: { lo: fixed('rax', u32), hi: fixed('rdx', u32) },
    emit: (a) => a.emit('rdmsr'),
  });
  g.set(value, out.hi.cast(u64).shl(32).or(out.lo.cast(u64)));
  return vector;
}

/** The halves of a value for edx:eax. */
function halves(g: GuestCode, value: Operand): { lo: Expr; hi: Expr } {
  const wide = g.let(lit(value).cast(u64));
  return { lo: wide.cast(u32), hi: wide.shr(32).cast(u32) };
}

/** Writes a model-specific register; gives the vector of the fault, or 0. */
export function wrmsr_safe(g: GuestCode, msr: Operand, value: Operand): Expr<IntType> {
  const { lo, hi } = halves(g, value);
  return KVM_ASM_SAFE(g, {
    in: { msr: fixed('rcx', msr), lo: fixed('rax', lo), hi: fixed('rdx', hi) },
    emit: (a) => a.emit('wrmsr'),
  }).vector;
}

/** Writes an extended control register; gives the vector of the fault, or 0. */
export function xsetbv_safe(g: GuestCode, index: Operand, value: Operand): Expr<IntType> {
  const { lo, hi } = halves(g, value);
  return KVM_ASM_SAFE(g, {
    in: { index: fixed('rcx', index), lo: fixed('rax', lo), hi: fixed('rdx', hi) },
    emit: (a) => a.emit('xsetbv'),
  }).vector;
}
