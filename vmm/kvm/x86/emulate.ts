// SPDX-License-Identifier: GPL-2.0-only
/**
 * L0's instruction emulator: what a guest does to memory that only L0 or userspace can answer for. Mirrors
 * x86_emulate_instruction() of arch/x86/kvm/x86.c and emulate.c, 6.12, for the integer instructions that access one
 * memory operand, and single turns of STOS, MOVS, INS and OUTS, HLT and PAUSE. Anything else ends in KVM_EXIT_INTERNAL_ERROR.
 * DEVIATION: an instruction that meets a page which has to be waited for begins anew, so a device that it read before is
 * read twice, and the first part of a store that crosses pages may be repeated; KVM waits in the middle.
 */
import {
  KVM_EXIT,
  KVM_INTERNAL_ERROR,
  KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
} from '../../../lib/uapi/run.ts';
import { PFERR, VECTOR } from '../../../lib/x86/exceptions.ts';
import { GPR, RFLAGS } from '../../../lib/x86/registers.ts';
import { spend } from '../../machine/cost/ledger.ts';
import { COST } from '../../machine/cost/points.ts';
import type { DecodedInsn } from '../../machine/cpu/decode/insn.ts';
import { DECODE, FORM, OP } from '../../machine/cpu/decode/ops.ts';
import { SYSOP } from '../../machine/cpu/sys_insn.ts';
import type { Vcpu } from '../kvm_host.ts';
import { TP } from '../trace_events.ts';
import {
  kvmRegisterRead,
  kvmRegisterWrite,
  kvmRipAdvance,
  kvmRipRead,
  high,
  low,
  isGuestMode,
} from './cache_regs.ts';
import {
  decodeGuestInsn,
  immediate,
  isFault,
  linearAddress,
  readRegister,
  translateOperand,
  writeRegister,
  type EmulatedFault,
} from './emulate_ctxt.ts';
import { emulateBinary, emulateUnary } from './emulate_ops.ts';
import { kvmInjectEmulatedException, kvmQueueException, kvmQueueExceptionE } from './events.ts';
import { kvmSingleStep } from './skip.ts';
import { kvmMmuUnprotectGfn } from '../mmu/shadow_work.ts';
import { kvmInjectEmulatedPageFault } from '../mmu/invalidate_addr.ts';
import { X86Exception } from './x86_exception.ts';
import { kvmEmulateHaltNoskip } from './mp_state.ts';
import { kvmStringIn, kvmStringOut } from './pio.ts';
import { mmioExit, mmioPieces, readPiece, writePiece } from './mmio.ts';

const toBytes = (value: bigint, size: number): Uint8Array =>
  Uint8Array.from({ length: size }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
const fromBytes = (bytes: Uint8Array): bigint => bytes.reduceRight((sum, b) => (sum << 8n) | BigInt(b), 0n);

/** kvm_emulate_instruction(): 1 to go on, 0 to go to userspace. */
export function kvmEmulateInstruction(vcpu: Vcpu): number {
  spend(vcpu.kvm.host.sched.cpu, COST.L0_EMULATE);
  vcpu.stat.insn_emulation++;
  vcpu.guestPageBusy = false;
  const decoded = decodeGuestInsn(vcpu);
  if (isFault(decoded)) return injectFault(vcpu, decoded);
  const { insn, bytes } = decoded;
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_EMULATE_INSN] !== 0) {
    const text = [...bytes.subarray(0, insn.length)].map((b) => b.toString(16).padStart(2, '0')).join(' ');
    trace.record(TP.KVM_EMULATE_INSN, 0, kvmRipRead(vcpu), text, 'prot64', insn.status === DECODE.OK ? 0 : 1);
  }
  if (insn.status !== DECODE.OK) return emulationFailure(vcpu, bytes);
  const result = emulateDecoded(vcpu, insn);
  return result ?? emulationFailure(vcpu, bytes);
}

/** An access that had to wait is no fault: back to the guest, which brings the instruction here again. */
function injectFault(vcpu: Vcpu, fault: EmulatedFault): number {
  if (vcpu.guestPageBusy) return 1;
  if (fault instanceof X86Exception) {
    kvmInjectEmulatedPageFault(vcpu, fault);
    return 1;
  }
  kvmInjectEmulatedException(vcpu, fault.vector, fault.errorCode, {
    lo: low(fault.linear),
    hi: high(fault.linear),
  });
  return 1;
}

/** kvm_unprotect_and_retry_on_failure(): what is not emulated can be executed once the table is not shadowed any more. */
function unprotectAndRetry(vcpu: Vcpu): boolean {
  const { arch, kvm } = vcpu;
  if (arch.retryGfn < 0 || !kvmMmuUnprotectGfn(kvm, arch.retryGfn)) return false;
  arch.lastRetry.rip = kvmRipRead(vcpu);
  arch.lastRetry.addr = arch.pageFault.addr;
  return true;
}

/** handle_emulation_failure(): user code gets UD; for the kernel's, userspace sees the bytes and the exit. */
function emulationFailure(vcpu: Vcpu, bytes: Uint8Array): number {
  if (vcpu.guestPageBusy || unprotectAndRetry(vcpu)) return 1;
  vcpu.stat.insn_emulation_fail++;
  const { ops } = vcpu.kvm.module;
  kvmQueueException(vcpu, VECTOR.UD);
  if (isGuestMode(vcpu) || ops.getCpl(vcpu) !== 0) return 1;
  return kvmPrepareEmulationFailureExit(vcpu, bytes);
}

/** prepare_emulation_failure_exit(): KVM_EXIT_INTERNAL_ERROR with the bytes, if there are any, and what the exit was. */
export function kvmPrepareEmulationFailureExit(vcpu: Vcpu, bytes: Uint8Array = new Uint8Array(0)): number {
  const { run, kvm } = vcpu;
  run.exit_reason = KVM_EXIT.INTERNAL_ERROR;
  run.emulation_failure.suberror = KVM_INTERNAL_ERROR.EMULATION;
  // The flags, the bytes with their number if there are any, and five words about the exit.
  const first = bytes.length === 0 ? 1 : 3;
  const info = { reason: 0, info1: 0, info2: 0, intrInfo: 0, errorCode: 0 };
  kvm.module.ops.getExitInfo(vcpu, info);
  const words = [info.reason, info.info1, info.info2, info.intrInfo, info.errorCode];
  for (const [i, word] of words.entries())
    run.internal.data[first + i] = i === 1 ? BigInt(word) : BigInt(word >>> 0);
  run.emulation_failure.ndata = first + words.length;
  run.emulation_failure.flags =
    bytes.length === 0 ? 0n : BigInt(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
  run.emulation_failure.insn_size = bytes.length;
  run.emulation_failure.insn_bytes.fill(0x90);
  run.emulation_failure.insn_bytes.set(bytes);
  run.internal.suberror = KVM_INTERNAL_ERROR.EMULATION;
  run.internal.ndata = run.emulation_failure.ndata;
  run.internal.data[0] = run.emulation_failure.flags;
  return 0;
}

/** Undefined: not an instruction that is emulated. */
function emulateDecoded(vcpu: Vcpu, insn: DecodedInsn): number | undefined {
  if (insn.op === OP.STOS || insn.op === OP.MOVS || isStringIo(insn)) return emulateString(vcpu, insn);
  if (insn.op === OP.SYS && (insn.sysop === SYSOP.HLT || insn.sysop === SYSOP.PAUSE))
    return emulateWait(vcpu, insn);
  if (!insn.memory) return undefined;
  const linear = linearAddress(vcpu, insn);
  if (isPlainStore(insn)) return store(vcpu, insn, linear, storeValue(vcpu, insn), () => finish(vcpu, insn));
  return load(vcpu, insn, linear, insn.srcSize, (value) => execute(vcpu, insn, linear, value));
}

/** HLT and PAUSE: here only by the forced emulation prefix, or in invalid guest state. */
function emulateWait(vcpu: Vcpu, insn: DecodedInsn): number {
  const { ops } = vcpu.kvm.module;
  const halt = insn.sysop === SYSOP.HLT;
  if (halt && ops.getCpl(vcpu) !== 0) {
    kvmQueueExceptionE(vcpu, VECTOR.GP, 0);
    return 1;
  }
  if (isGuestMode(vcpu) && ops.nestedOps?.checkIntercept(vcpu, halt ? 'hlt' : 'pause', insn.length) === true)
    return 1;
  finish(vcpu, insn);
  return halt ? kvmEmulateHaltNoskip(vcpu) : 1;
}

const isPlainStore = (insn: DecodedInsn): boolean =>
  (insn.op === OP.MOV || insn.op === OP.MOVNTI) && (insn.form === FORM.RM_R || insn.form === FORM.RM_I);

const storeValue = (vcpu: Vcpu, insn: DecodedInsn): bigint =>
  insn.form === FORM.RM_I ? immediate(insn, insn.size) : readRegister(vcpu, insn.reg, insn.size);

/** The instruction is done: RIP moves on, the interrupt shadow and RF end, a step is reported. */
function finish(vcpu: Vcpu, insn: DecodedInsn): number {
  const { ops } = vcpu.kvm.module;
  const rflags = ops.getRflags(vcpu);
  kvmRipAdvance(vcpu, insn.length);
  vcpu.kvm.module.ops.updateEmulatedInstruction(vcpu);
  ops.setInterruptShadow(vcpu, 0);
  ops.setRflags(vcpu, rflags & ~RFLAGS.RF);
  kvmSingleStep(vcpu, rflags);
  return 1;
}

/** Read the memory operand, here or through userspace, and go on with its value. */
function load(
  vcpu: Vcpu,
  insn: DecodedInsn,
  linear: bigint,
  size: number,
  then: (value: bigint) => number | undefined,
): number | undefined {
  const where = translateOperand(vcpu, linear, size, isReadOnlyOp(insn) ? 0 : PFERR.WRITE);
  if (isFault(where)) return injectFault(vcpu, where);
  const operand = new Uint8Array(size);
  const pieces = mmioPieces(where.first, where.second, size);
  const open = pieces.filter((p) => !readPiece(vcpu, p, operand.subarray(p.offset, p.offset + p.length)));
  if (vcpu.guestPageBusy) return 1;
  if (open.length === 0) return then(fromBytes(operand));
  return mmioExit(
    vcpu,
    open,
    operand,
    0,
    () => then(fromBytes(operand)) ?? emulationFailure(vcpu, new Uint8Array(0)),
  );
}

/** Write the memory operand, here or through userspace. */
function store(vcpu: Vcpu, insn: DecodedInsn, linear: bigint, value: bigint, then: () => number): number {
  const where = translateOperand(vcpu, linear, insn.size, PFERR.WRITE);
  if (isFault(where)) return injectFault(vcpu, where);
  const operand = toBytes(value, insn.size);
  const pieces = mmioPieces(where.first, where.second, insn.size);
  const open = pieces.filter((p) => !writePiece(vcpu, p, operand.subarray(p.offset, p.offset + p.length)));
  if (vcpu.guestPageBusy) return 1;
  const done = then();
  // As in KVM, the instruction is complete when userspace sees the write.
  return open.length === 0 ? done : mmioExit(vcpu, open, operand, 1, () => 1);
}

const isReadOnlyOp = (insn: DecodedInsn): boolean =>
  insn.form === FORM.R_RM || insn.form === FORM.R_RM_I || insn.op === OP.CMP || insn.op === OP.TEST;

/** The operation, with the memory operand's value known. */
function execute(vcpu: Vcpu, insn: DecodedInsn, linear: bigint, value: bigint): number | undefined {
  switch (insn.op) {
    case OP.MOV:
    case OP.MOVZX:
      writeRegister(vcpu, insn.reg, insn.size, value);
      return finish(vcpu, insn);
    case OP.MOVSX:
    case OP.MOVSXD:
      writeRegister(
        vcpu,
        insn.reg,
        insn.size,
        BigInt.asUintN(insn.size * 8, BigInt.asIntN(insn.srcSize * 8, value)),
      );
      return finish(vcpu, insn);
    case OP.XCHG: {
      const register = readRegister(vcpu, insn.reg, insn.size);
      return store(vcpu, insn, linear, register, () => {
        writeRegister(vcpu, insn.reg, insn.size, value);
        return finish(vcpu, insn);
      });
    }
    default:
      return executeAlu(vcpu, insn, linear, value);
  }
}

function executeAlu(vcpu: Vcpu, insn: DecodedInsn, linear: bigint, value: bigint): number | undefined {
  const { ops } = vcpu.kvm.module;
  const rflags = ops.getRflags(vcpu);
  const toRegister = insn.form === FORM.R_RM;
  const other =
    insn.form === FORM.RM_I ? immediate(insn, insn.size) : readRegister(vcpu, insn.reg, insn.size);
  const result =
    insn.form === FORM.RM
      ? emulateUnary(insn.op, insn.size, value, rflags)
      : emulateBinary(insn.op, insn.size, toRegister ? other : value, toRegister ? value : other, rflags);
  if (result === undefined) return undefined;
  const commit = (): number => {
    ops.setRflags(vcpu, result.rflags);
    return finish(vcpu, insn);
  };
  if (result.value === undefined) return commit();
  if (!toRegister) return store(vcpu, insn, linear, result.value, commit);
  writeRegister(vcpu, insn.reg, insn.size, result.value);
  return commit();
}

const readsPort = (insn: DecodedInsn): boolean => insn.op === OP.SYS && insn.sysop === SYSOP.INS;
const writesPort = (insn: DecodedInsn): boolean => insn.op === OP.SYS && insn.sysop === SYSOP.OUTS;
const isStringIo = (insn: DecodedInsn): boolean => readsPort(insn) || writesPort(insn);

/** One turn of STOS, MOVS, INS or OUTS; the repeat goes on by itself, since RIP stays until RCX is zero. */
function emulateString(vcpu: Vcpu, insn: DecodedInsn): number | undefined {
  if (insn.addressSize !== 8) return undefined;
  if (insn.rep !== 0 && kvmRegisterRead(vcpu, GPR.RCX) === 0n) return finish(vcpu, insn);
  const to = kvmRegisterRead(vcpu, GPR.RDI);
  const turn = (): number => stringTurn(vcpu, insn);
  if (insn.op === OP.STOS) return store(vcpu, insn, to, readRegister(vcpu, GPR.RAX, insn.size), turn);
  // The port first, as KVM has it: a fault of the memory comes after userspace was asked.
  if (readsPort(insn))
    return kvmStringIn(vcpu, insn.size, (v, value) => store(v, insn, to, BigInt(value), turn));
  // Only the source obeys a segment prefix.
  const from = linearAddress(vcpu, {
    ...insn,
    base: GPR.RSI,
    index: -1,
    disp: 0,
    dispHi: 0,
    ripRelative: false,
  });
  return load(vcpu, { ...insn, form: FORM.R_RM }, from, insn.size, (value) =>
    insn.op === OP.MOVS ? store(vcpu, insn, to, value, turn) : writePort(vcpu, insn, Number(value)),
  );
}

/** The instruction is complete when userspace sees the write. */
function writePort(vcpu: Vcpu, insn: DecodedInsn, value: number): number {
  stringTurn(vcpu, insn);
  return kvmStringOut(vcpu, insn.size, value);
}

function stringTurn(vcpu: Vcpu, insn: DecodedInsn): number {
  const back = (vcpu.kvm.module.ops.getRflags(vcpu) & RFLAGS.DF) !== 0;
  const step = BigInt(back ? -insn.size : insn.size);
  const move = (reg: number, by: bigint): bigint => {
    const value = BigInt.asUintN(64, kvmRegisterRead(vcpu, reg) + by);
    kvmRegisterWrite(vcpu, reg, low(value), high(value));
    return value;
  };
  if (!writesPort(insn)) move(GPR.RDI, step);
  if (insn.op === OP.MOVS || writesPort(insn)) move(GPR.RSI, step);
  if (insn.rep !== 0 && move(GPR.RCX, -1n) !== 0n) return 1;
  return finish(vcpu, insn);
}
