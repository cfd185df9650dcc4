// SPDX-License-Identifier: GPL-2.0-only
/** Which MSRs an entry of vmcs12's MSR areas may name. Expected: SDM, "Loading MSRs" and "Saving MSRs". */
import { describe, expect, it } from 'vitest';
import { APICBASE } from '../../../../lib/x86/apic.ts';
import { nestedVmxLoadMsrRefused, nestedVmxStoreMsrRefused } from './check_msr_entry.ts';
import { checkVcpu, vmcs12Fixture } from './testing/vmcs12_fixture.ts';

describe('an entry of an MSR area', () => {
  const { vcpu, nested } = vmcs12Fixture(checkVcpu());

  it('may name any other MSR', () => {
    for (const index of [0x10, 0x1b, 0x174, 0x800, 0x8ff, 0xc000_0080, 0xc000_0102, 0xffff_ffff]) {
      expect([index, nestedVmxLoadMsrRefused(vcpu, index, 0)]).toEqual([index, false]);
      expect([index, nestedVmxStoreMsrRefused(vcpu, index, 0)]).toEqual([index, false]);
    }
    expect(nested.failedCheck).toBe('');
  });

  it.each([
    ['MSR-load area: IA32_FS_BASE', 0xc000_0100, 0, true, false],
    ['MSR-load area: IA32_GS_BASE', 0xc000_0101, 0, true, false],
    ['MSR-load area: IA32_SMM_MONITOR_CTL', 0x9b, 0, true, false],
    ['MSR-store area: IA32_SMBASE', 0x9e, 0, false, true],
    ['MSR area: IA32_BIOS_UPDT_TRIG', 0x79, 0, true, true],
    ['MSR area: IA32_BIOS_SIGN_ID', 0x8b, 0, true, true],
    ['MSR area: bits 63:32 of an entry', 0x10, 1, true, true],
  ] as const)('is refused: %s', (rule, index, reserved, load, store) => {
    expect([
      nestedVmxLoadMsrRefused(vcpu, index, reserved),
      nestedVmxStoreMsrRefused(vcpu, index, reserved),
    ]).toEqual([load, store]);
    expect(nested.failedCheck).toBe(rule);
  });

  it('may not name an x2APIC register in x2APIC mode', () => {
    vcpu.arch.apicBase |= APICBASE.EXTD;
    const refused = [0x7ff, 0x800, 0x8ff, 0x900].map((index) => nestedVmxLoadMsrRefused(vcpu, index, 0));
    expect(refused).toEqual([false, true, true, false]);
    expect(nested.failedCheck).toBe('MSR area: x2APIC MSR');
  });
});
