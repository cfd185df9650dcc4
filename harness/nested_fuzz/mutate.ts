// SPDX-License-Identifier: GPL-2.0-only
/**
 * Random changes of a valid vmcs12 and of the structures that it points to: EPT12 entries, MSR areas, bitmaps, the EPTP
 * list, the virtual-APIC page and the posted-interrupt descriptor all lie in pages of random bytes.
 */
import { gpa } from '../../lib/x86/addr.ts';
import { codeName } from '../../lib/x86/bits.ts';
import { PAT_RESET_HI, PAT_RESET_LO } from '../../lib/x86/msr.ts';
import { EFER } from '../../lib/x86/registers.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC, VM_EXIT } from '../../lib/x86/vmx/controls.ts';
import { VMCS_TYPE, vmcsFieldType } from '../../lib/x86/vmx/field.ts';
import { VMCS_CTRL as C } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST as H } from '../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO as I } from '../../lib/x86/vmx/vmcs_info.ts';
import { readGpaU64, writeGpaU64 } from '../../lib/kvm_util/kvm_util.ts';
import type { NestedControlCaps } from '../../vmm/kvm/vmx/nested/nested_msrs.ts';
import { Vmcs12 } from '../../vmm/kvm/vmx/nested/vmcs12.ts';
import { VMCS12_FIELDS, VMCS12_REVISION } from '../../vmm/kvm/vmx/nested/vmcs12_layout.ts';
import { MSRS } from './l2_code.ts';
import type { Rng } from './rng.ts';
import { addressValue, wordValue } from './values.ts';
import { pokeGpa, type World } from './world.ts';

/** Fields with the physical address of a structure. */
// prettier-ignore
const ADDRESSES: readonly number[] = [
  C.IO_BITMAP_A, C.IO_BITMAP_B, C.MSR_BITMAP, C.VM_EXIT_MSR_STORE_ADDR, C.VM_EXIT_MSR_LOAD_ADDR, C.VM_ENTRY_MSR_LOAD_ADDR,
  C.VIRTUAL_APIC_PAGE_ADDR, C.APIC_ACCESS_ADDR, C.POSTED_INTR_DESC_ADDR, C.EPTP_LIST_ADDRESS, C.PML_ADDRESS,
  C.VMREAD_BITMAP, C.VMWRITE_BITMAP, G.VMCS_LINK_POINTER,
];
const COUNTS: readonly number[] = [
  C.VM_EXIT_MSR_STORE_COUNT,
  C.VM_EXIT_MSR_LOAD_COUNT,
  C.VM_ENTRY_MSR_LOAD_COUNT,
];
const FIELDS = VMCS12_FIELDS.filter((field) => vmcsFieldType(field) !== VMCS_TYPE.INFO);

/** The name of a field, for reports. */
export function fieldName(field: number): string {
  const tables = { C, G: G, H: H, I } as const;
  for (const [prefix, table] of Object.entries(tables)) {
    const name = codeName(table, field);
    if (Object.hasOwn(table, name))
      return prefix === 'C' ? name : `${{ G: 'GUEST', H: 'HOST', I: 'INFO' }[prefix]!}_${name}`;
  }
  return `0x${field.toString(16)}`;
}

/** One case's changes, and what to say of them. */
export interface Mutation {
  readonly vmcs12: Vmcs12;
  readonly notes: string[];
}

function setField(rng: Rng, world: World, m: Mutation, field: number): void {
  const value = fieldValue(rng, world, m.vmcs12, field);
  m.vmcs12.set64(field, BigInt.asUintN(64, value));
  m.notes.push(`${fieldName(field)}=0x${m.vmcs12.u64(field).toString(16)}`);
}

function fieldValue(rng: Rng, world: World, vmcs12: Vmcs12, field: number): bigint {
  if (ADDRESSES.includes(field)) return addressValue(rng, world, 'physical');
  if (COUNTS.includes(field)) return BigInt(rng.pick([0, 1, 2, 5, 512, 513, 0x8000_0000]));
  if (field === C.EPT_POINTER && rng.chance(70))
    return (
      (addressValue(rng, world, 'physical') & ~0xfffn) | BigInt(rng.pick([0x1e, 0x5e, 0x18, 0x26, 0x9e]))
    );
  if (field === G.CR3 && rng.chance(50)) return addressValue(rng, world, 'physical');
  if (field === G.RIP && rng.chance(70)) return addressValue(rng, world, 'linear');
  if (field === C.VM_ENTRY_INTR_INFO_FIELD)
    return BigInt((0x8000_0000 | (rng.below(8) << 8) | (rng.below(2) << 11) | rng.below(64)) >>> 0);
  if (rng.chance(50)) return vmcs12.u64(field) ^ (1n << BigInt(rng.below(32)));
  return wordValue(rng);
}

/** Control words that the capability MSRs allow, and something at every address. */
function allowedControls(rng: Rng, world: World, m: Mutation): void {
  const { vmcs12 } = m;
  const word = (field: number, { low, high }: NestedControlCaps, keep: number): void => {
    vmcs12.set32(field, low | (rng.u32() & rng.u32() & high) | (vmcs12.lo(field) & keep & high));
    m.notes.push(`${fieldName(field)}=0x${vmcs12.u32(field).toString(16)}`);
  };
  word(C.PIN_BASED_VM_EXEC_CONTROL, world.nested.msrs.pinbased, 0);
  word(C.CPU_BASED_VM_EXEC_CONTROL, world.nested.msrs.procbased, 0x8000_0000);
  word(C.SECONDARY_VM_EXEC_CONTROL, world.nested.msrs.secondary, rng.chance(60) ? 0x2 : 0);
  word(C.VM_EXIT_CONTROLS, world.nested.msrs.exit, 0x200);
  word(C.VM_ENTRY_CONTROLS, world.nested.msrs.entry, 0x200);
  vmcs12.set32(C.VIRTUAL_PROCESSOR_ID, rng.below(4));
  vmcs12.set32(C.POSTED_INTR_NV, rng.below(0x101));
  for (const field of ADDRESSES) {
    if (field === G.VMCS_LINK_POINTER && rng.chance(95)) continue;
    vmcs12.set64(
      field,
      rng.chance(90) ? rng.pick(world.arena).physical : addressValue(rng, world, 'physical'),
    );
  }
  for (const field of COUNTS) if (rng.chance(30)) vmcs12.set32(field, rng.below(4));
}

/** What the checks want of combinations of controls. */
function makeConsistent(rng: Rng, world: World, v: Vmcs12): void {
  const pin = v.lo(C.PIN_BASED_VM_EXEC_CONTROL);
  const second = v.lo(C.SECONDARY_VM_EXEC_CONTROL);
  const S = SECONDARY_EXEC;
  const or = (field: number, bits: number): void => v.set32(field, v.lo(field) | bits);
  const drop = (field: number, bits: number): void => v.set32(field, v.lo(field) & ~bits);
  if ((pin & PIN_BASED.VIRTUAL_NMIS) !== 0) or(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.NMI_EXITING);
  else drop(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.NMI_WINDOW_EXITING);
  if ((second & S.VIRTUALIZE_X2APIC_MODE) !== 0)
    drop(C.SECONDARY_VM_EXEC_CONTROL, S.VIRTUALIZE_APIC_ACCESSES);
  if ((pin & PIN_BASED.POSTED_INTR) !== 0) {
    or(C.SECONDARY_VM_EXEC_CONTROL, S.VIRTUAL_INTR_DELIVERY);
    or(C.VM_EXIT_CONTROLS, VM_EXIT.ACK_INTR_ON_EXIT);
    v.set32(C.POSTED_INTR_NV, rng.below(0x100));
  }
  const apic = S.VIRTUALIZE_X2APIC_MODE | S.APIC_REGISTER_VIRT | S.VIRTUAL_INTR_DELIVERY;
  if ((v.lo(C.SECONDARY_VM_EXEC_CONTROL) & apic) !== 0) or(C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.TPR_SHADOW);
  if ((v.lo(C.SECONDARY_VM_EXEC_CONTROL) & S.VIRTUAL_INTR_DELIVERY) !== 0)
    or(C.PIN_BASED_VM_EXEC_CONTROL, PIN_BASED.EXT_INTR_MASK);
  if ((pin & PIN_BASED.VMX_PREEMPTION_TIMER) === 0)
    drop(C.VM_EXIT_CONTROLS, VM_EXIT.SAVE_VMX_PREEMPTION_TIMER);
  if ((second & S.ENABLE_EPT) === 0) drop(C.SECONDARY_VM_EXEC_CONTROL, S.ENABLE_PML | S.UNRESTRICTED_GUEST);
  v.set32(C.VIRTUAL_PROCESSOR_ID, 1 + rng.below(3));
  // What the controls may load.
  for (const field of [G.IA32_EFER, H.IA32_EFER]) v.set32(field, EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE);
  for (const field of [G.IA32_PAT, H.IA32_PAT]) v.setPair(field, PAT_RESET_LO, PAT_RESET_HI);
  v.set32(C.VM_FUNCTION_CONTROL, (second & S.ENABLE_EPT) === 0 ? 0 : rng.below(2));
  for (const field of ADDRESSES)
    if (field !== G.VMCS_LINK_POINTER) v.set64(field, rng.pick(world.arena).physical);
}

/** Entries of the EPT that L1 gives L2: on the way to a page that L2 uses. */
function mutateEpt(rng: Rng, world: World, m: Mutation): void {
  const target = Number(rng.pick(world.arena).physical);
  let table = world.vm.arch.tdpPgd!;
  for (let level = 4; level > 0; level--) {
    const at = gpa(table + (Math.floor(target / 4096 / 512 ** (level - 1)) % 512) * 8);
    const entry = readGpaU64(world.vm, at);
    if (rng.chance(30) || level === 1) {
      const value = eptEntry(rng, world, entry);
      writeGpaU64(world.vm, at, value);
      m.notes.push(`EPT12 level ${level} of 0x${target.toString(16)}=0x${value.toString(16)}`);
      return;
    }
    table = gpa(Number(entry & 0xf_ffff_ffff_f000n));
  }
}

function eptEntry(rng: Rng, world: World, entry: bigint): bigint {
  switch (rng.below(5)) {
    case 0:
      return (entry & ~7n) | BigInt(rng.below(8));
    case 1:
      return entry ^ (1n << BigInt(rng.below(64)));
    case 2:
      return (addressValue(rng, world, 'physical') & ~0xfffn) | BigInt(rng.below(0x1000));
    case 3:
      return entry | 0x80n;
    default:
      return wordValue(rng);
  }
}

/** What an arena page may be taken for. */
function fillPage(rng: Rng, world: World, page: bigint): void {
  const bytes = rng.chance(40) ? new Uint8Array(4096).fill(rng.pick([0, 0, 0xff])) : new Uint8Array(4096);
  const view = new DataView(bytes.buffer);
  if (rng.chance(50))
    for (let i = 0; i < 6; i++) {
      // An MSR area.
      view.setUint32(16 * i, rng.pick(MSRS), true);
      view.setUint32(16 * i + 4, rng.chance(10) ? 1 : 0, true);
      view.setBigUint64(16 * i + 8, wordValue(rng), true);
    }
  else if (rng.chance(30))
    for (let i = 0; i < 512; i++)
      view.setBigUint64(8 * i, addressValue(rng, world, 'physical') | BigInt(rng.below(8)), true);
  else if (rng.chance(30)) bytes.set(rng.bytes(4096));
  // What a VMCS begins with, at times.
  if (rng.chance(30)) view.setUint32(0, (VMCS12_REVISION | (rng.below(2) << 31)) >>> 0, true);
  pokeGpa(world, Number(page), bytes);
}

/** A case: its vmcs12, with everything else in place. */
export function mutate(rng: Rng, world: World): Mutation {
  const m: Mutation = { vmcs12: new Vmcs12(), notes: [] };
  m.vmcs12.bytes.set(world.vmcs12);
  // The first arena page is L2's code.
  for (const page of world.arena.slice(1)) if (rng.chance(30)) fillPage(rng, world, page.physical);
  const style = rng.below(100);
  if (style >= 35) allowedControls(rng, world, m);
  if (style >= 50) makeConsistent(rng, world, m.vmcs12);
  else if (rng.chance(30)) m.vmcs12.set32(C.SECONDARY_VM_EXEC_CONTROL, 0);
  const fields = style < 80 ? rng.below(4) : style < 97 ? 5 + rng.below(20) : 0;
  for (let i = 0; i < fields; i++) setField(rng, world, m, rng.pick(FIELDS));
  if (style >= 97) {
    m.vmcs12.bytes.set(rng.bytes(4096));
    m.notes.push('every byte random');
  }
  if (rng.chance(25)) mutateEpt(rng, world, m);
  // Data breakpoints are not modelled (docs/limits.md).
  m.vmcs12.set32(G.DR7, m.vmcs12.lo(G.DR7) & ~0xff);
  m.vmcs12.revisionId = rng.chance(99) ? VMCS12_REVISION : rng.u32() | 0;
  m.vmcs12.launchState = rng.chance(98) ? 0 : 1;
  return m;
}
