// SPDX-License-Identifier: GPL-2.0-only
/**
 * What L1's bitmaps say about an access of L2: nested_vmx_check_io_bitmaps(), nested_vmx_exit_handled_msr() and
 * nested_vmx_exit_handled_vmcs_access() of arch/x86/kvm/vmx/nested.c, 6.12. A bitmap without memory asks for the exit.
 */
import { gpa } from '../../../../lib/x86/addr.ts';
import { GPR } from '../../../../lib/x86/registers.ts';
import { CPU_BASED } from '../../../../lib/x86/vmx/controls.ts';
import { IO_QUAL, IO_QUAL_PORT_SHIFT } from '../../../../lib/x86/vmx/exit_quals.ts';
import { VMCS_CTRL as C } from '../../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_INFO } from '../../../../lib/x86/vmx/vmcs_info.ts';
import { vmread32 } from '../../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../../kvm_host.ts';
import { kvmRegisterRead, kvmRegisterRead32 } from '../../x86/cache_regs.ts';
import { kvmVcpuReadGuest } from '../../x86/guest_access.ts';
import { vmxCpu } from '../vcpu_vmx.ts';
import type { Vmcs12 } from './vmcs12.ts';
import { nestedCpuHas, nestedCpuHasShadowVmcs } from './vmcs12_controls.ts';
import { vmxInstrInfoReg2, vmxInstructionInfo } from './vmx_operand.ts';

/** Bit `n` of the bitmap at `address`; set where there is no memory. */
function bitSet(vcpu: Vcpu, address: number, n: number): boolean {
  const byte = new Uint8Array(1);
  if (kvmVcpuReadGuest(vcpu, gpa(address + (n >>> 3)), byte) < 0) return true;
  return ((byte[0]! >>> (n & 7)) & 1) !== 0;
}

/** nested_vmx_check_io_bitmaps(): any of the ports; an access that wraps around exits. */
export function nestedVmxCheckIoBitmaps(vcpu: Vcpu, v: Vmcs12, port: number, size: number): boolean {
  for (let p = port; p < port + size; p++) {
    if (p > 0xffff) return true;
    const bitmap = p < 0x8000 ? C.IO_BITMAP_A : C.IO_BITMAP_B;
    if (bitSet(vcpu, v.num(bitmap), p & 0x7fff)) return true;
  }
  return false;
}

/** nested_vmx_exit_handled_io(). */
export function exitHandledIo(vcpu: Vcpu, v: Vmcs12): boolean {
  if (!nestedCpuHas(v, CPU_BASED.USE_IO_BITMAPS)) return nestedCpuHas(v, CPU_BASED.UNCOND_IO_EXITING);
  const qual = vmread32(vmxCpu(vcpu), VMCS_INFO.EXIT_QUALIFICATION);
  return nestedVmxCheckIoBitmaps(vcpu, v, qual >>> IO_QUAL_PORT_SHIFT, (qual & IO_QUAL.SIZE_MASK) + 1);
}

/** nested_vmx_exit_handled_msr(): MSRs outside of the bitmap's two ranges are L1's. */
export function exitHandledMsr(vcpu: Vcpu, v: Vmcs12, access: 'read' | 'write'): boolean {
  if (!nestedCpuHas(v, CPU_BASED.USE_MSR_BITMAPS)) return true;
  const msr = kvmRegisterRead32(vcpu, GPR.RCX);
  const highPart = msr >= 0xc000_0000;
  const index = highPart ? msr - 0xc000_0000 : msr;
  if (index >= 0x2000) return true;
  return bitSet(vcpu, v.num(C.MSR_BITMAP) + (access === 'write' ? 0x800 : 0) + (highPart ? 0x400 : 0), index);
}

/** nested_vmx_exit_handled_vmcs_access(): without VMCS shadowing every access is L1's. */
export function exitHandledVmcsAccess(vcpu: Vcpu, v: Vmcs12, bitmap: number): boolean {
  if (!nestedCpuHasShadowVmcs(v)) return true;
  const field = kvmRegisterRead(vcpu, vmxInstrInfoReg2(vmxInstructionInfo(vcpu)));
  return field >> 15n !== 0n || bitSet(vcpu, v.num(bitmap), Number(field));
}
