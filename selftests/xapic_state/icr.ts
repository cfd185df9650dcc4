// SPDX-License-Identifier: GPL-2.0-only
/** The interrupt command register reads back as it was written. After x86/xapic_state_test.c of the KVM selftests. */
import { gpa } from '../../lib/x86/addr.ts';
import { APIC_DEST, APIC_ICR, APIC_REG, X2APIC_ICR_RSVD } from '../../lib/x86/apic.ts';
import { hex } from '../../lib/x86/bits.ts';
import { X86_FEATURE } from '../../lib/x86/cpuid.ts';
import { APIC_DEFAULT_GPA } from '../../lib/guest/apic.ts';
import { UCALL } from '../../lib/guest/ucall.ts';
import type { Backend, Steps } from '../../lib/kvm_util/backend.ts';
import { kvmVmFree, type KvmVcpu } from '../../lib/kvm_util/kvm_util.ts';
import { TEST_ASSERT, TEST_ASSERT_EQ } from '../../lib/kvm_util/test_util.ts';
import { runUntilUcall } from '../../lib/kvm_util/ucall_common.ts';
import { vmCreateWithOneVcpu } from '../../lib/kvm_util/vm_create.ts';
import { vcpuClearCpuidFeature } from '../../lib/kvm_util/x86/cpuid.ts';
import { virtPgMap } from '../../lib/kvm_util/x86/page_table.ts';
import { linkXapicState, x2apic_guest_code, xapic_guest_code } from './guest.ts';

export type ApicMode = 'xapic' | 'x2apic';

const BUSY = BigInt(APIC_ICR.BUSY);
const RSVD = BigInt(X2APIC_ICR_RSVD);
const DM_MASK = BigInt(APIC_ICR.DM_MASK);
/** ICR2 keeps the destination only. */
const XAPIC_ICR_MASK = 0xff00_0000_ffff_ffffn;

/** A 32-bit register of KVM_GET_LAPIC's image. */
export const lapicView = (regs: Uint8Array): DataView =>
  new DataView(regs.buffer, regs.byteOffset, regs.byteLength);

/** Two 32-bit registers, 16 bytes apart, as one value. */
function pairAt(view: DataView, offset: number): bigint {
  return BigInt(view.getUint32(offset, true)) | (BigInt(view.getUint32(offset + 0x10, true)) << 32n);
}

/** The IRR tells the guest what to write: all of its bits are valid, and KVM leaves them alone. */
function passToGuest(vcpu: KvmVcpu, value: bigint): void {
  const state = vcpu.fd.getLapic();
  const view = lapicView(state.regs);
  view.setUint32(APIC_REG.IRR, Number(value & 0xffff_ffffn), true);
  view.setUint32(APIC_REG.IRR + 0x10, Number(value >> 32n), true);
  vcpu.fd.setLapic(state);
}

/** ____test_icr(). */
function* checkIcr(vcpu: KvmVcpu, mode: ApicMode, value: bigint): Steps<void> {
  const before = pairAt(lapicView(vcpu.fd.getLapic().regs), APIC_REG.ICR);
  passToGuest(vcpu, value);
  const uc = yield* runUntilUcall(vcpu);
  TEST_ASSERT_EQ(uc.cmd, UCALL.SYNC, 'ucall');
  TEST_ASSERT_EQ(uc.args[1]!, value, 'ICR value in the guest');
  const icr = pairAt(lapicView(vcpu.fd.getLapic().regs), APIC_REG.ICR);
  const refused = mode === 'x2apic' && (value & RSVD) !== 0n;
  // Added: a write that faults leaves the register as it was.
  const expected = refused ? before : (mode === 'xapic' ? value & XAPIC_ICR_MASK : value) & ~BUSY;
  TEST_ASSERT(icr === expected, () => `ICR in ${mode} mode: got ${hex(icr)}, expected ${hex(expected)}`);
}

/** __test_icr(): BUSY is reserved and ignored in xAPIC mode; in x2APIC mode vendors differ. */
function* checkWithBusy(vcpu: KvmVcpu, mode: ApicMode, value: bigint): Steps<void> {
  if (mode === 'xapic') yield* checkIcr(vcpu, mode, value | BUSY);
  yield* checkIcr(vcpu, mode, value & ~BUSY);
}

/** Values in upstream's order. */
function* icrValues(self: number): Generator<bigint> {
  const assert = APIC_ICR.LEVEL_ASSERT;
  for (const base of [APIC_DEST.SELF | assert, assert]) {
    for (let vector = 0; vector <= 0xff; vector++) yield BigInt(base | vector);
  }
  // Every kind of message to vCPUs that are not there.
  for (let dest = 0; dest < 0xff; dest++) {
    if (dest === self) continue;
    for (let mode = 0; mode < 8; mode++) yield (BigInt(dest) << 56n) | BigInt(assert | 0xff | (mode << 8));
  }
  for (let mode = 0; mode < 8; mode++) yield BigInt(APIC_DEST.ALLBUT | assert | (mode << 8));
  for (const garbage of [0xa5a5_a5a5_a5a5_a5a5n, 0x5a5a_5a5a_5a5a_5a5an, 0xffff_ffff_ffff_ffffn])
    yield garbage & ~DM_MASK;
}

/** test_icr(), on a VM of its own: CPUID must not change once a vCPU has run. */
export function* testIcr(backend: Backend, mode: ApicMode): Steps<void> {
  const image = linkXapicState();
  const entry = image.addressOf(mode === 'xapic' ? xapic_guest_code : x2apic_guest_code);
  const [vm, vcpu] = yield* vmCreateWithOneVcpu(backend, { image, entry });
  if (mode === 'xapic') {
    vcpuClearCpuidFeature(vcpu, X86_FEATURE.X2APIC);
    virtPgMap(vm, BigInt(APIC_DEFAULT_GPA), gpa(APIC_DEFAULT_GPA));
  }
  for (const value of icrValues(vcpu.id)) yield* checkWithBusy(vcpu, mode, value);
  yield* kvmVmFree(vm);
}
