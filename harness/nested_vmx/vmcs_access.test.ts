// SPDX-License-Identifier: GPL-2.0-only
/**
 * VMREAD and VMWRITE that L0 emulates: for an L1 without VMCS shadowing, and for an L2 to whom L1 gives a shadow VMCS.
 * Expected: SDM, "VMREAD", "VMWRITE", "VMCS Types: Ordinary and Shadow"; the traces as in arch/x86/kvm/trace.h.
 */
import { describe, expect, it } from 'vitest';
import { mem } from '../../lib/asm/operands.ts';
import {
  GUEST_ASSERT_EQ,
  type GuestCode,
  guestGlobal,
  u64,
  vmcall,
  vmclear,
  vmcs_set_bits,
  VMX_INSN_SAFE,
  VMX_STATUS,
  vm_instruction_error,
  vmptrld,
  vmread,
  vmreadz,
  vmwrite,
} from '../../lib/guest/index.ts';
import { VECTOR } from '../../lib/x86/exceptions.ts';
import { CPU_BASED, SECONDARY_EXEC } from '../../lib/x86/vmx/controls.ts';
import { EXIT_REASON } from '../../lib/x86/vmx/exit_reasons.ts';
import { VMXERR } from '../../lib/x86/vmx/insn_errors.ts';
import { VMCS_CTRL as C } from '../../lib/x86/vmx/vmcs_ctrl.ts';
import { VMCS_GUEST as G } from '../../lib/x86/vmx/vmcs_guest.ts';
import { VMCS_INFO as I } from '../../lib/x86/vmx/vmcs_info.ts';
import { runSelftest } from '../run_test.ts';
import { loadSelftest } from '../registry.ts';
import { l2Code, launchTo, runL1 } from './l1_vm.ts';

const NO_SHADOW = { params: ['kvm_intel.enable_shadow_vmcs=0'] };
const UNMAPPED = 0x1234_5000n;
const NO_SUCH_FIELD = 0x7ffe;
const VALUE = 0x1234_5678_9abc_def0n;

const word = guestGlobal('word', u64);

/** The fault of VMREAD to, or VMWRITE from, memory that L1 has not mapped. */
const faultOf = (g: GuestCode, insn: 'vmread' | 'vmwrite') =>
  VMX_INSN_SAFE(g, {
    in: { field: g.local(u64, G.RSP), address: g.local(u64, UNMAPPED) },
    emit: (a, r) => {
      const memory = mem(64, { base: r.reg64('address') });
      if (insn === 'vmread') a.emit('vmread', memory, r.reg64('field'));
      else a.emit('vmwrite', r.reg64('field'), memory);
    },
  });

const writeFromMemory = (g: GuestCode, field: number) =>
  VMX_INSN_SAFE(g, {
    in: { field: g.local(u64, field), address: word.addr() },
    emit: (a, r) => a.emit('vmwrite', r.reg64('field'), mem(64, { base: r.reg64('address') })),
  });

describe('VMREAD and VMWRITE of an L1 without VMCS shadowing', () => {
  const l2 = l2Code((g) => vmcall(g));

  it('go to registers and to memory', () => {
    runL1(
      (g) => {
        GUEST_ASSERT_EQ(g, vmwrite(g, G.RSP, VALUE), 0);
        GUEST_ASSERT_EQ(g, vmreadz(g, G.RSP), VALUE);
        g.set(word, VALUE + 1n);
        GUEST_ASSERT_EQ(g, writeFromMemory(g, G.RSP).vector, 0);
        g.set(word, 0);
        GUEST_ASSERT_EQ(g, vmread(g, G.RSP, word), 0);
        GUEST_ASSERT_EQ(g, word, VALUE + 1n);
      },
      { l2, ...NO_SHADOW },
    );
  });

  it('fault where memory cannot be accessed, and change nothing', () => {
    runL1(
      (g) => {
        vmwrite(g, G.RSP, VALUE);
        GUEST_ASSERT_EQ(g, faultOf(g, 'vmread').vector, VECTOR.PF);
        GUEST_ASSERT_EQ(g, faultOf(g, 'vmwrite').vector, VECTOR.PF);
        GUEST_ASSERT_EQ(g, vmreadz(g, G.RSP), VALUE);
      },
      { l2, ...NO_SHADOW },
    );
  });

  it('fail with error 12 for a field that does not exist, and without a current VMCS invalidly', () => {
    runL1(
      (g, vmx) => {
        for (const field of [NO_SUCH_FIELD, 0x1_0000, G.RSP + 1]) {
          GUEST_ASSERT_EQ(g, vmread(g, field, word), VMX_STATUS.FAIL_VALID);
          GUEST_ASSERT_EQ(g, vm_instruction_error(g), VMXERR.UNSUPPORTED_VMCS_COMPONENT);
          GUEST_ASSERT_EQ(g, vmwrite(g, field, 0), VMX_STATUS.FAIL_VALID);
        }
        GUEST_ASSERT_EQ(g, vmclear(g, vmx.f.vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmread(g, G.RSP, word), VMX_STATUS.FAIL_INVALID);
        GUEST_ASSERT_EQ(g, vmwrite(g, G.RSP, 0), VMX_STATUS.FAIL_INVALID);
      },
      { l2, ...NO_SHADOW },
    );
  });
});

describe('VMREAD and VMWRITE of L2', () => {
  it('exit to L1 if it gives no shadow VMCS', () => {
    const l2 = l2Code((g) => {
      vmread(g, G.RSP, word);
    });
    runL1((g) => launchTo(g, EXIT_REASON.VMREAD), { l2 });
  });

  it('access the shadow VMCS that L1 gives, which L1 can read afterwards', () => {
    const l2 = l2Code((g) => {
      GUEST_ASSERT_EQ(g, vmwrite(g, G.RSP, VALUE), 0);
      GUEST_ASSERT_EQ(g, vmread(g, G.RSP, word), 0);
      GUEST_ASSERT_EQ(g, vmwrite(g, NO_SUCH_FIELD, 0), VMX_STATUS.FAIL_VALID);
      vmcall(g);
    });
    runL1(
      (g, vmx) => {
        vmcs_set_bits(g, C.CPU_BASED_VM_EXEC_CONTROL, CPU_BASED.ACTIVATE_SECONDARY_CONTROLS);
        vmcs_set_bits(g, C.SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC.SHADOW_VMCS);
        vmwrite(g, C.VMREAD_BITMAP, vmx.f.vmread_gpa);
        vmwrite(g, C.VMWRITE_BITMAP, vmx.f.vmwrite_gpa);
        vmwrite(g, G.VMCS_LINK_POINTER, vmx.f.shadow_vmcs_gpa);
        launchTo(g, EXIT_REASON.VMCALL);
        GUEST_ASSERT_EQ(g, word, VALUE);
        GUEST_ASSERT_EQ(g, vmptrld(g, vmx.f.shadow_vmcs_gpa), 0);
        GUEST_ASSERT_EQ(g, vmreadz(g, G.RSP), VALUE);
        GUEST_ASSERT_EQ(g, vmreadz(g, I.VM_INSTRUCTION_ERROR), 0);
      },
      { l2 },
    );
  });
});

describe('the trace of nested VMX', () => {
  it('tells each entry, each exit that L0 sees, and each that L1 gets', async () => {
    const test = await loadSelftest('nested_invalid_cr3_test');
    const trace: string[] = [];
    runSelftest(test!, { seed: 1, params: [], args: [], onTrace: (line) => trace.push(line) });
    const lines = (event: string): string[] => trace.filter((line) => line.includes(` ${event}: `));
    expect(lines('kvm_nested_vmenter')).toHaveLength(2);
    // L2's first accesses fault: L0 keeps other tables for it than for L1.
    expect(lines('kvm_nested_vmexit').at(-1)).toContain('VMCALL');
    expect(lines('kvm_nested_vmexit').filter((line) => !line.includes('EPT_VIOLATION'))).toHaveLength(1);
    expect(lines('kvm_nested_vmexit_inject')).toHaveLength(1);
    expect(lines('kvm_nested_vmenter_failed')).not.toHaveLength(0);
  });
});
