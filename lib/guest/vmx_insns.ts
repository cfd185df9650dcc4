// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMX instructions of L1, after include/x86/vmx.h of tools/testing/selftests/kvm. Each gives 0 for VMsucceed as
 * upstream's do; where upstream gives 1 for any failure, these tell VMfailInvalid and VMfailValid apart. What faults ends the
 * test, unless the instruction is given to VMX_INSN_SAFE. Left out: enlightened VMCSs.
 */
import type { Instruction } from '../asm/isa.ts';
import { mem, R } from '../asm/operands.ts';
import { VMX_MSR } from '../x86/vmx/capability_msrs.ts';
import { VMCS_INFO } from '../x86/vmx/vmcs_info.ts';
import { type AsmRegs, type AsmSink, type AsmSpec, fixed } from './dsl/asm_spec.ts';
import type { GuestCode } from './dsl/builder.ts';
import { type Expr, lit, type Place } from './dsl/expr.ts';
import type { Operand } from './dsl/rvalue.ts';
import { array, type IntType, type PtrType, u32, u64, u8 } from './dsl/types.ts';
import { KVM_ASM_SAFE, type SafeResult } from './exceptions.ts';
import { rdmsr } from './processor.ts';

/** How a VMX instruction ended: CF, and ZF one bit above it. SDM, "Conventions" of the VMX instruction reference. */
// prettier-ignore
export const VMX_STATUS = { SUCCEED: 0, FAIL_INVALID: 1, FAIL_VALID: 2 } as const;

type Name = 'vmxon' | 'vmclear' | 'vmptrld' | 'vmptrst';

const STATUS_OUT = { vmxStatus: u8, vmxZf: u8 } as const;
type StatusName = keyof typeof STATUS_OUT;

/** CF | ZF << 1; none of these four instructions reads what the ones before it change but for the flags. */
function emitStatus(a: AsmSink, r: AsmRegs<StatusName>): void {
  a.emit('setb', r.reg('vmxStatus'));
  a.emit('sete', r.reg('vmxZf'));
  a.emit('add', r.reg('vmxZf'), r.reg('vmxZf'));
  a.emit('or', r.reg('vmxStatus'), r.reg('vmxZf'));
}

/** A spec with the status as a further output. */
function withStatus<I extends string>(spec: AsmSpec<I, never>): AsmSpec<I, StatusName> {
  return {
    ...spec,
    out: STATUS_OUT,
    emit: (a, r) => {
      spec.emit(a, r);
      emitStatus(a, r);
    },
  };
}

/** Carries out one VMX instruction; gives its VMX_STATUS. */
export const VMX_INSN = <I extends string>(g: GuestCode, spec: AsmSpec<I, never>): Expr<IntType> =>
  g.asm(withStatus(spec)).vmxStatus;

/** Carries out one VMX instruction whose fault is reported; the status is valid if there was none. */
export function VMX_INSN_SAFE<I extends string>(
  g: GuestCode,
  spec: AsmSpec<I, never>,
): SafeResult & { readonly status: Expr<IntType> } {
  const { vector, error_code, out } = KVM_ASM_SAFE(g, withStatus(spec));
  return { vector, error_code, status: out.vmxStatus };
}

/** An instruction with a 64-bit memory operand. */
const memorySpec = (insn: Name, address: Operand): AsmSpec<'address', never> => ({
  in: { address },
  emit: (a, r) => a.emit(insn, mem(64, { base: r.reg64('address') })),
});

const u64At = (g: GuestCode, value: Operand): Expr<PtrType<IntType>> =>
  g.local(u64, lit(value).cast(u64)).addr();

/** VMXON with a physical address. */
export const vmxon = (g: GuestCode, phys: Operand): Expr<IntType> =>
  VMX_INSN(g, memorySpec('vmxon', u64At(g, phys)));
/** VMXON whose fault is reported. */
export const vmxon_safe = (g: GuestCode, phys: Operand): ReturnType<typeof VMX_INSN_SAFE> =>
  VMX_INSN_SAFE(g, memorySpec('vmxon', u64At(g, phys)));
/** VMXOFF. */
export const vmxoff = (g: GuestCode): Expr<IntType> => VMX_INSN(g, { emit: (a) => a.emit('vmxoff') });
/** VMCLEAR of the VMCS at a physical address. */
export const vmclear = (g: GuestCode, phys: Operand): Expr<IntType> =>
  VMX_INSN(g, memorySpec('vmclear', u64At(g, phys)));
/** VMPTRLD of the VMCS at a physical address. */
export const vmptrld = (g: GuestCode, phys: Operand): Expr<IntType> =>
  VMX_INSN(g, memorySpec('vmptrld', u64At(g, phys)));

/** VMPTRST into a place. */
export const vmptrst = (g: GuestCode, value: Place<IntType>): Expr<IntType> =>
  VMX_INSN(g, memorySpec('vmptrst', value.addr()));

/** VMPTRST; zero if it fails. */
export function vmptrstz(g: GuestCode): Place<IntType> {
  const value = g.local(u64, 0);
  vmptrst(g, value);
  return value;
}

/** VMREAD into a place, which stays as it was if the instruction fails. */
export function vmread(g: GuestCode, encoding: Operand, value: Place<IntType>): Expr<IntType> {
  return VMX_INSN(g, {
    in: { encoding: lit(encoding).cast(u64), address: value.addr() },
    emit: (a, r) => a.emit('vmread', mem(64, { base: r.reg64('address') }), r.reg64('encoding')),
  });
}

/** VMREAD; zero if it fails. */
export function vmreadz(g: GuestCode, encoding: Operand): Place<IntType> {
  const { value } = g.asm({
    in: { encoding: lit(encoding).cast(u64) },
    out: { value: u64 },
    emit: (a, r) => {
      // A failed VMREAD writes nothing.
      a.emit('xor', r.reg64('value'), r.reg64('value'));
      a.emit('vmread', r.reg64('value'), r.reg64('encoding'));
    },
  });
  return g.let(value);
}

/** VMWRITE. */
export function vmwrite(g: GuestCode, encoding: Operand, value: Operand): Expr<IntType> {
  return VMX_INSN(g, {
    in: { encoding: lit(encoding).cast(u64), value: lit(value).cast(u64) },
    emit: (a, r) => a.emit('vmwrite', r.reg64('encoding'), r.reg64('value')),
  });
}

/** The number in the VM-instruction error field, after a VMfailValid. */
export const vm_instruction_error = (g: GuestCode): Expr<IntType> =>
  vmreadz(g, VMCS_INFO.VM_INSTRUCTION_ERROR).cast(u32);

/** A 16-byte descriptor and a type: INVEPT and INVVPID. */
function invalidate(
  g: GuestCode,
  insn: Instruction & ('invept' | 'invvpid'),
  type: Operand,
  words: readonly [Operand, Operand],
): Expr<IntType> {
  const descriptor = g.local(array(u64, 2));
  words.forEach((word, i) => g.set(descriptor.at(i), lit(word).cast(u64)));
  return VMX_INSN(g, {
    in: { type: lit(type).cast(u64), address: descriptor },
    emit: (a, r) => a.emit(insn, r.reg64('type'), mem(128, { base: r.reg64('address') })),
  });
}

/** INVEPT of a type (VMX_EPT_EXTENT) for an EPT pointer. */
export const invept = (g: GuestCode, type: Operand, eptp: Operand): Expr<IntType> =>
  invalidate(g, 'invept', type, [eptp, 0]);

/** INVVPID of a type (VMX_VPID_EXTENT) for a VPID and a linear address. */
export const invvpid = (g: GuestCode, type: Operand, vpid: Operand, address: Operand): Expr<IntType> =>
  invalidate(g, 'invvpid', type, [vpid, address]);

/** VMFUNC: function number and operand. Faults or exits if it does not succeed. */
export function vmfunc(g: GuestCode, eax: Operand, ecx: Operand): void {
  g.asm({ in: { eax: fixed('rax', eax), ecx: fixed('rcx', ecx) }, emit: (a) => a.emit('vmfunc') });
}

/**
 * VMCALL as the way from L2 to L1: rax and rcx hold values that are no hypercall of L0's, and all other registers are
 * taken, since L1 does not preserve them over a VM exit.
 */
export function vmcall(g: GuestCode): void {
  g.asm({
    in: { nr: fixed('rax', 0xdead_beef), arg: fixed('rcx', 0xbeef_dead) },
    clobbers: [
      ...(['rax', 'rcx', 'rbx', 'rdx', 'rsi', 'rdi', 'r8', 'r9'] as const),
      ...(['r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const),
    ],
    emit: (a) => {
      a.emit('push', R.rbp);
      a.emit('vmcall');
      a.emit('pop', R.rbp);
    },
  });
}

/** The revision identifier for a VMXON region or a VMCS. */
export const vmcs_revision = (g: GuestCode): Expr<IntType> =>
  rdmsr(g, VMX_MSR.IA32_VMX_BASIC).and(0x7fff_ffff).cast(u32);
