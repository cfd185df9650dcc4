// SPDX-License-Identifier: GPL-2.0-only
/** VMREAD and VMWRITE: widths, halves, missing fields. SDM, "VMREAD", "VMWRITE", appendix "Field Encoding in VMCS". */
import { describe, expect, it } from 'vitest';
import { VMX_MISC, VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { vmcsFieldIs64, vmcsFieldWidth, VMCS_WIDTH } from '../../../lib/x86/vmx/field.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { VMCS_CTRL } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../../lib/x86/vmx/vmcs_info.ts';
import { SanitizerError } from '../errors.ts';
import { PROFILES } from '../cost/profiles.ts';
import { vmxCapsOf } from './caps.ts';
import { AT, VmxBox } from './testing/fixture.ts';
import {
  vmread32,
  vmread64,
  vmreadField,
  vmreadHigh,
  vmreadNum,
  vmwrite32,
  vmwrite64,
  vmwriteField,
  vmwriteNum,
} from './vmcs_access.ts';
import { VMCS_REGION_BYTES, VMCS_WORDS_USED, vmcsEpochWord, vmcsWord } from './vmcs_layout.ts';
import { vmxon } from './vmcs_insns.ts';
import { VMX_RESULT as RESULT, vmxCapabilityMsr } from './vmx_unit.ts';

const ALL = [VMCS_CTRL, VMCS_INFO, VMCS_GUEST, VMCS_HOST].flatMap((table) => Object.values(table));
const out = new Int32Array(2);
const { fieldWord } = vmxCapsOf(PROFILES.skylake);
const supported = ALL.filter((field) => fieldWord[field] !== -1);

describe('the VMCS layout', () => {
  it('gives each field words of its own inside of the region', () => {
    const used = new Set<number>();
    for (const field of ALL) {
      for (let n = 0; n < (vmcsFieldIs64(field) ? 2 : 1); n++) {
        const word = vmcsWord(field) + n;
        expect(used.has(word)).toBe(false);
        expect(word).toBeGreaterThanOrEqual(16);
        used.add(word);
      }
    }
    expect(VMCS_WORDS_USED * 4).toBeLessThanOrEqual(VMCS_REGION_BYTES);
    expect(vmcsWord(0x7ffe)).toBe(-1);
    expect(vmcsWord(0xffff_ffff)).toBe(-1);
    expect(vmcsEpochWord(VMCS_GUEST.RIP)).toBe(-1);
    expect(vmcsEpochWord(-1)).toBe(-1);
  });
});

describe('VMREAD and VMWRITE', () => {
  const box = new VmxBox().begin();
  const { cpu } = box;

  it('keep the bits of the width of each supported field', () => {
    for (const field of supported) {
      expect(vmwriteField(cpu, field, 0x8765_4321, 0x7edc_ba98)).toBe(RESULT.SUCCEED);
      expect(vmreadField(cpu, field, out)).toBe(RESULT.SUCCEED);
      const is16 = vmcsFieldWidth(field) === VMCS_WIDTH.U16;
      expect(out[0]! >>> 0).toBe(is16 ? 0x4321 : 0x8765_4321);
      expect(out[1]).toBe(vmcsFieldIs64(field) ? 0x7edc_ba98 : 0);
    }
  });

  it('reach the upper half of 64-bit fields only by the access type', () => {
    vmwrite64(cpu, VMCS_CTRL.TSC_OFFSET, 0x1122_3344_5566_7788n);
    vmreadField(cpu, VMCS_CTRL.TSC_OFFSET + 1, out);
    expect([...out]).toEqual([0x1122_3344, 0]);
    vmwriteField(cpu, VMCS_CTRL.TSC_OFFSET + 1, 0x99, 0x77);
    expect(vmread64(cpu, VMCS_CTRL.TSC_OFFSET)).toBe(0x99_5566_7788n);
    expect(vmreadField(cpu, VMCS_GUEST.RIP + 1, out)).toBe(RESULT.FAIL_VALID);
    expect(vmreadField(cpu, VMCS_GUEST.CS_LIMIT + 1, out)).toBe(RESULT.FAIL_VALID);
  });

  it.each([
    ['of tertiary controls', VMCS_CTRL.TERTIARY_VM_EXEC_CONTROL],
    ['of CET', VMCS_HOST.S_CET],
    ['of FRED', VMCS_GUEST.IA32_FRED_CONFIG],
    ['of XSAVES', VMCS_CTRL.XSS_EXIT_BITMAP],
    ['that nobody has', 0x7ffe],
    ['with a reserved bit', 0x1000],
    ['beyond 32 bits', -1],
  ])('fail with error 12 for a field %s', (_name, field) => {
    for (const insn of [() => vmreadField(cpu, field, out), () => vmwriteField(cpu, field, 0, 0)]) {
      expect(insn()).toBe(RESULT.FAIL_VALID);
      expect(box.error()).toBe(VMXERR.UNSUPPORTED_VMCS_COMPONENT);
    }
  });

  it('VMWRITE of an information field needs IA32_VMX_MISC bit 29', () => {
    expect(vmwriteField(cpu, VMCS_INFO.VM_EXIT_REASON, 7, 0)).toBe(RESULT.SUCCEED);
    const caps = { ...cpu.vmx.caps, misc: cpu.vmx.caps.misc & ~VMX_MISC.VMWRITE_SHADOW_RO_FIELDS };
    const other = new VmxBox().begin();
    Object.assign(other.cpu.vmx, { caps });
    expect(vmwriteField(other.cpu, VMCS_INFO.VM_EXIT_REASON, 7, 0)).toBe(RESULT.FAIL_VALID);
    expect(other.error()).toBe(VMXERR.VMWRITE_READ_ONLY_VMCS_COMPONENT);
    expect(() => {
      vmwrite32(other.cpu, VMCS_INFO.VM_EXIT_REASON, 7);
    }).toThrow('which is read-only');
  });

  it('are invalid without a current VMCS', () => {
    const { cpu: bare } = new VmxBox();
    vmxon(bare, AT.VMXON);
    expect(vmreadField(bare, VMCS_GUEST.RIP, out)).toBe(RESULT.FAIL_INVALID);
    expect(vmwriteField(bare, VMCS_GUEST.RIP, 0, 0)).toBe(RESULT.FAIL_INVALID);
    expect(() => vmread32(bare, VMCS_GUEST.RIP)).toThrow(SanitizerError);
  });
});

describe('typed accessors of L0', () => {
  const { cpu } = new VmxBox().begin();

  it('agree with each other', () => {
    vmwrite64(cpu, VMCS_GUEST.RIP, 0xffff_ffff_8100_0000n);
    expect(vmread64(cpu, VMCS_GUEST.RIP)).toBe(0xffff_ffff_8100_0000n);
    expect(vmread32(cpu, VMCS_GUEST.RIP)).toBe(0x8100_0000);
    expect(vmreadHigh(cpu, VMCS_GUEST.RIP)).toBe(0xffff_ffff);
    expect(() => vmreadNum(cpu, VMCS_GUEST.RIP)).toThrow('does not fit');
    vmwriteNum(cpu, VMCS_GUEST.CR3, 2 ** 45 + 0x1000);
    expect(vmreadNum(cpu, VMCS_GUEST.CR3)).toBe(2 ** 45 + 0x1000);
    vmwrite32(cpu, VMCS_GUEST.CR3, -1);
    expect(vmreadNum(cpu, VMCS_GUEST.CR3)).toBe(0xffff_ffff);
    expect(vmreadHigh(cpu, VMCS_GUEST.CS_LIMIT)).toBe(0);
  });

  it('a missing field is a bug of L0', () => {
    expect(() => vmread32(cpu, VMCS_CTRL.TERTIARY_VM_EXEC_CONTROL)).toThrow('which the processor lacks');
    expect(() => {
      vmwrite32(cpu, 0x7ffe, 0);
    }).toThrow(SanitizerError);
  });
});

describe('capability MSRs', () => {
  const { cpu } = new VmxBox();

  it('the highest field index is that of a field that exists', () => {
    const highest = Math.max(...supported.map((field) => (field >>> 1) & 0x1ff));
    expect(vmxCapabilityMsr(cpu.vmx, VMX_MSR.IA32_VMX_VMCS_ENUM)).toEqual([highest << 1, 0]);
  });

  it('controls that must be 1 may be 1, and the TRUE MSRs demand no more than the others', () => {
    for (const [plain, exact] of [
      [0x481, 0x48d],
      [0x482, 0x48e],
      [0x483, 0x48f],
      [0x484, 0x490],
    ] as const) {
      const [must, may] = vmxCapabilityMsr(cpu.vmx, plain)!;
      const [trueMust, trueMay] = vmxCapabilityMsr(cpu.vmx, exact)!;
      expect(must & ~may).toBe(0);
      expect(trueMust & ~must).toBe(0);
      expect(trueMay).toBe(may);
    }
  });

  it('others do not exist', () => {
    expect(vmxCapabilityMsr(cpu.vmx, VMX_MSR.IA32_VMX_PROCBASED_CTLS3)).toBeUndefined();
  });
});
