// SPDX-License-Identifier: GPL-2.0-only
/**
 * The guest library's VMX half on bare emulated hardware: L1 in VMX root operation, L2 on its VMCS. Expected: SDM, "VMX
 * Instruction Reference", "VM-Instruction Error Numbers", "VM Exits", "Information for VM Exits Due to ...".
 */
import { describe, expect, it } from 'vitest';
import {
  array,
  at,
  cpuid,
  enable_vmx,
  ept_1g_pages_supported,
  ept_ad_supported,
  get_cr4,
  GUEST_ASSERT,
  GUEST_ASSERT_EQ,
  GUEST_DONE,
  type GuestCode,
  guest_tdp_identity_map,
  guest_tdp_init,
  guest_tdp_pte,
  GUEST_SYNC,
  guestFn,
  guestGlobal,
  guestUnit,
  invept,
  invvpid,
  load_vmcs,
  prepare_for_vmx_operation,
  prepare_vmcs,
  tdp_tables_global,
  TdpMmu,
  u64,
  UCALL,
  vm_instruction_error,
  vmcall,
  vmclear,
  vmcs_revision,
  vmcs_set_bits,
  vmlaunch,
  vmlaunch_regs,
  vmptrld,
  vmptrst,
  vmptrstz,
  vmread,
  vmreadz,
  vmresume,
  vmresume_regs,
  vmwrite,
  vmx_l2_regs,
  vmx_pages_global,
  vmx_secondary_supported,
  VMX_STATUS,
  vmxoff,
  vmxon,
  vmxon_safe,
} from '../../lib/guest/index.ts';
import type { FnLinkable } from '../../lib/guest/index.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { EPTE } from '../../lib/x86/paging.ts';
import { CR4 } from '../../lib/x86/registers.ts';
import { VMX_EPT_EXTENT, VMX_VPID_EXTENT } from '../../lib/x86/vmx/capability_msrs.ts';
import { CPU_BASED, PIN_BASED, SECONDARY_EXEC } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { EPT_VIOLATION } from '../../lib/x86/vmx/exit_quals.ts';
import { VMXERR } from '../../lib/x86/vmx/insn_errors.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { RAM_BASE } from '../../vmm/machine/layout.ts';
import { runVmx } from './vmx_box.ts';

const L2 = guestUnit('L2').fn;
const STACK = 64;
const vmx = vmx_pages_global('vmx');

/** Up to a VMCS for `l2` that VMLAUNCH takes. */
function setUp(g: GuestCode, l2: FnLinkable): void {
  const stack = g.local(array(u64, STACK));
  GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx.addr()));
  GUEST_ASSERT(g, load_vmcs(g, vmx.addr()));
  prepare_vmcs(g, vmx.addr(), l2, stack.at(STACK - 1).addr());
}

/** The VM exit that must have happened; goes on behind the instruction. */
function expectExit(g: GuestCode, reason: number): void {
  GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_REASON), reason);
}

function skipInstruction(g: GuestCode): void {
  const length = vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN);
  vmwrite(g, VMCS_GUEST.RIP, vmreadz(g, VMCS_GUEST.RIP).add(length));
}

/** Runs L1 code; every ucall but the expected ones and DONE is a failed assertion. */
function runL1(body: (g: GuestCode) => void, expected: readonly number[] = []): void {
  const fn = guestFn('guest_code', [], (g) => {
    body(g);
    GUEST_DONE(g);
  });
  const { box } = runVmx(fn);
  const said = box.ucalls.map(({ cmd, args, buffer }) =>
    cmd === UCALL.ABORT ? `${box.image.cstring(args[0]!)} at line ${args[2]!}: ${buffer}` : cmd,
  );
  expect(said).toEqual([...expected, UCALL.DONE]);
}

describe('VMX operation', () => {
  it('is entered and left by prepare_for_vmx_operation and VMXOFF', () => {
    runL1((g) => {
      GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx.addr()));
      GUEST_ASSERT(g, get_cr4(g).and(CR4.VMXE).ne(0));
      GUEST_ASSERT_EQ(g, vmxoff(g), 0);
      const { vector } = vmxon_safe(g, vmx.f.vmxon_gpa);
      GUEST_ASSERT_EQ(g, vector, 0);
    });
  });

  it('is not entered with CR4.VMXE clear: VMXON raises UD', () => {
    runL1((g) => {
      GUEST_ASSERT_EQ(g, vmxon_safe(g, vmx.f.vmxon_gpa).vector, VECTOR.UD);
    });
  });

  it('is not entered with a wrong revision identifier or a misaligned address: VMfailInvalid', () => {
    runL1((g) => {
      enable_vmx(g);
      GUEST_ASSERT_EQ(g, vmxon(g, vmx.f.vmxon_gpa), VMX_STATUS.FAIL_INVALID);
      g.set(at(u64, vmx.f.vmxon), vmcs_revision(g).cast(u64));
      GUEST_ASSERT_EQ(g, vmxon(g, vmx.f.vmxon_gpa.add(8)), VMX_STATUS.FAIL_INVALID);
      GUEST_ASSERT_EQ(g, vmxon(g, vmx.f.vmxon_gpa), VMX_STATUS.SUCCEED);
    });
  });
});

describe('VMCS instructions', () => {
  it('tell VMfailInvalid without a current VMCS', () => {
    runL1((g) => {
      GUEST_ASSERT(g, prepare_for_vmx_operation(g, vmx.addr()));
      const value = g.local(u64, 0x55);
      GUEST_ASSERT_EQ(g, vmread(g, VMCS_GUEST.RIP, value), VMX_STATUS.FAIL_INVALID);
      GUEST_ASSERT_EQ(g, value, 0x55);
      GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_GUEST.RIP), 0);
      GUEST_ASSERT_EQ(g, vmwrite(g, VMCS_GUEST.RIP, 1), VMX_STATUS.FAIL_INVALID);
      GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_INVALID);
      GUEST_ASSERT_EQ(g, vmptrstz(g), 2n ** 64n - 1n);
    });
  });

  it('tell VMfailValid with its number', () => {
    runL1((g) => {
      setUp(g, vmcallForever);
      const failsWith = (status: Parameters<typeof GUEST_ASSERT_EQ>[1], error: number): void => {
        GUEST_ASSERT_EQ(g, status, VMX_STATUS.FAIL_VALID);
        GUEST_ASSERT_EQ(g, vm_instruction_error(g), error);
      };
      failsWith(vmwrite(g, 0x7ffe, 0), VMXERR.UNSUPPORTED_VMCS_COMPONENT);
      failsWith(vmclear(g, vmx.f.vmxon_gpa), VMXERR.VMCLEAR_VMXON_POINTER);
      failsWith(vmptrld(g, vmx.f.vmxon_gpa), VMXERR.VMPTRLD_VMXON_POINTER);
      failsWith(vmptrld(g, vmx.f.msr_gpa), VMXERR.VMPTRLD_INCORRECT_VMCS_REVISION_ID);
      failsWith(vmresume(g), VMXERR.VMRESUME_NONLAUNCHED_VMCS);
      failsWith(invept(g, 7, 0), VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
      failsWith(invvpid(g, VMX_VPID_EXTENT.INDIVIDUAL_ADDR, 0, 0), VMXERR.INVALID_OPERAND_TO_INVEPT_INVVPID);
      GUEST_ASSERT_EQ(g, invept(g, VMX_EPT_EXTENT.GLOBAL, 0), 0);
      GUEST_ASSERT_EQ(g, invvpid(g, VMX_VPID_EXTENT.ALL_CONTEXT, 0, 0), 0);
    });
  });

  it('store the current VMCS', () => {
    runL1((g) => {
      setUp(g, vmcallForever);
      const value = g.local(u64);
      GUEST_ASSERT_EQ(g, vmptrst(g, value), 0);
      GUEST_ASSERT_EQ(g, value, vmx.f.vmcs_gpa);
    });
  });
});

const vmcallForever = L2('l2_vmcall', [], (g) => {
  g.loop(() => vmcall(g));
});

const counter = guestGlobal('counter', u64);

describe('L2', () => {
  it('exits by VMCALL, and VMRESUME goes on behind it', () => {
    const l2 = L2('l2_count', [], (g) => {
      g.loop(() => {
        g.inc(counter);
        vmcall(g);
      });
    });
    runL1((g) => {
      setUp(g, l2);
      GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
      GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.VM_EXIT_INSTRUCTION_LEN), 3);
      skipInstruction(g);
      GUEST_ASSERT_EQ(g, vmresume(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
      GUEST_ASSERT_EQ(g, counter, 2);
      GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_VALID);
      GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.VMLAUNCH_NONCLEAR_VMCS);
    });
  });

  it('exits by CPUID, and the registers in vmx_l2_regs go in and out', () => {
    const l2 = L2('l2_cpuid', [], (g) => {
      const { eax } = cpuid(g, 0x1234);
      g.set(counter, eax.cast(u64));
      vmcall(g);
    });
    runL1((g) => {
      setUp(g, l2);
      g.set(vmx_l2_regs.f.r15, 0x1515_1515_1515n);
      GUEST_ASSERT_EQ(g, vmlaunch_regs(g), 0);
      expectExit(g, EXIT_REASON.CPUID);
      GUEST_ASSERT_EQ(g, vmx_l2_regs.f.rax, 0x1234);
      GUEST_ASSERT_EQ(g, vmx_l2_regs.f.r15, 0x1515_1515_1515n);
      g.set(vmx_l2_regs.f.rax, 0x77);
      skipInstruction(g);
      GUEST_ASSERT_EQ(g, vmresume_regs(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
      GUEST_ASSERT_EQ(g, counter, 0x77);
    });
  });

  it('is not entered with invalid controls: VMfailValid 7, and with invalid guest state: a failed entry', () => {
    runL1((g) => {
      setUp(g, vmcallForever);
      const pin = vmreadz(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL);
      vmwrite(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, pin.or(PIN_BASED.VIRTUAL_NMIS));
      GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_VALID);
      GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.ENTRY_INVALID_CONTROL_FIELD);
      vmwrite(g, VMCS_CTRL.PIN_BASED_VM_EXEC_CONTROL, pin);
      vmwrite(g, VMCS_GUEST.RFLAGS, 0);
      GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
      expectExit(g, 0x8000_0000 + EXIT_REASON.INVALID_STATE);
      vmwrite(g, VMCS_GUEST.RFLAGS, 2);
      GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
    });
  });

  it('may make ucalls of its own', () => {
    const l2 = L2('l2_sync', [], (g) => {
      GUEST_SYNC(g, 1);
      vmcall(g);
    });
    runL1(
      (g) => {
        setUp(g, l2);
        GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
        expectExit(g, EXIT_REASON.VMCALL);
      },
      [UCALL.SYNC],
    );
  });
});

describe('EPT made by guest code', () => {
  const mmu = guestGlobal('ept', TdpMmu);
  const tables = tdp_tables_global('ept_tables', 12);
  const target = guestGlobal('target', u64);
  /** All of the box's RAM, page by page. */
  const identity = (g: GuestCode): void => {
    guest_tdp_init(g, mmu.addr(), tables, tables.cast(u64), 12);
    guest_tdp_identity_map(g, mmu.addr(), RAM_BASE, 0x80_0000);
    g.set(vmx.f.eptp_gpa, mmu.f.pgd);
  };

  it('reports a violation with qualification and both addresses, and goes on once it is mapped', () => {
    const l2 = L2('l2_write', [], (g) => {
      g.set(target, 0x99);
      vmcall(g);
    });
    runL1((g) => {
      identity(g);
      setUp(g, l2);
      const pte = guest_tdp_pte(g, mmu.addr(), target.addr().cast(u64));
      g.set(pte, pte.and(~BigInt(EPTE.W)));
      GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
      expectExit(g, EXIT_REASON.EPT_VIOLATION);
      const { ACC_WRITE, PROT_READ, PROT_EXEC, GVA_IS_VALID, GVA_TRANSLATED } = EPT_VIOLATION;
      const qualification = ACC_WRITE | PROT_READ | PROT_EXEC | GVA_IS_VALID | GVA_TRANSLATED;
      GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.EXIT_QUALIFICATION).and(0x1ff), qualification);
      GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.GUEST_PHYSICAL_ADDRESS), target.addr().cast(u64));
      GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_INFO.GUEST_LINEAR_ADDRESS), target.addr().cast(u64));
      g.set(pte, pte.or(EPTE.W));
      GUEST_ASSERT_EQ(g, vmresume(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
      GUEST_ASSERT_EQ(g, target, 0x99);
      g.if(ept_ad_supported(g), () => GUEST_ASSERT(g, pte.and(EPTE.D).ne(0)));
    });
  });

  it('maps large pages, and the queries tell what there is', () => {
    runL1((g) => {
      guest_tdp_init(g, mmu.addr(), tables, tables.cast(u64), 12);
      guest_tdp_identity_map(g, mmu.addr(), RAM_BASE, 0x80_0000, 2);
      g.set(vmx.f.eptp_gpa, mmu.f.pgd);
      setUp(g, vmcallForever);
      GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
      GUEST_ASSERT(g, ept_1g_pages_supported(g));
      GUEST_ASSERT(g, vmx_secondary_supported(g, SECONDARY_EXEC.ENABLE_EPT));
      GUEST_ASSERT(g, vmx_secondary_supported(g, SECONDARY_EXEC.ENABLE_XSAVES).eq(0));
    });
  });

  it('fails an assertion when its tables are used up, or a page is mapped twice', () => {
    const runBad = (body: (g: GuestCode) => void): string => {
      const fn = guestFn('guest_code', [], (g) => {
        guest_tdp_init(g, mmu.addr(), tables, tables.cast(u64), 4);
        guest_tdp_identity_map(g, mmu.addr(), RAM_BASE, 0x1000);
        body(g);
      });
      const { box } = runVmx(fn);
      return box.ucalls[0]!.buffer;
    };
    const mapped = runBad((g) => guest_tdp_identity_map(g, mmu.addr(), RAM_BASE, 0x1000));
    expect(mapped).toBe('0x1000000 is mapped already');
    const full = runBad((g) => guest_tdp_identity_map(g, mmu.addr(), RAM_BASE + 0x4000_0000, 0x1000));
    expect(full).toMatch(/^no page is left for a table at 0x[0-9a-f]+$/);
  });

  it('is not needed: without a root L2 runs without EPT', () => {
    runL1((g) => {
      setUp(g, vmcallForever);
      vmcs_set_bits(g, VMCS_CTRL.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.HLT_EXITING);
      GUEST_ASSERT_EQ(g, vmreadz(g, VMCS_CTRL.SECONDARY_VM_EXEC_CONTROL), 0);
      GUEST_ASSERT_EQ(g, vmlaunch(g), 0);
      expectExit(g, EXIT_REASON.VMCALL);
    });
  });
});
