// SPDX-License-Identifier: GPL-2.0-only
/**
 * 5-level EPT and mode-based execute control as controls of a guest. SDM, "The Extended Page Table Mechanism", "EPT
 * Translation Mechanism", "Exit Qualification for EPT Violations", "Extended-Page-Table Pointer (EPTP)".
 */
import { describe, expect, it } from 'vitest';
import { VMX_EPT_CAP, VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { type CpuProfile, PROFILES } from '../cost/profiles.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { AT, EPTP, SEL, VmxBox } from './testing/fixture.ts';
import { vmread64 } from './vmcs_access.ts';
import { vmxCapabilityMsr } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
const LOAD_ESI = [0x8b, 0x33]; // mov esi, [rbx]
const [RBX, RSI] = [3, 6];
const EPTP5 = AT.EPT2_PML4 | 0x26;
/** Linear 4 GiB leads to the guest-physical address 2^48. */
const LINEAR = 2 ** 32;
const HIGH = 2 ** 48;
const { MODE_BASED_EPT_EXEC } = SECONDARY_EXEC;

/** A guest that reads DATA at guest-physical 2^48 + DATA; a 5-level EPT maps the first GiB from there as from 0. */
function highGuest(profile: CpuProfile): VmxBox {
  const box = new VmxBox(1, profile).begin().code([...LOAD_ESI, ...VMCALL]);
  box.word(AT.PDPT + 8 * 4, 0xe7);
  box.word(AT.PDPT + 8 * 4 + 4, HIGH / 2 ** 32);
  box.word(AT.EPT2_PML4, AT.EPT_PML4 | 7);
  box.word(AT.EPT2_PML4 + 8, AT.EPT2_PDPT | 7);
  box.word(AT.EPT2_PDPT, AT.EPT_PD | 7);
  box.word(AT.EPT_PD, 0xb7);
  box.word(AT.DATA, 0x1234);
  setReg(box.cpu, RBX, BigInt(LINEAR + AT.DATA));
  return box;
}

describe('5-level EPT', () => {
  it('is a capability of the Ice Lake profile', () => {
    const caps = (profile: CpuProfile): number =>
      vmxCapabilityMsr(new VmxBox(1, profile).cpu.vmx, VMX_MSR.IA32_VMX_EPT_VPID_CAP)![0];
    expect(caps(PROFILES.icelake) & VMX_EPT_CAP.PAGE_WALK_5_BIT).not.toBe(0);
    expect(caps(PROFILES.skylake) & VMX_EPT_CAP.PAGE_WALK_5_BIT).toBe(0);
  });

  it('is refused by VM entry without the capability', () => {
    expect(() => highGuest(PROFILES.skylake).write(C.EPT_POINTER, EPTP5).launch()).toThrow(
      'error 7: EPTP: page-walk length',
    );
  });

  it('leads a guest to addresses of more than 48 bits', () => {
    const box = highGuest(PROFILES.icelake).write(C.EPT_POINTER, EPTP5);
    expect(box.launch()).toBe(R.VMCALL);
    expect(getReg(box.cpu, RSI)).toBe(0x1234n);
  });

  it('with 4 levels such an address violates EPT', () => {
    const box = highGuest(PROFILES.icelake);
    expect(box.launch()).toBe(R.EPT_VIOLATION);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(0x181);
    expect(vmread64(box.cpu, I.GUEST_PHYSICAL_ADDRESS)).toBe(BigInt(HIGH + AT.DATA));
    expect(vmread64(box.cpu, I.GUEST_LINEAR_ADDRESS)).toBe(BigInt(LINEAR + AT.DATA));
  });
});

/** Identity map by a PDPT whose entries have `flags`, under mode-based execute control; the guest runs at CPL `cpl`. */
function mbecGuest(flags: number, cpl: 0 | 3): VmxBox {
  const box = new VmxBox().begin().code(VMCALL);
  box.change(C.SECONDARY_VM_EXEC_CONTROL, MODE_BASED_EPT_EXEC);
  box.word(AT.EPT_PML4, AT.EPT_PDPT | 0x407);
  for (let n = 0; n < 4; n++) box.word(AT.EPT_PDPT + 8 * n, (n << 30) | 0xb0 | flags);
  if (cpl === 3) {
    box.write(G.CS_SELECTOR, SEL.USER_CS).write(G.CS_AR_BYTES, 0xa0fb);
    box.write(G.SS_SELECTOR, SEL.USER_DS).write(G.SS_AR_BYTES, 0xc0f3);
  } else box.word(AT.PML4, AT.PDPT | 0x23);
  return box;
}

describe('mode-based execute control', () => {
  // Bit 2 of an entry: execution by supervisor-mode linear addresses; bit 10: by user-mode ones.
  const rows: readonly (readonly [string, number, 0 | 3, number, number])[] = [
    ['supervisor execution needs bit 2', 0x407, 0, R.VMCALL, 0],
    ['supervisor execution is refused without it', 0x403, 0, R.EPT_VIOLATION, 0x1dc],
    ['user execution needs bit 10', 0x403, 3, R.VMCALL, 0],
    ['user execution is refused without it', 0x007, 3, R.EPT_VIOLATION, 0x1bc],
  ];
  it.each(rows)('%s', (_title, flags, cpl, reason, qualification) => {
    const box = mbecGuest(flags, cpl);
    expect(box.launch()).toBe(reason);
    expect(box.read(I.EXIT_QUALIFICATION)).toBe(qualification);
  });

  it('without it bit 2 speaks for both, and bit 10 is ignored', () => {
    const allowed = mbecGuest(0x007, 3).change(C.SECONDARY_VM_EXEC_CONTROL, 0, MODE_BASED_EPT_EXEC);
    expect(allowed.launch()).toBe(R.VMCALL);
    const refused = mbecGuest(0x403, 3).change(C.SECONDARY_VM_EXEC_CONTROL, 0, MODE_BASED_EPT_EXEC);
    expect(refused.launch()).toBe(R.EPT_VIOLATION);
    expect(refused.read(I.EXIT_QUALIFICATION)).toBe(0x19c);
  });

  it('ends with the VM exit', () => {
    const box = mbecGuest(0x407, 0);
    box.launch();
    expect(box.cpu.mmu.mbec).toBe(0);
    box.change(C.SECONDARY_VM_EXEC_CONTROL, 0, MODE_BASED_EPT_EXEC).write(C.EPT_POINTER, EPTP);
    expect(box.write(G.RIP, AT.CODE).resume()).toBe(R.VMCALL);
  });
});
