// SPDX-License-Identifier: GPL-2.0-only
/** The VMX kernels do what they time: one exit per trip, at the price of the cost table. */
import { describe, expect, it } from 'vitest';
import { VMX_GUESTS, vmxRoundTrips } from './vmx_kernels.ts';

describe('VMX round trips', () => {
  it.each(Object.keys(VMX_GUESTS) as (keyof typeof VMX_GUESTS)[])('%s costs what its parts cost', (guest) => {
    let milliseconds = 0;
    const result = vmxRoundTrips(guest, 50, () => (milliseconds += 10));
    // VM entry 350, VM exit 250, three VMREADs of 30, a VMWRITE of 40, the instruction and the jump.
    expect(result.cyclesPerTrip).toBe(350 + 250 + 3 * 30 + 40 + 2);
    expect([result.roundTrips, result.perSecond]).toEqual([50, 5000]);
  });
});
