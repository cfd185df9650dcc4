// SPDX-License-Identifier: GPL-2.0-only
/**
 * Entries of L1 that fail, by stage, and VMX aborts. Expected: SDM, "VM-Entry Failures During or After Loading Guest State",
 * "Loading MSRs", "VMX Aborts", "VM-Instruction Error Numbers"; KVM's nested_vmx_run() and nested_vmx_load_msr().
 */
import { describe, expect, it } from 'vitest';
import {
  at,
  GUEST_ASSERT_EQ,
  type GuestCode,
  guestGlobal,
  hlt,
  rdmsr,
  READ_ONCE,
  type Operand,
  u64,
  vm_instruction_error,
  vmcall,
  vmclear,
  vmlaunch,
  vmreadz,
  vmresume,
  vmwrite,
  VMX_STATUS,
  VmxMsrEntry,
  wrmsr,
} from '../../lib/guest/index.ts';
import { vcpuRun } from '../../lib/kvm_util/ucall_common.ts';
import { MSR } from '../../lib/x86/msr.ts';
import { RFLAGS } from '../../lib/x86/registers.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { GUEST_ACTIVITY } from '../../lib/x86/vmx/guest_state.ts';
import { VMXERR } from '../../lib/x86/vmx/insn_errors.ts';
import { INTR_INFO, INTR_TYPE } from '../../lib/x86/vmx/intr_info.ts';
import { VMCS_CTRL } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_HOST } from '../../lib/x86/vmx/vmcs_host.ts';
import { VMCS_INFO } from '../../lib/x86/vmx/vmcs_info.ts';
import { exitName } from '../kvm_x86/small_vm.ts';
import { l2Code, launchTo, runL1, type Vmx } from './l1_vm.ts';

/** Bit 31 of the exit reason. */
const failed = (reason: number): number => 0x8000_0000 + reason;
const MAGIC = 0x1234_5678n;

const l2_ran = guestGlobal('l2_ran', u64);
const l2 = l2Code((g) => {
  g.set(l2_ran, 1);
  g.loop(() => vmcall(g));
});

const expectField = (g: GuestCode, field: number, value: Operand): void =>
  GUEST_ASSERT_EQ(g, vmreadz(g, field), value);

/** Entry `n` of the MSR area in L1's page for it. */
function setEntry(g: GuestCode, vmx: Vmx, n: number, index: number, value: Operand = 0, reserved = 0): void {
  const entry = at(VmxMsrEntry, vmx.f.msr.cast(u64).add(16 * n));
  g.set(entry.f.index, index);
  g.set(entry.f.reserved, reserved);
  g.set(entry.f.value, value);
}

const AREAS = {
  entryLoad: [VMCS_CTRL.VM_ENTRY_MSR_LOAD_ADDR, VMCS_CTRL.VM_ENTRY_MSR_LOAD_COUNT],
  exitStore: [VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR, VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT],
  exitLoad: [VMCS_CTRL.VM_EXIT_MSR_LOAD_ADDR, VMCS_CTRL.VM_EXIT_MSR_LOAD_COUNT],
} as const;

function useArea(g: GuestCode, vmx: Vmx, area: keyof typeof AREAS, count: number): void {
  vmwrite(g, AREAS[area][0], vmx.f.msr_gpa);
  vmwrite(g, AREAS[area][1], count);
}

describe('an entry that fails as an instruction', () => {
  it.each<[string, number, bigint, number]>([
    ['control field', VMCS_CTRL.CR3_TARGET_COUNT, 256n, VMXERR.ENTRY_INVALID_CONTROL_FIELD],
    ['host-state field', VMCS_HOST.CR3, 1n << 63n, VMXERR.ENTRY_INVALID_HOST_STATE_FIELD],
  ])('because of a %s tells its number, and goes on in L1', (_what, field, value, error) => {
    runL1(
      (g) => {
        vmwrite(g, field, value);
        GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_VALID);
        GUEST_ASSERT_EQ(g, vm_instruction_error(g), error);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
      },
      { l2 },
    );
  });

  it('because of the launch state tells VMLAUNCH from VMRESUME', () => {
    runL1(
      (g, vmx) => {
        GUEST_ASSERT_EQ(g, vmresume(g), VMX_STATUS.FAIL_VALID);
        GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.VMRESUME_NONLAUNCHED_VMCS);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_VALID);
        GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.VMLAUNCH_NONCLEAR_VMCS);
        GUEST_ASSERT_EQ(g, vmclear(g, vmx.f.vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmlaunch(g), VMX_STATUS.FAIL_INVALID);
      },
      { l2 },
    );
  });
});

describe('an entry that fails on guest state', () => {
  it('is an exit that leaves the launch state, the event to inject and other exit information alone', () => {
    runL1(
      (g) => {
        const event = (INTR_INFO.VALID_MASK | INTR_TYPE.HARD_EXCEPTION | 6) >>> 0;
        vmwrite(g, VMCS_GUEST.RFLAGS, 0);
        vmwrite(g, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, event);
        const info = vmreadz(g, VMCS_INFO.VM_EXIT_INTR_INFO);
        launchTo(g, failed(EXIT_REASON.INVALID_STATE));
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 0);
        expectField(g, VMCS_INFO.VM_EXIT_INTR_INFO, info);
        expectField(g, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, event);
        GUEST_ASSERT_EQ(g, vmresume(g), VMX_STATUS.FAIL_VALID);
        GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.VMRESUME_NONLAUNCHED_VMCS);
      },
      { l2 },
    );
  });

  it('because of the VMCS link pointer says so', () => {
    runL1(
      (g, vmx) => {
        // SDM: 4 in the exit qualification. The page's first word is no revision identifier.
        vmwrite(g, VMCS_GUEST.VMCS_LINK_POINTER, vmx.f.msr_gpa);
        launchTo(g, failed(EXIT_REASON.INVALID_STATE));
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 4);
      },
      { l2 },
    );
  });

  it('because of a segment that only the processor looks at is the same exit', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_GUEST.TR_AR_BYTES, 0x1_0000);
        launchTo(g, failed(EXIT_REASON.INVALID_STATE));
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        vmwrite(g, VMCS_GUEST.TR_AR_BYTES, 0x8b);
        launchTo(g, EXIT_REASON.VMCALL);
      },
      { l2 },
    );
  });
});

describe('the VM-entry MSR-load area', () => {
  it('that has an entry which cannot be loaded fails the entry with its number', () => {
    runL1(
      (g, vmx) => {
        setEntry(g, vmx, 0, MSR.KERNEL_GS_BASE, MAGIC);
        setEntry(g, vmx, 1, MSR.FS_BASE);
        useArea(g, vmx, 'entryLoad', 2);
        const rip = vmreadz(g, VMCS_GUEST.RIP);
        launchTo(g, failed(EXIT_REASON.MSR_LOAD_FAIL));
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 2);
        expectField(g, VMCS_GUEST.RIP, rip);
        GUEST_ASSERT_EQ(g, READ_ONCE(l2_ran), 0);
        // What came before it stays loaded.
        GUEST_ASSERT_EQ(g, rdmsr(g, MSR.KERNEL_GS_BASE), MAGIC);
      },
      { l2 },
    );
  });

  it.each<[string, number, bigint, number]>([
    ['a reserved bit', MSR.KERNEL_GS_BASE, 0n, 1],
    ['a value that WRMSR refuses', MSR.KERNEL_GS_BASE, 1n << 63n, 0],
    ['an x2APIC register', 0x808, 0n, 0],
    ['an MSR that is none', 0x1_0000, 0n, 0],
  ])('fails the entry because of %s', (_what, index, value, reserved) => {
    runL1(
      (g, vmx) => {
        setEntry(g, vmx, 0, index, value, reserved);
        useArea(g, vmx, 'entryLoad', 1);
        launchTo(g, failed(EXIT_REASON.MSR_LOAD_FAIL));
        expectField(g, VMCS_INFO.EXIT_QUALIFICATION, 1);
      },
      { l2 },
    );
  });

  it('is loaded in order, and the exit areas store and load', () => {
    runL1(
      (g, vmx) => {
        setEntry(g, vmx, 0, MSR.KERNEL_GS_BASE, 1);
        setEntry(g, vmx, 1, MSR.KERNEL_GS_BASE, MAGIC);
        useArea(g, vmx, 'entryLoad', 2);
        vmwrite(g, VMCS_CTRL.VM_EXIT_MSR_STORE_ADDR, vmx.f.msr_gpa);
        vmwrite(g, VMCS_CTRL.VM_EXIT_MSR_STORE_COUNT, 1);
        vmwrite(g, VMCS_CTRL.VM_EXIT_MSR_LOAD_ADDR, vmx.f.msr_gpa.add(32));
        vmwrite(g, VMCS_CTRL.VM_EXIT_MSR_LOAD_COUNT, 1);
        setEntry(g, vmx, 2, MSR.KERNEL_GS_BASE, 0x77);
        wrmsr(g, MSR.KERNEL_GS_BASE, 0x55);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, at(VmxMsrEntry, vmx.f.msr).f.value, MAGIC);
        GUEST_ASSERT_EQ(g, rdmsr(g, MSR.KERNEL_GS_BASE), 0x77);
      },
      { l2 },
    );
  });
});

describe('a VMX abort', () => {
  it.each<[string, 'exitStore' | 'exitLoad', number]>([
    ['an MSR that cannot be stored', 'exitStore', 0x1_0000],
    ['an MSR that cannot be loaded', 'exitLoad', MSR.GS_BASE],
  ])('is a shutdown of L1: %s', (_what, area, index) => {
    runL1(
      (g, vmx) => {
        setEntry(g, vmx, 0, index);
        useArea(g, vmx, area, 1);
        launchTo(g, EXIT_REASON.VMCALL);
      },
      {
        l2,
        *drive({ vcpu }) {
          yield* vcpuRun(vcpu);
          expect(exitName(vcpu)).toBe('SHUTDOWN');
        },
      },
    );
  });
});

describe('the activity state of an entry', () => {
  it('HLT with an event to inject runs L2', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_GUEST.ACTIVITY_STATE, GUEST_ACTIVITY.HLT);
        vmwrite(g, VMCS_GUEST.RFLAGS, RFLAGS.FIXED | RFLAGS.IF);
        vmwrite(g, VMCS_GUEST.IDTR_LIMIT, 0);
        vmwrite(g, VMCS_CTRL.EXCEPTION_BITMAP, 1 << 13);
        const irq = (INTR_INFO.VALID_MASK | INTR_TYPE.EXT_INTR | 0x41) >>> 0;
        vmwrite(g, VMCS_CTRL.VM_ENTRY_INTR_INFO_FIELD, irq);
        // The event is delivered, and finds no gate.
        launchTo(g, EXIT_REASON.EXCEPTION_NMI);
        expectField(g, VMCS_INFO.IDT_VECTORING_INFO_FIELD, irq);
      },
      { l2 },
    );
  });

  it('shutdown is refused: KVM offers HLT and wait-for-SIPI only', () => {
    runL1(
      (g) => {
        vmwrite(g, VMCS_GUEST.ACTIVITY_STATE, GUEST_ACTIVITY.SHUTDOWN);
        launchTo(g, failed(EXIT_REASON.INVALID_STATE));
      },
      { l2: l2Code((g) => hlt(g)) },
    );
  });
});
