// SPDX-License-Identifier: GPL-2.0-only
/** What a nested exit is made of: entries and exits of the processor by the shape of nested VMX itself, not by the clock. */
import { describe, expect, it } from 'vitest';
import { COST } from '../vmm/machine/cost/points.ts';
import { l1Loop, nestedRoundTrips } from './nested_kernels.ts';

const WORK = { trips: 100, batches: 2 };
const NO_SHADOW = ['kvm_intel.enable_shadow_vmcs=0'];
/** Entering and leaving KVM_RUN, once per batch. */
const PER_BATCH = 0.05;

describe('a nested exit', () => {
  it.each(['cpuid', 'rdmsr', 'hlt'] as const)('by %s is two hardware round trips', (cause) => {
    const { counts } = nestedRoundTrips(cause, WORK);
    expect(Math.abs(counts[COST.VM_ENTRY]! - 2)).toBeLessThan(PER_BATCH);
    expect(Math.abs(counts[COST.VM_EXIT]! - 2)).toBeLessThan(PER_BATCH);
    expect(Math.abs(counts[COST.L0_NESTED_EXIT]! - 1)).toBeLessThan(PER_BATCH);
  });

  it('has one more for each VMREAD and VMWRITE of L1 without VMCS shadowing', () => {
    const { counts } = nestedRoundTrips('vmcall', { ...WORK, params: NO_SHADOW });
    // The exit reason, RIP, and RIP again.
    expect(Math.abs(counts[COST.VM_EXIT]! - 5)).toBeLessThan(PER_BATCH);
  });

  it('describes no MMU context anew if L1 has EPT, and two if not', () => {
    const without = nestedRoundTrips('vmcall', WORK).counts[COST.MMU_INIT]!;
    const withEpt = nestedRoundTrips('vmcall', { ...WORK, ept: true }).counts[COST.MMU_INIT]!;
    expect(Math.abs(without - 2)).toBeLessThan(PER_BATCH);
    expect(withEpt).toBeLessThan(PER_BATCH);
  });
});

describe('VMREAD and VMWRITE of L1', () => {
  it.each(['vmread', 'vmwrite'] as const)('%s exits only without VMCS shadowing', (name) => {
    expect(l1Loop(name, WORK).counts[COST.VM_EXIT]).toBeLessThan(PER_BATCH);
    const exits = l1Loop(name, { ...WORK, params: NO_SHADOW }).counts[COST.VM_EXIT]!;
    expect(Math.abs(exits - 1)).toBeLessThan(PER_BATCH);
  });
});
