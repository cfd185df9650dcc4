// SPDX-License-Identifier: GPL-2.0-only
/**
 * Control registers as the guest writes them: kvm_set_cr0(), cr3, cr4, cr8 and xcr of arch/x86/kvm/x86.c, 6.12, for
 * two-dimensional paging. Zero means done, 1 that the guest gets a GP.
 */
import { CR0, CR4, EFER, XCR0 } from '../../../lib/x86/registers.ts';
import { kvmSegment } from '../../../lib/uapi/regs.ts';
import { SEGN } from '../../machine/cpu/state.ts';
import type { Vcpu } from '../kvm_host.ts';
import { KVM_REQ } from '../request_numbers.ts';
import { kvmMakeRequest } from '../requests.ts';
import { kvmReadCr0, kvmReadCr3, kvmReadCr4, markDirty, pair, VCPU_EXREG } from './cache_regs.ts';
import { guestHas, kvmFindCpuidEntry } from './cpuid_entry.ts';
import { X86_FEATURE } from '../../../lib/x86/cpuid.ts';
import { kvmLapicSetTpr } from './lapic.ts';
import { kvmInitMmu } from '../mmu/init.ts';
import { kvmMmuResetContext } from '../mmu/mmu.ts';

const CR0_DEFINED =
  CR0.PE | CR0.MP | CR0.EM | CR0.TS | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.NW | CR0.CD | CR0.PG;
const CR0_PAGING_BITS = CR0.PG | CR0.WP;
/** KVM_MMU_CR4_ROLE_BITS: how linear addresses are translated. */
const CR4_ROLE_BITS = CR4.PSE | CR4.PAE | CR4.LA57 | CR4.SMEP | CR4.SMAP | CR4.PKE;

/** kvm_is_valid_cr0(): in VMX operation also what the VMX capability MSRs fix. */
export function kvmIsValidCr0(vcpu: Vcpu, cr0: bigint): boolean {
  if (cr0 >> 32n !== 0n) return false;
  const value = Number(cr0);
  if ((value & CR0.NW) !== 0 && (value & CR0.CD) === 0) return false;
  if ((value & CR0.PG) !== 0 && (value & CR0.PE) === 0) return false;
  return vcpu.kvm.module.ops.isValidCr0(vcpu, (value | CR0.ET) >>> 0);
}

function csIs64Bit(vcpu: Vcpu): boolean {
  const cs = kvmSegment();
  vcpu.kvm.module.ops.getSegment(vcpu, SEGN.CS, cs);
  return cs.l !== 0;
}

/** kvm_set_cr0(). */
export function kvmSetCr0(vcpu: Vcpu, cr0: bigint): number {
  if (!kvmIsValidCr0(vcpu, cr0)) return 1;
  const old = kvmReadCr0(vcpu);
  const value = ((Number(cr0) | CR0.ET) & CR0_DEFINED) >>> 0;
  const { efer } = vcpu.arch;
  const enabling = (value & ~old & CR0.PG) !== 0;
  // SDM, "MOV - Move to/from Control Registers": IA-32e paging needs PAE; leaving it with PCIDs on is refused.
  const pae = (kvmReadCr4(vcpu) & CR4.PAE) !== 0;
  if (enabling && (efer & EFER.LME) !== 0 && (!pae || csIs64Bit(vcpu))) return 1;
  const in64Bit = (efer & EFER.LMA) !== 0 && csIs64Bit(vcpu);
  if ((value & CR0.PG) === 0 && (in64Bit || (kvmReadCr4(vcpu) & CR4.PCIDE) !== 0)) return 1;
  vcpu.kvm.module.ops.setCr0(vcpu, value);
  // Tables of L0 do not depend on CR0.WP; only how L0 reads the guest's own does.
  if ((old ^ value) === CR0.WP) kvmInitMmu(vcpu);
  else if (((old ^ value) & CR0_PAGING_BITS) !== 0) {
    if ((old & ~value & CR0.PG) !== 0) kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
    kvmMmuResetContext(vcpu);
  }
  return 0;
}

/** kvm_set_cr3(): under EPT the guest's own table; bit 63 asks for no flush and is not kept. */
export function kvmSetCr3(vcpu: Vcpu, cr3: bigint): number {
  const pcid = (kvmReadCr4(vcpu) & CR4.PCIDE) !== 0;
  const noFlush = pcid && cr3 >> 63n === 1n;
  const value = noFlush ? cr3 & ((1n << 63n) - 1n) : cr3;
  if (value >> BigInt(vcpu.arch.maxphyaddr) !== 0n) return 1;
  vcpu.arch.cr3 = Number(value);
  markDirty(vcpu, VCPU_EXREG.CR3);
  if (!noFlush) kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
  return 0;
}

/** __cr4_reserved_bits() of the guest's CPUID, for vcpu.arch.cr4GuestRsvdBits. */
export function cr4GuestReservedBits(vcpu: Vcpu): number {
  const optional: readonly [number, Parameters<typeof guestHas>[1]][] = [
    [CR4.PCIDE, X86_FEATURE.PCID],
    [CR4.OSXSAVE, X86_FEATURE.XSAVE],
    [CR4.SMEP, X86_FEATURE.SMEP],
    [CR4.SMAP, X86_FEATURE.SMAP],
    [CR4.PKE, X86_FEATURE.PKU],
    [CR4.FSGSBASE, X86_FEATURE.FSGSBASE],
    [CR4.LA57, X86_FEATURE.LA57],
    [CR4.UMIP, X86_FEATURE.UMIP],
    [CR4.VMXE, X86_FEATURE.VMX],
  ];
  let reserved = ~(
    CR4.VME |
    CR4.PVI |
    CR4.TSD |
    CR4.DE |
    CR4.PSE |
    CR4.PAE |
    CR4.MCE |
    CR4.PGE |
    CR4.PCE |
    CR4.OSFXSR |
    CR4.OSXMMEXCPT
  );
  for (const [bit, feature] of optional) if (guestHas(vcpu, feature)) reserved &= ~bit;
  // Whatever userspace says in CPUID: VMX that the module does not offer cannot be enabled.
  return vcpu.kvm.module.ops.cpuCaps.includes(X86_FEATURE.VMX) ? reserved : reserved | CR4.VMXE;
}

/** kvm_is_valid_cr4(): as CPUID and, in VMX operation, the VMX capability MSRs allow it. */
export function kvmIsValidCr4(vcpu: Vcpu, cr4: bigint): boolean {
  if (cr4 >> 32n !== 0n || (Number(cr4) & vcpu.arch.cr4GuestRsvdBits) !== 0) return false;
  return vcpu.kvm.module.ops.isValidCr4(vcpu, Number(cr4));
}

/** kvm_set_cr4(). */
export function kvmSetCr4(vcpu: Vcpu, cr4: bigint): number {
  if (!kvmIsValidCr4(vcpu, cr4)) return 1;
  const value = Number(cr4);
  const old = kvmReadCr4(vcpu);
  const longMode = (vcpu.arch.efer & EFER.LMA) !== 0;
  if (longMode && ((value & CR4.PAE) === 0 || ((value ^ old) & CR4.LA57) !== 0)) return 1;
  if ((value & ~old & CR4.PCIDE) !== 0 && (!longMode || (kvmReadCr3(vcpu) & 0xfff) !== 0)) return 1;
  vcpu.kvm.module.ops.setCr4(vcpu, value);
  const changed = old ^ value;
  if ((changed & CR4_ROLE_BITS) !== 0) kvmMmuResetContext(vcpu);
  // SDM, "Operations that Invalidate TLBs and Paging-Structure Caches": all PCIDs, or the current one's.
  if ((changed & CR4.PGE) !== 0 || (old & ~value & CR4.PCIDE) !== 0)
    kvmMakeRequest(KVM_REQ.TLB_FLUSH_GUEST, vcpu);
  else if ((changed & CR4.PAE) !== 0 || (value & ~old & CR4.SMEP) !== 0)
    kvmMakeRequest(KVM_REQ.TLB_FLUSH_CURRENT, vcpu);
  return 0;
}

/** kvm_set_cr8(). */
export function kvmSetCr8(vcpu: Vcpu, cr8: bigint): number {
  if (cr8 > 0xfn) return 1;
  kvmLapicSetTpr(vcpu, Number(cr8));
  return 0;
}

/** What both the guest's CPUID and the processor have: cpuid_get_supported_xcr0(). */
function supportedXcr0(vcpu: Vcpu): bigint {
  const entry = kvmFindCpuidEntry(vcpu, 0xd, 0);
  const row = vcpu.kvm.host.machine.cpus[0]!.sys.cpuid.row(0xd, 0);
  if (entry === undefined || row === undefined) return 0n;
  return pair(entry.eax, entry.edx) & pair(row[2], row[5]);
}

/** __kvm_set_xcr(): XCR0 only, x87 always on, AVX only with SSE, nothing that the guest lacks. */
export function kvmSetXcr(vcpu: Vcpu, index: number, value: bigint): number {
  if (index !== 0 || (value & BigInt(XCR0.X87)) === 0n) return 1;
  if ((value & BigInt(XCR0.AVX)) !== 0n && (value & BigInt(XCR0.SSE)) === 0n) return 1;
  if ((value & ~(supportedXcr0(vcpu) | BigInt(XCR0.X87))) !== 0n) return 1;
  vcpu.arch.xcr0 = Number(value);
  return 0;
}
