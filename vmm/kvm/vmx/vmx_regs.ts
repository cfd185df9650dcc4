// SPDX-License-Identifier: GPL-2.0-only
/**
 * Guest registers that lie in the VMCS: vmx_cache_reg(), segments, descriptor tables, CR0, CR3, CR4, EFER, RFLAGS, DR7.
 * Mirrors arch/x86/kvm/vmx/vmx.c, 6.12, with EPT on and unrestricted guest; real mode is left to the processor.
 */
import type { KvmDtable, KvmSegment } from '../../../lib/uapi/regs.ts';
import { CR0, CR4, EFER, GPR, RFLAGS } from '../../../lib/x86/registers.ts';
import { AR, AR_DPL_SHIFT } from '../../../lib/x86/segments.ts';
import { VM_ENTRY } from '../../../lib/x86/vmx/controls.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import {
  vmread32,
  vmread64,
  vmreadHigh,
  vmreadNum,
  vmwrite32,
  vmwrite64,
  vmwriteNum,
  vmwritePair,
} from '../../machine/vmx/vmcs_access.ts';
import type { Vcpu } from '../kvm_host.ts';
import { VCPU_REGS_RIP } from '../kvm_host_x86.ts';
import { isGuestMode, VCPU_EXREG, markAvail } from '../x86/cache_regs.ts';
import { CR4_GUEST_BITS } from './vmcs01.ts';
import { toVmx, vmxCpu } from './vcpu_vmx.ts';
import { vmxSetControls } from './vmx_controls.ts';

/** Bits that the guest owns are in the VMCS, the others are as L0 set them. */
const cachedCr = (known: number, inVmcs: number, owned: number): number =>
  (known & ~owned) | (inVmcs & owned);

/** vmx_cache_reg(): fetch one register into vcpu.arch. */
export function vmxCacheReg(vcpu: Vcpu, reg: number): void {
  const cpu = vmxCpu(vcpu);
  const { arch } = vcpu;
  switch (reg) {
    case VCPU_EXREG.RSP:
      arch.regs[2 * GPR.RSP] = vmread32(cpu, VMCS_GUEST.RSP);
      arch.regs[2 * GPR.RSP + 1] = vmreadHigh(cpu, VMCS_GUEST.RSP);
      break;
    case VCPU_EXREG.RIP:
      arch.regs[VCPU_REGS_RIP] = vmread32(cpu, VMCS_GUEST.RIP);
      arch.regs[VCPU_REGS_RIP + 1] = vmreadHigh(cpu, VMCS_GUEST.RIP);
      break;
    case VCPU_EXREG.CR0:
      arch.cr0 = cachedCr(arch.cr0, vmread32(cpu, VMCS_GUEST.CR0), arch.cr0GuestOwnedBits) >>> 0;
      break;
    case VCPU_EXREG.CR3:
      arch.cr3 = vmreadNum(cpu, VMCS_GUEST.CR3);
      break;
    case VCPU_EXREG.CR4:
      arch.cr4 = cachedCr(arch.cr4, vmread32(cpu, VMCS_GUEST.CR4), arch.cr4GuestOwnedBits);
      break;
    default:
      throw new RangeError(`vmx_cache_reg(${reg})`);
  }
  markAvail(vcpu, reg);
}

const SEGMENT_NAMES = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS', 'LDTR', 'TR'] as const;

/** vmx_get_segment(): segment n in SEGN order. */
export function vmxGetSegment(vcpu: Vcpu, seg: number, out: KvmSegment): void {
  const cpu = vmxCpu(vcpu);
  const name = SEGMENT_NAMES[seg]!;
  const ar = vmread32(cpu, VMCS_GUEST[`${name}_AR_BYTES`]);
  out.base = vmread64(cpu, VMCS_GUEST[`${name}_BASE`]);
  out.limit = vmread32(cpu, VMCS_GUEST[`${name}_LIMIT`]);
  out.selector = vmread32(cpu, VMCS_GUEST[`${name}_SELECTOR`]);
  out.type = ar & AR.TYPE_MASK;
  out.s = (ar & AR.S) !== 0 ? 1 : 0;
  out.dpl = (ar & AR.DPL_MASK) >> AR_DPL_SHIFT;
  out.present = (ar & AR.UNUSABLE) === 0 ? 1 : 0;
  out.avl = (ar & AR.AVL) !== 0 ? 1 : 0;
  out.l = (ar & AR.L) !== 0 ? 1 : 0;
  out.db = (ar & AR.DB) !== 0 ? 1 : 0;
  out.g = (ar & AR.G) !== 0 ? 1 : 0;
  out.unusable = (ar & AR.UNUSABLE) !== 0 ? 1 : 0;
}

/** vmx_segment_access_rights(). */
function accessRights(seg: KvmSegment): number {
  // An unusable segment keeps its other bits: SS's DPL is the CPL.
  return (
    (seg.unusable !== 0 || seg.present === 0 ? AR.UNUSABLE : 0) |
    (seg.type & AR.TYPE_MASK) |
    (seg.s !== 0 ? AR.S : 0) |
    ((seg.dpl & 3) << AR_DPL_SHIFT) |
    (seg.present !== 0 ? AR.P : 0) |
    (seg.avl !== 0 ? AR.AVL : 0) |
    (seg.l !== 0 ? AR.L : 0) |
    (seg.db !== 0 ? AR.DB : 0) |
    (seg.g !== 0 ? AR.G : 0)
  );
}

/** vmx_set_segment(). */
export function vmxSetSegment(vcpu: Vcpu, seg: number, from: KvmSegment): void {
  const cpu = vmxCpu(vcpu);
  const name = SEGMENT_NAMES[seg]!;
  vmwrite64(cpu, VMCS_GUEST[`${name}_BASE`], from.base);
  vmwrite32(cpu, VMCS_GUEST[`${name}_LIMIT`], from.limit);
  vmwrite32(cpu, VMCS_GUEST[`${name}_SELECTOR`], from.selector);
  // A loaded data or code segment has been accessed: the VM-entry checks insist on it.
  const accessed = from.s !== 0 && from.unusable === 0 ? 1 : 0;
  vmwrite32(cpu, VMCS_GUEST[`${name}_AR_BYTES`], accessRights(from) | accessed);
}

/** vmx_get_cpl(): SS's DPL. */
export function vmxGetCpl(vcpu: Vcpu): number {
  return (vmread32(vmxCpu(vcpu), VMCS_GUEST.SS_AR_BYTES) & AR.DPL_MASK) >> AR_DPL_SHIFT;
}

export function vmxGetDt(vcpu: Vcpu, which: 'GDTR' | 'IDTR'): KvmDtable {
  const cpu = vmxCpu(vcpu);
  return {
    base: vmread64(cpu, VMCS_GUEST[`${which}_BASE`]),
    limit: vmread32(cpu, VMCS_GUEST[`${which}_LIMIT`]),
  };
}

export function vmxSetDt(vcpu: Vcpu, which: 'GDTR' | 'IDTR', dt: KvmDtable): void {
  const cpu = vmxCpu(vcpu);
  vmwrite64(cpu, VMCS_GUEST[`${which}_BASE`], dt.base);
  vmwrite32(cpu, VMCS_GUEST[`${which}_LIMIT`], dt.limit);
}

/** vmx_set_cr0() for EPT with unrestricted guest: the guest's bits, NE because VMX insists. */
export function vmxSetCr0(vcpu: Vcpu, cr0: number): void {
  const cpu = vmxCpu(vcpu);
  const { arch } = vcpu;
  const wasPaging = (arch.cr0 & CR0.PG) !== 0;
  const paging = (cr0 & CR0.PG) !== 0;
  if ((arch.efer & EFER.LME) !== 0 && wasPaging !== paging) {
    setLma(vcpu, paging ? EFER.LMA : 0);
  }
  vmwrite32(cpu, VMCS_CTRL.CR0_READ_SHADOW, cr0);
  vmwrite32(cpu, VMCS_GUEST.CR0, cr0 | CR0.NE | CR0.ET);
  arch.cr0 = cr0 >>> 0;
  markAvail(vcpu, VCPU_EXREG.CR0);
}

/** enter_lmode() and exit_lmode(). */
function setLma(vcpu: Vcpu, lma: number): void {
  vmxSetEfer(vcpu, (vcpu.arch.efer & ~EFER.LMA) | lma);
}

/** vmx_set_efer(): the VM-entry control follows LMA. */
export function vmxSetEfer(vcpu: Vcpu, efer: number): number {
  const { controls } = toVmx(vcpu).loadedVmcs;
  vcpu.arch.efer = efer;
  const ia32e = (efer & EFER.LMA) !== 0 ? VM_ENTRY.IA32E_MODE : 0;
  vmxSetControls(vcpu, 'entry', (controls.entry & ~VM_ENTRY.IA32E_MODE) | ia32e);
  vmwrite32(vmxCpu(vcpu), VMCS_GUEST.IA32_EFER, efer);
  return 0;
}

/** set_cr4_guest_host_mask(): L2 owns what both L0 and L1 leave to it. */
export function setCr4GuestHostMask(vcpu: Vcpu): void {
  let owned = CR4_GUEST_BITS & ~vcpu.arch.cr4GuestRsvdBits;
  if (isGuestMode(vcpu)) owned &= ~toVmx(vcpu).nested.cachedVmcs12.lo(VMCS_CTRL.CR4_GUEST_HOST_MASK);
  vcpu.arch.cr4GuestOwnedBits = owned;
  vmwrite32(vmxCpu(vcpu), VMCS_CTRL.CR4_GUEST_HOST_MASK, ~owned);
}

/** vmx_set_cr4(): VMXE is set in hardware and hidden from the guest by the read shadow. */
export function vmxSetCr4(vcpu: Vcpu, cr4: number): void {
  const cpu = vmxCpu(vcpu);
  vmwrite32(cpu, VMCS_CTRL.CR4_READ_SHADOW, cr4);
  vmwrite32(cpu, VMCS_GUEST.CR4, cr4 | CR4.VMXE);
  vcpu.arch.cr4 = cr4;
  markAvail(vcpu, VCPU_EXREG.CR4);
}

export function vmxGetRflags(vcpu: Vcpu): number {
  return vmread32(vmxCpu(vcpu), VMCS_GUEST.RFLAGS);
}

export function vmxSetRflags(vcpu: Vcpu, rflags: number): void {
  vmwrite32(vmxCpu(vcpu), VMCS_GUEST.RFLAGS, rflags | RFLAGS.FIXED);
}

export function vmxSetDr7(vcpu: Vcpu, value: number): void {
  vmwrite32(vmxCpu(vcpu), VMCS_GUEST.DR7, value);
}

/** What vmx_vcpu_run() writes back before an entry: RSP, RIP and CR3 if L0 changed them. */
export function vmxWriteDirtyRegs(vcpu: Vcpu): void {
  const { arch } = vcpu;
  const dirty = arch.regsDirty;
  if (dirty === 0) return;
  const cpu = vmxCpu(vcpu);
  const regs = arch.regs;
  if ((dirty & VCPU_EXREG.RSP) !== 0)
    vmwritePair(cpu, VMCS_GUEST.RSP, regs[2 * GPR.RSP]!, regs[2 * GPR.RSP + 1]!);
  if ((dirty & VCPU_EXREG.RIP) !== 0)
    vmwritePair(cpu, VMCS_GUEST.RIP, regs[VCPU_REGS_RIP]!, regs[VCPU_REGS_RIP + 1]!);
  if ((dirty & VCPU_EXREG.CR3) !== 0) vmwriteNum(cpu, VMCS_GUEST.CR3, arch.cr3);
  arch.regsDirty = 0;
}
