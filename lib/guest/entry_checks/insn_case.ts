// SPDX-License-Identifier: GPL-2.0-only
/**
 * The language of the instruction cases: one VMX instruction in a known state of VMX operation, and how the SDM's "VMX
 * Instruction Reference" says that it ends. The case's code runs in L1 and records one outcome.
 */
import { mem } from '../../asm/operands.ts';
import { CR4 } from '../../x86/registers.ts';
import { VMCS_GUEST } from '../../x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../x86/vmx/vmcs_info.ts';
import type { AsmSpec } from '../dsl/asm_spec.ts';
import type { GuestCode } from '../dsl/builder.ts';
import { type Expr, lit, type Place } from '../dsl/expr.ts';
import { guestUnit } from '../dsl/function.ts';
import type { FnLinkable } from '../dsl/ir.ts';
import type { Operand } from '../dsl/rvalue.ts';
import { type IntType, type PtrType, ptr, u32, u64 } from '../dsl/types.ts';
import { GUEST_ASSERT_EQ } from '../guest_assert.ts';
import { get_cr4, set_cr4 } from '../processor.ts';
import { vm_instruction_error, VMX_INSN_SAFE, VMX_STATUS, vmreadz, vmwrite, vmxon } from '../vmx_insns.ts';
import { vmresume } from '../vmx_run.ts';
import { entry_check_launch } from './l2.ts';
import { type Outcome, outcome, OUTCOME, OutcomeRecord } from './outcome.ts';
import { checkPagePhysical, freshVmcs, record } from './program.ts';
import type { Deviation, Need } from './row.ts';

/** OFF: outside of VMX operation, CR4.VMXE set. ROOT: no current VMCS. CURRENT: a valid one, clear. LAUNCHED: launched. */
export const VMX_STATE = { OFF: 0, ROOT: 1, CURRENT: 2, LAUNCHED: 3 } as const;

/** Where a case's code leaves its outcome. */
export type Out = Place<PtrType<typeof OutcomeRecord>>;

export interface InsnCase {
  /** Instruction, as the SDM's reference names it. */
  readonly section: string;
  readonly name: string;
  readonly state: number;
  readonly needs?: readonly Need[];
  readonly expected: Outcome;
  readonly code: (g: GuestCode, out: Out) => void;
  readonly kvm?: Deviation;
  readonly bochs?: Deviation;
}

export const SUCCEED = outcome(OUTCOME.SUCCEED);
export const FAIL_INVALID = outcome(OUTCOME.VMFAIL_INVALID);
export const ENTERS = outcome(OUTCOME.ENTERED);
export const failValidWith = (error: number): Outcome => outcome(OUTCOME.VMFAIL_VALID, error);
export const faultWith = (vector: number, errorCode = 0): Outcome =>
  outcome(OUTCOME.FAULT, vector, errorCode);
export const exitWith = (reason: number): Outcome => outcome(OUTCOME.EXIT, reason);

/** KVM takes every VMCALL of L1 as a hypercall. */
export const HYPERCALL = {
  where: 'kvm_emulate_hypercall()',
  why: 'VMCALL of L1 is a hypercall, in VMX operation or not',
} as const;

const L1 = guestUnit('L1').fn;
type MemoryInsn = 'vmxon' | 'vmclear' | 'vmptrld' | 'vmptrst';

/** A linear address that is not canonical, and one that nothing is mapped at. */
export const NOT_CANONICAL_ADDRESS = 0x8000_0000_0000n;
export const UNMAPPED_ADDRESS = 0x6000_0000_0000n;

/** Brings L1 into a state, from whatever the case before left. */
export const enter_vmx_state = L1('entry_check_state', [u32], (g, state) => {
  // Fails outside of VMX operation.
  VMX_INSN_SAFE(g, { emit: (a) => a.emit('vmxoff') });
  set_cr4(g, get_cr4(g).or(CR4.VMXE));
  g.if(state.eq(VMX_STATE.OFF), () => g.return());
  GUEST_ASSERT_EQ(g, vmxon(g, checkPagePhysical('vmxon')), VMX_STATUS.SUCCEED);
  g.if(state.eq(VMX_STATE.ROOT), () => g.return());
  freshVmcs(g);
  g.if(state.eq(VMX_STATE.LAUNCHED), () => GUEST_ASSERT_EQ(g, g.call(entry_check_launch, 0, 0, 0), 0));
});

/** Records a status, or the fault before it. */
function recordStatus(
  g: GuestCode,
  out: Out,
  { vector, error_code, status }: ReturnType<typeof VMX_INSN_SAFE>,
): void {
  g.if(
    vector.ne(0),
    () => record(g, out, OUTCOME.FAULT, vector, error_code),
    () =>
      g.switch(
        status,
        [
          [VMX_STATUS.FAIL_INVALID, () => record(g, out, OUTCOME.VMFAIL_INVALID)],
          [VMX_STATUS.FAIL_VALID, () => record(g, out, OUTCOME.VMFAIL_VALID, vm_instruction_error(g))],
        ],
        () => record(g, out, OUTCOME.SUCCEED),
      ),
  );
}

/** Carries out one instruction and records how it ended. */
export const execute = <I extends string>(g: GuestCode, out: Out, spec: AsmSpec<I, never>): void =>
  recordStatus(g, out, VMX_INSN_SAFE(g, spec));

/** The address of eight bytes that hold a value. */
const holding = (g: GuestCode, value: Operand): Expr<PtrType<IntType>> =>
  g.local(u64, lit(value).cast(u64)).addr();

/** An instruction whose operand is a physical address in memory. */
export const withPointer =
  (insn: MemoryInsn, pointer: (g: GuestCode) => Operand) =>
  (g: GuestCode, out: Out): void =>
    withOperand(insn, (h) => holding(h, pointer(h)))(g, out);

/** The same by the address of its operand. */
export const withOperand =
  (insn: MemoryInsn, address: (g: GuestCode) => Operand) =>
  (g: GuestCode, out: Out): void =>
    execute(g, out, {
      in: { address: address(g) },
      emit: (a, r) => a.emit(insn, mem(64, { base: r.reg64('address') })),
    });

/** An instruction without operands; those that enter L2 only where they must fail. */
export const plain =
  (insn: 'vmxoff' | 'vmcall' | 'vmlaunch' | 'vmresume' | 'vmfunc') =>
  (g: GuestCode, out: Out): void =>
    execute(g, out, { emit: (a) => a.emit(insn) });

/** The status of the library's VMLAUNCH or VMRESUME as an outcome. */
export function recordLaunch(g: GuestCode, out: Out, status: Expr): void {
  const kept = g.let(status.cast(u32));
  g.switch(
    kept,
    [
      [VMX_STATUS.FAIL_INVALID, () => record(g, out, OUTCOME.VMFAIL_INVALID)],
      [VMX_STATUS.FAIL_VALID, () => record(g, out, OUTCOME.VMFAIL_VALID, vm_instruction_error(g))],
    ],
    () => record(g, out, OUTCOME.ENTERED),
  );
}

export const launch = (g: GuestCode, out: Out): void =>
  recordLaunch(g, out, g.call(entry_check_launch, 0, 0, 0));
export const resume = (g: GuestCode, out: Out): void => recordLaunch(g, out, vmresume(g));

/** Lets L2 begin at a stub and records the reason of its VM exit. */
export const inGuest =
  (stub: FnLinkable, before: (g: GuestCode) => void = () => undefined) =>
  (g: GuestCode, out: Out): void => {
    vmwrite(g, VMCS_GUEST.RIP, lit(stub).cast(u64));
    before(g);
    GUEST_ASSERT_EQ(g, g.call(entry_check_launch, 0, 0, 0), 0);
    record(g, out, OUTCOME.EXIT, vmreadz(g, VMCS_INFO.VM_EXIT_REASON));
  };

/** The type of Out, for functions. */
export const OUT = ptr(OutcomeRecord);
