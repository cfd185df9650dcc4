// SPDX-License-Identifier: GPL-2.0-only
/**
 * One instruction of L1 at CPL 3, and the fault that it raises: a GDT with user segments, a stack for the way back in the TSS,
 * and a handler that returns to the kernel wherever it was called from. L1's pages must be user pages.
 */
import { mem, R, type Reg } from '../../asm/operands.ts';
import { VECTOR } from '../../x86/exceptions.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { at, imm, lit } from '../dsl/expr.ts';
import { guestAsm, guestUnit } from '../dsl/function.ts';
import { guestGlobal } from '../dsl/global.ts';
import type { FnLinkable } from '../dsl/ir.ts';
import type { Operand } from '../dsl/rvalue.ts';
import { array, fnType, ptr, u16, u32, u64, voidType } from '../dsl/types.ts';
import { packedStruct } from '../dsl/struct.ts';
import { exception_handlers, ExRegs } from '../exceptions.ts';
import { get_cs, get_gdt, get_ss, get_tr } from '../processor.ts';
import { memcpy } from '../string.ts';
import { get_desc64_base } from '../vmx_vmcs.ts';
import type { Out } from './insn_case.ts';
import { OUTCOME } from './outcome.ts';
import { record } from './program.ts';

const L1 = guestUnit('L1').fn;
/** Descriptors that are taken over, then 64-bit code and data of DPL 3. */
const KEPT = 16;
const USER_CS = KEPT * 8 + 3;
const USER_DS = (KEPT + 1) * 8 + 3;
const USER_CODE = 0x00af_fb00_0000_ffffn;
const USER_DATA = 0x00cf_f300_0000_ffffn;
/** RSP0 in the 64-bit TSS. */
const TSS_RSP0 = 4;
const STACK = 256;

const GdtPointer = packedStruct('struct check_gdt', { limit: u16, base: u64 });
const gdt = guestGlobal('user_check_gdt', array(u64, KEPT + 2));
const pointer = guestGlobal('user_check_gdt_pointer', GdtPointer);
const kernelStack = guestGlobal('user_check_kernel_stack', array(u64, STACK));
const userStack = guestGlobal('user_check_user_stack', array(u64, STACK));
const savedRsp = guestGlobal('user_check_rsp', u64);
const kernelCs = guestGlobal('user_check_cs', u64);
const kernelSs = guestGlobal('user_check_ss', u64);
const vector = guestGlobal('user_check_vector', u64);
const errorCode = guestGlobal('user_check_error', u64);
const faultRip = guestGlobal('user_check_rip', u64);

const PRESERVED: readonly Reg[] = [R.rbx, R.rbp, R.r12, R.r13, R.r14, R.r15];

/** Where the handler returns to: the end of the function that went to CPL 3. */
const resume_kernel = guestAsm('user_check_resume', (a) => {
  PRESERVED.toReversed().forEach((reg) => a.emit('pop', reg));
  a.emit('ret');
});

/** (rip, rsp): goes there at CPL 3; returns after a fault. */
const to_user = guestAsm(
  'user_check_enter',
  (a) => {
    PRESERVED.forEach((reg) => a.emit('push', reg));
    a.emit('mov', mem(64, { label: a.ref(savedRsp.data) }), R.rsp);
    a.emit('push', USER_DS);
    a.emit('push', R.rsi);
    a.emit('pushfq');
    a.emit('push', USER_CS);
    a.emit('push', R.rdi);
    a.emit('iretq');
  },
  fnType([u64, u64], voidType),
);

/** Notes the fault and returns to the kernel. Beyond the registers that it knows of lie RSP and SS. */
const on_fault = L1('user_check_fault', [ptr(ExRegs)], (g, regs) => {
  g.set(vector, regs.f.vector);
  g.set(errorCode, regs.f.error_code);
  g.set(faultRip, regs.f.rip);
  const beyond = regs.cast(u64).add(ExRegs.size);
  g.set(regs.f.rip, lit(resume_kernel).cast(u64));
  g.set(regs.f.cs, kernelCs);
  g.set(at(u64, beyond), savedRsp);
  g.set(at(u64, beyond.add(8)), kernelSs);
});

const FAULTS = [VECTOR.UD, VECTOR.GP, VECTOR.PF] as const;

/** Puts a handler in place for the faults that are expected; null restores the default. */
function handleFaults(g: GuestCode, handler: FnLinkable | null): void {
  const table = exception_handlers.deref();
  for (const fault of FAULTS) g.set(table.at(fault), handler === null ? 0 : handler);
}

function loadGdt(g: GuestCode, limit: Operand, base: Operand): void {
  g.set(pointer.f.limit, limit);
  g.set(pointer.f.base, base);
  g.asm({ in: { desc: pointer.addr() }, emit: (a, r) => a.emit('lgdt', mem(0, { base: r.reg64('desc') })) });
}

/** Executes the code at an address at CPL 3, up to its first fault. */
const run_at_cpl3 = L1('user_check_run', [u64], (g, code) => {
  const old = get_gdt(g);
  const tss = get_desc64_base(g, old.f.address.cast(u64).add(get_tr(g)));
  g.set(
    at(u64, tss.add(TSS_RSP0)),
    kernelStack
      .at(STACK - 2)
      .addr()
      .cast(u64),
  );
  const i = g.local(u32);
  g.forRange(i, 0, KEPT, 1, () => g.set(gdt.at(i), 0));
  const size = g.let(old.f.size.cast(u64).add(1));
  g.if(size.gt(KEPT * 8), () => g.set(size, KEPT * 8));
  memcpy(g, gdt.addr(), old.f.address.cast(ptr()), size);
  g.set(gdt.at(KEPT), imm(u64, USER_CODE));
  g.set(gdt.at(KEPT + 1), imm(u64, USER_DATA));
  g.set(kernelCs, get_cs(g).cast(u64));
  g.set(kernelSs, get_ss(g).cast(u64));
  loadGdt(g, (KEPT + 2) * 8 - 1, gdt.addr().cast(u64));
  handleFaults(g, on_fault);
  g.call(
    to_user,
    code,
    userStack
      .at(STACK / 2)
      .addr()
      .cast(u64),
  );
  handleFaults(g, null);
  loadGdt(g, old.f.size, old.f.address.cast(u64));
});

/** Executes the first instruction of a stub at CPL 3 and records its fault; VMsucceed if it was a later one that faulted. */
export const atCpl3 =
  (stub: FnLinkable) =>
  (g: GuestCode, out: Out): void => {
    run_at_cpl3(g, lit(stub).cast(u64));
    g.if(
      faultRip.eq(lit(stub).cast(u64)),
      () => record(g, out, OUTCOME.FAULT, vector, errorCode),
      () => record(g, out, OUTCOME.SUCCEED),
    );
  };
