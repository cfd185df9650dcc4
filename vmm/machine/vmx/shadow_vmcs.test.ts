// SPDX-License-Identifier: GPL-2.0-only
/**
 * Shadow VMCSs: as current VMCS in root operation, and behind VMREAD and VMWRITE of a guest. SDM, "VMCS Types: Ordinary
 * and Shadow", "Basic VM-Entry Checks", "Instructions That Cause VM Exits Conditionally", "VMREAD", "VMWRITE". Checks of
 * VM entry on bitmaps and link pointer are in check_controls.test.ts and check_guest.test.ts.
 */
import { describe, expect, it } from 'vitest';
import { CR4, RFLAGS } from '../../../lib/x86/registers.ts';
import { VMX_MISC, VMX_MSR } from '../../../lib/x86/vmx/capability_msrs.ts';
import { SECONDARY_EXEC } from '../../../lib/x86/vmx/controls.ts';
import { EXIT_REASON as R } from '../../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../../lib/x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../../lib/x86/vmx/vmcs_info.ts';
import { COST } from '../cost/points.ts';
import { ARITH_FLAGS } from '../cpu/flags.ts';
import { getReg, setReg } from '../cpu/regs.ts';
import { BLOCKING, S } from '../cpu/state.ts';
import { vmlaunch, vmresume } from './entry.ts';
import { AT, SEL, VmxBox } from './testing/fixture.ts';
import { vmread32, vmread64, vmwrite64, vmwritePair } from './vmcs_access.ts';
import { vmclear, vmptrld, vmptrst, vmxon } from './vmcs_insns.ts';
import { VMX_RESULT as RESULT, vmxCapabilityMsr } from './vmx_unit.ts';

const VMCALL = [0x0f, 0x01, 0xc1];
/** The encoding is in RAX, the value in RCX or at [RBX]. */
const VMREAD = [0x0f, 0x78, 0xc1];
const VMREAD_MEM = [0x0f, 0x78, 0x03];
const VMWRITE = [0x0f, 0x79, 0xc1];
const VMWRITE_MEM = [0x0f, 0x79, 0x03];
const [RAX, RCX, RBX] = [0, 1, 3];
const NO_FIELD = 0x7ffe;
const UNMAPPED = 0x1_0000_0000n;

type Setup = (box: VmxBox) => unknown;
const nothing: Setup = () => undefined;

/** A guest with VMCS shadowing that executes `bytes` with `field` in RAX, then VMCALL. */
function guest(bytes: readonly number[], field: number | bigint, setup: Setup = nothing): VmxBox {
  const box = new VmxBox().begin().code([...bytes, ...VMCALL]);
  const { cpu } = box;
  box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
  vmwritePair(cpu, G.VMCS_LINK_POINTER, AT.SHADOW, 0);
  box.write(G.RFLAGS, ARITH_FLAGS | RFLAGS.FIXED);
  setReg(cpu, RAX, BigInt(field));
  setReg(cpu, RBX, BigInt(AT.DATA));
  setup(box);
  return box;
}
const unlinked: Setup = (box) => {
  vmwrite64(box.cpu, G.VMCS_LINK_POINTER, 0xffff_ffff_ffff_ffffn);
};
const user: Setup = (box) =>
  box
    .write(G.CS_SELECTOR, SEL.USER_CS)
    .write(G.CS_AR_BYTES, 0xa0fb)
    .write(G.SS_SELECTOR, SEL.USER_DS)
    .write(G.SS_AR_BYTES, 0xc0f3)
    .write(C.EXCEPTION_BITMAP, 1 << 13);
const bit =
  (page: number, field: number): Setup =>
  (box) => {
    box.cpu.mem.u8[page + (field >>> 3)] = 1 << (field & 7);
  };
const flags = (box: VmxBox): number => box.read(G.RFLAGS) & ARITH_FLAGS;

/** VMREAD and VMWRITE of the shadow VMCS by its owner, in root operation. */
function inShadow<T>(box: VmxBox, action: () => T): T {
  const { cpu } = box;
  vmptrld(cpu, AT.SHADOW);
  const result = action();
  vmptrld(cpu, AT.VMCS);
  return result;
}

describe('a shadow VMCS in root operation', () => {
  it('becomes current by VMPTRLD and has all fields', () => {
    const { cpu } = new VmxBox().begin();
    expect(vmptrld(cpu, AT.SHADOW)).toBe(RESULT.SUCCEED);
    expect(vmptrst(cpu)).toBe(AT.SHADOW);
    vmwrite64(cpu, G.RIP, 0x1234_5678_9abcn);
    expect(vmread64(cpu, G.RIP)).toBe(0x1234_5678_9abcn);
    expect(vmclear(cpu, AT.SHADOW)).toBe(RESULT.SUCCEED);
    expect(vmptrst(cpu)).toBe(-1);
  });

  it('needs the revision identifier in bits 30:0', () => {
    const box = new VmxBox().begin();
    box.word(AT.SHADOW, 0x8000_0000 | (box.cpu.vmx.caps.revision + 1));
    expect(vmptrld(box.cpu, AT.SHADOW)).toBe(RESULT.FAIL_VALID);
    expect(box.error()).toBe(VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
  });

  it('cannot be entered, whatever else would fail', () => {
    const box = new VmxBox().begin();
    vmptrld(box.cpu, AT.SHADOW);
    box.fillVmcs();
    for (const blocking of [0, BLOCKING.MOV_SS]) {
      box.cpu.s[S.BLOCKING] = blocking;
      expect(vmlaunch(box.cpu)).toBe(RESULT.FAIL_INVALID);
      expect(vmresume(box.cpu)).toBe(RESULT.FAIL_INVALID);
    }
  });

  it('can be entered when it was made ordinary', () => {
    const box = new VmxBox().begin().code(VMCALL);
    vmclear(box.cpu, AT.SHADOW);
    box.word(AT.SHADOW, box.cpu.vmx.caps.revision);
    vmptrld(box.cpu, AT.SHADOW);
    box.fillVmcs();
    expect(box.launch()).toBe(R.VMCALL);
  });
});

describe('VMREAD and VMWRITE of a guest exit', () => {
  const noControl: Setup = (box) => box.change(C.SECONDARY_VM_EXEC_CONTROL, 0, SECONDARY_EXEC.SHADOW_VMCS);
  const ordinary: Setup = (box) => {
    noControl(box);
    unlinked(box);
  };
  // Encodings from the appendix "Field Encoding in VMCS"; 7FFFH is the last bit of a bitmap.
  it.each([
    { name: 'without the control', field: G.RIP, setup: ordinary },
    { name: 'with bit 15 of the operand', field: 0x8000 },
    { name: 'with bit 31 of the operand', field: 0x8000_0000 },
    { name: 'with bit 32 of the operand', field: 0x1_0000_0000n + BigInt(G.RIP) },
    { name: 'with bit 63 of the operand', field: 0x8000_0000_0000_0000n + BigInt(G.RIP) },
  ])('$name', ({ field, setup = nothing }) => {
    expect(guest(VMREAD, field, setup).launch()).toBe(R.VMREAD);
    expect(guest(VMWRITE, field, setup).launch()).toBe(R.VMWRITE);
  });

  it.each([0, C.EPT_POINTER, G.RIP, 0x7fff])(
    'by the bit of field %i in the bitmap and by no other',
    (field) => {
      const read = (at: number, page: number = AT.VMREAD_BITMAP): number =>
        guest(VMREAD, field, bit(page, at)).launch();
      const write = (at: number, page: number = AT.VMWRITE_BITMAP): number =>
        guest(VMWRITE, field, bit(page, at)).launch();
      expect([read(field), write(field)]).toEqual([R.VMREAD, R.VMWRITE]);
      const [below, above] = [(field - 1) & 0x7fff, (field + 1) & 0x7fff];
      for (const at of [below, above, field ^ 0x4000]) {
        expect([read(at), write(at)]).toEqual([R.VMCALL, R.VMCALL]);
      }
      expect(read(field, AT.VMWRITE_BITMAP)).toBe(R.VMCALL);
      expect(write(field, AT.VMREAD_BITMAP)).toBe(R.VMCALL);
    },
  );

  it('when the bitmap lies outside of memory, which reads as ones', () => {
    expect(guest(VMREAD, G.RIP, (box) => box.write(C.VMREAD_BITMAP, 2 ** 40)).launch()).toBe(R.VMREAD);
  });

  it('before the check of the CPL, with the information of any other exit', () => {
    const box = guest(VMREAD, G.RIP, (b) => {
      user(b);
      bit(AT.VMREAD_BITMAP, G.RIP)(b);
    });
    expect(box.launch()).toBe(R.VMREAD);
    expect(box.read(I.VM_EXIT_INSTRUCTION_LEN)).toBe(3);
    expect(box.read(I.VMX_INSTRUCTION_INFO)).toBe((1 << 3) | (1 << 10));
  });
});

describe('VMREAD and VMWRITE of a guest that do not exit', () => {
  it('VMREAD reads the linked VMCS', () => {
    for (const bytes of [VMREAD, VMREAD_MEM]) {
      const box = guest(bytes, G.CR3);
      inShadow(box, () => {
        vmwrite64(box.cpu, G.CR3, 0x1234_5678_9000n);
      });
      const before = box.cpu.counts[COST.VMREAD]!;
      // One VMREAD is the guest's, one the fixture's of the exit reason.
      expect(box.launch()).toBe(R.VMCALL);
      expect(box.cpu.counts[COST.VMREAD]! - before).toBe(2);
      const value = bytes === VMREAD ? getReg(box.cpu, RCX) : box.cpu.mem.u64[AT.DATA / 8];
      expect(value).toBe(0x1234_5678_9000n);
      expect(flags(box)).toBe(0);
    }
  });

  it('VMWRITE writes the linked VMCS and leaves the current one alone', () => {
    for (const bytes of [VMWRITE, VMWRITE_MEM]) {
      const box = guest(bytes, G.GDTR_BASE);
      setReg(box.cpu, RCX, 0x7fff_1234_5678n);
      box.cpu.mem.u64[AT.DATA / 8] = 0x7fff_1234_5678n;
      expect(box.launch()).toBe(R.VMCALL);
      expect(flags(box)).toBe(0);
      expect(box.read(G.GDTR_BASE)).toBe(AT.GDT);
      expect(inShadow(box, () => vmread64(box.cpu, G.GDTR_BASE))).toBe(0x7fff_1234_5678n);
    }
  });

  it('are GP above CPL 0', () => {
    for (const bytes of [VMREAD, VMWRITE]) {
      const box = guest(bytes, G.RIP, user);
      expect(box.launch()).toBe(R.EXCEPTION_NMI);
      expect(box.read(I.VM_EXIT_INTR_INFO)).toBe(0x8000_0b0d);
    }
  });

  it('are VMfailInvalid with a link pointer of all ones, before the memory operand', () => {
    for (const bytes of [VMREAD, VMREAD_MEM, VMWRITE, VMWRITE_MEM]) {
      const box = guest(bytes, G.RIP, unlinked);
      setReg(box.cpu, RBX, UNMAPPED);
      expect(box.launch()).toBe(R.VMCALL);
      expect(flags(box)).toBe(RFLAGS.CF);
    }
  });

  it('are error 12 in the current VMCS for a field that does not exist', () => {
    for (const bytes of [VMREAD, VMWRITE]) {
      const box = guest(bytes, NO_FIELD);
      expect(box.launch()).toBe(R.VMCALL);
      expect(flags(box)).toBe(RFLAGS.ZF);
      expect(box.error()).toBe(VMXERR.UNSUPPORTED_VMCS_COMPONENT);
      expect(inShadow(box, () => box.error())).toBe(0);
    }
  });

  it.each([
    { name: 'succeeds with IA32_VMX_MISC bit 29', clear: 0, want: 0, error: 0 },
    {
      name: 'is error 13 without',
      clear: VMX_MISC.VMWRITE_SHADOW_RO_FIELDS,
      want: RFLAGS.ZF,
      error: VMXERR.VMWRITE_READ_ONLY_VMCS_COMPONENT,
    },
  ])('VMWRITE of an information field $name', ({ clear, want, error }) => {
    const box = guest(VMWRITE, I.VM_EXIT_REASON);
    const { vmx } = box.cpu;
    Object.assign(vmx, { caps: { ...vmx.caps, misc: vmx.caps.misc & ~clear } });
    expect(box.launch()).toBe(R.VMCALL);
    expect([flags(box), box.error()]).toEqual([want, error]);
  });

  // SDM: VMREAD knows that the field exists before it accesses memory, VMWRITE only after.
  it.each([
    { name: 'VMREAD', bytes: VMREAD_MEM, field: G.RIP, reason: R.EXCEPTION_NMI },
    { name: 'VMREAD of no field', bytes: VMREAD_MEM, field: NO_FIELD, reason: R.VMCALL },
    { name: 'VMWRITE', bytes: VMWRITE_MEM, field: G.RIP, reason: R.EXCEPTION_NMI },
    { name: 'VMWRITE of no field', bytes: VMWRITE_MEM, field: NO_FIELD, reason: R.EXCEPTION_NMI },
  ])('$name with an operand that is not mapped', ({ bytes, field, reason }) => {
    const box = guest(bytes, field, (b) => b.write(C.EXCEPTION_BITMAP, 1 << 14));
    setReg(box.cpu, RBX, UNMAPPED);
    expect(box.launch()).toBe(reason);
  });

  it('are the only VMX instructions that shadowing concerns', () => {
    expect(guest([0x66, 0x0f, 0xc7, 0x33], 0).launch()).toBe(R.VMCLEAR);
  });
});

describe('the linked VMCS', () => {
  const twoCpus = (): readonly [VmxBox, () => number] => {
    const box = new VmxBox(2).begin().code(VMCALL);
    vmwritePair(box.cpu, G.VMCS_LINK_POINTER, AT.SHADOW, 0);
    box.change(C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
    const second = box.machine.cpus[1]!;
    second.s[S.CR4] = CR4.VMXE;
    vmxon(second, AT.VMXON);
    return [box, () => vmptrld(second, AT.SHADOW)];
  };

  it('becomes active, but not current, by a successful VM entry', () => {
    const [box, load] = twoCpus();
    expect(box.launch()).toBe(R.VMCALL);
    expect(vmptrst(box.cpu)).toBe(AT.VMCS);
    expect(load).toThrow('active on CPU 0');
    vmclear(box.cpu, AT.SHADOW);
    expect(load()).toBe(RESULT.SUCCEED);
  });

  it('does not become active by an entry that fails', () => {
    const [box, load] = twoCpus();
    box.write(G.RFLAGS, 0);
    expect(vmlaunch(box.cpu)).toBe(RESULT.EXITED);
    expect(load()).toBe(RESULT.SUCCEED);
  });

  it('must not be active on another CPU', () => {
    const [box, load] = twoCpus();
    load();
    expect(() => vmlaunch(box.cpu)).toThrow('use as shadow of the VMCS');
  });
});

describe('IA32_VMX_PROCBASED_CTLS2', () => {
  it('allows VMCS shadowing, and the bitmap fields exist', () => {
    const { cpu } = new VmxBox().begin();
    const may1 = vmxCapabilityMsr(cpu.vmx, VMX_MSR.IA32_VMX_PROCBASED_CTLS2)![1];
    // SDM, "Secondary Processor-Based VM-Execution Controls": bit 14.
    expect((may1 >>> 14) & 1).toBe(1);
    expect(vmread32(cpu, C.VMREAD_BITMAP)).toBe(AT.VMREAD_BITMAP);
  });
});
