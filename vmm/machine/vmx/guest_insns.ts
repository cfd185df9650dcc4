// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMX instructions executed as machine code. SDM, the VMX instruction reference: UD outside of VMX operation, exit in
 * non-root operation (but for VMCS shadowing), GP at CPL above 0, then the operand; outcome in RFLAGS.
 */
import { VECTOR } from '../../../lib/x86/exceptions.ts';
import { CR4, RFLAGS } from '../../../lib/x86/registers.ts';
import { FEAT_CTL } from '../../../lib/x86/vmx/capability_msrs.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import type { Cpu } from '../cpu/cpu.ts';
import { ARITH_FLAGS, getRflags, setRflags } from '../cpu/flags.ts';
import { RUN, S } from '../cpu/state.ts';
import { SYSOP } from '../cpu/sys_insn.ts';
import { raise, raiseGp, TRANSFERRED } from '../cpu/system/fault.ts';
import { complete, loadOperand, storeOperand } from '../cpu/system/operands.ts';
import { vmlaunch, vmresume } from './entry.ts';
import { vmxIntercepts } from './intercepts.ts';
import { inveptPair, isInveptType, isInvvpidType, vmxInvvpid } from './invalidate_insns.ts';
import { vmclear, vmptrld, vmptrst, vmxoff, vmxon } from './vmcs_insns.ts';
import { accessedVmcs, vmreadField, vmwriteField } from './vmcs_access.ts';
import { executeVmfunc } from './vmfunc.ts';
import { vmFail } from './vmx_result.ts';
import { VMX_RESULT } from './vmx_unit.ts';

const TWO_32 = 0x1_0000_0000;

/**
 * Execute the VMX instruction in cpu.insn (SYSOP.VMXON..INVVPID). -1: complete, RIP moved; -2: a guest is entered;
 * RUN.FAULT: cpu.fault is set; RUN.VMEXIT.
 */
export function executeVmxInsn(cpu: Cpu): number {
  const { insn, vmx, s } = cpu;
  if (insn.op === SYSOP.VMXON && !vmx.vmxon) return firstVmxon(cpu);
  if (insn.op === SYSOP.VMFUNC) return executeVmfunc(cpu);
  if (!vmx.vmxon || isRegisterForm(cpu)) return raise(cpu, VECTOR.UD);
  // What does not exit is VMREAD or VMWRITE of a shadow VMCS.
  if (vmx.nonRoot && vmxIntercepts(cpu)) return RUN.VMEXIT;
  if (s[S.CPL] !== 0) return raiseGp(cpu);
  switch (insn.op) {
    case SYSOP.VMLAUNCH:
      return enter(cpu, vmlaunch(cpu));
    case SYSOP.VMRESUME:
      return enter(cpu, vmresume(cpu));
    case SYSOP.VMCALL:
      return finish(cpu, vmFail(cpu, VMXERR.VMCALL_IN_VMX_ROOT_OPERATION));
    case SYSOP.VMXOFF:
      return finish(cpu, vmxoff(cpu));
    case SYSOP.VMREAD:
      return vmreadInsn(cpu);
    case SYSOP.VMWRITE:
      return vmwriteInsn(cpu);
    default:
      return pointerInsn(cpu);
  }
}

/** All but VMREAD and VMWRITE take memory operands only. */
function isRegisterForm({ insn }: Cpu): boolean {
  const memoryOnly =
    insn.op === SYSOP.VMXON ||
    insn.op === SYSOP.VMPTRLD ||
    insn.op === SYSOP.VMPTRST ||
    insn.op === SYSOP.VMCLEAR ||
    insn.op === SYSOP.INVEPT ||
    insn.op === SYSOP.INVVPID;
  return memoryOnly && insn.rm >= 0;
}

/** VMXON outside of VMX operation. */
function firstVmxon(cpu: Cpu): number {
  const { s, sys, vmx } = cpu;
  if (isRegisterForm(cpu) || (s[S.CR4]! & CR4.VMXE) === 0) return raise(cpu, VECTOR.UD);
  const { caps } = vmx;
  const cr0Ok = (s[S.CR0]! & caps.cr0Fixed0) === caps.cr0Fixed0;
  const enabled = FEAT_CTL.LOCKED | FEAT_CTL.VMX_ENABLED_OUTSIDE_SMX;
  const cr4Ok = (s[S.CR4]! & ~caps.cr4Fixed1) === 0;
  if (s[S.CPL] !== 0 || !cr0Ok || !cr4Ok || (sys.featCtl & enabled) !== enabled) return raiseGp(cpu);
  if (!loadOperand(cpu, 0, 8)) return RUN.FAULT;
  return finish(cpu, vmxon(cpu, pointerOperand(cpu)));
}

/** A physical address that was loaded into sys.value. Exact below 2^53; what is above is too wide anyway. */
function pointerOperand({ sys }: Cpu): number {
  return (sys.value[1]! >>> 0) * TWO_32 + (sys.value[0]! >>> 0);
}

/** VMXON in root operation, VMPTRLD, VMPTRST, VMCLEAR, INVEPT, INVVPID: memory operands. */
function pointerInsn(cpu: Cpu): number {
  const { insn } = cpu;
  if (insn.op === SYSOP.VMPTRST) return vmptrstInsn(cpu);
  // SDM: VMXON in VMX root operation fails without reading its operand.
  if (insn.op === SYSOP.VMXON) return finish(cpu, vmxon(cpu, 0));
  if (insn.op === SYSOP.INVEPT || insn.op === SYSOP.INVVPID) return invalidateInsn(cpu);
  if (!loadOperand(cpu, 0, 8)) return RUN.FAULT;
  if (insn.op === SYSOP.VMPTRLD) return finish(cpu, vmptrld(cpu, pointerOperand(cpu)));
  return finish(cpu, vmclear(cpu, pointerOperand(cpu)));
}

function vmptrstInsn(cpu: Cpu): number {
  const pointer = vmptrst(cpu);
  const none = pointer === -1;
  if (!storeOperand(cpu, 0, 8, none ? -1 : pointer | 0, none ? -1 : Math.floor(pointer / TWO_32)))
    return RUN.FAULT;
  return finish(cpu, VMX_RESULT.SUCCEED);
}

/** INVEPT and INVVPID: a type in a register, which is judged first, and a 128-bit descriptor in memory. */
function invalidateInsn(cpu: Cpu): number {
  const { insn, s, sys } = cpu;
  const invept = insn.op === SYSOP.INVEPT;
  const type = s[S.GPR + 2 * insn.reg + 1] === 0 ? s[S.GPR + 2 * insn.reg]! : -1;
  if (!(invept ? isInveptType(cpu, type) : isInvvpidType(cpu, type)))
    return finish(cpu, vmFail(cpu, VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID));
  if (!loadOperand(cpu, 0, 8)) return RUN.FAULT;
  const [lo, hi] = [sys.value[0]!, sys.value[1]!];
  if (!loadOperand(cpu, 8, 8)) return RUN.FAULT;
  const [highLo, highHi] = [sys.value[0]!, sys.value[1]!];
  // Bits 127:64 of INVEPT's descriptor and bits 63:16 of INVVPID's are reserved.
  if (invept) return finish(cpu, inveptPair(cpu, (highLo | highHi) === 0 ? type : -1, lo, hi));
  return finish(cpu, vmxInvvpid(cpu, hi === 0 ? type : -1, lo, highLo, highHi));
}

/** The field's encoding from the register operand; -1 (which no component has) if bits 63:32 are not zero. */
function encodingOperand({ s, insn }: Cpu): number {
  const at = S.GPR + 2 * insn.reg;
  return s[at + 1] === 0 && s[at]! >= 0 ? s[at]! : -1;
}

function vmreadInsn(cpu: Cpu): number {
  const { insn, s, sys } = cpu;
  const result = vmreadField(cpu, encodingOperand(cpu), sys.value);
  if (result !== VMX_RESULT.SUCCEED) return finish(cpu, result);
  if (insn.rm >= 0) {
    s[S.GPR + 2 * insn.rm] = sys.value[0]!;
    s[S.GPR + 2 * insn.rm + 1] = sys.value[1]!;
  } else if (!storeOperand(cpu, 0, 8, sys.value[0]!, sys.value[1]!)) return RUN.FAULT;
  return finish(cpu, result);
}

function vmwriteInsn(cpu: Cpu): number {
  const { insn, s, sys } = cpu;
  if (accessedVmcs(cpu) === -1) return finish(cpu, VMX_RESULT.FAIL_INVALID);
  if (insn.rm < 0) {
    if (!loadOperand(cpu, 0, 8)) return RUN.FAULT;
  } else {
    sys.value[0] = s[S.GPR + 2 * insn.rm]!;
    sys.value[1] = s[S.GPR + 2 * insn.rm + 1]!;
  }
  return finish(cpu, vmwriteField(cpu, encodingOperand(cpu), sys.value[0]!, sys.value[1]!));
}

/** VMsucceed, VMfailInvalid, VMfailValid in RFLAGS; the instruction is complete. */
function finish(cpu: Cpu, result: number): number {
  const bits =
    result === VMX_RESULT.FAIL_INVALID ? RFLAGS.CF : result === VMX_RESULT.FAIL_VALID ? RFLAGS.ZF : 0;
  setRflags(cpu, (getRflags(cpu) & ~ARITH_FLAGS) | bits);
  return complete(cpu);
}

/** After VMLAUNCH or VMRESUME. */
function enter(cpu: Cpu, result: number): number {
  if (result === VMX_RESULT.SUCCEED) return TRANSFERRED;
  return result === VMX_RESULT.EXITED ? RUN.VMEXIT : finish(cpu, result);
}
