// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest's CPUID: what KVM offers (KVM_GET_SUPPORTED_CPUID), what userspace chose (KVM_SET_CPUID2), and the emulation
 * of the instruction. Mirrors arch/x86/kvm/cpuid.c, 6.12; leaves out PV and Hyper-V leaves beyond the signature.
 */
import { ERRNO, KvmError } from '../../../lib/uapi/errno.ts';
import { KVM_CPUID_FLAG, KVM_MAX_CPUID_ENTRIES, type KvmCpuidEntry2 } from '../../../lib/uapi/cpuid_msr.ts';
import {
  CPUID_REG,
  X86_FEATURE,
  X86_FEATURE_EXT,
  cpuidLeafHasIndex,
  type CpuidFeature,
} from '../../../lib/x86/cpuid.ts';
import { CR4, EFER, GPR } from '../../../lib/x86/registers.ts';
import { APICBASE } from '../../../lib/x86/apic.ts';
import type { Vcpu } from '../kvm_host.ts';
import type { KvmModule } from '../module.ts';
import { kvmMmuAfterSetCpuid } from '../mmu/mmu.ts';
import { TP } from '../trace_events.ts';
import { kvmReadCr4, kvmRegisterRead32, kvmRegisterWrite } from './cache_regs.ts';
import { CPUID_REG_NAMES, guestHas, kvmFindCpuidEntry } from './cpuid_entry.ts';
import { cr4GuestReservedBits } from './cr.ts';
import { kvmSkipEmulatedInstruction } from './skip.ts';

const REGS = CPUID_REG_NAMES;
/** Features that the processor has but common code does not offer guests; VMX is the vendor's to offer. */
const NOT_OFFERED: readonly CpuidFeature[] = [
  X86_FEATURE.VMX,
  X86_FEATURE.SMX,
  X86_FEATURE.MWAIT,
  X86_FEATURE.MTRR,
];
/** Leaves that describe the host and mean nothing to a guest. */
const HIDDEN_LEAVES: readonly number[] = [0x5, 0xa];
const KVM_SIGNATURE_LEAF = 0x4000_0000;

/** kvm_get_supported_cpuid(): the processor's rows, less what L0 does not virtualise, plus its own features. */
export function kvmGetSupportedCpuid(module: KvmModule): KvmCpuidEntry2[] {
  const entries = module.host.machine.cpus[0]!.sys.cpuid.rows()
    .filter(([leaf]) => !HIDDEN_LEAVES.includes(leaf))
    .map(([leaf, subleaf, eax, ebx, ecx, edx]): KvmCpuidEntry2 => {
      const flags = cpuidLeafHasIndex(leaf) ? KVM_CPUID_FLAG.SIGNIFCANT_INDEX : 0;
      const entry = {
        function: leaf >>> 0,
        index: subleaf,
        flags,
        eax: eax >>> 0,
        ebx: ebx >>> 0,
        ecx: ecx >>> 0,
        edx: edx >>> 0,
      };
      for (const [fLeaf, fSub, reg, bit] of NOT_OFFERED) {
        if (fLeaf === leaf && fSub === subleaf) entry[REGS[reg]!] &= ~(1 << bit);
      }
      for (const r of REGS) entry[r] >>>= 0;
      return entry;
    });
  offer(entries, X86_FEATURE.TSC_DEADLINE_TIMER);
  offer(entries, X86_FEATURE.X2APIC);
  offer(entries, X86_FEATURE.HYPERVISOR);
  for (const feature of module.ops.cpuCaps) offer(entries, feature);
  // "KVMKVMKVM\0\0\0" in EBX, ECX, EDX; no paravirtual feature.
  entries.push({
    function: KVM_SIGNATURE_LEAF,
    index: 0,
    flags: 0,
    eax: KVM_SIGNATURE_LEAF + 1,
    ebx: 0x4b4d564b,
    ecx: 0x564b4d56,
    edx: 0x4d,
  });
  entries.push({ function: KVM_SIGNATURE_LEAF + 1, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 });
  return entries;
}

function offer(entries: readonly KvmCpuidEntry2[], [leaf, , reg, bit]: CpuidFeature): void {
  const entry = entries.find((e) => e.function === leaf);
  if (entry !== undefined) entry[REGS[reg]!] = (entry[REGS[reg]!] | (1 << bit)) >>> 0;
}

/** kvm_vcpu_ioctl_set_cpuid2(). */
export function kvmSetCpuid2(vcpu: Vcpu, entries: readonly KvmCpuidEntry2[]): void {
  if (entries.length > KVM_MAX_CPUID_ENTRIES)
    throw new KvmError('KVM_SET_CPUID2', ERRNO.E2BIG, `${entries.length} entries`);
  const widths = entries.find((e) => e.function === 0x8000_0008);
  const virtual = widths === undefined ? 0 : (widths.eax >>> 8) & 0xff;
  if (virtual !== 0 && virtual !== 48 && virtual !== 57) {
    throw new KvmError('KVM_SET_CPUID2', ERRNO.EINVAL, `${virtual} linear address bits`);
  }
  if (vcpu.arch.lastVmentryCpu !== -1) {
    // The model of a vCPU that has run stays: SPTEs and roles depend on it.
    if (sameEntries(vcpu.arch.cpuidEntries, entries)) return;
    throw new KvmError('KVM_SET_CPUID2', ERRNO.EINVAL, 'the vCPU has run with other CPUID data');
  }
  vcpu.arch.cpuidEntries = entries.map((e) => ({ ...e }));
  const physical = widths === undefined ? 36 : widths.eax & 0xff;
  vcpu.arch.maxphyaddr = Math.min(physical, vcpu.kvm.module.caps.maxphyaddr);
  kvmVcpuAfterSetCpuid(vcpu);
}

/** kvm_vcpu_after_set_cpuid(): what is asked often is worked out once. */
export function kvmVcpuAfterSetCpuid(vcpu: Vcpu): void {
  const { arch } = vcpu;
  arch.cr4GuestRsvdBits = cr4GuestReservedBits(vcpu);
  arch.eferValidBits =
    EFER.SCE |
    (guestHas(vcpu, X86_FEATURE_EXT.LM) ? EFER.LME | EFER.LMA : 0) |
    (guestHas(vcpu, X86_FEATURE_EXT.NX) ? EFER.NXE : 0);
  vcpu.kvm.module.ops.vcpuAfterSetCpuid(vcpu);
  kvmMmuAfterSetCpuid(vcpu);
}

/** kvm_cpuid_check_equal(). */
const sameEntries = (a: readonly KvmCpuidEntry2[], b: readonly KvmCpuidEntry2[]): boolean =>
  a.length === b.length &&
  a.every((x, i) => {
    const y = b[i]!;
    return (
      x.function === y.function &&
      x.index === y.index &&
      x.flags === y.flags &&
      REGS.every((r) => x[r] >>> 0 === y[r] >>> 0)
    );
  });

/** kvm_update_cpuid_runtime(): bits that follow the vCPU's state. */
function runtimeBits(vcpu: Vcpu, leaf: number, index: number, out: Uint32Array): void {
  const cr4 = kvmReadCr4(vcpu);
  const follow = ([, , reg, bit]: CpuidFeature, on: boolean): void => {
    out[reg] = on ? out[reg]! | (1 << bit) : out[reg]! & ~(1 << bit);
  };
  if (leaf === 1) {
    follow(X86_FEATURE.OSXSAVE, (cr4 & CR4.OSXSAVE) !== 0);
    if ((vcpu.arch.apicBase & APICBASE.ENABLE) === 0) follow(X86_FEATURE.APIC, false);
  } else if (leaf === 7 && index === 0) {
    follow(X86_FEATURE.OSPKE, (cr4 & CR4.PKE) !== 0);
  }
}

/** What a lookup found: the leaf itself, the highest basic leaf in its place, or nothing. */
export type CpuidFound = 'exact' | 'max basic' | 'none';

/** get_out_of_range_cpuid_entry(): whether an Intel guest gets the highest basic leaf's data for `leaf`. */
function isOutOfRange(vcpu: Vcpu, leaf: number): boolean {
  const hypervisor = leaf >= KVM_SIGNATURE_LEAF && leaf <= 0x4fff_ffff;
  const base = hypervisor ? leaf & 0xffff_ff00 : leaf >= 0xc000_0000 ? 0xc000_0000 : leaf & 0x8000_0000;
  const range = kvmFindCpuidEntry(vcpu, base >>> 0, 0);
  return range === undefined || leaf > range.eax;
}

/** kvm_cpuid(). */
export function kvmCpuid(vcpu: Vcpu, leaf: number, index: number, out: Uint32Array): CpuidFound {
  let entry = kvmFindCpuidEntry(vcpu, leaf, index);
  const exact = entry !== undefined;
  let effective = leaf;
  const basic = kvmFindCpuidEntry(vcpu, 0, 0);
  if (entry === undefined && basic !== undefined && isOutOfRange(vcpu, leaf)) {
    effective = basic.eax;
    entry = kvmFindCpuidEntry(vcpu, effective, index);
  }
  for (const [i, reg] of REGS.entries()) out[i] = entry?.[reg] ?? 0;
  if (entry !== undefined) runtimeBits(vcpu, effective, index, out);
  else if (effective === 0xb) topologyBeyondLast(vcpu, effective, index, out);
  return exact ? 'exact' : entry === undefined ? 'none' : 'max basic';
}

/** SDM, "CPUID": beyond the last level of leaf 0BH, CL is the subleaf and EDX still the x2APIC ID. */
function topologyBeyondLast(vcpu: Vcpu, leaf: number, index: number, out: Uint32Array): void {
  const first = kvmFindCpuidEntry(vcpu, leaf, 1);
  if (first === undefined) return;
  out[CPUID_REG.ECX] = index & 0xff;
  out[CPUID_REG.EDX] = first.edx;
}

/** kvm_emulate_cpuid(). */
export function kvmEmulateCpuid(vcpu: Vcpu): number {
  const leaf = kvmRegisterRead32(vcpu, GPR.RAX);
  const index = kvmRegisterRead32(vcpu, GPR.RCX);
  const result = new Uint32Array(4);
  const found = kvmCpuid(vcpu, leaf, index, result);
  const [eax, ebx, ecx, edx] = result as unknown as [number, number, number, number];
  const { trace } = vcpu.kvm.module;
  if (trace.on[TP.KVM_CPUID] !== 0) {
    const [exact, maxBasic] = [found === 'exact' ? 1 : 0, found === 'max basic' ? 1 : 0];
    trace.record(TP.KVM_CPUID, leaf, index, eax, ebx, ecx, edx, exact, maxBasic);
  }
  kvmRegisterWrite(vcpu, GPR.RAX, eax, 0);
  kvmRegisterWrite(vcpu, GPR.RBX, ebx, 0);
  kvmRegisterWrite(vcpu, GPR.RCX, ecx, 0);
  kvmRegisterWrite(vcpu, GPR.RDX, edx, 0);
  return kvmSkipEmulatedInstruction(vcpu);
}
