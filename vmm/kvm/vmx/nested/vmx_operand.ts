// SPDX-License-Identifier: GPL-2.0-only
/**
 * Memory operands of VMX instructions that L0 emulates: get_vmx_mem_address() and nested_vmx_get_vmptr() of
 * arch/x86/kvm/vmx/nested.c, 6.12, in 64-bit mode. The exit's instruction information says where the operand is, the
 * exit qualification holds its displacement.
 */
import { kvmSegment } from '../../../../lib/uapi/regs.ts';
import { PAGE_SIZE } from '../../../../lib/x86/addr.ts';
import { PFERR, VECTOR } from '../../../../lib/x86/exceptions.ts';
import { INSN_INFO } from '../../../../lib/x86/vmx/exit_quals.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { SEGN } from '../../../machine/cpu/state.ts';
import { vmread32, vmread64 } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmRegisterRead } from '../../x86/cache_regs.ts';
import { isFault, translateOperand, type EmulatedFault, type OperandGpa } from '../../x86/emulate_ctxt.ts';
import { kvmInjectEmulatedException, kvmQueueException, kvmQueueExceptionE } from '../../x86/events.ts';
import { kvmInjectEmulatedPageFault } from '../../mmu/invalidate_addr.ts';
import { X86Exception } from '../../x86/x86_exception.ts';
import { kvmVcpuReadGuest, kvmVcpuWriteGuest } from '../../x86/guest_access.ts';
import { vmxCpu } from '../vcpu_vmx.ts';
import { vmxGetSegment } from '../vmx_regs.ts';

/** The instruction information of the last exit. */
export const vmxInstructionInfo = (vcpu: Vcpu): number =>
  vmread32(vmxCpu(vcpu), VMCS_INFO.VMX_INSTRUCTION_INFO);

/** The register operand in bits 31:28: of VMREAD and VMWRITE the field, of INVEPT and INVVPID the type. */
export const vmxInstrInfoReg2 = (info: number): number => info >>> INSN_INFO.REG2_SHIFT;

/** The register that stands for the memory operand. */
export const vmxInstrInfoReg1 = (info: number): number => (info >>> INSN_INFO.REG1_SHIFT) & 0xf;

/** get_vmx_mem_address(): the linear address, or undefined: the guest got UD for a register operand. */
function memoryAddress(vcpu: Vcpu, info: number): bigint | undefined {
  if ((info & INSN_INFO.REG_OPERAND) !== 0) {
    kvmQueueException(vcpu, VECTOR.UD);
    return undefined;
  }
  const size = (info >>> INSN_INFO.ADDR_SIZE_SHIFT) & 7;
  let offset = vmread64(vmxCpu(vcpu), VMCS_INFO.EXIT_QUALIFICATION);
  if ((info & INSN_INFO.BASE_INVALID) === 0)
    offset += kvmRegisterRead(vcpu, (info >>> INSN_INFO.BASE_SHIFT) & 0xf);
  if ((info & INSN_INFO.INDEX_INVALID) === 0)
    offset += kvmRegisterRead(vcpu, (info >>> INSN_INFO.INDEX_SHIFT) & 0xf) << BigInt(info & 3);
  if (size === 1) offset = BigInt.asUintN(32, offset);
  const seg = (info >>> INSN_INFO.SEG_SHIFT) & 7;
  if (seg === SEGN.FS || seg === SEGN.GS) {
    const segment = kvmSegment();
    vmxGetSegment(vcpu, seg, segment);
    offset += segment.base;
  }
  return BigInt.asUintN(64, offset);
}

/** The guest gets the fault that its operand causes; a stack segment's GP is SS. */
function inject(vcpu: Vcpu, info: number, fault: EmulatedFault): void {
  // A table page has to be waited for: the instruction is executed again.
  if (vcpu.guestPageBusy) return;
  if (fault.vector === VECTOR.GP) {
    const stack = ((info >>> INSN_INFO.SEG_SHIFT) & 7) === SEGN.SS;
    kvmQueueExceptionE(vcpu, stack ? VECTOR.SS : VECTOR.GP, 0);
    return;
  }
  if (fault instanceof X86Exception) kvmInjectEmulatedPageFault(vcpu, fault);
  else kvmInjectEmulatedException(vcpu, fault.vector, fault.errorCode);
}

function operand(vcpu: Vcpu, info: number, length: number, access: number): OperandGpa | undefined {
  const linear = memoryAddress(vcpu, info);
  if (linear === undefined) return undefined;
  vcpu.guestPageBusy = false;
  const found = translateOperand(vcpu, linear, length, access);
  if (!isFault(found)) return found;
  inject(vcpu, info, found);
  return undefined;
}

/** The bytes on each side of the page border that an operand may cross. */
function pieces(at: OperandGpa, bytes: Uint8Array): readonly [Uint8Array, Uint8Array] {
  const head = at.second === undefined ? bytes.length : PAGE_SIZE - (at.first % PAGE_SIZE);
  return [bytes.subarray(0, head), bytes.subarray(head)];
}

/**
 * kvm_read_guest_virt() of the operand; false: an exception is queued, or the instruction has to be executed again.
 * DEVIATION: an operand without memory behind it reads as ones; KVM ends KVM_RUN with an emulation failure.
 */
export function readVmxOperand(vcpu: Vcpu, info: number, out: Uint8Array): boolean {
  const at = operand(vcpu, info, out.length, 0);
  if (at === undefined) return false;
  const [head, tail] = pieces(at, out);
  if (kvmVcpuReadGuest(vcpu, at.first, head) < 0) head.fill(0xff);
  if (at.second !== undefined && kvmVcpuReadGuest(vcpu, at.second, tail) < 0) tail.fill(0xff);
  return !vcpu.guestPageBusy;
}

/** kvm_write_guest_virt_system() of the operand; false as above. Where there is no memory, nothing is written. */
export function writeVmxOperand(vcpu: Vcpu, info: number, bytes: Uint8Array): boolean {
  const at = operand(vcpu, info, bytes.length, PFERR.WRITE);
  if (at === undefined) return false;
  const [head, tail] = pieces(at, bytes);
  kvmVcpuWriteGuest(vcpu, at.first, head);
  if (at.second !== undefined) kvmVcpuWriteGuest(vcpu, at.second, tail);
  return !vcpu.guestPageBusy;
}

/** Two quadwords: what VMCLEAR, VMPTRLD and VMXON (one), INVEPT and INVVPID read. */
export function readVmxQuadwords(vcpu: Vcpu, info: number, count: 1 | 2): readonly bigint[] | undefined {
  const bytes = new Uint8Array(8 * count);
  if (!readVmxOperand(vcpu, info, bytes)) return undefined;
  const view = new DataView(bytes.buffer);
  return Array.from({ length: count }, (_, i) => view.getBigUint64(8 * i, true));
}

/** page_address_valid(): aligned, and within the guest's physical addresses. */
export const pageAddressValid = (vcpu: Vcpu, address: bigint): boolean =>
  (address & 0xfffn) === 0n && address >> BigInt(vcpu.arch.maxphyaddr) === 0n;
