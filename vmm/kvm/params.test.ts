// SPDX-License-Identifier: GPL-2.0-only
/** Module parameters. What a bool accepts: kstrtobool() of lib/kstrtox.c; names: parameq() of kernel/params.c. */
import { describe, expect, it } from 'vitest';
import { defaultParams, KVM_PARAMS, ParamError, parseParams } from './params.ts';

describe('module parameters', () => {
  it('have their defaults', () => {
    expect(parseParams([])).toEqual(defaultParams());
    expect(defaultParams()['kvm_intel.ept']).toBe(1);
    expect(defaultParams()['kvm.halt_poll_ns']).toBe(0);
  });

  it('take what the kernel takes for a bool', () => {
    const value = (text: string): number => parseParams([`kvm_intel.vpid=${text}`])['kvm_intel.vpid'];
    expect(['0', 'n', 'N', 'off', 'no'].map(value)).toEqual([0, 0, 0, 0, 0]);
    expect(['1', 'y', 'Y', 'on', 'yes'].map(value)).toEqual([1, 1, 1, 1, 1]);
    expect(parseParams(['kvm.ignore_msrs'])['kvm.ignore_msrs']).toBe(1);
  });

  it('take decimal and hexadecimal integers, and - for _', () => {
    expect(parseParams(['kvm_intel.ple_gap=0x40'])['kvm_intel.ple_gap']).toBe(64);
    expect(parseParams(['kvm.halt-poll-ns=200000'])['kvm.halt_poll_ns']).toBe(200_000);
    expect(parseParams(['kvm.nx_huge_pages=auto', 'kvm.nx-huge-pages=-1'])['kvm.nx_huge_pages']).toBe(0);
  });

  const errors: [string, string][] = [
    ['kvm_intel.ept=maybe', "kvm_intel.ept: 'maybe' is not a boolean (0, 1, n, y, off, on)"],
    ['kvm.nx_huge_pages=x', "kvm.nx_huge_pages: 'x' is not a boolean (0, 1, n, y, off, on, or auto)"],
    ['kvm_intel.ple_gap=-1', "kvm_intel.ple_gap: '-1' is not an integer between 0 and 4294967295"],
    ['kvm.force_emulation_prefix=7', "kvm.force_emulation_prefix: '7' is not an integer between 0 and 1"],
    ['kvm.halt_poll_ns', 'kvm.halt_poll_ns: needs a value'],
    [
      'kvm_amd.ept=1',
      "unknown parameter 'kvm_amd.ept'; known: kvm_amd.npt, kvm_amd.nested, kvm_amd.vls, kvm_amd.vgif, kvm_amd.avic",
    ],
    ['ept=1', "unknown parameter 'ept'; modules are kvm, kvm_intel and kvm_amd"],
    ['toString=1', "unknown parameter 'toString'; modules are kvm, kvm_intel and kvm_amd"],
  ];
  for (const [arg, message] of errors) {
    it(`refuse ${arg} in one line`, () => {
      expect(() => parseParams([arg])).toThrow(new ParamError(message));
      expect(message).not.toContain('\n');
    });
  }

  it('have defaults that they accept themselves', () => {
    for (const [name, spec] of Object.entries(KVM_PARAMS)) {
      expect(parseParams([`${name}=${spec.default}`])).toEqual(defaultParams());
    }
  });
});
