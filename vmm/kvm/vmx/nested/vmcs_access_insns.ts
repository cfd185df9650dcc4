// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMREAD and VMWRITE that exit: of L1 on vmcs12, of L2 on the shadow vmcs12 that vmcs12 links to. Mirrors handle_vmread()
 * and handle_vmwrite() of arch/x86/kvm/vmx/nested.c, 6.12, in 64-bit mode.
 */
import {
  VMCS_ACCESS_HIGH,
  VMCS_TYPE,
  VMCS_WIDTH,
  vmcsFieldType,
  vmcsFieldWidth,
} from '../../../../lib/x86/vmx/field.ts';
import { INSN_INFO } from '../../../../lib/x86/vmx/exit_quals.ts';
import { VMXERR } from '../../../../lib/x86/vmx/insn_errors.ts';
import { VMCS_GUEST as G } from '../../../../lib/x86/vmx/vmcs_guest.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { high, isGuestMode, kvmRegisterRead, kvmRegisterWrite, low, pair } from '../../x86/cache_regs.ts';
import { toVmx } from '../vcpu_vmx.ts';
import { INVALID_VMPTR } from './nested_vmx.ts';
import { isShadowFieldRo, isShadowFieldRw, writeShadowField } from './shadow_vmcs.ts';
import { copyVmcs02ToVmcs12Rare, isVmcs12ExtField } from './sync_vmcs12.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHasVmwriteAnyField } from './vmcs12_controls.ts';
import { vmcs12Offset } from './vmcs12_layout.ts';
import {
  readVmxOperand,
  vmxInstrInfoReg1,
  vmxInstrInfoReg2,
  vmxInstructionInfo,
  writeVmxOperand,
} from './vmx_operand.ts';
import {
  nestedVmxCheckPermission,
  nestedVmxFail,
  nestedVmxFailInvalid,
  nestedVmxSucceed,
} from './vmx_results.ts';

const NO_LINK = 0xffff_ffff_ffff_ffffn;
/** What some processors keep of the access rights: the reserved bits are dropped. */
const AR_BYTES_MASK = 0x1_f0ff;

/** The VMCS that the instruction is about, or undefined: there is none, which is VMfailInvalid. */
function accessedVmcs12(vcpu: Vcpu): Vmcs12 | undefined {
  const { nested } = toVmx(vcpu);
  if (nested.currentVmptr === INVALID_VMPTR) return undefined;
  if (!isGuestMode(vcpu)) return nested.cachedVmcs12;
  return nested.cachedVmcs12.u64(G.VMCS_LINK_POINTER) === NO_LINK ? undefined : nested.cachedShadowVmcs12;
}

/** The field's encoding, or -1: vmcs12 has no such field. The upper halves of 64-bit fields are fields of 32 bits. */
function fieldOf(vcpu: Vcpu, info: number): number {
  const encoding = kvmRegisterRead(vcpu, vmxInstrInfoReg2(info));
  if (encoding >> 15n !== 0n) return -1;
  const field = Number(encoding);
  if (isHigh(field) && vmcsFieldWidth(field) !== VMCS_WIDTH.U64) return -1;
  return vmcs12Offset(wholeField(field)) === -1 ? -1 : field;
}

const isHigh = (field: number): boolean => (field & VMCS_ACCESS_HIGH) !== 0;
const wholeField = (field: number): number => field & ~VMCS_ACCESS_HIGH;

/** handle_vmread(). */
export function handleVmread(vcpu: Vcpu): number {
  const info = vmxInstructionInfo(vcpu);
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const vmcs12 = accessedVmcs12(vcpu);
  if (vmcs12 === undefined) return nestedVmxFailInvalid(vcpu);
  const field = fieldOf(vcpu, info);
  if (field < 0) return nestedVmxFail(vcpu, VMXERR.UNSUPPORTED_VMCS_COMPONENT);
  const whole = wholeField(field);
  if (!isGuestMode(vcpu) && isVmcs12ExtField(whole)) copyVmcs02ToVmcs12Rare(vcpu);
  const lo = isHigh(field) ? vmcs12.hi(whole) : vmcs12.lo(whole);
  const hi = isHigh(field) ? 0 : vmcs12.hi(whole);
  if ((info & INSN_INFO.REG_OPERAND) !== 0) {
    kvmRegisterWrite(vcpu, vmxInstrInfoReg1(info), lo, hi);
    return nestedVmxSucceed(vcpu);
  }
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, pair(lo, hi), true);
  return writeVmxOperand(vcpu, info, bytes) ? nestedVmxSucceed(vcpu) : 1;
}

/** The value to be written, or undefined: an exception is queued. */
function valueOf(vcpu: Vcpu, info: number): bigint | undefined {
  if ((info & INSN_INFO.REG_OPERAND) !== 0) return kvmRegisterRead(vcpu, vmxInstrInfoReg1(info));
  const bytes = new Uint8Array(8);
  if (!readVmxOperand(vcpu, info, bytes)) return undefined;
  return new DataView(bytes.buffer).getBigUint64(0, true);
}

/** handle_vmwrite(). */
export function handleVmwrite(vcpu: Vcpu): number {
  const info = vmxInstructionInfo(vcpu);
  if (!nestedVmxCheckPermission(vcpu)) return 1;
  const vmcs12 = accessedVmcs12(vcpu);
  if (vmcs12 === undefined) return nestedVmxFailInvalid(vcpu);
  const value = valueOf(vcpu, info);
  if (value === undefined) return 1;
  const field = fieldOf(vcpu, info);
  if (field < 0) return nestedVmxFail(vcpu, VMXERR.UNSUPPORTED_VMCS_COMPONENT);
  if (vmcsFieldType(field) === VMCS_TYPE.INFO && !nestedCpuHasVmwriteAnyField(toVmx(vcpu).nested.msrs))
    return nestedVmxFail(vcpu, VMXERR.VMWRITE_READ_ONLY_VMCS_COMPONENT);
  write(vcpu, vmcs12, field, low(value), high(value));
  return nestedVmxSucceed(vcpu);
}

function write(vcpu: Vcpu, vmcs12: Vmcs12, encoding: number, lo: number, hi: number): void {
  const vmx = toVmx(vcpu);
  const field = wholeField(encoding);
  const dirties = !isGuestMode(vcpu) && !isShadowFieldRw(field);
  // What vmcs02 still holds must not overwrite the new value later.
  if (dirties) copyVmcs02ToVmcs12Rare(vcpu);
  const isAr = field >= G.ES_AR_BYTES && field <= G.TR_AR_BYTES;
  if (isHigh(encoding)) vmcs12.setPair(field, vmcs12.lo(field), lo);
  else vmcs12.setPair(field, isAr ? lo & AR_BYTES_MASK : lo, hi);
  if (!dirties) return;
  if (vmx.vmcs01.shadowVmcs >= 0 && isShadowFieldRo(field))
    writeShadowField(vcpu, field, vmcs12.lo(field), vmcs12.hi(field));
  vmx.nested.dirtyVmcs12 = true;
}
